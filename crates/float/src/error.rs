use std::path::PathBuf;

/// A float model that cannot be loaded, or cannot answer.
#[derive(Debug, thiserror::Error)]
pub enum FloatError {
    /// A file cannot be read.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A file is not the JSON it should be.
    #[error("{}: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// Where it goes wrong.
        source: serde_json::Error,
    },
    /// The folder asks for something that candle would leave out or does not know.
    #[error("{}: {what}", path.display())]
    Unsupported {
        /// The file that asks for it.
        path: PathBuf,
        /// What it asks for.
        what: String,
    },
    /// No such device, or not in this build.
    #[error("float device `{name}`: {why}")]
    Device {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// The model cannot answer this.
    #[error("{0}")]
    Input(String),
    /// Candle failed.
    #[error("candle: {0}")]
    Candle(#[from] candle_core::Error),
}
