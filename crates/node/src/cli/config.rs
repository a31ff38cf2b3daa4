//! `hyperion config`: check and print the configuration.

use std::path::PathBuf;

use anyhow::Result;

use super::{out, out::say};
use crate::config::{ChainSpec, NodeConfig};

/// Check and print the configuration.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Read everything, say `ok` or the first thing that is wrong.
    Check(Source),
    /// Print the configuration that a start would use, as TOML.
    Print(Source),
}

/// Where the configuration comes from.
#[derive(Debug, clap::Args)]
pub(crate) struct Source {
    /// Configuration file.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// One key, over file and environment; may be repeated. Example: --set grpc.listen=127.0.0.1:9001
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
}

impl Source {
    /// Reads the configuration over `base`.
    pub(crate) fn load(&self, base: NodeConfig) -> Result<NodeConfig> {
        NodeConfig::load(base, self.config.as_deref(), &self.set)
    }
}

pub(crate) fn run(command: &Command) -> Result<()> {
    let (Command::Check(source) | Command::Print(source)) = command;
    let config = source.load(NodeConfig::default())?;
    let chain = ChainSpec::load(&config.chain_file)?;
    match command {
        Command::Check(_) => say!("ok   chain {}   spec {}", chain.chain_id, chain.digest())?,
        Command::Print(_) => out::write(format_args!("{}", toml::to_string_pretty(&config)?))?,
    }
    Ok(())
}
