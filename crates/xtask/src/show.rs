//! `cargo xtask show ID`: measures a line of an issue anew.

use anyhow::{Result, bail};

/// Which line.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Id of the line, such as `M1`; without it the lines are listed.
    id: Option<String>,
}

/// One line that the product must show.
struct Line {
    id: &'static str,
    says: &'static str,
    measure: fn() -> Result<bool>,
}

const LINES: &[Line] = &[];

/// Runs one line, or lists them.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Some(id) = &arguments.id else {
        for line in LINES {
            println!("{:4} {}", line.id, line.says);
        }
        return Ok(());
    };
    let Some(line) = LINES.iter().find(|line| line.id.eq_ignore_ascii_case(id)) else {
        bail!("no line is called `{id}`; `cargo xtask show` lists them");
    };
    println!("{}", if (line.measure)()? { "holds" } else { "falls short" });
    Ok(())
}
