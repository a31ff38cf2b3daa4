//! NVRTC compiles every kernel for the architectures that matter; no GPU is needed for it.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

use std::{fs, path::PathBuf};

use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use hyperion_backend_cuda::{Kernel, compile, source};

/// Loads the compiler that `scripts/setup.sh tests` fetched; false after saying that it is not there.
fn has_compiler() -> bool {
    let home =
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/hyperion");
    let cache = std::env::var_os("HYPERION_FIXTURES").map_or_else(home, PathBuf::from);
    let library = cache.join("nvrtc/libnvrtc.so.13");
    if !library.is_file() {
        println!("skipped: {} is not there (scripts/setup.sh tests fetches it)", library.display());
        return false;
    }
    // Once it is loaded, the system finds it by its name. It stays loaded.
    // SAFETY: NVIDIA's library runs nothing of ours when it is loaded.
    std::mem::forget(unsafe { libloading::Library::new(library) }.unwrap());
    true
}

fn compiles(architecture: &str) {
    if !has_compiler() {
        return;
    }
    let cache = tempfile::tempdir().unwrap();
    let code = compile(architecture, Some(cache.path())).unwrap();
    assert!(code.starts_with(b"\x7fELF"), "{architecture}: no machine code");
    for kernel in Kernel::ALL {
        let symbol = kernel.symbol();
        let is_there = code.windows(symbol.len()).any(|bytes| bytes == symbol.as_bytes());
        assert!(is_there, "{architecture}: {symbol} is missing");
    }
    // What is kept is found again, and what was damaged is not taken.
    let file = fs::read_dir(cache.path()).unwrap().next().unwrap().unwrap().path();
    let kept = fs::read(&file).unwrap();
    assert_eq!(kept[32..], code);
    fs::write(&file, [&kept[..32], b"another"].concat()).unwrap();
    if architecture == "sm_80" {
        assert_eq!(compile(architecture, Some(cache.path())).unwrap(), code);
    }
}

#[test]
fn for_ampere() {
    compiles("sm_80");
}

#[test]
fn for_hopper() {
    compiles("sm_90");
}

#[test]
fn for_hopper_alone() {
    compiles("sm_90a");
}

#[test]
fn an_architecture_that_does_not_exist_is_refused_with_its_name() {
    if has_compiler() {
        let error = compile("sm_1", None).unwrap_err().to_string();
        assert!(error.contains("sm_1"), "{error}");
    }
}

#[test]
fn no_kernel_has_a_float() {
    if !has_compiler() {
        return;
    }
    let options = CompileOptions {
        arch: Some("compute_90"),
        options: vec!["--std=c++17".to_owned()],
        ..CompileOptions::default()
    };
    let text = compile_ptx_with_opts(source(), options).unwrap().to_src();
    for kind in [".f16", ".bf16", ".f32", ".f64", ".satfinite"] {
        let line = text.lines().find(|line| line.contains(kind));
        assert_eq!(line, None, "the kernels have {kind}");
    }
}
