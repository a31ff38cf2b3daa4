//! A model's folder as Hugging Face lays it out: what is read of it is what is hashed.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fs,
    path::{Path, PathBuf},
};

use candle_core::{DType, Device, Tensor};
use hyperion_primitives::{B256, Keccak, ModelId, keccak256};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{ENGINE, FloatError};

/// What a folder holds, weights aside.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// `config.json`.
    pub(crate) config: Map<String, Value>,
    /// Length and keccak-256 of every file read so far, by name.
    files: BTreeMap<String, (u64, B256)>,
}

impl Folder {
    /// Reads `config.json`.
    pub(crate) fn open(path: &Path) -> Result<Self, FloatError> {
        let mut folder = Self::bare(path);
        let config = folder.read("config.json")?;
        folder.config = folder.parse("config.json", &config)?;
        Ok(folder)
    }

    /// One without a configuration, as a GGUF file lies in.
    pub(crate) fn bare(path: &Path) -> Self {
        Self { path: path.to_path_buf(), config: Map::new(), files: BTreeMap::new() }
    }

    /// Path of one of its files.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The bytes of a file, which is part of the model's identity from now on.
    pub(crate) fn read(&mut self, name: &str) -> Result<Vec<u8>, FloatError> {
        self.read_as(name, name)
    }

    /// As [`read`](Self::read), of a file whose own name says nothing of the model.
    pub(crate) fn read_as(&mut self, file: &str, name: &str) -> Result<Vec<u8>, FloatError> {
        let path = self.file(file);
        let bytes = fs::read(&path).map_err(|source| FloatError::Io { path, source })?;
        self.files.insert(name.to_owned(), (bytes.len() as u64, keccak256(&bytes)));
        Ok(bytes)
    }

    /// A JSON file that need not be there.
    pub(crate) fn json(&mut self, name: &str) -> Result<Map<String, Value>, FloatError> {
        if !self.file(name).is_file() {
            return Ok(Map::new());
        }
        let bytes = self.read(name)?;
        self.parse(name, &bytes)
    }

    /// Path of the tokenizer, where one is: part of the model's identity from now on.
    pub(crate) fn tokenizer(&mut self) -> Result<Option<PathBuf>, FloatError> {
        let path = self.file("tokenizer.json");
        if !path.is_file() {
            return Ok(None);
        }
        self.read("tokenizer.json")?;
        Ok(Some(path))
    }

    fn parse<T: DeserializeOwned>(&self, name: &str, bytes: &[u8]) -> Result<T, FloatError> {
        serde_json::from_slice(bytes)
            .map_err(|source| FloatError::Json { path: self.file(name), source })
    }

    /// `config.json` as a family's own type.
    pub(crate) fn config_as<T: DeserializeOwned>(&self) -> Result<T, FloatError> {
        serde_json::from_value(Value::Object(self.config.clone()))
            .map_err(|source| FloatError::Json { path: self.file("config.json"), source })
    }

    /// A part of `config.json` as a family's own type.
    pub(crate) fn part_as<T: DeserializeOwned>(&self, key: &str) -> Result<T, FloatError> {
        let part = self.config.get(key).cloned().unwrap_or(Value::Null);
        serde_json::from_value(part)
            .map_err(|source| FloatError::Json { path: self.file("config.json"), source })
    }

    /// What `config.json` calls its family: `model_type`, or `architecture` in timm's folders.
    pub(crate) fn family(&self) -> &str {
        let named = self.text("model_type");
        if named.is_empty() { self.text("architecture") } else { named }
    }

    /// `config.json` asks for something that will not be done.
    pub(crate) fn unsupported(&self, what: impl Into<String>) -> FloatError {
        FloatError::Unsupported { path: self.file("config.json"), what: what.into() }
    }

    /// A number of `config.json`.
    pub(crate) fn number(&self, key: &str) -> Option<usize> {
        self.config.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok())
    }

    /// A string of `config.json`; empty where there is none.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.config.get(key).and_then(Value::as_str).unwrap_or_default()
    }

    /// Whether `config.json` says `true` at a key.
    pub(crate) fn says(&self, key: &str) -> bool {
        self.config.get(key).and_then(Value::as_bool) == Some(true)
    }

    /// Whether `config.json` says anything at a key.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.config.get(key).is_some_and(|value| !value.is_null())
    }

    /// Every tensor of the weights, on `device`, floats in `dtype`; one file at a time is held beside them.
    pub(crate) fn weights(
        &mut self,
        dtype: DType,
        device: &Device,
    ) -> Result<HashMap<String, Tensor>, FloatError> {
        let mut all = HashMap::new();
        for name in self.weight_files()? {
            let bytes = self.read(&name)?;
            // One tensor at a time, so that both formats of all of them are never there at once.
            let mut loaded = candle_core::safetensors::load_buffer(&bytes, device)?;
            let names: BTreeSet<String> = loaded.keys().cloned().collect();
            for tensor in names {
                let Some(value) = loaded.remove(&tensor) else { continue };
                let value = if value.dtype().is_float() { value.to_dtype(dtype)? } else { value };
                all.insert(tensor, value);
            }
        }
        Ok(all)
    }

    /// The files of the index; without one `model.safetensors`, or whatever ends like it.
    fn weight_files(&mut self) -> Result<BTreeSet<String>, FloatError> {
        let index = self.json("model.safetensors.index.json")?;
        if let Some(map) = index.get("weight_map").and_then(Value::as_object) {
            let names = map.values().filter_map(Value::as_str);
            // A name with a folder in it could lead anywhere.
            return Ok(names.filter(|name| !name.contains('/')).map(str::to_owned).collect());
        }
        if self.file("model.safetensors").is_file() {
            return Ok(BTreeSet::from(["model.safetensors".to_owned()]));
        }
        let listed = fs::read_dir(&self.path)
            .map_err(|source| FloatError::Io { path: self.path.clone(), source })?;
        let names = listed.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let names: BTreeSet<_> = names.filter(|name| name.ends_with(".safetensors")).collect();
        if names.is_empty() {
            let what =
                "no .safetensors file lies here; other formats of weights are not read".to_owned();
            return Err(FloatError::Unsupported { path: self.path.clone(), what });
        }
        Ok(names)
    }

    /// The identity of what was read, run by this engine on a kind of device in a number format.
    ///
    /// `K("hyperion/float-model/1" ‖ text engine ‖ text family ‖ text device ‖ text dtype ‖ u32 files ‖ each file's
    /// text name ‖ u64 length ‖ K(bytes))`, files by name; a text is its length as u16 and its bytes.
    pub(crate) fn identity(&self, family: &str, device: &Device, dtype: &str) -> ModelId {
        let kind = if device.is_cpu() { "cpu" } else { "cuda" };
        let mut hasher = Keccak::tagged(b"hyperion/float-model/1");
        let text = |text: &str, hasher: &mut Keccak| {
            let len = u16::try_from(text.len()).unwrap_or(u16::MAX);
            hasher.u16(len).update(&text.as_bytes()[..len.into()]);
        };
        for part in [ENGINE, family, kind, dtype] {
            text(part, &mut hasher);
        }
        hasher.u32(u32::try_from(self.files.len()).unwrap_or(u32::MAX));
        for (name, (len, hash)) in &self.files {
            text(name, &mut hasher);
            hasher.u64(*len).update(hash);
        }
        ModelId(hasher.finish())
    }
}
