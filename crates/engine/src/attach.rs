//! A worker on another host, from the node's side: what its connection asks of the engine.
//!
//! Whoever holds the connection calls [`Attachment::next`] whenever the bell that it gave is rung, sends what that says,
//! and hands over what the worker says. Nothing here waits, but for [`Attachment::probed`] and [`Attachment::settle`],
//! which may have to ask the scalar reference.

use std::{fmt, sync::Arc};

use hyperion_model::{Model, Tensor};
use hyperion_ops::DeviceInfo;
use hyperion_primitives::{Address, B256, ModelId, output_hash, tensor_root};
use hyperion_verify::{Claim, ClaimError, SignedClaim};

use crate::{
    Answer, Engine,
    claim::statement,
    known::question,
    machine::{Arrival, AttachRefused, Dispute, Fault, LeaseId, Order, Seat},
    shell::Shell,
};

/// Rung when [`Attachment::next`] may say something new; on any thread. It must not block.
pub type OnWake = Arc<dyn Fn() + Send + Sync>;

/// What became of a result.
#[derive(Debug)]
pub enum Outcome {
    /// It is the job's answer, and its claim goes into the log.
    Taken,
    /// The same bytes had come before, or nobody knows the lease any more.
    Late {
        /// Whether they were compared and are equal.
        equal: bool,
    },
    /// Other bytes had come before; to be [settled](Attachment::settle).
    Differs(Dispute),
}

/// What no worker that keeps the rules sends. It is out of service for it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Breach {
    /// The output is no output of the model for this input.
    #[error("the output is {got}, the model gives {want}")]
    Output {
        /// Type, shape and bytes that came.
        got: String,
        /// What the manifest says.
        want: String,
    },
    /// The claim is about something else than was leased, or not about the output that came with it.
    #[error("the claim is not the one about the leased request and this output: {field} differs")]
    Claim {
        /// The first field that differs.
        field: &'static str,
    },
    /// The claim is not signed by its worker.
    #[error("the claim is not its worker's: {0}")]
    Signature(#[from] ClaimError),
    /// A known question was answered wrongly.
    #[error("the worker gives another answer to the known question of {model}")]
    Probe {
        /// The model.
        model: ModelId,
    },
}

/// A worker's place in the engine; dropping it takes back what the worker holds.
pub struct Attachment {
    shell: Arc<Shell>,
    seat: Seat,
    worker: Address,
}

impl fmt::Debug for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attachment")
            .field("worker", &self.worker)
            .field("seat", &self.seat)
            .finish_non_exhaustive()
    }
}

impl Drop for Attachment {
    fn drop(&mut self) {
        let seat = self.seat;
        self.shell.event(|machine, now_us| machine.detach(seat, "it is not attached", now_us));
    }
}

impl Engine {
    /// Gives a worker that has proved its key a place among the devices. It serves once it has answered the known
    /// question of each of its models. An earlier connection of the same worker ends.
    ///
    /// `models` are those whose weights are resident at the worker; ids that are unknown here are passed over.
    ///
    /// # Errors
    ///
    /// When the worker is barred, has no model in common, or there are too many workers.
    pub fn attach(
        &self,
        worker: Address,
        models: &[ModelId],
        info: DeviceInfo,
        bell: OnWake,
    ) -> Result<Attachment, AttachRefused> {
        let shell = Arc::clone(&self.shell);
        let mut holds = vec![false; shell.models.models().len()];
        for index in models.iter().filter_map(|id| shell.models.index(*id)) {
            holds[index] = !shell.models.models()[index].manifest().generator;
        }
        let arrival = Arrival { worker, holds, info };
        let seat = shell.event(|machine, now_us| machine.attach(arrival, now_us))?;
        shell.set_remote_bell(seat.device(), bell);
        Ok(Attachment { shell, seat, worker })
    }

    /// Bytes of the largest output of any model.
    pub fn output_bytes_max(&self) -> u64 {
        let outputs = self.shell.models.models().iter().filter_map(|model| {
            let manifest = model.manifest();
            manifest.output_bytes(manifest.rows_max, 0)
        });
        outputs.max().unwrap_or(0)
    }

    /// Whether no job waits, runs or is being signed.
    pub fn is_idle(&self) -> bool {
        self.shell.look(|machine| machine.live() == 0)
    }
}

impl Attachment {
    /// What to tell the worker next; to be asked until it says [`Order::Wait`], and again when the bell rings.
    pub fn next(&self) -> Order {
        let window_s = self.shell.notary.window_s;
        let challenge_until = self.shell.clock.unix_s().saturating_add(window_s);
        self.shell.event(|machine, now_us| machine.draw(self.seat, challenge_until, now_us))
    }

    /// The model of an order.
    pub fn model(&self, model: usize) -> &Model {
        &self.shell.models.models()[model]
    }

    /// The known question of the model of an [`Order::Probe`].
    pub fn question(&self, model: usize) -> Vec<u8> {
        question(self.model(model))
    }

    /// How many more jobs of a model the worker has room for.
    pub fn credit(&self, model: ModelId, slots: u32) {
        if let Some(model) = self.shell.models.index(model) {
            self.shell.event(|machine, _| machine.credit(self.seat, model, slots));
        }
    }

