//! A block told in order.

use hyperion_precompile::View;
use parking_lot::Mutex;
use revm::{
    ExecuteEvm as _,
    context::{
        ContextTr as _, TxEnv,
        result::{EVMError, ExecutionResult},
    },
    database_interface::DatabaseRef,
};

use crate::{
    Answers, BlockOutcome, Candidate, ExecEnv, ExecutorError, SkipReason, Tx, TxOutcome,
    gather::{Gather, Habits, Head},
    overlay::Overlay,
    provider::Provider,
    run::{self, Step, Vm},
    sequential,
};

/// How a block's transactions and their calls are scheduled. The result is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// In order, the calls gathered before.
    #[default]
    Auto,
    /// In order, each call by itself, over revm's own transaction: what the other is held to.
    Sequential,
}

/// How blocks are executed here; no part of a result.
#[derive(Clone, Copy, Debug)]
pub struct ExecutorConfig {
    /// How calls are scheduled: `Auto`.
    pub mode: Mode,
    /// Transactions kept waiting for a batch, each with a virtual machine of 36 KiB: 512, which stays in the cache. One
    /// beyond that leaves its call in the batch and is not gone on with.
    pub parked_max: usize,
}

impl Default for ExecutorConfig {
    fn default() -> Self {
        Self { mode: Mode::default(), parked_max: 512 }
    }
}

/// Executes blocks. Keeps what it learnt about contracts between them.
#[derive(Debug, Default)]
pub struct Executor {
    config: ExecutorConfig,
    habits: Mutex<Habits>,
}

impl Executor {
    /// An executor that has seen no block.
    pub fn new(config: ExecutorConfig) -> Self {
        Self { config, habits: Mutex::default() }
    }

    /// Runs transactions in order on top of `state`; changes nothing outside the returned value.
    ///
    /// `state` and `view` are the parent's: all that the precompiles see stays as it was before the block.
    ///
    /// # Errors
    ///
    /// When the environment is unfit, the state or the view cannot be read, or an answer does not come. Then the block
    /// is not executed *here*; nothing that a transaction says leads to it.
    pub fn execute<D: DatabaseRef + Sync, A: Answers + ?Sized>(
        &self,
        env: &ExecEnv,
        txs: &[Candidate],
        state: &D,
        view: &(dyn View + Sync),
        answers: &A,
    ) -> Result<BlockOutcome, ExecutorError> {
        env.check()?;
        if self.config.mode == Mode::Sequential {
            return sequential::execute(env, txs, state, view, answers);
        }
        let mut gather = Gather::new(answers, env, view, &self.habits, self.config.parked_max);
        let mut vm = run::vm(env, Overlay::new(state), view);
        let mut ledger = Ledger::new(env);
        gather.round(&vm.ctx.db().0, txs, 0, None)?;
        for (index, candidate) in txs.iter().enumerate() {
            let tx = match ledger.admit(candidate) {
                Ok(tx) => tx,
                Err(reason) => {
                    ledger.skip(reason);
                    continue;
                }
            };
            match self.execute_one(&mut vm, txs, index, tx, &mut gather)? {
                Ok(result) => ledger.book(result),
                Err(reason) => ledger.skip(reason),
            }
            let changes = vm.finalize();
            if ledger.is_booked() {
                let committed = vm.ctx.db_mut().0.commit(changes);
                committed.map_err(|error| ExecutorError::State(Box::new(error)))?;
            }
        }
        let stats = gather.stats;
        let diff = vm.ctx.journaled_state.database.0.into_diff();
        Ok(ledger.close(diff, stats))
    }

    /// One transaction of a block, to its end.
    fn execute_one<D: DatabaseRef + Sync, A: Answers + ?Sized>(
        &self,
        vm: &mut Vm<Overlay<'_, D>, Provider<'_>>,
        txs: &[Candidate],
        index: usize,
        tx: &Tx,
        gather: &mut Gather<'_, A>,
    ) -> Result<Result<ExecutionResult, SkipReason>, ExecutorError> {
        let mut step = run::start(vm, tx.env.clone());
        loop {
            let parked = match ended(step, index)? {
                Ok(Step::Done(result)) => return Ok(Ok(result)),
                Ok(Step::Parked(parked)) => parked,
                Err(reason) => return Ok(Err(reason)),
            };
            let returns = match gather.returns(&parked.call) {
                Some(returns) => returns?,
                None => {
                    let state = &vm.ctx.db().0;
                    gather.unforeseen(state, tx)?;
                    let head = Head { index, call: &parked.call };
                    gather.round(state, txs, index, Some(&head))?;
                    gather.fetch(&parked.call)?
                }
            };
            step = run::resume(vm, *parked, returns);
        }
    }

