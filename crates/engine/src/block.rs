//! The calls of a block: all of them at once, before all other work.

use std::{collections::BTreeMap, sync::Arc};

use hyperion_model::Tensor;
use hyperion_primitives::{B256, ModelId};
use hyperion_verify::Sampling;
use parking_lot::Mutex;

use crate::{
    Class, Content, Drawing, Engine, Failure, InferError, Invalid, OnBatch,
    machine::{Waiter, Work},
};

/// A call that a block makes of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockCall {
    /// The model.
    pub model: ModelId,
    /// Elements of its one input tensor, little-endian and row-major.
    pub input: Arc<[u8]>,
    /// How tokens are drawn; all zero for a model that generates none. A generator gives exactly `tokens_max` tokens, so no
    /// end ids and no stop texts are named.
    pub sampling: Sampling,
    /// Seed of the draws; zero when nothing is drawn or always the largest logit.
    pub seed: B256,
}

impl BlockCall {
    /// A call of a model that generates nothing.
    pub fn plain(model: ModelId, input: impl Into<Arc<[u8]>>) -> Self {
        let (sampling, seed) = (Sampling::default(), B256::ZERO);
        Self { model, input: input.into(), sampling, seed }
    }

    /// How its tokens are drawn; `None` when it asks for none.
    fn drawing(&self) -> Result<Option<Arc<Drawing>>, Invalid> {
        let invalid = |why: &str| Err(Invalid::Drawing(why.to_owned()));
        if self.sampling == Sampling::default() {
            return if self.seed.is_zero() { Ok(None) } else { Err(Invalid::Sampling) };
        }
        if !self.sampling.stop_hash.is_zero() {
            return invalid("a block's call names no end ids");
        }
        if !self.sampling.text_stop_hash.is_zero() {
            return invalid("a block's call names no stop texts");
        }
        if self.sampling.temperature_q16 == 0 && !self.seed.is_zero() {
            return invalid("draws at temperature 0 take no seed");
        }
        Ok(Some(Arc::new(Drawing::new(self.sampling, Vec::new())?)))
    }
}

impl Engine {
    /// Runs the calls of a block before all other work; equal calls once, known ones not at all. No claim is
    /// signed. `done` may be called before this returns.
    pub fn run_batch(&self, calls: Vec<BlockCall>, done: OnBatch) {
        let mut distinct: BTreeMap<Content, (Work, Vec<usize>)> = BTreeMap::new();
        let mut outputs: Vec<Option<Result<Arc<Tensor>, InferError>>> = Vec::new();
        for (at, call) in calls.into_iter().enumerate() {
            let work = self.block_work(call);
            outputs.push(work.as_ref().err().map(|invalid| Err(invalid.clone().into())));
            if let Ok(work) = work {
                distinct.entry(work.content).or_insert_with(|| (work, Vec::new())).1.push(at);
            }
        }
        let left = distinct.len() + 1;
        let gather = Arc::new(Mutex::new(Gather { outputs, left, done: Some(done) }));
        let mut misses = Vec::new();
        for (content, (work, places)) in distinct {
            match self.shell.memo.get(&content) {
                Some(output) => Gather::put(&gather, &places, &Ok(output)),
                None => misses.push((work, places)),
            }
        }
        // In one event, so that they leave together.
        let refused = self.shell.event(|machine, now_us| {
            let mut refused = Vec::new();
            for (work, places) in misses {
                let (gather, own) = (Arc::clone(&gather), places.clone());
                let waiter = move |outcome: Result<_, Failure>| {
                    Gather::put(&gather, &own, &outcome.map_err(InferError::from));
                };
                let waiter = Waiter::Output(Box::new(waiter));
                if let Err(pushback) = machine.submit(None, work, waiter, None, 0, now_us) {
                    refused.push((pushback, places));
                }
            }
            refused
        });
        for (pushback, places) in refused {
            Gather::put(&gather, &places, &Err(pushback.into()));
        }
        // The caller's own share: from here on the last output calls back.
        Gather::put(&gather, &[], &Err(Failure::Draining.into()));
    }

    fn block_work(&self, call: BlockCall) -> Result<Work, Invalid> {
        let drawing = call.drawing()?;
        let mut work = self.work(call.model, call.input, drawing, Class::Chain)?;
        work.content.seed = call.seed;
        Ok(work)
    }
}

/// The outputs of a block's calls as they come in.
struct Gather {
    outputs: Vec<Option<Result<Arc<Tensor>, InferError>>>,
    /// Distinct calls without an outcome, and one for the caller who is still handing them in.
    left: usize,
    done: Option<OnBatch>,
}

impl Gather {
    /// Puts an outcome to its places; the last one calls the block back, without the lock.
    fn put(gather: &Mutex<Self>, places: &[usize], outcome: &Result<Arc<Tensor>, InferError>) {
        let mut held = gather.lock();
        for place in places {
            held.outputs[*place] = Some(outcome.clone());
        }
        held.left -= 1;
        let last = if held.left == 0 { held.done.take() } else { None };
        let outputs = last.is_some().then(|| std::mem::take(&mut held.outputs));
        drop(held);
        if let (Some(done), Some(outputs)) = (last, outputs) {
            done(
                outputs
                    .into_iter()
                    .map(|output| output.unwrap_or(Err(Failure::Draining.into())))
                    .collect(),
            );
        }
    }
}
