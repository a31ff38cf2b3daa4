use std::sync::Arc;

use hyperion_engine::{BlockCall, Engine, InferError};
use hyperion_precompile::Run;

/// Receives the answers of a batch, in the order of its runs.
pub type OnAnswers = Box<dyn FnOnce(Vec<Result<Arc<[u8]>, AnswersLost>>) + Send>;

/// Where models' outputs come from.
///
/// Equal runs get equal bytes, whenever and in whatever company they are asked; the bytes are the elements of the
/// output tensor, little-endian and row-major.
pub trait Answers: Sync {
    /// Asks for many runs, all different, as one batch. `done` may be called before this returns, on any thread.
    fn submit(&self, runs: Vec<Run>, done: OnAnswers);
}

/// An answer that did not come. Its transaction cannot go on here; another node may have it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an answer that the transaction needs did not come: {why}")]
pub struct AnswersLost {
    /// What whoever was asked said.
    pub why: String,
}

impl From<InferError> for AnswersLost {
    fn from(error: InferError) -> Self {
        Self { why: error.to_string() }
    }
}

impl Answers for Engine {
    fn submit(&self, runs: Vec<Run>, done: OnAnswers) {
        let call =
            |Run { model, input, sampling, seed }| BlockCall { model, input, sampling, seed };
        self.run_batch(
            runs.into_iter().map(call).collect(),
            Box::new(|outputs| {
                let bytes = outputs.into_iter().map(|output| Ok(output?.data.as_slice().into()));
                done(bytes.collect());
            }),
        );
    }
}
