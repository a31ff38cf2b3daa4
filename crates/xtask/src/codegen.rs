//! Rust from `proto/`, without `protoc`: protox parses, tonic-prost-build writes.
//!
//! The output is checked in under `crates/rpc/src/gen/`, so building the program needs neither this task nor
//! its dependencies, and a change of the wire is visible as a change of a file.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Arguments of `cargo xtask codegen`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Compares with what is checked in and writes nothing.
    #[arg(long)]
    check: bool,
}

/// What the node serves: Rust is generated and reflection answers for these alone.
const SERVED: [&str; 5] = [
    "hyperion/v1/types.proto",
    "hyperion/v1/inference.proto",
    "hyperion/v1/log.proto",
    "hyperion/v1/worker.proto",
    "inference/grpc_service.proto",
];

/// Surfaces that are specified and not served yet; they have to parse.
const SPECIFIED: [&str; 1] = ["hyperion/v1/audit.proto"];

/// The served files as a `FileDescriptorSet`, which reflection sends to whoever asks.
const DESCRIPTOR: &str = "descriptor.bin";

/// Writes or compares the generated files.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = crate::root();
    let fresh = generate(&root)?;
    let home = root.join("crates/rpc/src/gen");
    if arguments.check {
        return compare(&home, &fresh);
    }
    fs::create_dir_all(&home)?;
    for (name, bytes) in &fresh {
        let path = home.join(name);
        fs::write(&path, bytes).with_context(|| format!("writing {}", path.display()))?;
    }
    println!("codegen: {} files", fresh.len());
    Ok(())
}

/// File name → bytes of everything generated.
fn generate(root: &Path) -> Result<BTreeMap<String, Vec<u8>>> {
    let proto = root.join("proto");
    protox::compile(SPECIFIED, [&proto])?;
    let served = protox::compile(SERVED, [&proto])?;
    // Comments become documentation in Rust; reflection goes without, no client of it shows them.
    let descriptor = protox::Compiler::new([&proto])?
        .include_imports(true)
        .open_files(SERVED)?
        .encode_file_descriptor_set();

    let folder = Scratch::new()?;
    tonic_prost_build::configure()
        .out_dir(&folder.0)
        .bytes(".") // tensors stay slices of the message that brought them
        .btree_map(".") // parameters have one order
        .emit_rerun_if_changed(false)
        .compile_fds(served)
        .context("generating Rust from proto/")?;
    let mut files = BTreeMap::from([(DESCRIPTOR.to_owned(), descriptor)]);
    for entry in fs::read_dir(&folder.0)? {
        let entry = entry?;
        files.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
    }
    Ok(files)
}

/// Fails when a file differs, is missing, or is there without a reason.
fn compare(home: &Path, fresh: &BTreeMap<String, Vec<u8>>) -> Result<()> {
    let mut stale = Vec::new();
    for (name, bytes) in fresh {
        if fs::read(home.join(name)).ok().as_ref() != Some(bytes) {
            stale.push(name.clone());
        }
    }
    for entry in fs::read_dir(home).with_context(|| format!("reading {}", home.display()))? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if !fresh.contains_key(&name) {
            stale.push(name);
        }
    }
    if !stale.is_empty() {
        bail!("crates/rpc/src/gen/: {} out of date; run `cargo xtask codegen`", stale.join(", "));
    }
    println!("codegen: {} files are up to date", fresh.len());
    Ok(())
}

/// A folder of this process's own, gone when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("hyperion-codegen-{}", std::process::id()));
        fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
