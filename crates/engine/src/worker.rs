//! A device's thread: test, load, and then batch after batch.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc::SyncSender},
};

use hyperion_model::{ModelError, Prepared, Tensor};
use hyperion_ops::{Backend, conformance};

use crate::{
    Content, EngineConfig,
    engine::batch_rows,
    generator::Generator,
    known::{guarded, ids, question},
    machine::{Batch, DeviceIndex, Finished, Joined, LeaseId, RETEST_MS, Take},
    shell::Shell,
};

pub(crate) struct Worker {
    shell: Arc<Shell>,
    device: DeviceIndex,
    backend: Box<dyn Backend>,
    /// Whether this device has room for each model.
    holds: Vec<bool>,
    loaded: BTreeMap<usize, Prepared>,
    generators: BTreeMap<usize, Generator>,
    config: EngineConfig,
}

impl Worker {
    pub(crate) fn new(
        shell: Arc<Shell>,
        device: DeviceIndex,
        backend: Box<dyn Backend>,
        holds: Vec<bool>,
        config: EngineConfig,
    ) -> Self {
        let (loaded, generators) = (BTreeMap::new(), BTreeMap::new());
        Self { shell, device, backend, holds, loaded, generators, config }
    }

    /// The thread's life. `first` hears how the first test went.
    pub(crate) fn run(mut self, first: SyncSender<Result<(), String>>) {
        let mut first = Some(first);
        loop {
            match self.shell.event(|machine, now_us| machine.take(self.device, now_us)) {
                Take::Batch(batch) => self.serve(&batch),
                Take::Join(joined) => self.join(joined),
                Take::Step(given_up) => self.step(&given_up),
                Take::Probe => self.probe(),
                Take::Wait(until_us) => self.sleep(until_us),
                Take::Test => {
                    let outcome = self.test();
                    let failed = outcome.is_err();
                    if let Some(first) = first.take() {
                        // Whoever starts the engine waits for this; an error says that he was cut short.
                        let _ = first.send(outcome);
                    }
                    if failed {
                        self.sleep(Some(self.shell.clock.now_us() + RETEST_MS * 1_000));
                    }
                }
                Take::Stop => return,
            }
        }
    }

    fn sleep(&self, until_us: Option<u64>) {
        let now_us = self.shell.clock.now_us();
        self.shell.bells[self.device]
            .wait(until_us.map(|until_us| until_us.saturating_sub(now_us)));
    }

    /// The whole suite, then the models, then their known answers.
    fn test(&mut self) -> Result<(), String> {
        let outcome = guarded(|| self.test_and_load());
        let device = self.device;
        self.shell.event(|machine, now_us| match &outcome {
            Ok(()) => machine.up(device, now_us),
            Err(why) => machine.test_failed(device, why, now_us),
        });
        outcome
    }

    fn test_and_load(&mut self) -> Result<(), String> {
        let backend = &mut *self.backend;
        for prepared in std::mem::take(&mut self.loaded).into_values() {
            prepared.unload(backend);
        }
        for generator in std::mem::take(&mut self.generators).into_values() {
            generator.unload(backend);
        }
        backend.reset();
        if self.config.suite {
            let report = conformance::check(backend).map_err(|error| error.to_string())?;
            if !report.conforms() {
                let stems: Vec<&str> =
                    report.differences().iter().map(|stem| stem.name()).collect();
                return Err(format!(
                    "the device computes other bits than pinned: {}",
                    stems.join(", ")
                ));
            }
        }
        let registry = &self.shell.models;
        let models = registry.models().iter().zip(&self.holds).enumerate();
        for (index, (model, _)) in models.filter(|(_, (_, held))| **held) {
            let failed = |error: ModelError| format!("loading {}: {error}", model.id());
            if model.manifest().generator {
                let draft = registry.draft(index).map(|draft| &**draft);
                let generator = Generator::load(model, draft, backend, &self.config);
                self.generators.insert(index, generator.map_err(failed)?);
            } else {
                let rows = batch_rows(model, &self.config);
                self.loaded.insert(index, Prepared::load(model, backend, rows).map_err(failed)?);
            }
        }
        self.ask_known()
    }

