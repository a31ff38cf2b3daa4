//! Finding out what a block will ask, and asking it at once.
//!
//! ```text
//! round:  try the transactions ahead on the state so far ──► parked at calls ──► one batch
//!                                        ▲                                        │
//!                                        └───────── resume with the answers ◄─────┘     until nothing is parked
//! ```
//!
//! What is tried ahead is thrown away; only answers are kept, and an answer depends on its run alone. So a wrong guess
//! (another state, another nonce) costs time and never a result. A block begins with one round; a call that none foresaw
//! begins another. A transaction is tried twice at most and a round asks for no more gas than the block has, so what
//! nobody ends up paying for stays below twice the block's gas.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::{Arc, mpsc::sync_channel},
};

use hyperion_precompile::{InferCall, Precompile, Run, View};
use parking_lot::Mutex;
use revm::{
    ExecuteEvm as _,
    context::{ContextTr as _, result::EVMError},
    database_interface::DatabaseRef,
    primitives::{Address, B256, KECCAK_EMPTY, TxKind},
};

use crate::{
    Answers, AnswersLost, BlockStats, Candidate, ExecEnv, ExecutorError, Tx,
    overlay::{Ahead, Overlay},
    provider::Provider,
    run::{self, Parked, Step, Vm, VmError},
};

/// Times that one transaction of a block may be tried ahead.
const TRIES_MAX: u8 = 2;

/// Answers of a block, and the way to more.
pub(crate) struct Gather<'a, A: ?Sized> {
    answers: &'a A,
    env: &'a ExecEnv,
    view: &'a (dyn View + Sync),
    habits: &'a Mutex<Habits>,
    parked_max: usize,
    known: BTreeMap<Run, Result<Arc<[u8]>, AnswersLost>>,
    tries: Vec<u8>,
    pub(crate) stats: BlockStats,
}

/// The transaction that cannot go on without an answer.
pub(crate) struct Head<'a> {
    /// Its place in the block.
    pub(crate) index: usize,
    pub(crate) call: &'a InferCall,
}

type AheadVm<'a, D> = Vm<Ahead<'a, Overlay<'a, D>>, Provider<'a>>;

impl<'a, A: Answers + ?Sized> Gather<'a, A> {
    pub(crate) fn new(
        answers: &'a A,
        env: &'a ExecEnv,
        view: &'a (dyn View + Sync),
        habits: &'a Mutex<Habits>,
        parked_max: usize,
    ) -> Self {
        Self {
            answers,
            env,
            view,
            habits,
            parked_max,
            known: BTreeMap::new(),
            tries: Vec::new(),
            stats: BlockStats::default(),
        }
    }

    /// The return data of a call whose answer is here.
    pub(crate) fn returns(&self, call: &InferCall) -> Option<Result<Vec<u8>, AnswersLost>> {
        let answer = self.known.get(&call.run)?.as_ref().map_err(Clone::clone);
        Some(answer.and_then(|output| {
            call.returns(output).map_err(|wrong| AnswersLost { why: wrong.to_string() })
        }))
    }

    /// The return data of a call, asked for alone if it is not here.
    pub(crate) fn fetch(&mut self, call: &InferCall) -> Result<Vec<u8>, AnswersLost> {
        if !self.known.contains_key(&call.run) {
            self.ask(BTreeSet::from([call.run.clone()]))?;
        }
        self.returns(call).unwrap_or_else(|| Err(silence()))
    }

    /// One round over the transactions from `from` on, or behind the head, whose call goes into the first batch.
    pub(crate) fn round<D: DatabaseRef>(
        &mut self,
        state: &Overlay<'_, D>,
        txs: &[Candidate],
        from: usize,
        head: Option<&Head<'_>>,
    ) -> Result<(), ExecutorError> {
        self.tries.resize(txs.len(), 0);
        let chosen = self.choose(state, txs, from, head).map_err(unreadable)?;
        let mut wave = Wave {
            wanted: head.map(|head| head.call.run.clone()).into_iter().collect(),
            waiting: Vec::new(),
            spare: Vec::new(),
            gas_left: self.env.block.gas_limit,
        };
        // One transaction alone is asked for as soon by itself.
        if chosen.len() > 1 || head.is_some() {
            for ahead in &chosen {
                self.try_ahead(state, ahead, &mut wave)?;
            }
        }
        while !wave.wanted.is_empty() {
            self.ask(std::mem::take(&mut wave.wanted))?;
            for (vm, parked) in std::mem::take(&mut wave.waiting) {
                self.go_on(vm, parked, &mut wave)?;
            }
        }
        Ok(())
    }

