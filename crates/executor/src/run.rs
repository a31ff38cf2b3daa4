//! One transaction that can stop where it needs a model's answer.
//!
//! revm's frames lie on a heap, so a transaction can be left *between* two frames and gone on with later. This is
//! `Handler::run` of revm-handler 43.0.3 over the same handler's methods, cut where a precompile left a deferred call:
//!
//! ```text
//! start(tx):  validate → pre-execution → first frame:  a frame → steps        a result → park or finish
//! steps:      run the top frame:                       a call  → its frame    a result → park or return it
//! resume:     put the answer into the parked result, then go on as if the precompile had just returned
//! finish:     settle gas → pay back, reward → result
//! ```
//!
//! A call that the transaction itself makes ends in the first frame's start, so it parks there. Whatever fails goes
//! through `catch_error`, else journal and frames would leak into the next transaction.

use hyperion_precompile::{InferCall, View};
use revm::{
    context::{
        BlockEnv, CfgEnv, Context, ContextSetters as _, Evm, Journal, TxEnv,
        result::{EVMError, ExecutionResult, InvalidTransaction},
    },
    context_interface::{
        ContextTr as _, JournalTr as _,
        cfg::gas::{GasTracker, InitialAndFloorGas},
    },
    database_interface::{DatabaseRef, WrapDatabaseRef},
    handler::{
        EthFrame, EvmTr as _, FrameResult, Handler as _, ItemOrResult, MainnetHandler, execution,
        instructions::EthInstructions,
    },
    interpreter::interpreter::EthInterpreter,
    primitives::Bytes,
};

use crate::{ExecEnv, provider::Provider};

type Ctx<D> = Context<BlockEnv, TxEnv, CfgEnv, WrapDatabaseRef<D>, Journal<WrapDatabaseRef<D>>, ()>;

/// A virtual machine over a state and a view.
pub(crate) type Vm<D, P> =
    Evm<Ctx<D>, (), EthInstructions<EthInterpreter, Ctx<D>>, P, EthFrame<EthInterpreter>>;

/// Why a transaction did not come to a result.
pub(crate) type VmError<D> = EVMError<<D as DatabaseRef>::Error, InvalidTransaction>;

type Main<'v, D> = MainnetHandler<Vm<D, Provider<'v>>, VmError<D>, EthFrame<EthInterpreter>>;

/// A virtual machine with the precompiles of the chain.
pub(crate) fn vm<'v, D: DatabaseRef>(
    env: &ExecEnv,
    state: D,
    view: &'v (dyn View + Sync),
) -> Vm<D, Provider<'v>> {
    vm_with(env, state, Provider::new(env.cfg.spec, view, env.rules))
}

/// A virtual machine with these precompiles.
pub(crate) fn vm_with<D: DatabaseRef, P>(env: &ExecEnv, state: D, precompiles: P) -> Vm<D, P> {
    let mut context: Ctx<D> = Context::new(WrapDatabaseRef(state), env.cfg.spec);
    context.cfg = env.cfg.clone();
    context.block = env.block.clone();
    Evm::new(context, EthInstructions::new_mainnet_with_spec(env.cfg.spec), precompiles)
}

/// How far a transaction came.
pub(crate) enum Step {
    /// To its end; its changes are in the journal.
    Done(ExecutionResult),
    /// To a call whose answer it needs.
    Parked(Box<Parked>),
}

/// A transaction that waits; the rest of it is in its virtual machine, which must not be touched meanwhile.
pub(crate) struct Parked {
    /// What it waits for.
    pub(crate) call: InferCall,
    account: Account,
    result: FrameResult,
    is_first: bool,
}

/// What a transaction carries from its start to its end.
struct Account {
    gas: GasTracker,
    intrinsic: InitialAndFloorGas,
    refund: i64,
}

/// Begins a transaction.
pub(crate) fn start<D: DatabaseRef>(
    vm: &mut Vm<D, Provider<'_>>,
    tx: TxEnv,
) -> Result<Step, VmError<D>> {
    vm.ctx.set_tx(tx);
    let begun = begin(vm);
    caught(vm, begun)
}

/// Goes on with a parked transaction; `returns` is the return data of its call.
pub(crate) fn resume<D: DatabaseRef>(
    vm: &mut Vm<D, Provider<'_>>,
    parked: Parked,
    returns: Vec<u8>,
) -> Result<Step, VmError<D>> {
    let Parked { account, mut result, is_first, .. } = parked;
    if let FrameResult::Call(outcome) = &mut result {
        outcome.result.output = Bytes::from(returns);
    }
    let gone_on = go_on(vm, account, result, is_first);
    caught(vm, gone_on)
}