    /// Asks every loaded model its known question.
    fn ask_known(&mut self) -> Result<(), String> {
        let models = self.shell.models.models();
        let agrees = |index: usize, answer: Tensor| {
            if self.shell.known.agrees(index, answer) {
                return Ok(());
            }
            let id = models[index].id();
            Err(format!("the device gives another answer to the known question of {id}"))
        };
        for (index, prepared) in &self.loaded {
            let answers = prepared.run(&mut *self.backend, &[&question(&models[*index])]);
            let answer = answers.map_err(|error| error.to_string())?.into_iter().next();
            agrees(*index, answer.ok_or("a run of one input gave no output")?)?;
        }
        for (index, generator) in &mut self.generators {
            let question = ids(&question(&models[*index]));
            let answer = generator.logits(&mut *self.backend, &question);
            agrees(*index, answer.map_err(|error| error.to_string())?)?;
        }
        Ok(())
    }

    fn join(&mut self, joined: Joined) {
        if let Some(generator) = self.generators.get_mut(&joined.model) {
            generator.join(joined);
        } else {
            let cause = "the model is not on this device";
            self.shell.event(|machine, now_us| machine.lost(self.device, cause, now_us));
        }
    }

    /// A step of every generator that has answers.
    fn step(&mut self, given_up: &[LeaseId]) {
        for lease in given_up {
            self.generators.values_mut().for_each(|generator| generator.give_up(*lease));
        }
        let (device, shell) = (self.device, &self.shell);
        let mut stepped = false;
        for (index, generator) in &mut self.generators {
            if generator.is_idle() {
                continue;
            }
            stepped = true;
            let since_us = shell.clock.now_us();
            let backend = &mut *self.backend;
            let step = guarded(|| generator.step(backend).map_err(|error| error.to_string()));
            let step = match step {
                Ok(step) => step,
                Err(cause) => {
                    return shell.event(|machine, now_us| machine.lost(device, &cause, now_us));
                }
            };
            let took_us = shell.clock.now_us().saturating_sub(since_us);
            let finished = shell
                .event(|machine, now_us| machine.advance(device, *index, step, took_us, now_us));
            Self::conclude(shell, finished);
        }
        if !stepped {
            shell.event(|machine, now_us| machine.settle_duty(device, now_us));
        }
    }

    /// Has what a run left claimed and settled.
    fn conclude(shell: &Shell, finished: Finished) {
        shell.finish(finished.to_sign, !finished.more);
        for dispute in &finished.disputes {
            shell.settle(dispute);
        }
    }

    fn probe(&mut self) {
        let outcome = guarded(|| self.ask_known());
        let device = self.device;
        self.shell.event(|machine, now_us| match &outcome {
            Ok(()) => machine.probed(device, now_us),
            Err(why) => machine.lost(device, why, now_us),
        });
    }

    fn serve(&mut self, batch: &Batch) {
        let lease = batch.lease;
        let outcome = guarded(|| self.outputs(batch));
        let (device, shell) = (self.device, &self.shell);
        let finished = match outcome {
            Ok((outputs, rows)) => {
                shell.event(|machine, now_us| machine.finish(lease, outputs, rows, now_us))
            }
            Err(cause) => {
                return shell.event(|machine, now_us| machine.lost(device, &cause, now_us));
            }
        };
        Self::conclude(shell, finished);
    }

    /// The outputs of a batch, and how many rows went over the device for them: contents that are known, or
    /// equal to another of the batch, need none.
    fn outputs(&mut self, batch: &Batch) -> Result<(Vec<Arc<Tensor>>, u64), String> {
        let mut outputs: BTreeMap<Content, Arc<Tensor>> = BTreeMap::new();
        let mut misses: BTreeMap<Content, &[u8]> = BTreeMap::new();
        let mut rows = 0;
        for job in &batch.jobs {
            if let Some(output) = self.shell.memo.get(&job.content) {
                outputs.insert(job.content, output);
            } else if misses.insert(job.content, &job.input).is_none() {
                rows += u64::from(job.rows);
            }
        }
        misses.retain(|content, _| !outputs.contains_key(content));
        if !misses.is_empty() {
            let prepared =
                self.loaded.get(&batch.model).ok_or("the model is not on this device")?;
            let inputs: Vec<&[u8]> = misses.values().copied().collect();
            let answers =
                prepared.run(&mut *self.backend, &inputs).map_err(|error| error.to_string())?;
            for (content, answer) in misses.into_keys().zip(answers) {
                let answer = Arc::new(answer);
                self.shell.memo.insert(content, &answer);
                outputs.insert(content, answer);
            }
        }
        let in_order = batch.jobs.iter().map(|job| outputs.get(&job.content).map(Arc::clone));
        Ok((in_order.collect::<Option<_>>().ok_or("the device gave too few outputs")?, rows))
    }
}
