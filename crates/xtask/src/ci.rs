//! `cargo xtask ci`: every stage of `make test`, timed, the test runner last so that its summary ends the run.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// Which stages.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only the stages with these names; without any, those of the gate.
    only: Vec<String>,
}

struct Stage {
    name: &'static str,
    /// Whether the gate fails with it.
    is_gate: bool,
    commands: &'static [&'static [&'static str]],
}

/// In the order they run: cheap complaints first, the tests last. What is not part of the gate runs by name.
const STAGES: &[Stage] = &[
    Stage {
        name: "generated",
        is_gate: true,
        commands: &[
            &["cargo", "xtask", "tables", "--check"],
            &["cargo", "xtask", "codegen", "--check"],
            &["node", "contracts/build.mjs", "--check"],
        ],
    },
    Stage {
        name: "tidy",
        is_gate: true,
        commands: &[&["cargo", "fmt", "--all", "--check"], &["cargo", "xtask", "tidy"]],
    },
    Stage {
        name: "lint",
        is_gate: true,
        // As it is built, and with what only a feature brings in.
        commands: &[
            &["cargo", "clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"],
            &[
                "cargo",
                "clippy",
                "--workspace",
                "--features",
                "hyperion-node/candle-float",
                "--all-targets",
                "--quiet",
                "--",
                "-D",
                "warnings",
            ],
        ],
    },
    Stage {
        name: "docs",
        is_gate: true,
        commands: &[&[
            "cargo",
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
            "--quiet",
        ]],
    },
    Stage {
        name: "alone",
        is_gate: true,
        commands: &[&[
            "cargo",
            "check",
            "--quiet",
            "--package",
            "hyperion-verify",
            "--no-default-features",
        ]],
    },
    // Not part of the gate: it optimises every crate and dependency a second time, and `make demo` builds and runs this
    // very binary.
    Stage {
        name: "release",
        is_gate: false,
        commands: &[&[
            "cargo",
            "run",
            "--release",
            "--quiet",
            "--package",
            "hyperion-node",
            "--",
            "doctor",
        ]],
    },
    // With models in floating point, so that their tests run; a node that has none configured is the same without.
    Stage {
        name: "test",
        is_gate: true,
        commands: &[&[
            "cargo",
            "nextest",
            "run",
            "--workspace",
            "--features",
            "hyperion-node/candle-float",
        ]],
    },
];

/// Runs the stages; the first failing command ends the run.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(unknown) =
        arguments.only.iter().find(|name| STAGES.iter().all(|stage| stage.name != **name))
    {
        let names: Vec<_> = STAGES.iter().map(|stage| stage.name).collect();
        bail!("no stage is called `{unknown}`; there are {}", names.join(", "));
    }
    let mut times = Vec::new();
    for stage in STAGES {
        let is_named = arguments.only.iter().any(|name| name == stage.name);
        if !(is_named || arguments.only.is_empty() && stage.is_gate) {
            continue;
        }
        let start = now();
        for command in stage.commands {
            println!("ci: {}: {}", stage.name, command.join(" "));
            let (program, rest) = command.split_first().expect("a command has a program");
            let status = Command::new(program)
                .args(rest)
                .current_dir(crate::root())
                .env("RUSTDOCFLAGS", "-D warnings")
                .stdin(Stdio::null())
                .status()
                .with_context(|| format!("starting `{program}`"))?;
            if !status.success() {
                bail!("stage {} failed: {}", stage.name, command.join(" "));
            }
        }
        times.push(format!("{} {} s", stage.name, start.elapsed().as_secs()));
        if stage.name != "test" {
            println!("ci: {}", times.join(", "));
        }
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "stage times are for people and reach no result")]
fn now() -> Instant {
    Instant::now()
}
