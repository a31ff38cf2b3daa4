use hyperion_primitives::ModelId;

/// Why an engine did not start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// An alias that is empty or looks like a model id.
    #[error("`{0}` is no alias: it must not be empty nor begin with 0x")]
    Alias(String),
    /// An alias that already names another model.
    #[error("the alias `{alias}` already names {model}")]
    AliasTaken {
        /// The alias.
        alias: String,
        /// Whom it names.
        model: ModelId,
    },
    /// A model that cannot draft for another.
    #[error("`{draft}` cannot draft for `{alias}`: {why}")]
    Draft {
        /// The model that would have it.
        alias: String,
        /// The model that would propose.
        draft: String,
        /// Why not.
        why: String,
    },
    /// The system gives no more threads.
    #[error("starting a thread: {0}")]
    Thread(String),
    /// No device came into service.
    #[error("no device is in service: {0}")]
    NoDevice(String),
}
