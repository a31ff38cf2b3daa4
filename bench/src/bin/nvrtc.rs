//! Compiles the CUDA kernels as a node does at start, for the architectures that matter; no GPU is needed.
//!
//! `nvrtc --library libnvrtc.so.13` prints one JSON object: by architecture the seconds, the bytes of machine code and the kernels
//! that are not in it; and how many lines of the kernels' PTX have a floating-point type.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::time::Instant;

use cudarc::nvrtc::{CompileOptions, compile_ptx_with_opts};
use hyperion_backend_cuda::{Kernel, compile, source};
use serde_json::{Map, json};

const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90", "sm_90a"];
const FLOATS: [&str; 5] = [".f16", ".bf16", ".f32", ".f64", ".satfinite"];

fn main() {
    let library = std::env::args().skip_while(|word| word != "--library").nth(1);
    let library = library.expect("--library libnvrtc.so.13");
    // Once it is loaded, the system finds it by its name. It stays loaded.
    // SAFETY: NVIDIA's library runs nothing of ours when it is loaded.
    std::mem::forget(unsafe { libloading::Library::new(library) }.expect("the library loads"));
    let mut architectures = Map::new();
    for architecture in ARCHITECTURES {
        eprintln!("{architecture}");
        let start = Instant::now();
        let code = compile(architecture, None).unwrap_or_else(|error| panic!("{error}"));
        let seconds = start.elapsed().as_secs_f64();
        let is_there = |kernel: &&Kernel| {
            let symbol = kernel.symbol();
            code.windows(symbol.len()).any(|bytes| bytes == symbol.as_bytes())
        };
        let found = Kernel::ALL.iter().filter(is_there).count();
        architectures.insert(
            architecture.to_owned(),
            json!({
                "seconds": seconds,
                "bytes": code.len(),
                "kernels": found,
                "kernels_missing": Kernel::ALL.len() - found,
            }),
        );
    }
    let options = CompileOptions {
        arch: Some("compute_90"),
        options: vec!["--std=c++17".to_owned()],
        ..CompileOptions::default()
    };
    let ptx = compile_ptx_with_opts(source(), options).expect("it compiled above").to_src();
    let has_float = |line: &&str| FLOATS.iter().any(|kind| line.contains(kind));
    let float_lines = ptx.lines().filter(has_float).count();
    println!("{}", json!({ "architectures": architectures, "float_lines": float_lines }));
}
