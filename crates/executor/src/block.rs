//! A block told in order.

use hyperion_precompile::View;
use hyperion_primitives::ModelId;
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
    Answers, AnswersLost, BlockOutcome, Candidate, ExecEnv, ExecutorError, SkipReason, Tx,
    TxOutcome,
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

    /// Runs a block that is agreed on: transactions in order on top of `state`; changes nothing outside the returned
    /// value.
    ///
    /// `state` and `view` are the parent's: all that the precompiles see stays as it was before the block.
    ///
    /// # Errors
    ///
    /// When the environment is unfit, the state or the view cannot be read, or an answer does not come. Then the block
    /// is not executed *here*: a result without the answer would be another block.
    pub fn execute<D: DatabaseRef + Sync, A: Answers + ?Sized>(
        &self,
        env: &ExecEnv,
        txs: &[Candidate],
        state: &D,
        view: &(dyn View + Sync),
        answers: &A,
    ) -> Result<BlockOutcome, ExecutorError> {
        self.run(Ledger::new(env, Role::Follows), env, txs, state, view, answers)
    }

    /// As [`execute`](Self::execute), for whoever chooses the block's transactions: one whose answer does not come is
    /// set aside, and the result is that of the block without it.
    ///
    /// What is set aside pays nothing, so once its gas limits add up to a block's, the transactions after it do not fit
    /// any more: a block costs less work than two.
    ///
    /// # Errors
    ///
    /// When the environment is unfit, the state or the view cannot be read, or whoever answers is gone. Nothing that a
    /// transaction says leads to it.
    pub fn propose<D: DatabaseRef + Sync, A: Answers + ?Sized>(
        &self,
        env: &ExecEnv,
        txs: &[Candidate],
        state: &D,
        view: &(dyn View + Sync),
        answers: &A,
    ) -> Result<BlockOutcome, ExecutorError> {
        self.run(Ledger::new(env, Role::Proposes), env, txs, state, view, answers)
    }

    fn run<D: DatabaseRef + Sync, A: Answers + ?Sized>(
        &self,
        mut ledger: Ledger,
        env: &ExecEnv,
        txs: &[Candidate],
        state: &D,
        view: &(dyn View + Sync),
        answers: &A,
    ) -> Result<BlockOutcome, ExecutorError> {
        env.check()?;
        if self.config.mode == Mode::Sequential {
            return sequential::execute(ledger, env, txs, state, view, answers);
        }
        let mut gather = Gather::new(answers, env, view, &self.habits, self.config.parked_max);
        let mut vm = run::vm(env, Overlay::new(state), view);
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
                End::Ran(result) => ledger.book(result),
                End::Unfit(reason) => ledger.skip(reason),
                End::Unanswered(model, lost) => ledger.lose(tx, model, lost)?,
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
    ) -> Result<End, ExecutorError> {
        let mut step = run::start(vm, tx.env.clone());
        loop {
            let parked = match ended(step, index)? {
                Ok(Step::Done(result)) => return Ok(End::Ran(result)),
                Ok(Step::Parked(parked)) => parked,
                Err(reason) => return Ok(End::Unfit(reason)),
            };
            let returns = match gather.returns(&parked.call) {
                Some(returns) => returns,
                None => {
                    let state = &vm.ctx.db().0;
                    gather.unforeseen(state, tx)?;
                    let head = Head { index, call: &parked.call };
                    gather.round(state, txs, index, Some(&head))?;
                    gather.fetch(&parked.call)
                }
            };
            match returns {
                Ok(returns) => step = run::resume(vm, *parked, returns),
                Err(lost) => {
                    let model = parked.call.run.model;
                    run::abandon(vm, parked);
                    return Ok(End::Unanswered(model, lost));
                }
            }
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

/// What a transaction of a block came to.
enum End {
    Ran(ExecutionResult),
    Unfit(SkipReason),
    Unanswered(ModelId, AnswersLost),
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

/// Whose choice a block's transactions are.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// This node's: what it cannot execute, it leaves out.
    Proposes,
    /// Somebody else's: all or nothing.
    Follows,
}

/// The gas of a block, and what became of its transactions.
pub(crate) struct Ledger {
    role: Role,
    gas_limit: u64,
    gas_used: u64,
    /// Gas limits of what was set aside.
    gas_aside: u64,
    outcomes: Vec<TxOutcome>,
}

impl Ledger {
    pub(crate) const fn new(env: &ExecEnv, role: Role) -> Self {
        let gas_limit = env.block.gas_limit;
        Self { role, gas_limit, gas_used: 0, gas_aside: 0, outcomes: Vec::new() }
    }

    /// A transaction that was read and whose gas limit still fits.
    pub(crate) fn admit<'t>(&self, candidate: &'t Candidate) -> Result<&'t Tx, SkipReason> {
        let tx = candidate.as_ref().map_err(|reason| *reason)?;
        // It may use all that it asks for, so that is what has to fit.
        let asks = tx.env.gas_limit;
        if asks > self.gas_limit - self.gas_used || asks > self.gas_limit - self.gas_aside {
            return Err(SkipReason::BlockGas);
        }
        Ok(tx)
    }

    pub(crate) fn skip(&mut self, reason: SkipReason) {
        self.outcomes.push(TxOutcome::Skipped(reason));
    }

    /// Sets a transaction aside whose answer did not come, where that may be done.
    pub(crate) fn lose(
        &mut self,
        tx: &Tx,
        model: ModelId,
        lost: AnswersLost,
    ) -> Result<(), ExecutorError> {
        match self.role {
            Role::Follows => Err(lost.into()),
            Role::Proposes => {
                self.gas_aside += tx.env.gas_limit;
                self.outcomes.push(TxOutcome::SetAside { model, lost });
                Ok(())
            }
        }
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
