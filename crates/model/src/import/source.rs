//! Source files: safetensors, one or several. Headers are read at once, a tensor only when it is asked for, so a folder
//! may be larger than memory.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Read as _,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use safetensors::{Dtype as SourceDtype, tensor::Metadata};
use serde::Deserialize;

use super::{ImportError, encoding::Encoding, json::optional};
use crate::{
    quantized::WeightError,
    real::{Format, Real},
};

/// Names the file of each tensor where there are several files.
const INDEX: &str = "model.safetensors.index.json";
/// Bytes of a header at most, as the format's own crate has it.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// Where tensors of a source are found by name.
pub(super) trait Tensors: Sync {
    /// Shape of a tensor; `None` when there is no such tensor.
    fn shape(&self, name: &str) -> Option<&[usize]>;

    /// Reads a tensor that is there.
    ///
    /// # Errors
    ///
    /// When there is no such tensor, or its bytes cannot be read.
    fn read(&self, name: &str) -> Result<SourceTensor, ImportError>;

    /// Whether there is such a tensor.
    fn has(&self, name: &str) -> bool {
        self.shape(name).is_some()
    }

    /// Compares a tensor's shape with what it has to be, without reading it.
    ///
    /// # Errors
    ///
    /// When there is no such tensor, or it has another shape.
    fn expect(&self, name: &str, want: &[usize]) -> Result<(), ImportError> {
        let missing = || ImportError::Missing { name: self.own_name(name) };
        let got = self.shape(name).ok_or_else(missing)?;
        if got == want {
            return Ok(());
        }
        let (got, want) = (got.to_vec(), want.to_vec());
        Err(ImportError::Shape { name: self.own_name(name), got, want })
    }

    /// What the source itself calls a tensor.
    fn own_name(&self, name: &str) -> String {
        name.to_owned()
    }

    /// Reads a tensor of a certain shape, all of it finite.
    ///
    /// # Errors
    ///
    /// When there is no such tensor, it has another shape, cannot be read, or holds what is no number.
    fn get(&self, name: &str, shape: &[usize]) -> Result<SourceTensor, ImportError> {
        self.expect(name, shape)?;
        let tensor = self.read(name)?;
        // Said here, where the source's own name and place are known; later on it may be a part of a larger matrix.
        let columns = shape.last().copied().unwrap_or(1);
        let Some(index) = tensor.values().position(|value| value.is_none()) else {
            return Ok(tensor);
        };
        let cause = WeightError::NotFinite { row: index / columns, column: index % columns };
        Err(ImportError::Weight { name: self.own_name(name), cause })
    }
}

/// One tensor of a source.
#[derive(Clone, Debug)]
pub(super) struct SourceTensor {
    pub(super) name: String,
    pub(super) encoding: Encoding,
    pub(super) bytes: Vec<u8>,
}

impl SourceTensor {
    /// Element `index` of the tensor, row-major; `None` when it is not finite.
    pub(super) fn value(&self, index: usize) -> Option<Real> {
        self.encoding.value(&self.bytes, index)
    }

    /// Elements of the tensor.
    fn values(&self) -> impl Iterator<Item = Option<Real>> + '_ {
        (0..self.encoding.numbers(self.bytes.len())).map(|index| self.value(index))
    }
}

/// The safetensors files of a folder.
#[derive(Debug)]
pub(super) struct Source {
    files: Vec<(PathBuf, File)>,
    places: BTreeMap<String, Place>,
}

/// Where a tensor lies.
#[derive(Debug)]
struct Place {
    file: usize,
    shape: Vec<usize>,
    format: Format,
    offset: u64,
    bytes: usize,
}

#[derive(Debug, Deserialize)]
struct Index {
    weight_map: BTreeMap<String, String>,
}

impl Source {
    /// Reads the headers of the files that `model.safetensors.index.json` names, or without one of every
    /// `*.safetensors` file of a folder.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, is not what its header says, or a tensor is in two of them or not where the index
    /// says.
    pub(super) fn open(folder: &Path) -> Result<Self, ImportError> {
        let index_path = folder.join(INDEX);
        let index: Option<Index> = optional(&index_path)?;
        let wrong = |what: String| ImportError::Format { path: index_path.clone(), what };
        let paths = match &index {
            Some(index) => named(folder, index).map_err(wrong)?,
            None => found(folder)?,
        };
        let mut source = Self { files: Vec::new(), places: BTreeMap::new() };
        for path in paths {
            source.add(path)?;
        }
        for (name, file) in index.iter().flat_map(|index| &index.weight_map) {
            let place = source.places.get(name);
            if place.is_none_or(|place| source.files[place.file].0 != folder.join(file)) {
                return Err(wrong(format!(
                    "tensor `{name}` is not in {file}, where the index says"
                )));
            }
        }
        Ok(source)
    }

