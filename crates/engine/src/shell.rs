//! The threads around the [`Machine`].
//!
//! One lock guards the machine; it is held for the microseconds of a decision, never across a device call, a
//! signature or a waiter. Three kinds of thread meet there:
//!
//! | thread | does |
//! |---|---|
//! | dispatcher, 1 | deadlines, leases, retention; offers claims again that the log had no room for |
//! | device, 1 each (`worker.rs`) | takes a batch, runs it, takes the next |
//! | finisher, 1 | hashes and signs what a batch left, while its device is at the next one |
//!
//! A submission wakes the device it needs directly, so a job on an idle engine crosses two threads.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
        mpsc::{Receiver, SyncSender, TrySendError},
    },
};

use parking_lot::Mutex;

use crate::{
    Answer, Clock, SignError,
    attach::OnWake,
    bell::Bell,
    claim::Notary,
    known::{KnownAnswers, by_reference},
    machine::{DeviceIndex, Dispute, Effects, Machine, ToSign},
    memo::Memo,
    outbox::Outbox,
    registry::Registry,
};

/// Batches that may wait for the finisher; a device that finds no room signs its batch itself.
pub(crate) const FINISHER_BATCHES: usize = 4;
/// Claims that a device with nothing else to do signs itself: a hop to another thread costs about as much.
const SIGN_INLINE_MAX: usize = 2;
/// Microseconds after which claims are offered again that the log had no room for.
const OFFER_AGAIN_US: u64 = 10_000;

/// What the finisher is sent; `None` sends it home.
pub(crate) type ToFinisher = Option<Vec<ToSign>>;

/// Everything that the engine's threads share.
pub(crate) struct Shell {
    pub(crate) models: Registry,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) notary: Notary,
    pub(crate) memo: Memo,
    pub(crate) outbox: Outbox,
    pub(crate) known: KnownAnswers,
    machine: Mutex<Machine>,
    /// One per device.
    pub(crate) bells: Vec<Bell>,
    /// One per attached worker, by its place behind the devices.
    remote_bells: Mutex<BTreeMap<DeviceIndex, OnWake>>,
    dispatcher: Bell,
    pub(crate) drained: Bell,
    finisher: SyncSender<ToFinisher>,
    /// Batches that the finisher has been sent and has not done with.
    unfinished: AtomicUsize,
    /// Events whose consequences are not all done: a claim to be offered, a waiter to be told.
    owing: AtomicUsize,
}

impl Shell {
    pub(crate) fn new(
        models: Registry,
        clock: Arc<dyn Clock>,
        notary: Notary,
        (memo, outbox): (Memo, Outbox),
        (machine, devices): (Machine, usize),
        finisher: SyncSender<ToFinisher>,
    ) -> Self {
        Self {
            models,
            clock,
            notary,
            memo,
            outbox,
            machine: Mutex::new(machine),
            known: KnownAnswers::default(),
            remote_bells: Mutex::default(),
            bells: (0..devices).map(|_| Bell::default()).collect(),
            dispatcher: Bell::default(),
            drained: Bell::default(),
            finisher,
            unfinished: AtomicUsize::new(0),
            owing: AtomicUsize::new(0),
        }
    }

    /// Puts one event to the machine and does what follows from it.
    pub(crate) fn event<T>(&self, event: impl FnOnce(&mut Machine, u64) -> T) -> T {
        let (outcome, effects) = self.decide(event);
        self.perform(effects);
        outcome
    }

    /// Puts one event to the machine; what follows from it is the caller's to [`perform`](Self::perform).
    fn decide<T>(&self, event: impl FnOnce(&mut Machine, u64) -> T) -> (T, Effects) {
        self.owing.fetch_add(1, SeqCst);
        let now_us = self.clock.now_us();
        let mut machine = self.machine.lock();
        let outcome = event(&mut machine, now_us);
        let effects = machine.effects();
        drop(machine);
        (outcome, effects)
    }

