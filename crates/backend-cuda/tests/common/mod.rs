//! A driver that runs the kernels of `kernels/*.cu` on the CPU (`tests/emulator/`).

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

use std::{
    collections::BTreeMap,
    ffi::CString,
    path::{Path, PathBuf},
    process::Command,
};

use hyperion_backend_cuda::{
    Address, Cuda, DeviceDescription, Driver, Kernel, Launch, ProductShape, TILE_SOURCE_WORDS,
    TileSource, Work, source,
};
use hyperion_ops::BackendError;
use hyperion_primitives::keccak256;
use libloading::Library;

/// Bytes that memory starts out with, and that stand before and behind every piece.
const NOISE: u8 = 0xa5;

#[derive(Clone, Copy)]
#[repr(align(256))]
struct Line([u8; 256]);

/// How the emulated device differs from another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traits {
    /// In which order threads run: 0 forwards, 1 backwards, else mixed.
    pub(crate) order: u32,
    /// Dynamic shared memory of a block.
    pub(crate) shared_bytes_max: u32,
    /// Whether the library's products are there, and then whether they are right.
    pub(crate) products: Option<bool>,
    /// The kernel that is measured to be the fastest; without one the library is.
    pub(crate) fast: Option<Kernel>,
}

impl Default for Traits {
    fn default() -> Self {
        Self { order: 0, shared_bytes_max: 160 << 10, products: None, fast: None }
    }
}

/// The emulator as a device.
pub(crate) struct Emulated {
    description: DeviceDescription,
    traits: Traits,
    memory: BTreeMap<u64, Vec<Line>>,
    library: Library,
}

type Emulate = unsafe extern "C" fn(
    *const std::ffi::c_char,
    *const u32,
    u32,
    u32,
    *const u64,
    u32,
) -> std::ffi::c_int;

type Multiply = unsafe extern "C" fn(u64, u64, u64, *const u32, std::ffi::c_int);

/// An emulated device, or `None` after saying why there is none.
pub(crate) fn emulated(traits: Traits) -> Option<Cuda> {
    let library = match build() {
        Ok(path) => path,
        Err(why) => {
            println!("skipped: the emulator could not be built: {why}");
            return None;
        }
    };
    // SAFETY: the library was built from this repository and runs nothing when it is loaded but its registration.
    let library = unsafe { Library::new(library) }.unwrap();
    let description = DeviceDescription {
        name: "emulator".to_owned(),
        architecture: (9, 0),
        memory_bytes: 4 << 30,
        shared_bytes_max: traits.shared_bytes_max,
        has_tiles: true,
        driver: "emulated".to_owned(),
    };
    let driver = Emulated { description, traits, memory: BTreeMap::new(), library };
    Some(Cuda::new(Box::new(driver), u64::MAX).unwrap())
}

/// Compiles the emulator, once for each state of its sources.
fn build() -> Result<PathBuf, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/emulator");
    let text = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let key = keccak256(source() + &text("emulator.hpp") + &text("emulator.cpp"));
    let library = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("emulator-{key:x}.so"));
    if library.is_file() {
        return Ok(library);
    }
    let part = library.with_extension(std::process::id().to_string());
    let compiler = std::env::var_os("CXX").unwrap_or_else(|| "c++".into());
    let output = Command::new(compiler)
        .args(["-std=c++17", "-O2", "-fwrapv", "-Wall", "-Werror", "-Wno-unknown-pragmas"])
        .args(["-U_FORTIFY_SOURCE", "-shared", "-fPIC"])
        .arg("-I")
        .arg(folder.join("../../../../kernels"))
        .arg(folder.join("emulator.cpp"))
        .arg("-o")
        .arg(&part)
        .output()
        .map_err(|error| format!("no C++ compiler: {error}"))?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::rename(&part, &library).unwrap();
    Ok(library)
}

