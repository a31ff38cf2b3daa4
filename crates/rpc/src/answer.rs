//! From a job to what the caller waits for: the signed claim, its place in the log, or a tier.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hyperion_engine::{Answer, Job, Logprobs, OnTokens};
use hyperion_primitives::{B256, ClaimDigest};
use hyperion_verify::SignedClaim;
use tokio::sync::{mpsc, oneshot};

use crate::{
    auth::Caller,
    convert,
    door::Door,
    float::{FloatJob, Work},
    r#gen::v1,
    log::{Checkpoint, LogView, checkpoint_of_at_least, wire_checkpoint, wire_path},
    status::{Code, Error},
    writing::{Delta, Deltas, tokens},
};

/// How far a claim has to have come before the caller hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitFor {
    Signed,
    Logged,
    Tier,
}

impl WaitFor {
    pub(crate) fn of_wire(number: i32) -> Result<Self, Error> {
        let known = v1::WaitFor::try_from(number)
            .map_err(|_| Error::bad_field("wait_for", format!("{number} names no state")))?;
        Ok(match known {
            v1::WaitFor::Unspecified | v1::WaitFor::Signed => Self::Signed,
            v1::WaitFor::Logged => Self::Logged,
            v1::WaitFor::Tier => Self::Tier,
        })
    }

    pub(crate) fn of_name(name: &str) -> Result<Self, Error> {
        match name {
            "signed" => Ok(Self::Signed),
            "logged" => Ok(Self::Logged),
            "tier" => Ok(Self::Tier),
            _ => {
                Err(Error::bad_field("wait_for", format!("`{name}` is not signed, logged or tier")))
            }
        }
    }
}

/// An answer that has come as far as the caller wanted.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) answer: Arc<Answer>,
    pub(crate) reached: u8,
    /// From [`WaitFor::Logged`] on.
    pub(crate) place: Option<Place>,
    /// How likely each token of the answer was, where that was asked for.
    pub(crate) logprobs: Vec<Logprobs>,
}

/// A claim under a checkpoint.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) index: u64,
    pub(crate) path: Vec<B256>,
    pub(crate) checkpoint: Arc<Checkpoint>,
}

/// Log probabilities of an answer's tokens, as they come.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Logprobs>>>);

impl Told {
    /// Who is to be told.
    fn ear(&self) -> OnTokens {
        let Self(all) = self.clone();
        Arc::new(move |_, _: &[u32], logprobs: &[Logprobs]| {
            all.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(logprobs);
        })
    }

