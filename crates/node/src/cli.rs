//! The command line: one file per subcommand.

#![deny(clippy::print_stdout, clippy::print_stderr)]

mod chat;
mod config;
mod demo;
mod doctor;
mod infer;
mod key;
mod log;
mod model;
mod out;
mod run;
mod verify;
mod worker;

use std::{
    io::{Write as _, stderr},
    process::ExitCode,
};

use clap::{Parser, Subcommand};

/// Exact AI inference that anyone can check.
///
/// `hyperion run --dev` starts a node on embedded defaults; every
/// subcommand answers `--help`.
///
/// Exit codes: 0 done; 1 a check said no; 2 usage or configuration; 3 store poisoned; 4 no device passed its
/// self-test; 5 remote unreachable; 141 nobody reads on what is printed.
#[derive(Debug, Parser)]
#[command(name = "hyperion", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve models: gRPC, Open Inference Protocol, HTTP, metrics.
    Run(run::Arguments),
    /// Work for a node on another host with this machine's devices.
    Worker(worker::Arguments),
    /// Ask a node for one inference and keep the receipt.
    Infer(infer::Arguments),
    /// Talk to a model of a node; every answer is claimed.
    Chat(chat::Arguments),
    /// Check a receipt offline: signature, log, output, and with --recompute the result itself.
    Verify(verify::Arguments),
    /// Import, list and check model files.
    #[command(subcommand)]
    Model(model::Command),
    /// Make and show keys.
    #[command(subcommand)]
    Key(key::Command),
    /// Look after the claim log.
    #[command(subcommand)]
    Log(log::Command),
    /// Check and print the configuration.
    #[command(subcommand)]
    Config(config::Command),
    /// List devices and run the conformance suite on each.
    Doctor(doctor::Arguments),
    /// Import a real model, serve it, check receipts, and let a contract pay for an answer.
    Demo(demo::Arguments),
}

/// Why the program ends other than well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// A check said no; what it said has been printed.
    CheckFailed = 1,
    /// Usage or configuration.
    Usage = 2,
    /// The store refuses writes until it is reopened.
    StorePoisoned = 3,
    /// No device passed its self-test.
    NoDevice = 4,
    /// The node asked for an answer, or to be joined, cannot be reached.
    Unreachable = 5,
    /// Standard output was closed before everything was printed; what a shell says of a program ended by SIGPIPE.
    Unread = 141,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::CheckFailed => "a check said no",
            Self::Usage => "usage or configuration",
            Self::StorePoisoned => "the store refuses writes; reopening it recovers",
            Self::NoDevice => "no device passed its self-test",
            Self::Unreachable => "the node cannot be reached",
            Self::Unread => "nobody reads on",
        })
    }
}

impl std::error::Error for Exit {}

/// Parses the command line, runs the subcommand and turns its end into an exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Worker(arguments) => worker::run(&arguments),
        Command::Infer(arguments) => infer::run(&arguments),
        Command::Chat(arguments) => chat::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Model(command) => model::run(&command),
        Command::Key(command) => key::run(&command),
        Command::Log(command) => log::run(&command),
        Command::Config(command) => config::run(&command),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
    };
    let Err(error) = done else { return ExitCode::SUCCESS };
    let code = error.downcast_ref::<Exit>().copied().unwrap_or(Exit::Usage);
    // A failed check has said what is wrong on its own line.
    if !matches!(code, Exit::CheckFailed | Exit::Unread) {
        // Where nobody listens there is nobody to tell.
        drop(writeln!(stderr(), "error: {}", out::told(&error)));
    }
    ExitCode::from(code as u8)
}
