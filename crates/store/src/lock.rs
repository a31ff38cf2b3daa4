//! One owner per directory, across processes and within one.
//!
//! LMDB must not be opened twice by one process, and two writers would sign two histories. `flock` speaks for
//! other processes; the set below for this one, also where the file system forwards `flock` to record locks,
//! which never conflict within a process.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    path::{Path, PathBuf},
};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};

use crate::{Result, StoreError};

static OPEN: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// Holding one is being the owner of the directory.
#[derive(Debug)]
pub struct DirLock {
    dir: PathBuf,
    _file: File,
}

impl DirLock {
    /// Takes `dir`, which must exist.
    ///
    /// # Errors
    ///
    /// `AlreadyOpen` while another owner lives.
    pub fn take(dir: &Path) -> Result<Self> {
        let path = dir.join("LOCK");
        let canonical = fs::canonicalize(dir).map_err(StoreError::io("finding", dir))?;
        let taken = || StoreError::AlreadyOpen { dir: dir.to_owned() };
        let mut open = OPEN.lock();
        if open.contains(&canonical) {
            return Err(taken());
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(StoreError::io("opening", &path))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => return Err(taken()),
            Err(errno) => return Err(StoreError::io("locking", &path)(errno.into())),
        }
        open.insert(canonical.clone());
        Ok(Self { dir: canonical, _file: file })
    }

    /// The directory, as the system names it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for DirLock {
    fn drop(&mut self) {
        // The file closes after this, which frees the `flock`: until then others see `AlreadyOpen` from it.
        OPEN.lock().remove(&self.dir);
    }
}