    /// What was told.
    fn all(&self) -> Vec<Logprobs> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Door {
    /// Runs a job and waits as far as `wait` says. Dropping the future takes a job that waits out of the queue.
    pub(crate) async fn answer(
        &self,
        job: Work,
        wait: WaitFor,
        caller: &Caller,
    ) -> Result<Answered, Error> {
        let Some(again) = job.with_logprobs() else {
            return self.answer_told(job, wait, caller, None).await;
        };
        let told = Told::default();
        let mut answered = self.answer_told(job, wait, caller, Some(told.ear())).await?;
        answered.logprobs = self.logprobs(again, told.all(), &answered.answer, caller).await?;
        Ok(answered)
    }

    /// How likely the tokens of an answer were: as they were `told` while they were drawn, or by a run of its own, without a claim,
    /// where an earlier run that nobody had asked for this gave the answer.
    async fn logprobs(
        &self,
        job: Job,
        told: Vec<Logprobs>,
        answer: &Answer,
        caller: &Caller,
    ) -> Result<Vec<Logprobs>, Error> {
        if told.len() as u64 == answer.output.dims[0] {
            return Ok(told);
        }
        let _place = caller.take_place()?;
        let told = Told::default();
        let (done, outcome) = oneshot::channel();
        let done = Box::new(|outcome| drop(done.send(outcome)));
        let _ticket = self.engine.compute_stream(job, told.ear(), done)?;
        let output = outcome
            .await
            .map_err(|_| Error::new(Code::Draining, "the engine ended before the job did"))?
            .map_err(|failure| Error::from(&failure))?;
        if *output == *answer.output {
            Ok(told.all())
        } else {
            Err(Error::new(Code::Internal, "the answer that was drawn anew is another"))
        }
    }

    /// As [`answer`](Self::answer), and has the tokens of a generator told as they are drawn.
    pub(crate) async fn answer_told(
        &self,
        job: Work,
        wait: WaitFor,
        caller: &Caller,
        on_tokens: Option<OnTokens>,
    ) -> Result<Answered, Error> {
        let job = match job {
            Work::Exact(job) => job,
            Work::Float(job) => {
                let job = FloatJob { on_tokens, ..job };
                // Apart, so that calls of exact models do not carry its size.
                return Box::pin(self.float_answered(job, wait, caller)).await;
            }
        };
        let _place = caller.take_place()?;
        let (id, tier) = (job.id(), job.request().tier);
        let (done, outcome) = oneshot::channel();
        // The ticket lives as long as this future: if the caller goes, so does a job that has not begun.
        let done = Box::new(|outcome| drop(done.send(outcome)));
        let _ticket = match on_tokens {
            Some(on_tokens) => self.engine.submit_stream(job, on_tokens, done)?,
            None => self.engine.submit(job, done)?,
        };
        let answer = outcome
            .await
            .map_err(|_| Error::new(Code::Draining, "the engine ended before the job did"))?
            .map_err(|failure| Error::from(&failure))?;
        if wait == WaitFor::Signed {
            return Ok(Answered { answer, reached: 1, place: None, logprobs: Vec::new() });
        }
        let (told, place) = oneshot::channel();
        let tell = |place| {
            let _ = told.send(place); // nobody listens any more: the caller is gone
        };
        self.engine.on_logged(id, Box::new(tell));
        let place = place.await.map_err(|_| {
            Error::new(Code::ClaimNotFound, "the claim was let go before it was logged")
        })?;
        let log = &*self.log;
        let mut checkpoint = checkpoint_of_at_least(log, place.index + 1).await?;
        let mut reached = reached(log, answer.digest)?;
        while wait == WaitFor::Tier && reached < tier {
            checkpoint = checkpoint_of_at_least(log, checkpoint.size + 1).await?;
            reached = self::reached(log, answer.digest)?;
        }
        let path = log.inclusion(place.index, checkpoint.size)?;
        let place = Place { index: place.index, path, checkpoint };
        Ok(Answered { answer, reached, place: Some(place), logprobs: Vec::new() })
    }

    /// Runs a generator's job and sends what comes of it, as `event` spells it: every token once, in order, before the answer.
    pub(crate) async fn stream<E>(
        &self,
        job: Work,
        wait: WaitFor,
        caller: &Caller,
        deltas: &mut Deltas,
        (events, event): (&mpsc::Sender<E>, impl Fn(Delta) -> E),
    ) -> Result<Answered, Error> {
        let send = async |delta| {
            let gone = |_| Error::new(Code::Cancelled, "the caller went away");
            events.send(event(delta)).await.map_err(gone)
        };
        // Bounded by the answer's length, which the caller chose and the model bounds.
        let (tell, mut told) = mpsc::unbounded_channel();
        let on_tokens: OnTokens = Arc::new(move |position, tokens: &[u32], logprobs: &[_]| {
            // Nobody listens any more: the caller is gone, and the ticket with it.
            let _ = tell.send((position, tokens.to_vec(), logprobs.to_vec()));
        });
        let again = job.with_logprobs();
        let mut logprobs: Vec<Logprobs> = Vec::new();
        let answering = self.answer_told(job, wait, caller, Some(on_tokens));
        tokio::pin!(answering);
        let mut answered = loop {
            tokio::select! {
                biased;
                Some((position, tokens, new)) = told.recv() => {
                    // Tokens of a run that was not asked how likely they were wait for the end.
                    if again.is_some() && new.len() != tokens.len() {
                        continue;
                    }
                    logprobs.extend(new);
                    if let Some(mut delta) = deltas.push(position, &tokens)? {
                        delta.tell(&logprobs);
                        send(delta).await?;
                    }
                }
                answered = &mut answering => break answered?,
            }
        };
        if let Some(again) = again {
            while let Ok((.., new)) = told.try_recv() {
                logprobs.extend(new);
            }
            let answer = Arc::clone(&answered.answer);
            answered.logprobs = self.logprobs(again, logprobs, &answer, caller).await?;
        }
        // What was known before it was asked for, or was told last.
        let all = tokens(&answered.answer.output.data);
        let mut last = deltas.push(0, &all)?;
        let rest = deltas.rest()?;
        if !rest.is_empty() {
            let end = u32::try_from(all.len()).unwrap_or(u32::MAX);
            let empty = || Delta {
                position: end,
                tokens: Vec::new(),
                text: String::new(),
                logprobs: Vec::new(),
            };
            last.get_or_insert_with(empty).text += &rest;
        }
        if let Some(mut delta) = last {
            delta.tell(&answered.logprobs);
            send(delta).await?;
        }
        Ok(answered)
    }

    /// Tells the observer how a call ended.
    pub(crate) fn observe<T>(
        &self,
        surface: &'static str,
        model: &str,
        since_us: u64,
        outcome: &Result<T, Error>,
    ) {
        let code = outcome.as_ref().map_or_else(|error| error.code().row().name, |_| "ok");
        let took = Duration::from_micros(self.clock.now_us().saturating_sub(since_us));
        let alias = self
            .engine
            .resolve(model)
            .and_then(|model| model.aliases.into_iter().next())
            .or_else(|| Some(self.float_model(model)?.alias))
            .unwrap_or_else(|| "other".to_owned());
        self.observer.answered(surface, &alias, code, took);
    }
}

/// The tier a claim has reached; 1 until the log knows it. A claim that was proved wrong reaches nothing any more.
fn reached(log: &dyn LogView, claim: ClaimDigest) -> Result<u8, Error> {
    match log.claim(claim)? {
        None => Ok(1),
        Some(standing) if standing.disproved => {
            Err(Error::new(Code::ClaimDisproved, format!("claim {claim} was proved wrong")))
        }
        Some(standing) => Ok(standing.reached.max(1)),
    }
}

/// A receipt for the wire.
pub(crate) fn wire_receipt(claim: &SignedClaim, digest: ClaimDigest, place: &Place) -> v1::Receipt {
    v1::Receipt {
        claim: Some(convert::wire_claim(claim, digest.0)),
        index: place.index,
        path: wire_path(&place.path),
        checkpoint: Some(wire_checkpoint(&place.checkpoint)),
    }
}