    /// The worker still is at these jobs.
    pub fn renew(&self, leases: &[LeaseId]) {
        self.shell.event(|machine, now_us| machine.renew(self.seat, leases, now_us));
    }

    /// The worker gives a job back.
    pub fn failed(&self, lease: LeaseId, fault: Fault, why: &str) {
        self.shell.event(|machine, now_us| machine.failed(self.seat, lease, fault, why, now_us));
    }

    /// The worker takes no more work.
    pub fn draining(&self) {
        self.shell.event(|machine, _| machine.draining(self.seat));
    }

    /// Jobs that the worker holds.
    pub fn held(&self) -> u32 {
        self.shell.look(|machine| machine.held(self.seat))
    }

    /// The worker answered a known question. Where no device here has, this asks the scalar reference and takes as long
    /// as it does.
    ///
    /// # Errors
    ///
    /// When the answer is wrong; the worker is out of service then.
    pub fn probed(&self, probe: u64, answer: B256) -> Result<(), Breach> {
        let Some(index) = self.shell.event(|machine, _| machine.probe_answered(self.seat, probe))
        else {
            return Ok(());
        };
        let model = &self.shell.models.models()[index];
        // A node that cannot answer its own question can hold nothing against the worker.
        let Ok(known) = self.shell.known.answer(index, model) else { return Ok(()) };
        if known.output_hash() != answer {
            return self.breach(Breach::Probe { model: model.id() });
        }
        self.shell.event(|machine, now_us| machine.probe_right(self.seat, probe, now_us));
        Ok(())
    }

    /// A worker's result: checked against what was leased, then counted or compared.
    ///
    /// # Errors
    ///
    /// When output or claim are not what an honest worker sends; the worker is out of service then.
    pub fn deliver(
        &self,
        lease: LeaseId,
        output: Tensor,
        claim: SignedClaim,
    ) -> Result<Outcome, Breach> {
        let shell = &self.shell;
        let Some(leased) = shell.look(|machine| machine.leased(self.seat, lease)) else {
            return Ok(Outcome::Late { equal: false });
        };
        let manifest = shell.models.models()[leased.model].manifest();
        let dims = manifest.output_dims(leased.rows, 0).unwrap_or_default();
        let bytes = manifest.output_bytes(leased.rows, 0).unwrap_or_default();
        let is_output = (output.dtype, output.dims, output.data.len() as u64)
            == (manifest.output_dtype, dims, bytes);
        let root = tensor_root(output.dtype, &output.dims, &output.data);
        let Some(root) = root.filter(|_| is_output) else {
            let got = format!("{}{:?}, {} bytes", output.dtype, output.dims, output.data.len());
            let want = format!("{}{dims:?}, {bytes} bytes", manifest.output_dtype);
            return self.breach(Breach::Output { got, want });
        };
        let want = statement(
            &leased.ask,
            leased.content,
            (manifest, leased.rows, 0),
            output_hash(&[root]),
            (self.worker, leased.challenge_until),
        );
        if let Some(field) = difference(&claim.claim, &want) {
            return self.breach(Breach::Claim { field });
        }
        if let Err(error) = claim.check(&shell.notary.domain) {
            return self.breach(error.into());
        }
        let output = Arc::new(output);
        let answer = Answer {
            request: leased.ask.request.clone(),
            output: Arc::clone(&output),
            digest: want.digest(&shell.notary.domain),
            claim,
            replayed: false,
        };
        // Not put into the memo: what this node signs or executes from there, it has computed itself.
        let delivered =
            shell.event(|machine, now_us| machine.deliver(self.seat, lease, output, now_us));
        if let Some(to_sign) = delivered.to_sign {
            shell.conclude(&to_sign, Ok(Arc::new(answer)), 0);
            return Ok(Outcome::Taken);
        }
        Ok(delivered.dispute.map_or(Outcome::Late { equal: delivered.duplicate }, Outcome::Differs))
    }

    /// Lets the scalar reference decide between a worker's result and an earlier one; takes as long as it does.
    pub fn settle(&self, dispute: &Dispute) {
        self.shell.settle(dispute);
    }

    /// Puts the worker out of service, for ten minutes at least.
    pub fn bar(&self, why: &str) {
        self.shell.event(|machine, now_us| machine.bar(self.seat, why, now_us));
    }

    fn breach<T>(&self, breach: Breach) -> Result<T, Breach> {
        self.bar(&breach.to_string());
        Err(breach)
    }
}

/// The first field in which a claim is not `want`.
fn difference(got: &Claim, want: &Claim) -> Option<&'static str> {
    let fields = [
        ("request id", got.request_id == want.request_id),
        ("model id", got.model_id == want.model_id),
        ("input hash", got.input_hash == want.input_hash),
        ("output hash", got.output_hash == want.output_hash),
        ("sampling hash", got.sampling_hash == want.sampling_hash),
        ("seed", got.seed == want.seed),
        ("trace root", got.trace_root == want.trace_root),
        ("input tokens", got.in_tokens == want.in_tokens),
        ("output tokens", got.out_tokens == want.out_tokens),
        ("macs", got.macs == want.macs),
        ("challenge time", got.challenge_until == want.challenge_until),
        ("tier", got.tier == want.tier),
        ("worker", got.worker == want.worker),
    ];
    fields.into_iter().find(|(_, equal)| !equal).map(|(field, _)| field)
}
