//! `cargo xtask ci`: every stage of `make test`, timed, the test runner last so that its summary ends the run.

use std::{
    process::{Command, Stdio},
    time::Instant,
};

use anyhow::{Context, Result, bail};

/// Which stages.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Only the stages with these names.
    only: Vec<String>,
}

struct Stage {
    name: &'static str,
    commands: &'static [&'static [&'static str]],
}

/// In the order they run: cheap complaints first, the tests last.
const STAGES: &[Stage] = &[
    Stage {
        name: "tidy",
        commands: &[
            &["cargo", "fmt", "--all", "--check"],
            &["cargo", "xtask", "tidy"],
            &["cargo", "xtask", "tables", "--check"],
            &["cargo", "xtask", "codegen", "--check"],
            &["node", "contracts/build.mjs", "--check"],
        ],
    },
    Stage {
        name: "lint",
        commands: &[&[
            "cargo",
            "clippy",
            "--workspace",
            "--all-targets",
            "--quiet",
            "--",
            "-D",
            "warnings",
        ]],
    },
    Stage {
        name: "docs",
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
        commands: &[&[
            "cargo",
            "check",
            "--quiet",
            "--package",
            "hyperion-verify",
            "--no-default-features",
        ]],
    },
    Stage {
        name: "release",
        commands: &[
            &["cargo", "build", "--release", "--quiet", "--package", "hyperion-node"],
            &["cargo", "run", "--release", "--quiet", "--package", "hyperion-node", "--", "doctor"],
            &["cargo", "run", "--release", "--quiet", "--package", "hyperion-node", "--", "demo"],
        ],
    },
    Stage { name: "doctest", commands: &[&["cargo", "test", "--doc", "--workspace", "--quiet"]] },
    Stage { name: "test", commands: &[&["cargo", "nextest", "run", "--workspace"]] },
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
        if !arguments.only.is_empty() && !arguments.only.iter().any(|name| name == stage.name) {
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
