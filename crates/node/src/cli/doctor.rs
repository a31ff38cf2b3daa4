//! `hyperion doctor`: what this machine can do, and whether it does it right.

use anyhow::{Result, bail};
use hyperion_ops::conformance;

use super::{Exit, out, out::say};
use crate::devices;

/// List devices and run the conformance suite on each.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Print the conformance file of the best device instead, to be compared with `crates/ops/conformance.toml`.
    #[arg(long)]
    conformance: bool,
    /// Threads that kernels may use; 0: one per core.
    #[arg(long, default_value_t = 0)]
    threads: usize,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.conformance {
        let mut device = devices::open("auto", arguments.threads)?.remove(0);
        return out::write(format_args!("{}", conformance::check(device.as_mut())?));
    }
    let mut is_one_sound = false;
    for mut device in devices::every(arguments.threads)? {
        let info = device.info().clone();
        let report = conformance::check(device.as_mut())?;
        let verdict = if report.conforms() { "conformance ok" } else { "conformance FAILED" };
        say!("{:<6} {}, {} threads   {verdict}", info.name, info.kernels, info.threads)?;
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
