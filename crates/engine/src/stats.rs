//! What happened so far, in numbers.

use hyperion_ops::DeviceInfo;
use hyperion_primitives::ModelId;

/// Buckets of a [`Histogram`].
pub const BUCKETS: usize = 28;

/// Times in microseconds, by powers of two: bucket `i` counts those below `2^i` that no earlier one counts;
/// the last also counts all that are longer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histogram {
    /// How often each.
    pub counts: [u64; BUCKETS],
    /// Sum of all times.
    pub sum_us: u64,
}

impl Histogram {
    /// The bucket that counts `us`.
    pub const fn bucket(us: u64) -> usize {
        let bits = (u64::BITS - us.leading_zeros()) as usize;
        if bits < BUCKETS { bits } else { BUCKETS - 1 }
    }

    /// Counts one time.
    pub(crate) fn add(&mut self, us: u64) {
        self.counts[Self::bucket(us)] += 1;
        self.sum_us += us;
    }

    /// Times counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }
}

/// The engine at one moment. Counters only grow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EngineStats {
    /// Jobs taken, duplicates not counted.
    pub accepted: u64,
    /// Submissions of a request that was under way already.
    pub joined: u64,
    /// Submissions of a request whose answer was stored.
    pub replayed: u64,
    /// Jobs that needed no device, because equal content had been answered.
    pub memo_hits: u64,
    /// Submissions pushed back.
    pub pushed_back: u64,
    /// Claims signed.
    pub claimed: u64,
    /// Claims known to be in the log.
    pub logged: u64,
    /// Jobs that ended without an answer because their deadline passed.
    pub deadline: u64,
    /// Jobs that ended because nobody waited for them any more.
    pub cancelled: u64,
    /// Jobs that ended for any other reason.
    pub failed: u64,
    /// Times a device was lost.
    pub devices_lost: u64,
    /// Leases of workers on other hosts that ended without a result.
    pub leases_ended: u64,
    /// Jobs that workers on other hosts hold now.
    pub leases: u64,
    /// Workers on other hosts that are attached now.
    pub workers: u64,
    /// Results that differed from another device's for the same job.
    pub results_mismatch: u64,
    /// Bytes of inputs that wait now.
    pub queued_bytes: u64,
    /// Signed claims that the log's producer has not taken yet.
    pub claims_waiting: u64,
    /// Bytes of outputs kept by content now.
    pub memo_bytes: u64,
    /// Bytes of answers kept by request id now.
    pub kept_bytes: u64,
    /// From acceptance to the answer.
    pub answer_us: Histogram,
    /// Signing and hashing, per claim.
    pub sign_us: Histogram,
    /// Per model, in the order of registration.
    pub models: Vec<ModelStats>,
    /// Per device, in the order given.
    pub devices: Vec<DeviceStats>,
}

/// One model at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelStats {
    /// Which.
    pub id: ModelId,
    /// Jobs waiting now: chain, paid, free.
    pub queued: [u64; 3],
    /// Jobs answered with a run of their own.
    pub jobs: u64,
    /// Batches run, steps of a generator among them.
    pub batches: u64,
    /// Rows of those batches.
    pub rows: u64,
    /// Tokens generated.
    pub tokens: u64,
    /// Tokens that a draft model proposed and the model looked at.
    pub proposed: u64,
    /// Of these, the tokens that were right.
    pub accepted: u64,
    /// From acceptance to the start of the run, per job.
    pub queue_us: Histogram,
    /// On the device, per batch.
    pub run_us: Histogram,
}

impl ModelStats {
    /// A model that nobody has asked yet.
    pub fn new(id: ModelId) -> Self {
        Self {
            id,
            queued: [0; 3],
            jobs: 0,
            batches: 0,
            rows: 0,
            tokens: 0,
            proposed: 0,
            accepted: 0,
            queue_us: Histogram::default(),
            run_us: Histogram::default(),
        }
    }
}

/// One device at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStats {
    /// What it is.
    pub info: DeviceInfo,
    /// Whether it takes work.
    pub in_service: bool,
    /// Why it does not.
    pub reason: String,
    /// Microseconds spent on batches.
    pub busy_us: u64,
    /// Known questions answered rightly.
    pub probes: u64,
}

impl DeviceStats {
    /// A device that has done nothing yet.
    pub const fn new(info: DeviceInfo) -> Self {
        Self { info, in_service: false, reason: String::new(), busy_us: 0, probes: 0 }
    }
}
