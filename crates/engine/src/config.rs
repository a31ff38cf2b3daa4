//! What one machine may choose. No choice changes a bit of any output.

/// How large a batch may grow and how long it may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchLimits {
    /// Rows at most: tokens of texts, rows of tensors. A longer input runs alone.
    pub rows_max: u32,
    /// Jobs at most.
    pub jobs_max: u32,
    /// Microseconds that an idle device waits for company from the arrival of the oldest job on. 0 serves at
    /// once; batches then form by themselves while devices are busy.
    pub wait_us_max: u64,
}

/// How the engine is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EngineConfig {
    /// Rows of a batch at most. Default 1,024.
    pub batch_rows_max: u32,
    /// Jobs of a batch at most. Default 256.
    pub batch_jobs_max: u32,
    /// Microseconds that an idle device holds a batch back for company. Default 0.
    pub batch_wait_us: u64,
    /// Jobs that may wait, per model and class. Default 1,024.
    pub queue_jobs_max: usize,
    /// Bytes of inputs that may wait, of all models. Default 1 GiB.
    pub queue_bytes_max: u64,
    /// Bytes of outputs kept by content. Default 256 MiB.
    pub memo_bytes_max: u64,
    /// Bytes of answers kept by request id; the oldest leave first. Default 256 MiB.
    pub kept_bytes_max: u64,
    /// Seconds for which an answer is kept by request id. Default 3,600.
    pub keep_s: u64,
    /// Signed claims that may wait for the log's producer; more push new work back. Default 16,384.
    pub claims_waiting_max: usize,
    /// Seconds for which claims can be challenged: `challengeUntil` = now + this. Default 604,800 (a week).
    pub challenge_window_s: u64,
    /// Answers that a device generates at once, per model. Default 32.
    pub answers_max: u32,
    /// Rows of one step of a generator at most: a token of each running answer, and pieces of prompts. Default 512.
    pub step_rows_max: u32,
    /// Rows of prompts in a step while answers are running, so that a long prompt does not hold them up. Default 128.
    pub prompt_rows_max: u32,
    /// Bytes of cache per generator and device; room for the longest sequence there always is. Default 1 GiB.
    pub cache_bytes_max: u64,
    /// Whether a prompt that begins as an earlier text did takes over what was computed of it. Default yes.
    pub prefix_reuse: bool,
    /// Tokens that a draft model proposes at a time. Default 4.
    pub draft_tokens: u32,
    /// Microseconds after which a silent device counts as lost. Default 120 s.
    pub lease_us: u64,
    /// Microseconds of idleness after which a device answers a known question again. Default 60 s.
    pub probe_us: u64,
    /// Workers on other hosts that may be known at once, attached or gone for a while. Default 0: none may attach.
    pub workers_max: usize,
    /// Microseconds after which a worker that says nothing loses a job; its heartbeats renew them. Default 30 s.
    pub worker_lease_us: u64,
    /// Whether a device has to pass the whole conformance suite before it serves, and after every fault. Default
    /// yes; without it known questions are asked all the same. Tests over the definitions themselves may leave it
    /// out, since it takes the definitions a second or two.
    pub suite: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            batch_rows_max: 1024,
            batch_jobs_max: 256,
            batch_wait_us: 0,
            queue_jobs_max: 1024,
            queue_bytes_max: 1 << 30,
            memo_bytes_max: 256 << 20,
            kept_bytes_max: 256 << 20,
            keep_s: 3600,
            claims_waiting_max: 16_384,
            challenge_window_s: 7 * 24 * 3600,
            answers_max: 32,
            step_rows_max: 512,
            prompt_rows_max: 128,
            cache_bytes_max: 1 << 30,
            prefix_reuse: true,
            draft_tokens: 4,
            lease_us: 120_000_000,
            probe_us: 60_000_000,
            workers_max: 0,
            worker_lease_us: 30_000_000,
            suite: true,
        }
    }
}

impl EngineConfig {
    /// Limits of one batch.
    pub const fn batch(&self) -> BatchLimits {
        BatchLimits {
            rows_max: self.batch_rows_max,
            jobs_max: self.batch_jobs_max,
            wait_us_max: self.batch_wait_us,
        }
    }
}
