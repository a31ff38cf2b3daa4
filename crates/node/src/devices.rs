//! Which devices a node runs on.

use std::{
    env,
    num::NonZeroUsize,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context, Result, bail};
use hyperion_backend_wgpu::{AdapterKind, Wgpu, adapters};
use hyperion_engine::KernelPool;
use hyperion_ops::{Backend, Cpu, KernelSet, Parallel};

use crate::config::EngineSection;

/// What a GPU's weights and buffers may take where its driver does not say how much memory there is.
const SILENT_MEMORY_BYTES: u64 = 4 << 30;

/// A device under the name that `engine.devices` knows it by, or why it could not be opened.
#[expect(
    missing_debug_implementations,
    reason = "a device has nothing to show but what `info` says"
)]
pub struct Found {
    /// Such as `wgpu:0`.
    pub name: String,
    /// The device.
    pub device: Result<Box<dyn Backend>>,
}

/// The devices of `engine.devices`: names with commas between them.
///
/// | name | device |
/// |---|---|
/// | `auto` | every NVIDIA GPU; without one a GPU with memory of its own; without one `cpu` |
/// | `cpu` | the best kernels of this machine |
/// | `cpu:avx2` | this kernel set |
/// | `cuda:0` | this NVIDIA GPU |
/// | `cuda:all` | every NVIDIA GPU |
/// | `wgpu:0` | this adapter of `hyperion doctor`'s list |
/// | `wgpu:all` | every adapter that is no software |
/// | `none` | none: a node that leaves all runs to workers on other hosts |
///
/// # Errors
///
/// When there is no such device here, or its driver refuses.
pub fn open(config: &EngineSection) -> Result<Vec<Box<dyn Backend>>> {
    let mut devices = Vec::new();
    if config.devices.trim() == "none" {
        return Ok(devices);
    }
    for name in config.devices.split(',').map(str::trim) {
        match name.split_once(':') {
            None if name == "auto" => devices.extend(best(config)?),
            None if name == "cpu" => devices.push(best_cpu(config.threads)?),
            Some(("cpu", wanted)) => {
                let found = KernelSet::available().into_iter().find(|set| set.name() == wanted);
                devices.push(cpu(found.with_context(|| unknown(name))?, config.threads)?);
            }
            Some((kind, "all")) => {
                let before = devices.len();
                for found in all(kind, config).with_context(|| unknown(name))?? {
                    devices
                        .push(found.device.with_context(|| format!("opening `{}`", found.name))?);
                }
                if devices.len() == before {
                    bail!("`{name}`: no such GPU was found; `hyperion doctor` lists what is here");
                }
            }
            Some((kind, index)) => {
                let index = index.parse().ok().with_context(|| unknown(name))?;
                let device = gpu(kind, index, config).with_context(|| unknown(name))?;
                devices.push(device.with_context(|| format!("opening `{name}`"))?);
            }
            _ => bail!(unknown(name)),
        }
    }
    Ok(devices)
}

/// Every device of this machine, for `doctor`: kernel sets of the CPU, NVIDIA GPUs, adapters.
pub fn every(config: &EngineSection) -> Vec<Found> {
    let sets = KernelSet::available().into_iter();
    let mut found: Vec<Found> = sets
        .map(|set| Found { name: "cpu".to_owned(), device: cpu(set, config.threads) })
        .collect();
    match all("cuda", config).expect("a kind of GPU") {
        Ok(gpus) => found.extend(gpus),
        Err(error) => found.push(Found { name: "cuda".to_owned(), device: Err(error) }),
    }
    for adapter in adapters() {
        let name = format!("wgpu:{}", adapter.index);
        found.push(Found { name, device: wgpu(adapter.index, config) });
    }
    found
}

/// The fastest devices that are certainly faster than the others.
fn best(config: &EngineSection) -> Result<Vec<Box<dyn Backend>>> {
    // A machine without CUDA is no reason for a word; a GPU that is there and cannot be used is.
    let cuda = all("cuda", config).expect("a kind of GPU").unwrap_or_default();
    let devices = usable(cuda);
    if !devices.is_empty() {
        return Ok(devices);
    }
    let discrete = adapters().into_iter().find(|of| of.kind == AdapterKind::Discrete);
    let discrete = discrete.map(|adapter| Found {
        name: format!("wgpu:{}", adapter.index),
        device: wgpu(adapter.index, config),
    });
    let devices = usable(discrete.into_iter().collect());
    if !devices.is_empty() {
        return Ok(devices);
    }
    Ok(vec![best_cpu(config.threads)?])
}

