//! Source files: safetensors, one or several, and their tensors as exact values.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use safetensors::{Dtype as SourceDtype, SafeTensors};

use super::ImportError;
use crate::{
    quantized::WeightError,
    real::{Format, Real},
};

/// The safetensors files of a folder, in memory.
pub(super) struct Source {
    files: Vec<(PathBuf, Vec<u8>)>,
}

/// One tensor of a source.
#[derive(Clone, Debug)]
pub(super) struct SourceTensor<'a> {
    pub(super) name: String,
    pub(super) shape: Vec<usize>,
    format: Format,
    bytes: &'a [u8],
}

impl Source {
    /// Reads every `*.safetensors` file of a folder, in the order of their names.
    pub(super) fn open(folder: &Path) -> Result<Self, ImportError> {
        let io = |path: &Path| {
            let path = path.to_path_buf();
            move |cause| ImportError::Io { path, cause }
        };
        let mut paths = Vec::new();
        for entry in fs::read_dir(folder).map_err(io(folder))? {
            let path = entry.map_err(io(folder))?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                paths.push(path);
            }
        }
        paths.sort();
        if paths.is_empty() {
            let what = "no .safetensors file in the folder".to_owned();
            return Err(ImportError::Format { path: folder.to_path_buf(), what });
        }
        let read = |path: PathBuf| match fs::read(&path) {
            Ok(bytes) => Ok((path, bytes)),
            Err(cause) => Err(ImportError::Io { path, cause }),
        };
        Ok(Self { files: paths.into_iter().map(read).collect::<Result<_, _>>()? })
    }

    /// All tensors by name.
    pub(super) fn tensors(&self) -> Result<Tensors<'_>, ImportError> {
        let mut tensors = BTreeMap::new();
        for (path, bytes) in &self.files {
            let format = |what: String| ImportError::Format { path: path.clone(), what };
            let file =
                SafeTensors::deserialize(bytes).map_err(|error| format(error.to_string()))?;
            for (name, view) in file.tensors() {
                let source = match view.dtype() {
                    SourceDtype::F32 => Format::F32,
                    SourceDtype::F16 => Format::F16,
                    SourceDtype::BF16 => Format::Bf16,
                    // Such as position ids, which some exports carry as integers; nothing here asks for them.
                    _ => continue,
                };
                let offset = view.data().as_ptr() as usize - bytes.as_ptr() as usize;
                let data = &bytes[offset..offset + view.data().len()];
                let tensor = SourceTensor {
                    name: name.clone(),
                    shape: view.shape().to_vec(),
                    format: source,
                    bytes: data,
                };
                if tensors.insert(name.clone(), tensor).is_some() {
                    return Err(format(format!("tensor `{name}` is in two files")));
                }
            }
        }
        Ok(Tensors(tensors))
    }
}

/// The tensors of a source, by name.
#[derive(Debug)]
pub(super) struct Tensors<'a>(BTreeMap<String, SourceTensor<'a>>);

impl<'a> Tensors<'a> {
    /// Whether there is such a tensor.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// A tensor of a certain shape, all of it finite.
    pub(super) fn get(
        &self,
        name: &str,
        shape: &[usize],
    ) -> Result<&SourceTensor<'a>, ImportError> {
        let tensor = self.any(name)?;
        if tensor.shape != shape {
            let (got, want) = (tensor.shape.clone(), shape.to_vec());
            return Err(ImportError::Shape { name: name.to_owned(), got, want });
        }
        // Said here, where the source's own name and place are known; later on it may be a part of a larger matrix.
        let columns = shape.last().copied().unwrap_or(1);
        match tensor.values().position(|value| value.is_none()) {
            None => Ok(tensor),
            Some(index) => {
                let cause =
                    WeightError::NotFinite { row: index / columns, column: index % columns };
                Err(ImportError::Weight { name: name.to_owned(), cause })
            }
        }
    }

    /// A tensor of whatever shape.
    pub(super) fn any(&self, name: &str) -> Result<&SourceTensor<'a>, ImportError> {
        self.0.get(name).ok_or_else(|| ImportError::Missing { name: name.to_owned() })
    }
}

impl SourceTensor<'_> {
    /// Element `index` of the tensor, row-major; `None` when it is not finite.
    pub(super) fn value(&self, index: usize) -> Option<Real> {
        self.format.read(&self.bytes[index * self.format.bytes()..])
    }

    /// Elements of the tensor.
    pub(super) fn values(&self) -> impl Iterator<Item = Option<Real>> + '_ {
        self.bytes.chunks_exact(self.format.bytes()).map(|bytes| self.format.read(bytes))
    }
}