    /// Reads the machine.
    pub(crate) fn look<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.machine.lock())
    }

    fn perform(&self, effects: Effects) {
        for (content, output) in &effects.generated {
            self.memo.insert(*content, output);
        }
        for device in effects.wake {
            match self.bells.get(device) {
                Some(bell) => bell.ring(),
                None => self.wake_remote(device),
            }
        }
        if effects.timer {
            self.dispatcher.ring();
        }
        for call in effects.calls {
            // A waiter that panics harms only itself; the engine's threads go on.
            let _ = catch_unwind(AssertUnwindSafe(|| call.make()));
        }
        self.owing.fetch_sub(1, SeqCst);
        if effects.drained {
            self.drained.ring();
        }
    }

    fn wake_remote(&self, device: DeviceIndex) {
        let bell = self.remote_bells.lock().get(&device).map(Arc::clone);
        if let Some(bell) = bell {
            let _ = catch_unwind(AssertUnwindSafe(|| bell()));
        }
    }

    /// From now on `bell` is rung for the worker at this place. The bell before it is rung once more, so that whoever
    /// listens there learns that its seat is gone.
    pub(crate) fn set_remote_bell(&self, device: DeviceIndex, bell: OnWake) {
        let before = self.remote_bells.lock().insert(device, bell);
        if let Some(before) = before {
            before();
        }
    }

    /// Whether nothing lives, everybody was told, and the log's producer has every claim.
    pub(crate) fn is_quiet(&self) -> bool {
        self.look(Machine::live) == 0 && self.owing.load(SeqCst) == 0 && self.outbox.waiting() == 0
    }

    /// Makes claims of outputs: here, if that is quickest, else on the finisher.
    pub(crate) fn finish(&self, to_sign: Vec<ToSign>, here: bool) {
        if to_sign.is_empty() {
            return;
        }
        // What the finisher still has came first.
        let first = self.unfinished.load(SeqCst) == 0;
        if here && first && to_sign.len() <= SIGN_INLINE_MAX {
            return self.sign(to_sign);
        }
        self.unfinished.fetch_add(1, SeqCst);
        match self.finisher.try_send(Some(to_sign)) {
            Ok(()) => {}
            Err(TrySendError::Full(to_sign) | TrySendError::Disconnected(to_sign)) => {
                self.sign(to_sign.unwrap_or_default());
                self.unfinished.fetch_sub(1, SeqCst);
            }
        }
    }

    fn sign(&self, to_sign: Vec<ToSign>) {
        for to_sign in to_sign {
            let since_us = self.clock.now_us();
            let outcome = self.notary.claim(&to_sign, &self.models, &*self.clock).map(Arc::new);
            let took_us = self.clock.now_us().saturating_sub(since_us);
            self.conclude(&to_sign, outcome, took_us);
        }
    }

    /// A claim was signed, here or by a worker on another host, or not.
    pub(crate) fn conclude(
        &self,
        to_sign: &ToSign,
        outcome: Result<Arc<Answer>, SignError>,
        took_us: u64,
    ) {
        let answer = outcome.as_ref().ok().map(Arc::clone);
        let (is_for_log, effects) =
            self.decide(|machine, now_us| machine.signed(to_sign, outcome, took_us, now_us));
        // Offered before anyone is told, so that the log never lags behind what callers know.
        if let Some(answer) = answer.filter(|_| is_for_log) {
            self.outbox.offer(answer);
        }
        self.perform(effects);
    }

    /// Lets the scalar reference decide between two outputs; takes as long as it does. The devices that gave them are
    /// out of service meanwhile.
    pub(crate) fn settle(&self, dispute: &Dispute) {
        self.memo.remove(&dispute.content);
        let model = &self.models.models()[dispute.model];
        let truth = by_reference(model, &dispute.input).ok().map(Arc::new);
        let to_sign = self.event(|machine, now_us| machine.verdict(dispute, truth, now_us));
        self.finish(to_sign.into_iter().collect(), false);
    }

    /// The finisher's life.
    pub(crate) fn finisher(&self, batches: &Receiver<ToFinisher>) {
        while let Ok(Some(to_sign)) = batches.recv() {
            self.sign(to_sign);
            self.unfinished.fetch_sub(1, SeqCst);
        }
    }

    /// Sends the finisher home once it has signed what it was sent.
    pub(crate) fn dismiss_finisher(&self) {
        // An error says that it is gone already.
        let _ = self.finisher.send(None);
    }

    /// The dispatcher's life.
    pub(crate) fn dispatcher(&self) {
        loop {
            self.outbox.flush();
            let again = self.outbox.waiting() > 0;
            let (sleep_us, stopped) = self.event(|machine, now_us| {
                machine.expire(now_us);
                let again_us = again.then(|| now_us.saturating_add(OFFER_AGAIN_US));
                let next_us = [machine.next_us(), again_us].into_iter().flatten().min();
                machine.timer_set(next_us);
                (next_us.map(|next_us| next_us.saturating_sub(now_us)), machine.is_stopped())
            });
            if stopped {
                return;
            }
            self.dispatcher.wait(sleep_us);
        }
    }

    /// Makes every thread look again.
    pub(crate) fn ring_all(&self) {
        self.dispatcher.ring();
        self.drained.ring();
        self.bells.iter().for_each(Bell::ring);
    }
}
