//! Public keys of logs that this user trusts: one line each in `known_logs`, as `ssh` keeps hosts.
//!
//! `hyperion run` writes its own log's key there, so that receipts of one's own node need no `--log-key`;
//! `hyperion log trust` adds the key of another.

use std::{env, fs, io::ErrorKind, path::PathBuf};

use anyhow::{Context as _, Result};
use hyperion_verify::note::NoteKey;

/// `hyperion/known_logs` of the user's configuration folder.
pub fn path() -> Option<PathBuf> {
    let home = env::var_os("HOME").map(|home| PathBuf::from(home).join(".config"));
    let folder = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from).or(home)?;
    Some(folder.join("hyperion").join("known_logs"))
}

/// The keys that are known; none where no file is.
///
/// # Errors
///
/// When the file is there and cannot be read, or holds anything else.
pub fn read() -> Result<Vec<NoteKey>> {
    let Some(path) = path() else { return Ok(Vec::new()) };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).with_context(|| format!("reading {}", path.display())),
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            line.parse().with_context(|| format!("{}: `{line}` is no log key", path.display()))
        })
        .collect()
}

/// Adds a key. With `only`, other keys of a log with the same name are forgotten: for a log that is made anew each time.
///
/// # Errors
///
/// As for [`read`]; and when there is no configuration folder, or it cannot be written.
pub fn remember(key: &NoteKey, only: bool) -> Result<()> {
    let path = path().context("neither XDG_CONFIG_HOME nor HOME is set")?;
    let mut keys = read()?;
    if keys.contains(key) && !only {
        return Ok(());
    }
    keys.retain(|known| known != key && !(only && known.name() == key.name()));
    keys.push(key.clone());
    let text: String = keys.iter().map(|key| format!("{key}\n")).collect();
    let folder = path.parent().context("a file has a folder")?;
    fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
    let partial = path.with_extension("partial");
    fs::write(&partial, text).with_context(|| format!("writing {}", partial.display()))?;
    fs::rename(&partial, &path).with_context(|| format!("writing {}", path.display()))
}