    /// Who is worth a try, with the nonce that the sender will have by then.
    fn choose<'t, D: DatabaseRef>(
        &self,
        state: &Overlay<'_, D>,
        txs: &'t [Candidate],
        from: usize,
        head: Option<&Head<'_>>,
    ) -> Result<Vec<Chosen<'t>>, D::Error> {
        let mut nonces = BTreeMap::<Address, u64>::new();
        let mut chosen = Vec::new();
        for (index, tx) in txs.iter().enumerate().skip(from) {
            let Ok(tx) = tx else { continue };
            let sender = tx.env.caller;
            let nonce = match nonces.entry(sender) {
                Entry::Occupied(nonce) => nonce.into_mut(),
                Entry::Vacant(place) => {
                    place.insert(state.basic_ref(sender)?.map_or(0, |info| info.nonce))
                }
            };
            // It will be skipped, or follows something that cannot be foreseen.
            if tx.env.nonce != *nonce {
                continue;
            }
            *nonce = nonce.saturating_add(1);
            let is_head = head.is_some_and(|head| head.index == index);
            if is_head || self.tries[index] >= TRIES_MAX {
                continue;
            }
            let target = target(state, tx)?;
            if self.habits.lock().may_ask(&target) {
                chosen.push(Chosen { index, tx, target });
            }
        }
        Ok(chosen)
    }

    fn try_ahead<'s, D: DatabaseRef>(
        &mut self,
        state: &'s Overlay<'s, D>,
        chosen: &Chosen<'_>,
        wave: &mut Wave<'s, D>,
    ) -> Result<(), ExecutorError>
    where
        'a: 's,
    {
        self.tries[chosen.index] += 1;
        self.stats.tried += 1;
        let TxPlace { sender, nonce } = TxPlace::of(chosen.tx);
        let ahead = Ahead { state, sender, nonce };
        let mut vm = match wave.spare.pop() {
            Some(mut vm) => {
                vm.ctx.db_mut().0 = ahead;
                vm
            }
            None => run::vm(self.env, ahead, self.view),
        };
        let step = run::start(&mut vm, chosen.tx.env.clone());
        let asked = matches!(step, Ok(Step::Parked(_)));
        self.habits.lock().note(&chosen.target, asked);
        self.place(vm, step, wave)
    }

    /// Resumes a transaction whose answer may have come.
    fn go_on<'s, D: DatabaseRef>(
        &mut self,
        mut vm: AheadVm<'s, D>,
        parked: Box<Parked>,
        wave: &mut Wave<'s, D>,
    ) -> Result<(), ExecutorError> {
        // An answer that was lost matters only to the transaction that really needs it.
        let Some(Ok(returns)) = self.returns(&parked.call) else { return Ok(()) };
        let step = run::resume(&mut vm, *parked, returns);
        self.place(vm, step, wave)
    }

    /// Puts a transaction where it belongs: among those that wait, or away.
    fn place<'s, D: DatabaseRef>(
        &self,
        mut vm: AheadVm<'s, D>,
        mut step: Result<Step, VmError<Ahead<'s, Overlay<'s, D>>>>,
        wave: &mut Wave<'s, D>,
    ) -> Result<(), ExecutorError> {
        loop {
            let parked = match step {
                Ok(Step::Parked(parked)) => parked,
                Ok(Step::Done(_)) | Err(EVMError::Transaction(_)) => {
                    drop(vm.finalize());
                    wave.spare.push(vm);
                    return Ok(());
                }
                Err(error) => return Err(fatal::<D>(error)),
            };
            match self.returns(&parked.call) {
                Some(Ok(returns)) => step = run::resume(&mut vm, *parked, returns),
                Some(Err(_)) => return Ok(()),
                None => {
                    if wave.want(&parked) && wave.waiting.len() < self.parked_max {
                        wave.waiting.push((vm, parked));
                    }
                    return Ok(());
                }
            }
        }
    }

    /// One batch, waited for.
    fn ask(&mut self, runs: BTreeSet<Run>) -> Result<(), AnswersLost> {
        self.stats.batches += 1;
        self.stats.runs += runs.len() as u64;
        let (tell, told) = sync_channel(1);
        // The receiver waits below, so there is room and somebody listens.
        let done = Box::new(move |answers| drop(tell.send(answers)));
        self.answers.submit(runs.iter().cloned().collect(), done);
        let answers: Vec<_> = told.recv().map_err(|_| silence())?;
        if answers.len() != runs.len() {
            let why = format!("{} answers to {} runs", answers.len(), runs.len());
            return Err(AnswersLost { why });
        }
        self.known.extend(runs.into_iter().zip(answers));
        Ok(())
    }

    /// Remembers that a transaction asked for what no round foresaw.
    pub(crate) fn unforeseen<D: DatabaseRef>(
        &mut self,
        state: &Overlay<'_, D>,
        tx: &Tx,
    ) -> Result<(), ExecutorError> {
        self.stats.unforeseen += 1;
        let target = target(state, tx).map_err(unreadable)?;
        self.habits.lock().note(&target, true);
        Ok(())
    }
}

