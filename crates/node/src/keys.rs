//! Key files: 64 hex digits, mode 0600, made on first start where none is.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use alloy_primitives::{Address, B256};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use anyhow::{Context as _, Result, bail};
use rand::{TryRngCore as _, rngs::OsRng};

/// Reads the 32 secret bytes of a key file.
///
/// # Errors
///
/// When the file cannot be read, others than its owner may read it, or it holds anything but 64 hex digits.
pub fn read(path: &Path) -> Result<[u8; 32]> {
    let mode =
        fs::metadata(path).with_context(|| format!("key file {}", path.display()))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        bail!("key file {} has mode {mode:03o}; run `chmod 600 {0}`", path.display());
    }
    let text = fs::read_to_string(path).with_context(|| format!("key file {}", path.display()))?;
    let mut key = [0; 32];
    let digits = text.trim().strip_prefix("0x").unwrap_or_else(|| text.trim());
    if hex::decode_to_slice(digits, &mut key).is_err() {
        bail!("key file {}: want 64 hex digits", path.display());
    }
    Ok(key)
}

/// Writes a fresh key, durably, and never over a file that is there.
///
/// # Errors
///
/// When the file exists or cannot be written.
pub fn create(path: &Path) -> Result<[u8; 32]> {
    let mut key = [0; 32];
    OsRng.try_fill_bytes(&mut key).context("the system's random source")?;
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("making key file {}", path.display()))?;
    writeln!(file, "{}", hex::encode(key))?;
    file.sync_all()?;
    if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        File::open(folder)?.sync_all()?;
    }
    Ok(key)
}

/// Reads a key file, making it first where none is.
///
/// # Errors
///
/// As [`read`] and [`create`].
pub fn read_or_create(path: &Path) -> Result<[u8; 32]> {
    if path.exists() { read(path) } else { create(path) }
}

/// The worker's key: what signs claims.
#[derive(Debug)]
pub struct WorkerKey(PrivateKeySigner);

impl WorkerKey {
    /// A signer from its 32 secret bytes.
    ///
    /// # Errors
    ///
    /// When they are no secp256k1 scalar, which one in 2^128 random keys is not.
    pub fn new(secret: &[u8; 32]) -> Result<Self> {
        let signer =
            PrivateKeySigner::from_bytes(&B256::new(*secret)).context("no secp256k1 key")?;
        Ok(Self(signer))
    }
}

impl hyperion_engine::Signer for WorkerKey {
    fn address(&self) -> Address {
        self.0.address()
    }

    fn sign(&self, digest: B256) -> Result<[u8; 65], hyperion_engine::SignError> {
        let signature = self
            .0
            .sign_hash_sync(&digest)
            .map_err(|e| hyperion_engine::SignError(e.to_string()))?;
        Ok(signature.as_bytes())
    }
}
