//! `hyperion log`: look after the claim log.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use hyperion_store::{Store, StoreConfig, StoreError};

use super::{Exit, out::say};
use crate::{
    config::{ChainSpec, NodeConfig},
    known_logs,
};

/// Look after the claim log.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Derive everything in the log anew from its entries and name what differs. The node must be stopped.
    Fsck(Place),
    /// Print the newest checkpoint's size, root and height.
    Head(Place),
    /// Copy the log into a new folder; the copy opens as a store.
    Backup {
        #[command(flatten)]
        place: Place,
        /// Folder to write; empty or new.
        #[arg(long, value_name = "DIR")]
        to: PathBuf,
    },
    /// Keep a log's public key, so that `hyperion verify` takes what the log signed.
    Trust {
        /// The key, `name+hash+base64`, as `hyperion run` prints it. Get it from whom you trust, not from a receipt.
        key: String,
    },
}

/// Which log.
#[derive(Debug, clap::Args)]
pub(crate) struct Place {
    #[command(flatten)]
    source: super::config::Source,
    /// The node's data folder, over the configuration's.
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

impl Place {
    fn config(&self) -> Result<StoreConfig> {
        let mut config = self.source.load(NodeConfig::default())?;
        if let Some(dir) = &self.data_dir {
            config.data_dir.clone_from(dir);
        }
        let chain = ChainSpec::load(&config.chain_file)?;
        Ok(config.store(&chain))
    }
}

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Fsck(place) => fsck(&place.config()?),
        Command::Head(place) => {
            let head = open(&place.config()?)?.head();
            say!("{} {} height {}", head.log_size, head.log_root, head.height)?;
            Ok(())
        }
        Command::Backup { place, to } => {
            let store = open(&place.config()?)?;
            store.backup(to)?;
            say!("{} entries copied to {}", store.head().log_size, to.display())?;
            Ok(())
        }
        Command::Trust { key } => {
            let key = key.trim().parse().with_context(|| format!("`{key}` is no log key"))?;
            known_logs::remember(&key, false)
        }
    }
}

fn fsck(config: &StoreConfig) -> Result<()> {
    let report = Store::fsck(config)?;
    for fault in &report.faults {
        say!("{fault:?}")?;
    }
    if !report.is_clean() {
        say!("{} places are wrong", report.faults.len())?;
        bail!(Exit::CheckFailed);
    }
    say!(
        "ok   {} entries, {} blocks, {} in the tail",
        report.entries,
        report.blocks,
        report.tail_blocks
    )?;
    Ok(())
}

fn open(config: &StoreConfig) -> Result<Store> {
    Store::open(config).map_err(|error| match error {
        StoreError::Poisoned { .. } => Exit::StorePoisoned.into(),
        other => other.into(),
    })
}
