//! The program's own log lines: pretty on a terminal, JSON elsewhere.

use std::io::{IsTerminal as _, stderr};

use anyhow::{Context as _, Result, bail};
use tracing_subscriber::EnvFilter;

use crate::config::TraceConfig;

/// Sets the lines up, once per process.
pub(crate) fn start(config: &TraceConfig) -> Result<()> {
    let filter = EnvFilter::try_new(&config.filter)
        .with_context(|| format!("trace.filter `{}`", config.filter))?;
    let is_pretty = match config.format.as_str() {
        "auto" => stderr().is_terminal(),
        "pretty" => true,
        "json" => false,
        other => bail!("trace.format is `{other}`; want auto, pretty or json"),
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr);
    if is_pretty {
        lines.init();
    } else {
        lines.json().init();
    }
    Ok(())
}