/// Gives up a parked transaction: nothing of it is left in its virtual machine.
pub(crate) fn abandon<D: DatabaseRef>(vm: &mut Vm<D, Provider<'_>>, parked: Box<Parked>) {
    drop(parked);
    let given_up = EVMError::Custom("given up".to_owned());
    // The clean-up hands the error back.
    let _ = caught(vm, Err(given_up));
}

/// The handler's clean-up after an error.
fn caught<D: DatabaseRef>(
    vm: &mut Vm<D, Provider<'_>>,
    step: Result<Step, VmError<D>>,
) -> Result<Step, VmError<D>> {
    step.or_else(|error| {
        vm.precompiles.take_deferred();
        Main::<D>::default().catch_error(vm, error).map(Step::Done)
    })
}

fn begin<D: DatabaseRef>(vm: &mut Vm<D, Provider<'_>>) -> Result<Step, VmError<D>> {
    let mut handler = Main::<D>::default();
    let intrinsic = handler.validate(vm)?;
    let mut gas = handler.tx_gas(vm, &intrinsic);
    let before = handler.pre_execution(vm, &mut gas)?;
    let refund = before.map_or(0, |before| before.eip7702_refund).cast_signed();
    let mut account = Account { gas, intrinsic, refund };
    let Some(before) = before else { return out_of_runtime_gas(vm, account) };
    let Some(first) = handler.first_frame_input(vm, &mut account.gas)? else {
        execution::runtime_oog_unwind(vm.ctx(), before.checkpoint)?;
        return out_of_runtime_gas(vm, account);
    };
    vm.ctx.journal_mut().checkpoint_commit();
    match vm.frame_init(first)? {
        ItemOrResult::Item(_) => steps(vm, account),
        ItemOrResult::Result(result) => match vm.precompiles.take_deferred() {
            Some(call) => Ok(parked(call, account, result, true)),
            None => finish(vm, account, result),
        },
    }
}

fn steps<D: DatabaseRef>(
    vm: &mut Vm<D, Provider<'_>>,
    account: Account,
) -> Result<Step, VmError<D>> {
    loop {
        let result = match vm.frame_run()? {
            ItemOrResult::Item(call) => match vm.frame_init(call)? {
                ItemOrResult::Item(_) => continue,
                ItemOrResult::Result(result) => result,
            },
            ItemOrResult::Result(result) => result,
        };
        if let Some(call) = vm.precompiles.take_deferred() {
            return Ok(parked(call, account, result, false));
        }
        if let Some(last) = vm.frame_return_result(result)? {
            return finish(vm, account, last);
        }
    }
}

fn go_on<D: DatabaseRef>(
    vm: &mut Vm<D, Provider<'_>>,
    account: Account,
    result: FrameResult,
    is_first: bool,
) -> Result<Step, VmError<D>> {
    if is_first {
        return finish(vm, account, result);
    }
    match vm.frame_return_result(result)? {
        Some(last) => finish(vm, account, last),
        None => steps(vm, account),
    }
}

fn parked(call: InferCall, account: Account, result: FrameResult, is_first: bool) -> Step {
    Step::Parked(Box::new(Parked { call, account, result, is_first }))
}

fn finish<D: DatabaseRef>(
    vm: &mut Vm<D, Provider<'_>>,
    mut account: Account,
    mut result: FrameResult,
) -> Result<Step, VmError<D>> {
    Main::<D>::default().last_frame_result(vm, &mut result, &mut account.gas)?;
    settle(vm, &account, result)
}

/// The transaction is valid and its gas does not cover what EIP-2780 charges before the first frame.
fn out_of_runtime_gas<D: DatabaseRef>(
    vm: &mut Vm<D, Provider<'_>>,
    mut account: Account,
) -> Result<Step, VmError<D>> {
    let result =
        Main::<D>::default().runtime_oog_result(vm, &account.intrinsic, &mut account.gas)?;
    settle(vm, &account, result)
}

fn settle<D: DatabaseRef>(
    vm: &mut Vm<D, Provider<'_>>,
    account: &Account,
    mut result: FrameResult,
) -> Result<Step, VmError<D>> {
    let mut handler = Main::<D>::default();
    let gas = handler.post_execution(vm, &mut result, account.intrinsic, account.refund)?;
    handler.execution_result(vm, result, gas).map(Step::Done)
}

impl Parked {
    /// Gas that the call was charged.
    pub(crate) fn price(&self) -> u64 {
        let gas = self.result.gas();
        gas.limit().saturating_sub(gas.remaining())
    }
}
