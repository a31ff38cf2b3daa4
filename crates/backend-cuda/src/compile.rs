//! Kernels through NVRTC, kept on disk.

use std::{
    error::Error,
    ffi::{CStr, CString, c_char},
    fmt, fs,
    path::Path,
};

use cudarc::nvrtc::{result, sys};
use hyperion_primitives::{B256, keccak256};

use crate::{libraries, source};

/// Why there are no kernels for a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CompileError {
    /// NVRTC is not installed.
    NoCompiler,
    /// NVRTC refused; what it said.
    Refused(String),
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCompiler => f.write_str(
                "the CUDA compiler library libnvrtc was not found; install CUDA's runtime compiler, such as the \
                 package nvidia-cuda-nvrtc of PyPI, and put its folder into LD_LIBRARY_PATH",
            ),
            Self::Refused(said) => write!(f, "the CUDA compiler refused the kernels: {said}"),
        }
    }
}

impl Error for CompileError {}

/// Machine code of all kernels for an architecture such as `sm_90`.
///
/// With a `cache` folder it is compiled once for each source, architecture and compiler version; a file there that
/// is not what was written is compiled anew. A cache that cannot be written costs time only.
///
/// # Errors
///
/// When NVRTC is not there, or does not know the architecture.
pub fn compile(architecture: &str, cache: Option<&Path>) -> Result<Vec<u8>, CompileError> {
    if !libraries::has_nvrtc() {
        return Err(CompileError::NoCompiler);
    }
    let source = source();
    let version = version()?;
    let key = keccak256(format!("{architecture} {version} {source}"));
    let file = cache.map(|folder| folder.join(format!("{architecture}-{}.cubin", &hex(key)[..24])));
    if let Some(code) = file.as_deref().and_then(stored) {
        return Ok(code);
    }
    let code = Program::new(&source)?.compile(architecture)?;
    if let Some(file) = &file
        && let Err(error) = store(file, &code)
    {
        tracing::warn!("compiled kernels are not kept in {}: {error}", file.display());
    }
    Ok(code)
}

/// The code of a file, if it is whole.
fn stored(file: &Path) -> Option<Vec<u8>> {
    let mut bytes = fs::read(file).ok()?;
    let (digest, code) = bytes.split_first_chunk::<32>()?;
    let is_whole = keccak256(code) == B256::from(*digest);
    bytes.drain(..32);
    is_whole.then_some(bytes)
}

/// Writes beside and renames, so that no other process sees half a file.
fn store(file: &Path, code: &[u8]) -> std::io::Result<()> {
    fs::create_dir_all(file.parent().unwrap_or(Path::new(".")))?;
    let part = file.with_extension(format!("{}.part", std::process::id()));
    fs::write(&part, [keccak256(code).as_slice(), code].concat())?;
    fs::rename(&part, file)
}

fn hex(digest: B256) -> String {
    format!("{digest:x}")
}

/// The compiler's version.
fn version() -> Result<String, CompileError> {
    let (mut major, mut minor) = (0, 0);
    // SAFETY: both places live through the call.
    let outcome = unsafe { sys::nvrtcVersion(&raw mut major, &raw mut minor) };
    outcome.result().map_err(|error| CompileError::Refused(error.to_string()))?;
    Ok(format!("{major}.{minor}"))
}

/// A source in the compiler's hands.
struct Program(sys::nvrtcProgram);

impl Program {
    fn new(source: &str) -> Result<Self, CompileError> {
        let source = CString::new(source).expect("a source has no zero byte");
        let program = result::create_program(&source, Some(c"hyperion.cu"));
        program.map(Self).map_err(|error| CompileError::Refused(error.to_string()))
    }

    fn compile(&self, architecture: &str) -> Result<Vec<u8>, CompileError> {
        let options = [format!("--gpu-architecture={architecture}"), "--std=c++17".to_owned()];
        // SAFETY: the program lives until this value is dropped.
        if let Err(error) = unsafe { result::compile_program(self.0, &options) } {
            return Err(CompileError::Refused(format!(
                "{error} for {architecture}\n{}",
                self.log()
            )));
        }
        let refused = |error: result::NvrtcError| CompileError::Refused(error.to_string());
        let mut len = 0;
        // SAFETY: the program lives, and so does the place.
        unsafe { sys::nvrtcGetCUBINSize(self.0, &raw mut len) }.result().map_err(refused)?;
        let mut code = vec![0_u8; len];
        // SAFETY: the program lives, and the place has as many bytes as it said.
        unsafe { sys::nvrtcGetCUBIN(self.0, code.as_mut_ptr().cast::<c_char>()) }
            .result()
            .map_err(refused)?;
        Ok(code)
    }

    /// What the compiler complained about.
    fn log(&self) -> String {
        // SAFETY: the program lives until this value is dropped.
        let Ok(log) = (unsafe { result::get_program_log(self.0) }) else { return String::new() };
        let bytes: Vec<u8> = log.into_iter().map(i8::cast_unsigned).collect();
        let text = CStr::from_bytes_until_nul(&bytes).unwrap_or_default();
        text.to_string_lossy().into_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // SAFETY: the program lives, and nobody uses it after this.
        let _ = unsafe { result::destroy_program(self.0) }; // nothing is to be done about a refusal
    }
}
