//! `hyperion log`: look after the claim log.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use hyperion_store::{Store, StoreConfig, StoreError};

use super::{Exit, out::say};
use crate::{
    config::{ChainSpec, NodeConfig},
    control::{self, Ask, Standing},
    known_logs,
};

/// Look after the claim log.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Derive everything in the log anew from its entries and name what differs. The node must be stopped.
    Fsck(Place),
    /// Print the newest checkpoint's size, root and height, also while the node runs.
    Head(Place),
    /// Copy the log into a new folder, also while the node runs; the copy opens as a store.
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
    /// How the store is opened, and the data folder.
    fn config(&self) -> Result<(StoreConfig, PathBuf)> {
        let mut config = self.source.load(NodeConfig::default())?;
        if let Some(dir) = &self.data_dir {
            config.data_dir.clone_from(dir);
        }
        let chain = ChainSpec::load(&config.chain_file)?;
        Ok((config.store(&chain), config.data_dir))
    }

    /// Has `work` done on the store, or `asked` by the node that runs on it; where the log stands then.
    fn with(
        &self,
        asked: &Ask,
        work: impl FnOnce(&Store) -> Result<(), StoreError>,
    ) -> Result<Standing> {
        let (config, data_dir) = self.config()?;
        match Store::open(&config) {
            Ok(store) => {
                work(&store)?;
                Ok(store.head().into())
            }
            Err(error @ StoreError::AlreadyOpen { .. }) => control::ask(&data_dir, asked)?
                .with_context(|| {
                    let socket = data_dir.join(control::NAME);
                    format!("{error}, and its owner does not listen at {}", socket.display())
                }),
            Err(StoreError::Poisoned { .. }) => Err(Exit::StorePoisoned.into()),
            Err(error) => Err(error.into()),
        }
    }
}

pub(crate) fn run(command: &Command) -> Result<()> {
    match command {
        Command::Fsck(place) => fsck(&place.config()?.0),
        Command::Head(place) => {
            let Standing { size, root, height } = place.with(&Ask::Head, |_| Ok(()))?;
            say!("{size} {root} height {height}")?;
            Ok(())
        }
        Command::Backup { place, to } => {
            // The node has another working folder.
            let to = std::path::absolute(to).context("--to")?;
            let copied = place.with(&Ask::Backup { to: to.clone() }, |store| store.backup(&to))?;
            say!("{} entries copied to {}", copied.size, to.display())?;
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