/// Those that opened; a word about each that did not.
fn usable(candidates: Vec<Found>) -> Vec<Box<dyn Backend>> {
    let mut devices = Vec::new();
    for found in candidates {
        match found.device {
            Ok(device) => devices.push(device),
            Err(error) => tracing::warn!("`auto` goes on without {}: {error:#}", found.name),
        }
    }
    devices
}

/// All GPUs of a kind but software, opened or not; `None` if there is no such kind.
fn all(kind: &str, config: &EngineSection) -> Option<Result<Vec<Found>>> {
    let indices: Result<Vec<usize>> = match kind {
        "cuda" => {
            hyperion_backend_cuda::devices().map(|count| (0..count).collect()).map_err(Into::into)
        }
        "wgpu" => {
            let hardware = adapters().into_iter().filter(|of| of.kind != AdapterKind::Software);
            Ok(hardware.map(|adapter| adapter.index).collect())
        }
        _ => return None,
    };
    let open = |index| Found {
        name: format!("{kind}:{index}"),
        device: gpu(kind, index, config).expect("a kind of GPU"),
    };
    Some(indices.map(|indices| indices.into_iter().map(open).collect()))
}

/// A GPU; `None` if there is no such kind.
fn gpu(kind: &str, index: usize, config: &EngineSection) -> Option<Result<Box<dyn Backend>>> {
    match kind {
        "cuda" => Some(cuda(index, config)),
        "wgpu" => Some(wgpu(index, config)),
        _ => None,
    }
}

/// The best kernels of this machine on so many threads; 0 is one per core.
///
/// # Errors
///
/// When the system gives no threads.
pub fn best_cpu(threads: usize) -> Result<Box<dyn Backend>> {
    cpu(KernelSet::best(), threads)
}

fn cpu(kernels: KernelSet, threads: usize) -> Result<Box<dyn Backend>> {
    let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
    let threads = if threads == 0 { cores } else { threads };
    let pool: Arc<dyn Parallel> = Arc::new(KernelPool::new(threads)?);
    Ok(Box::new(Cpu::new(kernels, pool)))
}

fn cuda(index: usize, config: &EngineSection) -> Result<Box<dyn Backend>> {
    let memory_bytes =
        if config.gpu_memory_bytes == 0 { u64::MAX } else { config.gpu_memory_bytes };
    let cache = kernel_cache(config);
    Ok(Box::new(hyperion_backend_cuda::open(index, memory_bytes, cache.as_deref())?))
}

fn wgpu(index: usize, config: &EngineSection) -> Result<Box<dyn Backend>> {
    let memory_bytes =
        if config.gpu_memory_bytes == 0 { SILENT_MEMORY_BYTES } else { config.gpu_memory_bytes };
    Ok(Box::new(Wgpu::open(index, memory_bytes)?))
}

/// Where compiled kernels are kept: the configured folder, or the user's cache.
fn kernel_cache(config: &EngineSection) -> Option<PathBuf> {
    if !config.kernel_cache.as_os_str().is_empty() {
        return Some(config.kernel_cache.clone());
    }
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    cache.map(|cache| cache.join("hyperion/kernels"))
}

fn unknown(name: &str) -> String {
    let sets: Vec<_> =
        KernelSet::available().iter().map(|set| format!("cpu:{}", set.name())).collect();
    let cuda =
        (0..hyperion_backend_cuda::devices().unwrap_or(0)).map(|index| format!(", cuda:{index}"));
    let wgpu = adapters().into_iter().map(|adapter| format!(", wgpu:{}", adapter.index));
    let gpus: String = cuda.chain(wgpu).collect();
    format!("no device is called `{name}`; here are auto, none, cpu, {}{gpus}", sets.join(", "))
}
