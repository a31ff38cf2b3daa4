//! `hyperion doctor`: what this machine can do, and whether it does it right.

use anyhow::{Result, bail};
use hyperion_ops::{DeviceKind, conformance};

use super::{Exit, out, out::say};
use crate::{
    config::EngineSection,
    devices::{self, Found},
};

/// List devices and run the conformance suite on each.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print the conformance file of the best device instead, to be compared with `crates/ops/conformance.toml`.
    #[arg(long)]
    conformance: bool,
    /// The device whose conformance file is printed: auto, cpu, cpu:avx2, cuda:0, wgpu:0.
    #[arg(long, default_value = "auto", value_name = "NAME")]
    device: String,
    /// Threads that kernels may use; 0: one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let config = EngineSection {
        devices: arguments.device.clone(),
        threads: arguments.threads,
        ..EngineSection::default()
    };
    if arguments.conformance {
        let mut device = devices::open(&config)?.remove(0);
        return out::write(format_args!("{}", conformance::check(device.as_mut())?));
    }
    let mut is_one_sound = false;
    for Found { name, device } in devices::every(&config) {
        let mut device = match device {
            Ok(device) => device,
            Err(error) => {
                say!("{name:<6} not usable: {error:#}")?;
                continue;
            }
        };
        let info = device.info().clone();
        let report = conformance::check(device.as_mut())?;
        let verdict = if report.conforms() { "conformance ok" } else { "conformance FAILED" };
        let what = match info.kind {
            DeviceKind::Cpu => format!("{}, {} threads", info.kernels, info.threads),
            DeviceKind::Wgpu | DeviceKind::Cuda => {
                let gibibytes = info.memory_bytes >> 30;
                format!("{}, {}, {gibibytes} GiB", info.name, info.kernels)
            }
        };
        say!("{name:<6} {what}   {verdict}")?;
        if !report.conforms() {
            for difference in report.differences() {
                say!("       {difference:?}")?;
            }
        }
        is_one_sound |= report.conforms();
    }
    if !is_one_sound {
        bail!(Exit::NoDevice);
    }
    Ok(())
}
