//! A model file that is being made, and what is known of it should the making be interrupted.
//!
//! ```text
//! PATH           the file, its tensors in order; what stands before them is written last
//! PATH.journal   what it is made of, then a line for each tensor that was written:  op slot root
//! ```
//!
//! Whoever goes on believes the journal only where the bytes in the file have the root that it says, so neither a crash nor a
//! file that was changed can spoil a model. A journal of another source, of one that was touched since, or of another version of the
//! conversion is thrown away.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Write as _},
    path::{Path, PathBuf},
    time::UNIX_EPOCH,
};

use hyperion_primitives::{B256, ModelId, keccak256};

use super::{ImportError, Progress, decoder::Decoder};
use crate::file::{Kept, Parts};

/// Counts the ways in which weights have been made from the same source: a change to what a conversion gives adds one, lest half a
/// model be of the one and half of the other.
const CONVERSION: u8 = 2;

/// A file under construction.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    file: File,
    /// What the source's files are.
    source: String,
}

impl Partial {
    /// Opens the file, or makes it.
    pub(super) fn open(source: &Path, path: &Path) -> Result<Self, ImportError> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path);
        let unreadable = |cause| ImportError::Io { path: source.to_path_buf(), cause };
        let source = facts(source).map_err(unreadable)?;
        Ok(Self { path: path.to_path_buf(), file: file?, source })
    }

    /// Writes a decoder, but for the tensors that an earlier call has written.
    pub(super) fn write(
        &mut self,
        decoder: Decoder<'_>,
        progress: Progress<'_>,
    ) -> Result<ModelId, ImportError> {
        let key = decoder.key(&self.source);
        let text = fs::read_to_string(self.journal()).unwrap_or_default();
        let mut lines = text.lines();
        let mut known = Vec::new();
        if lines.next() == Some(key.to_string().as_str()) {
            known = lines.map_while(parsed).collect();
        }
        let mut journal = File::create(self.journal())?;
        writeln!(journal, "{key}")?;
        let mut note = |op: u32, slot: u16, root: B256| writeln!(journal, "{op} {slot} {root}");
        let file = if known.is_empty() {
            // What is there is of no use, and may be longer than what comes.
            self.file.set_len(0)?;
            None
        } else {
            Some(File::open(&self.path)?)
        };
        let kept = Kept { known, file, note: Some(&mut note) };
        let mut out = BufWriter::new(&self.file);
        let id = decoder.write(kept, &mut out, progress)?;
        out.flush()?;
        Ok(id)
    }

    /// Writes a model that is whole.
    pub(super) fn write_whole(&mut self, parts: &Parts) -> Result<ModelId, ImportError> {
        self.file.set_len(0)?;
        let mut out = BufWriter::new(&self.file);
        let id = parts.write(&mut out)?;
        out.flush()?;
        Ok(id)
    }

    /// Ends: the file is durable and the journal gone, or both stay for another try, or both go.
    pub(super) fn close(
        self,
        outcome: Result<ModelId, ImportError>,
    ) -> Result<ModelId, ImportError> {
        let journal = self.journal();
        let remove = |path: &Path| match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        };
        match outcome {
            Ok(id) => {
                self.file.sync_all()?;
                remove(&journal)?;
                Ok(id)
            }
            Err(error @ (ImportError::Io { .. } | ImportError::Write(_))) if journal.exists() => {
                Err(error)
            }
            Err(error) => {
                // What cannot become a model is of no use; that it cannot be removed is no second trouble.
                let _ = remove(&journal).and_then(|()| remove(&self.path));
                Err(error)
            }
        }
    }

    fn journal(&self) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(".journal");
        PathBuf::from(name)
    }
}

/// A line of a journal.
fn parsed(line: &str) -> Option<(u32, u16, B256)> {
    let mut words = line.split(' ');
    let (op, slot) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
    Some((op, slot, words.next()?.parse().ok()?))
}

/// Names, lengths and times of a source's files.
fn facts(source: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    if source.is_dir() {
        for entry in fs::read_dir(source)? {
            files.push(entry?.path());
        }
    } else {
        files.push(source.to_path_buf());
    }
    files.sort();
    let mut facts = String::new();
    for file in files.iter().filter(|file| file.is_file()) {
        let about = fs::metadata(file)?;
        let touched = about.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = file.file_name().unwrap_or_default().display();
        facts += &format!("{name} {} {}\n", about.len(), touched.as_nanos());
    }
    Ok(facts)
}

impl Decoder<'_> {
    /// What a journal of this decoder begins with.
    fn key(&self, source: &str) -> B256 {
        let (program, tokenizer) = self.identity();
        let parts = [&[CONVERSION], program.as_slice(), tokenizer.as_slice(), source.as_bytes()];
        keccak256(parts.concat())
    }
}
