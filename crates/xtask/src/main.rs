//! The project's own tasks, run as `cargo xtask TASK`.

mod ci;
mod codegen;
mod show;
mod tables;
mod tidy;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Tasks of the Hyperion repository.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Runs every stage of `make test`, or only those named.
    Ci(ci::Arguments),
    /// Generates the Rust of `proto/` into `crates/rpc/src/gen/`.
    Codegen(codegen::Arguments),
    /// Checks what no compiler checks: crate arrows, one stem per operator, dead files, links.
    Tidy,
    /// Computes the tables of `crates/ops/tables/` and writes them, or compares them.
    Tables(tables::Arguments),
    /// Measures a line of an issue anew and says whether it holds; without an id, lists the lines.
    Show(show::Arguments),
}

fn main() -> anyhow::Result<()> {
    match Arguments::parse().task {
        Task::Ci(arguments) => ci::run(&arguments),
        Task::Codegen(arguments) => codegen::run(&arguments),
        Task::Tidy => tidy::run(),
        Task::Tables(arguments) => tables::run(&arguments),
        Task::Show(arguments) => show::run(&arguments),
    }
}

/// The repository's root. Asked for when it runs: with a target folder that checkouts share, the program may have been
/// built in another one.
fn root() -> PathBuf {
    let here = std::env::var_os("CARGO_MANIFEST_DIR").expect("`cargo xtask` runs this program");
    let here = PathBuf::from(here);
    here.ancestors().nth(2).expect("crates/xtask lies two folders below the root").to_path_buf()
}
