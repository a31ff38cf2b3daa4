//! `hyperion key`: make and show keys.

use std::path::PathBuf;

use anyhow::Result;
use hyperion_engine::Signer as _;

use super::out::say;
use crate::keys::{self, WorkerKey};

/// Make and show keys.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make a worker's secp256k1 key, mode 0600, and print its address.
    New {
        /// File to write; never one that exists.
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
    },
    /// Print the address of a key file.
    Address {
        /// File to read.
        file: PathBuf,
    },
}

pub(crate) fn run(command: &Command) -> Result<()> {
    let secret = match command {
        Command::New { out } => keys::create(out)?,
        Command::Address { file } => keys::read(file)?,
    };
    say!("{}", WorkerKey::new(&secret)?.address())?;
    Ok(())
}
