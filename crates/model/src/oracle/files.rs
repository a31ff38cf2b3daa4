//! Reading a source folder, with the file's name in every error.

use std::{fs, path::Path};

use serde::de::DeserializeOwned;

use super::OracleError;

pub(super) fn bytes(path: &Path) -> Result<Vec<u8>, OracleError> {
    fs::read(path).map_err(|source| OracleError::Read { path: path.into(), source })
}

pub(super) fn json<T: DeserializeOwned>(path: &Path) -> Result<T, OracleError> {
    serde_json::from_slice(&bytes(path)?)
        .map_err(|source| OracleError::Json { path: path.into(), source })
}
