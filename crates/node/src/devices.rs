//! Which devices a node runs on.

use std::{num::NonZeroUsize, sync::Arc, thread};

use anyhow::{Result, bail};
use hyperion_engine::KernelPool;
use hyperion_ops::{Backend, Cpu, KernelSet, Parallel};

/// Devices by name: `auto`, `cpu` (the best kernels of this machine), or `cpu:portable` and its like.
///
/// # Errors
///
/// When there is no such device here.
pub fn open(name: &str, threads: usize) -> Result<Vec<Box<dyn Backend>>> {
    let kernels = match name {
        "auto" | "cpu" => KernelSet::best(),
        other => {
            let wanted = other.strip_prefix("cpu:");
            let found = KernelSet::available().into_iter().find(|set| Some(set.name()) == wanted);
            let Some(found) = found else {
                let names: Vec<_> = KernelSet::available()
                    .iter()
                    .map(|set| format!("cpu:{}", set.name()))
                    .collect();
                bail!("no device is called `{other}`; here are auto, cpu, {}", names.join(", "));
            };
            found
        }
    };
    Ok(vec![Box::new(Cpu::new(kernels, pool(threads)?))])
}

/// One device for each kernel set of this machine, for `doctor`.
///
/// # Errors
///
/// When the system gives no threads.
pub fn every(threads: usize) -> Result<Vec<Box<dyn Backend>>> {
    let sets = KernelSet::available().into_iter();
    sets.map(|set| Ok(Box::new(Cpu::new(set, pool(threads)?)) as Box<dyn Backend>)).collect()
}

/// The threads that kernels share; 0 is one per core.
fn pool(threads: usize) -> Result<Arc<dyn Parallel>> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    Ok(Arc::new(KernelPool::new(if threads == 0 { cores } else { threads })?))
}
