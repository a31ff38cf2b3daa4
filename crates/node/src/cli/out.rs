//! Standard output: what a command prints, and what becomes of it when nobody reads on.
//!
//! `print!` panics when it cannot write. Here it is an error, which `?` takes up to [`main`](super::main): a reader who has
//! seen enough, such as `head`, ends the program without a word, a full disk with one.

use std::{
    fmt,
    io::{ErrorKind, Write as _, stdout},
};

use anyhow::{Context as _, Result};

use super::Exit;

/// Prints a line on standard output; takes what `println!` takes.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::out::line(format_args!($($text)*)) };
}
pub(super) use say;

/// Writes a line.
///
/// # Errors
///
/// `Exit::Unread` when nobody reads on.
pub(super) fn line(text: fmt::Arguments<'_>) -> Result<()> {
    write(format_args!("{text}\n"))
}

/// Writes a text as it is.
///
/// # Errors
///
/// As for [`line()`].
pub(super) fn write(text: fmt::Arguments<'_>) -> Result<()> {
    let mut out = stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Err(Exit::Unread.into()),
        written => written.context("writing to standard output"),
    }
}

/// An error and its causes, for a person: a cause that the text before it tells already is not told again.
pub(super) fn told(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}
