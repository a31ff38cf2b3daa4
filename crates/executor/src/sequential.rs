//! The definition of a block's result: revm's own transaction, one after the other, each call answered on the spot.
//!
//! It shares the precompiles with the gathering executor and nothing else: no parking, no overlay. The difference of
//! states is read off revm's own cache.

use std::{collections::BTreeMap, sync::mpsc::sync_channel};

use hyperion_precompile::{InferCall, View};
use hyperion_primitives::ModelId;
use revm::{
    DatabaseCommit as _, ExecuteEvm as _,
    context::{ContextTr, result::EVMError},
    context_interface::Cfg,
    database::CacheDB,
    database_interface::DatabaseRef,
    handler::PrecompileProvider,
    interpreter::{CallInputs, InterpreterResult},
    primitives::{Address, AddressSet, KECCAK_EMPTY, hardfork::SpecId},
};

use crate::{
    AccountChange, AccountDiff, Answers, AnswersLost, BlockOutcome, BlockStats, Candidate, ExecEnv,
    ExecutorError, SkipReason, StateDiff,
    block::{Ledger, failed},
    overlay::{change, state_of},
    provider::Provider,
    run,
};

/// Runs a block.
pub(crate) fn execute<D: DatabaseRef + Sync, A: Answers + ?Sized>(
    mut ledger: Ledger,
    env: &ExecEnv,
    txs: &[Candidate],
    state: &D,
    view: &(dyn View + Sync),
    answers: &A,
) -> Result<BlockOutcome, ExecutorError> {
    let precompiles = Answered {
        provider: Provider::new(env.cfg.spec, view, env.rules),
        answers,
        lost: None,
        stats: BlockStats::default(),
    };
    let mut vm = run::vm_with(env, CacheDB::new(state), precompiles);
    for (index, candidate) in txs.iter().enumerate() {
        let tx = match ledger.admit(candidate) {
            Ok(tx) => tx,
            Err(reason) => {
                ledger.skip(reason);
                continue;
            }
        };
        match vm.transact(tx.env.clone()) {
            Ok(done) => {
                ledger.book(done.result);
                vm.ctx.db_mut().0.commit(done.state);
            }
            Err(EVMError::Transaction(invalid)) => ledger.skip(SkipReason::from(&invalid)),
            Err(error) => {
                let (model, lost) =
                    vm.precompiles.lost.take().ok_or_else(|| failed(error, index))?;
                ledger.lose(tx, model, lost)?;
                drop(vm.finalize());
            }
        }
    }
    let stats = vm.precompiles.stats;
    let diff =
        difference(state, &vm.ctx.db().0).map_err(|error| ExecutorError::State(Box::new(error)))?;
    Ok(ledger.close(diff, stats))
}

/// What the cache holds otherwise than the parent.
fn difference<D: DatabaseRef>(parent: &D, cached: &CacheDB<&D>) -> Result<StateDiff, D::Error> {
    let mut diff = StateDiff::default();
    for (address, account) in cached.cache.accounts.iter().collect::<BTreeMap<_, _>>() {
        let before = parent.basic_ref(*address)?.and_then(|info| state_of(&info));
        let now = state_of(&account.info);
        let change = change(before, now);
        let mut storage = BTreeMap::new();
        if change != AccountChange::Gone {
            for (key, value) in account.storage.iter().collect::<BTreeMap<_, _>>() {
                if parent.storage_ref(*address, *key)? != *value {
                    storage.insert(*key, *value);
                }
            }
        }
        if let AccountChange::Is(state) = change
            && state.code_hash != before.map_or(KECCAK_EMPTY, |before| before.code_hash)
            && let Some(code) = cached.cache.contracts.get(&state.code_hash)
            && !code.is_empty()
        {
            diff.codes.insert(state.code_hash, code.original_bytes());
        }
        if change != AccountChange::Same || !storage.is_empty() {
            diff.accounts.insert(*address, AccountDiff { account: change, storage });
        }
    }
    Ok(diff)
}

/// The precompiles, with every call answered before it returns.
struct Answered<'v, A: ?Sized> {
    provider: Provider<'v>,
    answers: &'v A,
    lost: Option<(ModelId, AnswersLost)>,
    stats: BlockStats,
}

impl<A: Answers + ?Sized> Answered<'_, A> {
    fn answer(&mut self, call: &InferCall) -> Result<Vec<u8>, AnswersLost> {
        let lost = |why: &str| AnswersLost { why: why.to_owned() };
        self.stats.batches += 1;
        self.stats.runs += 1;
        let (tell, told) = sync_channel(1);
        let done = Box::new(move |answers| drop(tell.send(answers)));
        self.answers.submit(vec![call.run.clone()], done);
        let mut answers: Vec<_> = told.recv().map_err(|_| lost("whoever was asked went away"))?;
        let output = answers.pop().ok_or_else(|| lost("no answer to a run"))??;
        call.returns(&output).map_err(|wrong| lost(&wrong.to_string()))
    }
}

impl<C, A> PrecompileProvider<C> for Answered<'_, A>
where
    C: ContextTr<Cfg: Cfg<Spec = SpecId>>,
    A: Answers + ?Sized,
{
    type Output = InterpreterResult;

    fn set_spec(&mut self, spec: SpecId) -> bool {
        PrecompileProvider::<C>::set_spec(&mut self.provider, spec)
    }

    fn run(
        &mut self,
        context: &mut C,
        inputs: &CallInputs,
    ) -> Result<Option<InterpreterResult>, String> {
        let mut result = PrecompileProvider::<C>::run(&mut self.provider, context, inputs)?;
        if let (Some(result), Some(call)) = (&mut result, self.provider.take_deferred()) {
            let returns = self.answer(&call).map_err(|lost| {
                let text = lost.to_string();
                self.lost = Some((call.run.model, lost));
                text
            })?;
            result.output = returns.into();
        }
        Ok(result)
    }

    fn warm_addresses(&self) -> &AddressSet {
        PrecompileProvider::<C>::warm_addresses(&self.provider)
    }

    fn contains(&self, address: &Address) -> bool {
        PrecompileProvider::<C>::contains(&self.provider, address)
    }
}
