//! Which devices a node runs on.

use std::{num::NonZeroUsize, sync::Arc, thread};

use anyhow::{Context, Result, bail};
use hyperion_backend_wgpu::{AdapterKind, Wgpu, adapters};
use hyperion_engine::KernelPool;
use hyperion_ops::{Backend, Cpu, KernelSet, Parallel};

use crate::config::EngineSection;

/// The devices of `engine.devices`: names with commas between them.
///
/// | name | device |
/// |---|---|
/// | `auto` | a GPU with memory of its own, if there is one; else `cpu` |
/// | `cpu` | the best kernels of this machine |
/// | `cpu:avx2` | this kernel set |
/// | `wgpu:0` | this adapter of `hyperion doctor`'s list |
/// | `wgpu:all` | every adapter that is no software |
///
/// # Errors
///
/// When there is no such device here, or its driver refuses.
pub fn open(config: &EngineSection) -> Result<Vec<Box<dyn Backend>>> {
    let mut devices = Vec::new();
    for name in config.devices.split(',').map(str::trim) {
        match name.split_once(':') {
            None if name == "auto" => devices.push(best(config)?),
            None if name == "cpu" => devices.push(best_cpu(config.threads)?),
            Some(("cpu", wanted)) => {
                let found = KernelSet::available().into_iter().find(|set| set.name() == wanted);
                devices.push(cpu(found.with_context(|| unknown(name))?, config.threads)?);
            }
            Some(("wgpu", "all")) => {
                let all = adapters().into_iter();
                let before = devices.len();
                for adapter in all.filter(|adapter| adapter.kind != AdapterKind::Software) {
                    devices.push(wgpu(adapter.index, config)?);
                }
                if devices.len() == before {
                    bail!("`wgpu:all`: no Vulkan, Metal or DX12 GPU was found");
                }
            }
            Some(("wgpu", index)) => {
                let index = index.parse().ok().with_context(|| unknown(name))?;
                devices.push(wgpu(index, config)?);
            }
            _ => bail!(unknown(name)),
        }
    }
    Ok(devices)
}

/// Every device of this machine, for `doctor`: kernel sets of the CPU, then adapters.
///
/// # Errors
///
/// When the system gives no threads, or a driver refuses.
pub fn every(config: &EngineSection) -> Result<Vec<Box<dyn Backend>>> {
    let sets = KernelSet::available().into_iter();
    let mut devices = sets.map(|set| cpu(set, config.threads)).collect::<Result<Vec<_>>>()?;
    for adapter in adapters() {
        devices.push(wgpu(adapter.index, config)?);
    }
    Ok(devices)
}

/// The fastest device that is certainly faster than the others.
fn best(config: &EngineSection) -> Result<Box<dyn Backend>> {
    let discrete = adapters().into_iter().find(|adapter| adapter.kind == AdapterKind::Discrete);
    let Some(adapter) = discrete else { return best_cpu(config.threads) };
    wgpu(adapter.index, config).or_else(|error| {
        tracing::warn!("`auto` takes the CPU: {error:#}");
        best_cpu(config.threads)
    })
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

fn wgpu(index: usize, config: &EngineSection) -> Result<Box<dyn Backend>> {
    let device = Wgpu::open(index, config.gpu_memory_bytes);
    Ok(Box::new(device.with_context(|| format!("opening `wgpu:{index}`"))?))
}

fn unknown(name: &str) -> String {
    let sets: Vec<_> =
        KernelSet::available().iter().map(|set| format!("cpu:{}", set.name())).collect();
    let gpus: String =
        adapters().iter().map(|adapter| format!(", wgpu:{}", adapter.index)).collect();
    format!("no device is called `{name}`; here are auto, cpu, {}{gpus}", sets.join(", "))
}