    /// Reads a file's header.
    fn add(&mut self, path: PathBuf) -> Result<(), ImportError> {
        let io = |cause| ImportError::Io { path: path.clone(), cause };
        let wrong = |what: String| ImportError::Format { path: path.clone(), what };
        let mut file = File::open(&path).map_err(io)?;
        let file_bytes = file.metadata().map_err(io)?.len();
        let mut len = [0; 8];
        if file_bytes < 8 {
            return Err(wrong(format!("{file_bytes} bytes, a safetensors file has 8 at least")));
        }
        file.read_exact(&mut len).map_err(io)?;
        let header_bytes = u64::from_le_bytes(len);
        if header_bytes > HEADER_BYTES_MAX.min(file_bytes - 8) {
            return Err(wrong(format!("a header of {header_bytes} bytes in {file_bytes}")));
        }
        let mut header = vec![0; usize::try_from(header_bytes).expect("100 MB at most")];
        file.read_exact(&mut header).map_err(io)?;
        let header: Metadata =
            serde_json::from_slice(&header).map_err(|error| wrong(error.to_string()))?;
        let data = 8 + header_bytes;
        let want = data.checked_add(header.data_len() as u64);
        if want != Some(file_bytes) {
            let want = want.map_or_else(|| "more".to_owned(), |want| want.to_string());
            return Err(wrong(format!(
                "{file_bytes} bytes, its header promises {want}: the file is cut off or damaged"
            )));
        }
        for name in header.offset_keys() {
            let info = header.info(&name).expect("the header's own name");
            let format = match info.dtype {
                SourceDtype::F32 => Format::F32,
                SourceDtype::F16 => Format::F16,
                SourceDtype::BF16 => Format::Bf16,
                // Such as position ids, which some exports carry as integers; nothing here asks for them.
                _ => continue,
            };
            let (start, end) = info.data_offsets;
            let place = Place {
                file: self.files.len(),
                shape: info.shape.clone(),
                format,
                offset: data + start as u64,
                bytes: end - start,
            };
            if self.places.insert(name.clone(), place).is_some() {
                return Err(wrong(format!("tensor `{name}` is in two files")));
            }
        }
        self.files.push((path, file));
        Ok(())
    }
}

/// Every `*.safetensors` file of a folder, in the order of their names.
fn found(folder: &Path) -> Result<Vec<PathBuf>, ImportError> {
    let io = |cause| ImportError::Io { path: folder.to_path_buf(), cause };
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        if path.extension().is_some_and(|extension| extension == "safetensors") {
            paths.push(path);
        }
    }
    paths.sort();
    if paths.is_empty() {
        let what = "no .safetensors file in the folder".to_owned();
        return Err(ImportError::Format { path: folder.to_path_buf(), what });
    }
    Ok(paths)
}

/// The files that an index names; plain names only, so that none leads out of the folder.
fn named(folder: &Path, index: &Index) -> Result<Vec<PathBuf>, String> {
    let mut names: Vec<&String> = index.weight_map.values().collect();
    names.sort();
    names.dedup();
    if names.is_empty() {
        return Err("it names no tensor".to_owned());
    }
    let plain =
        |name: &&String| Path::new(name).file_name().is_some_and(|file| file == name.as_str());
    match names.iter().find(|name| !plain(name)) {
        Some(name) => Err(format!("`{name}` is no file name")),
        None => Ok(names.into_iter().map(|name| folder.join(name)).collect()),
    }
}

impl Tensors for Source {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.places.get(name).map(|place| place.shape.as_slice())
    }

    fn read(&self, name: &str) -> Result<SourceTensor, ImportError> {
        let missing = || ImportError::Missing { name: name.to_owned() };
        let place = self.places.get(name).ok_or_else(missing)?;
        let (path, file) = &self.files[place.file];
        let bytes = read_at(path, file, place.offset, place.bytes)?;
        Ok(SourceTensor { name: name.to_owned(), encoding: Encoding::Plain(place.format), bytes })
    }
}

/// Bytes of a file from `offset` on.
pub(super) fn read_at(
    path: &Path,
    file: &File,
    offset: u64,
    len: usize,
) -> Result<Vec<u8>, ImportError> {
    let mut bytes = vec![0; len];
    // The file has one place to read at, and several threads.
    let read = file.read_exact_at(&mut bytes, offset);
    read.map_err(|cause| ImportError::Io { path: path.to_path_buf(), cause })?;
    Ok(bytes)
}