    /// Runs one transaction and keeps nothing of it: `eth_call` and estimates.
    ///
    /// The nonce is not compared, and a gas price of zero is taken whatever the block burns; everything else is as for a
    /// transaction of the block after `state`.
    ///
    /// # Errors
    ///
    /// As for [`execute`](Self::execute).
    pub fn call<D: DatabaseRef + Sync, A: Answers + ?Sized>(
        &self,
        env: &ExecEnv,
        tx: TxEnv,
        state: &D,
        view: &(dyn View + Sync),
        answers: &A,
    ) -> Result<TxOutcome, ExecutorError> {
        env.check()?;
        let mut env = env.clone();
        env.cfg.disable_nonce_check = true;
        env.cfg.disable_base_fee = tx.gas_price == 0;
        let mut gather = Gather::new(answers, &env, view, &self.habits, self.config.parked_max);
        let mut vm = run::vm(&env, Overlay::new(state), view);
        let mut step = run::start(&mut vm, tx);
        loop {
            match ended(step, 0)? {
                Ok(Step::Done(result)) => {
                    let gas_used = result.tx_gas_used();
                    return Ok(TxOutcome::Executed {
                        result,
                        gas_used,
                        cumulative_gas_used: gas_used,
                    });
                }
                Ok(Step::Parked(parked)) => {
                    let returns = gather.fetch(&parked.call)?;
                    step = run::resume(&mut vm, *parked, returns);
                }
                Err(reason) => return Ok(TxOutcome::Skipped(reason)),
            }
        }
    }
}

/// Sorts what a transaction came to: its own doing, a reason to skip it, or the node's trouble.
fn ended<E>(
    step: Result<Step, EVMError<E>>,
    index: usize,
) -> Result<Result<Step, SkipReason>, ExecutorError>
where
    E: std::error::Error + Send + Sync + 'static,
{
    match step {
        Ok(step) => Ok(Ok(step)),
        Err(EVMError::Transaction(invalid)) => Ok(Err(SkipReason::from(&invalid))),
        Err(error) => Err(failed(error, index)),
    }
}

/// The node's trouble with transaction `tx`.
pub(crate) fn failed<E>(error: EVMError<E>, tx: usize) -> ExecutorError
where
    E: std::error::Error + Send + Sync + 'static,
{
    match error {
        EVMError::Database(error) => ExecutorError::State(Box::new(error)),
        EVMError::Header(_) => {
            ExecutorError::Header { what: "a field that the fork needs is missing" }
        }
        EVMError::Transaction(invalid) => ExecutorError::Fatal { tx, text: invalid.to_string() },
        EVMError::Custom(text) => ExecutorError::Fatal { tx, text },
        EVMError::CustomAny(error) => ExecutorError::Fatal { tx, text: error.to_string() },
    }
}

/// The gas of a block, and what became of its transactions.
pub(crate) struct Ledger {
    gas_limit: u64,
    gas_used: u64,
    outcomes: Vec<TxOutcome>,
}

impl Ledger {
    pub(crate) const fn new(env: &ExecEnv) -> Self {
        Self { gas_limit: env.block.gas_limit, gas_used: 0, outcomes: Vec::new() }
    }

    /// A transaction that was read and whose gas limit still fits.
    pub(crate) fn admit<'t>(&self, candidate: &'t Candidate) -> Result<&'t Tx, SkipReason> {
        let tx = candidate.as_ref().map_err(|reason| *reason)?;
        // It may use all that it asks for, so that is what has to fit.
        if tx.env.gas_limit > self.gas_limit - self.gas_used {
            return Err(SkipReason::BlockGas);
        }
        Ok(tx)
    }

    pub(crate) fn skip(&mut self, reason: SkipReason) {
        self.outcomes.push(TxOutcome::Skipped(reason));
    }

    pub(crate) fn book(&mut self, result: ExecutionResult) {
        let gas_used = result.tx_gas_used();
        self.gas_used += gas_used;
        let cumulative_gas_used = self.gas_used;
        self.outcomes.push(TxOutcome::Executed { result, gas_used, cumulative_gas_used });
    }

    /// Whether the last transaction was executed.
    pub(crate) fn is_booked(&self) -> bool {
        matches!(self.outcomes.last(), Some(TxOutcome::Executed { .. }))
    }

    pub(crate) fn close(self, diff: crate::StateDiff, stats: crate::BlockStats) -> BlockOutcome {
        BlockOutcome { outcomes: self.outcomes, diff, gas_used: self.gas_used, stats }
    }
}