fn silence() -> AnswersLost {
    AnswersLost { why: "whoever was asked went away".to_owned() }
}

fn unreadable(error: impl std::error::Error + Send + Sync + 'static) -> ExecutorError {
    ExecutorError::State(Box::new(error))
}

/// What a failed try says of the node; the transaction's place does not matter.
fn fatal<D: DatabaseRef>(error: EVMError<D::Error>) -> ExecutorError {
    crate::block::failed(error, 0)
}

struct Chosen<'t> {
    index: usize,
    tx: &'t Tx,
    target: Target,
}

struct TxPlace {
    sender: Address,
    nonce: u64,
}

impl TxPlace {
    const fn of(tx: &Tx) -> Self {
        Self { sender: tx.env.caller, nonce: tx.env.nonce }
    }
}

/// Transactions tried ahead, between two batches.
struct Wave<'s, D: DatabaseRef> {
    /// The next batch.
    wanted: BTreeSet<Run>,
    /// Who goes on once it is there.
    waiting: Vec<(AheadVm<'s, D>, Box<Parked>)>,
    /// Virtual machines that nobody uses.
    spare: Vec<AheadVm<'s, D>>,
    /// What the round may still ask for.
    gas_left: u64,
}

impl<D: DatabaseRef> Wave<'_, D> {
    /// Takes a call into the next batch, unless the round has asked for enough.
    fn want(&mut self, parked: &Parked) -> bool {
        if self.wanted.contains(&parked.call.run) {
            return true;
        }
        let Some(left) = self.gas_left.checked_sub(parked.price()) else { return false };
        self.gas_left = left;
        self.wanted.insert(parked.call.run.clone());
        true
    }
}

/// What a transaction runs.
enum Target {
    /// A model, directly.
    Inference,
    /// Nothing: a transfer.
    Nothing,
    /// Code that is known by its hash.
    Code(B256),
    /// A new contract's constructor.
    Creation,
}

fn target<D: DatabaseRef>(state: &Overlay<'_, D>, tx: &Tx) -> Result<Target, D::Error> {
    let TxKind::Call(to) = tx.env.kind else { return Ok(Target::Creation) };
    if Precompile::at(&to) == Some(Precompile::Inference) {
        return Ok(Target::Inference);
    }
    let code_hash = state.basic_ref(to)?.map_or(KECCAK_EMPTY, |info| info.code_hash);
    Ok(if code_hash == KECCAK_EMPTY { Target::Nothing } else { Target::Code(code_hash) })
}

/// Which code asks models and which does not, learnt over blocks. It decides what is tried, never a result.
#[derive(Debug, Default)]
pub(crate) struct Habits {
    /// Tries in a row that asked nothing.
    quiet: BTreeMap<B256, u8>,
}

impl Habits {
    /// After so many tries that asked nothing, code is not tried any more until it asks.
    const QUIET: u8 = 4;
    /// Code remembered; beyond it everything is forgotten and learnt again.
    const CODES_MAX: usize = 4_096;

    fn may_ask(&self, target: &Target) -> bool {
        match target {
            Target::Inference | Target::Creation => true,
            Target::Nothing => false,
            Target::Code(hash) => self.quiet.get(hash).is_none_or(|tries| *tries < Self::QUIET),
        }
    }

    fn note(&mut self, target: &Target, asked: bool) {
        let Target::Code(hash) = target else { return };
        if asked {
            self.quiet.remove(hash);
            return;
        }
        if self.quiet.len() >= Self::CODES_MAX {
            self.quiet.clear();
        }
        let tries = self.quiet.entry(*hash).or_default();
        *tries = tries.saturating_add(1);
    }
}