impl Emulated {
    fn launch(&self, launch: &Launch) {
        let name = CString::new(launch.kernel.name()).unwrap();
        assert!(launch.shared_bytes <= self.traits.shared_bytes_max, "{launch:?}");
        // A source is described here by what it is: address, lines, depth.
        let described = |source: &TileSource| {
            let mut words = [0; TILE_SOURCE_WORDS];
            let TileSource { at, lines, depth } = *source;
            words[..3].copy_from_slice(&[at.0, lines.into(), depth.into()]);
            words
        };
        let mut words: Vec<u64> = launch.tiles.iter().flatten().flat_map(described).collect();
        words.extend(launch.words);
        // SAFETY: the function has this type in emulator.cpp.
        let emulate = unsafe { self.library.get::<Emulate>(b"emulate") }.unwrap();
        // SAFETY: addresses are the caller's promise; the other arguments live through the call.
        let outcome = unsafe {
            emulate(
                name.as_ptr(),
                launch.grid.as_ptr(),
                launch.threads,
                launch.shared_bytes,
                words.as_ptr(),
                self.traits.order,
            )
        };
        assert_eq!(outcome, 0, "no kernel is called {}", launch.kernel.name());
    }

    fn bytes(&mut self, at: Address, len: usize) -> &mut [u8] {
        let (start, lines) = self.memory.range_mut(..=at.0).next_back().unwrap();
        let at = usize::try_from(at.0 - start).unwrap();
        let bytes: &mut [u8] = {
            let len = size_of_val(lines.as_slice());
            // SAFETY: lines are plain bytes without padding.
            unsafe { std::slice::from_raw_parts_mut(lines.as_mut_ptr().cast(), len) }
        };
        // One line of noise stands before, and the address is that of the line after it.
        &mut bytes[256 + at..256 + at + len]
    }

    fn product(&self, shape: ProductShape, [codes, weights, out]: [Address; 3]) {
        let sizes = [shape.rows, shape.channels, shape.depth];
        let is_right = self.traits.products.expect("asked for with `has_products`");
        // SAFETY: the function has this type in emulator.cpp.
        let multiply = unsafe { self.library.get::<Multiply>(b"multiply_codes") }.unwrap();
        let [codes, weights, out] = [codes, weights, out].map(|place| place.0);
        // SAFETY: addresses are the caller's promise, and sizes live through the call.
        unsafe { multiply(codes, weights, out, sizes.as_ptr(), i32::from(!is_right)) };
    }

    fn check(at: u64, lines: &[Line]) {
        for line in [lines.first().unwrap(), lines.last().unwrap()] {
            assert!(line.0 == [NOISE; 256], "a kernel wrote beside the memory at {at:x}");
        }
    }
}

impl Driver for Emulated {
    fn description(&self) -> &DeviceDescription {
        &self.description
    }

    fn has_products(&self, _: ProductShape) -> bool {
        self.traits.products.is_some()
    }

    fn alloc(&mut self, bytes: u64) -> Result<Address, BackendError> {
        let lines = usize::try_from(bytes.div_ceil(256)).unwrap() + 2;
        let lines = vec![Line([NOISE; 256]); lines];
        let at = lines.as_ptr().addr() as u64 + 256;
        self.memory.insert(at, lines);
        Ok(Address(at))
    }

    fn free(&mut self, at: Address) {
        let lines = self.memory.remove(&at.0).expect("reserved memory");
        Self::check(at.0, &lines);
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), BackendError> {
        if !bytes.is_empty() {
            self.bytes(to, bytes.len()).copy_from_slice(bytes);
        }
        Ok(())
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), BackendError> {
        bytes.copy_from_slice(self.bytes(from, bytes.len()));
        Ok(())
    }

    unsafe fn submit(&mut self, work: &[Work]) -> Result<(), BackendError> {
        for work in work {
            match work {
                Work::Launch(launch) => self.launch(launch),
                Work::Product { shape, codes, weights, out } => {
                    self.product(*shape, [*codes, *weights, *out]);
                }
            }
        }
        Ok(())
    }

    unsafe fn nanoseconds(&mut self, work: &[Work]) -> Result<u64, BackendError> {
        // SAFETY: the caller's promise is what is asked for.
        unsafe { self.submit(work) }?;
        let is_fast = work.iter().any(|work| match work {
            Work::Launch(launch) => self.traits.fast == Some(launch.kernel),
            Work::Product { .. } => self.traits.fast.is_none(),
        });
        Ok(if is_fast { 1 } else { 2 })
    }
}

impl Drop for Emulated {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            self.memory.iter().for_each(|(at, lines)| Self::check(*at, lines));
        }
    }
}
