//! An NVIDIA GPU: CUDA's driver, graphs, events.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    error::Error,
    ffi::c_void,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use cudarc::{
    driver::{
        CudaContext, CudaFunction, CudaGraph, CudaSlice, CudaStream, DevicePtr, DriverError,
        result, sys,
    },
    nvrtc::Ptx,
};
use hyperion_ops::BackendError;

use crate::{
    Address, CompileError, Cuda, DeviceDescription, Driver, Kernel, Launch, ProductShape,
    TILE_SOURCE_WORDS, TileSource, WORDS, Work, compile, libraries, products::Products,
};

/// Lists of work that are kept as graphs.
const GRAPHS_MAX: usize = 64;
/// A list of work becomes a graph when it comes this often.
const GRAPH_AFTER: u32 = 2;
/// Launches up to which a list may become a graph: beyond, launching is no part of the time.
const GRAPH_WORK_MAX: usize = 4_096;

/// The first version of CUDA whose driver describes tiles.
const TILES_SINCE: i32 = 12_000;
/// Lines of a tile, and bytes of each.
const TILE: u32 = 128;

/// Why a device could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// CUDA's driver is not installed.
    NoDriver,
    /// There is no device with this number.
    Absent {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// Kernels could not be compiled.
    Compile(CompileError),
    /// The driver refused.
    Refused(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoDriver => f.write_str(
                "CUDA's driver library libcuda was not found; is NVIDIA's driver installed, and visible in this container?",
            ),
            Self::Absent { index: _, count: 0 } => f.write_str("CUDA's driver finds no GPU"),
            Self::Absent { index, count } => {
                write!(f, "there is no CUDA device {index}; the last of {count} is {}", count - 1)
            }
            Self::Compile(error) => error.fmt(f),
            Self::Refused(why) => write!(f, "CUDA's driver refused the device: {why}"),
        }
    }
}

impl Error for OpenError {}

impl From<DriverError> for OpenError {
    fn from(error: DriverError) -> Self {
        Self::Refused(error.to_string())
    }
}

/// How many devices CUDA's driver finds.
///
/// # Errors
///
/// When there is no driver, or it refuses.
pub fn devices() -> Result<usize, OpenError> {
    if !libraries::has_driver() {
        return Err(OpenError::NoDriver);
    }
    guarded(|| Ok(usize::try_from(CudaContext::device_count()?).unwrap_or(0)))
}

/// Opens device `index` and makes its kernels ready; `cache` is the folder of compiled kernels.
///
/// Weights and buffers take `memory_bytes` at most, and no more than the device has free.
///
/// # Errors
///
/// When there is no such device, its kernels cannot be compiled, or the driver refuses.
pub fn open(index: usize, memory_bytes: u64, cache: Option<&Path>) -> Result<Cuda, OpenError> {
    let count = devices()?;
    if index >= count {
        return Err(OpenError::Absent { index, count });
    }
    let nvidia = guarded(|| Nvidia::new(index, cache))?;
    Cuda::new(Box::new(nvidia), memory_bytes).map_err(|error| OpenError::Refused(error.to_string()))
}

/// A driver older than what it is asked for lacks functions, and their wrappers panic.
fn guarded<T>(work: impl FnOnce() -> Result<T, OpenError>) -> Result<T, OpenError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
        Err(OpenError::Refused(text.unwrap_or("it lacks a function").to_owned()))
    })
}

/// An open device.
struct Nvidia {
    description: DeviceDescription,
    functions: BTreeMap<Kernel, CudaFunction>,
    products: Option<Products>,
    memory: BTreeMap<u64, CudaSlice<u8>>,
    graphs: Graphs,
    stream: Arc<CudaStream>,
    context: Arc<CudaContext>,
}

// SAFETY: a graph may be used by any one thread at a time, and this value is used by the thread that owns it.
unsafe impl Send for Nvidia {}

/// Lists of work that came more than once, as the driver keeps them.
///
/// The key is the whole list with every address, so a graph does exactly what was asked for.
#[derive(Default)]
struct Graphs {
    seen: HashMap<Vec<Work>, Seen>,
    order: VecDeque<Vec<Work>>,
}

struct Seen {
    times: u32,
    graph: Option<CudaGraph>,
}

impl Graphs {
    fn seen(&mut self, work: &[Work]) -> &mut Seen {
        if !self.seen.contains_key(work) {
            if self.order.len() == GRAPHS_MAX
                && let Some(oldest) = self.order.pop_front()
            {
                self.seen.remove(&oldest);
            }
            self.order.push_back(work.to_vec());
        }
        self.seen.entry(work.to_vec()).or_insert(Seen { times: 0, graph: None })
    }
}

fn lost(error: impl fmt::Display) -> BackendError {
    BackendError::Lost(error.to_string())
}

impl Nvidia {
    fn new(index: usize, cache: Option<&Path>) -> Result<Self, OpenError> {
        let context = CudaContext::new(index)?;
        let (major, minor) = context.compute_capability()?;
        let architecture = (major.cast_unsigned(), minor.cast_unsigned());
        // `a` lets kernels use what only this architecture has.
        let suffix = if major == 9 { "a" } else { "" };
        let code = compile(&format!("sm_{major}{minor}{suffix}"), cache);
        let module = context.load_module(Ptx::from_binary(code.map_err(OpenError::Compile)?))?;
        let attribute =
            sys::CUdevice_attribute_enum::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
        let shared_bytes_max = context.attribute(attribute)?;
        let mut functions = BTreeMap::new();
        for kernel in Kernel::ALL {
            let function = module.load_function(&kernel.symbol())?;
            if kernel.has_dynamic_shared() {
                let wanted =
                    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
                // What a kernel has for itself is not for launches.
                let own = function.get_attribute(
                    sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES,
                )?;
                function.set_attribute(wanted, shared_bytes_max - own)?;
            }
            functions.insert(kernel, function);
        }
        // One stream does everything, so nothing is to be ordered by events.
        // SAFETY: no value of this context is ever used on another stream.
        unsafe { context.disable_event_tracking() };
        let stream = context.new_stream()?;
        let mut version = 0;
        // SAFETY: the place lives through the call.
        unsafe { sys::cuDriverGetVersion(&raw mut version) }.result()?;
        let products = Products::new(&stream);
        // What the library keeps for itself is taken by now.
        let (free_bytes, _) = context.mem_get_info()?;
        let with = if products.is_some() { " with cuBLASLt" } else { "" };
        let description = DeviceDescription {
            name: context.name()?,
            architecture,
            memory_bytes: free_bytes as u64,
            shared_bytes_max: shared_bytes_max.cast_unsigned().saturating_sub(1_024),
            has_tiles: architecture.0 >= 9 && version >= TILES_SINCE,
            driver: format!("cuda-{}.{}{with}", version / 1_000, version % 1_000 / 10),
        };
        let (memory, graphs) = (BTreeMap::new(), Graphs::default());
        Ok(Self { description, functions, products, memory, graphs, stream, context })
    }

    /// The piece of memory that a place lies in, and how far into it.
    fn piece(&mut self, at: Address) -> (&mut CudaSlice<u8>, usize) {
        let (start, piece) = self.memory.range_mut(..=at.0).next_back().expect("reserved memory");
        (piece, usize::try_from(at.0 - start).expect("inside memory"))
    }

    /// Gives work to the stream, piece by piece.
    ///
    /// # Safety
    ///
    /// As for [`Driver::submit`].
    unsafe fn enqueue(&self, work: &[Work]) -> Result<(), BackendError> {
        for work in work {
            match work {
                // SAFETY: the caller's promise is what is asked for.
                Work::Launch(launch) => unsafe { self.launch(launch) }.map_err(lost)?,
                Work::Product { shape, codes, weights, out } => {
                    let products = self.products.as_ref().expect("asked for with `has_products`");
                    // SAFETY: the caller's promise is what is asked for.
                    unsafe { products.run(*shape, *codes, *weights, *out) }.map_err(lost)?;
                }
            }
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As for [`Driver::submit`].
    unsafe fn launch(&self, launch: &Launch) -> Result<(), DriverError> {
        let function = &self.functions[&launch.kernel];
        // The one argument is a struct of 8-byte members, no longer than the words.
        let mut words = Vec::with_capacity(2 * TILE_SOURCE_WORDS + WORDS);
        for source in launch.tiles.iter().flatten() {
            words.extend(described(*source)?);
        }
        words.extend(launch.words);
        let mut arguments = [words.as_mut_ptr().cast::<c_void>()];
        let [x, y] = launch.grid;
        let (grid, block) = ((x, y, 1), (launch.threads, 1, 1));
        // SAFETY: the driver copies the argument before the call returns; what it leads to is the caller's promise.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                grid,
                block,
                launch.shared_bytes,
                self.stream.cu_stream(),
                &mut arguments,
            )
        }
    }

    /// # Safety
    ///
    /// As for [`Driver::submit`].
    unsafe fn capture(&self, work: &[Work]) -> Result<Option<CudaGraph>, BackendError> {
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        self.stream.begin_capture(mode).map_err(lost)?;
        // SAFETY: the caller's promise is what is asked for.
        let enqueued = unsafe { self.enqueue(work) };
        // A capture that was begun has to end, whatever happened in between.
        let graph = self.stream.end_capture(sys::CUgraphInstantiate_flags(0));
        enqueued?;
        graph.map_err(lost)
    }
}

/// A matrix as the device wants it described: tiles that lie as `describe` of device.cu says.
fn described(source: TileSource) -> Result<[u64; TILE_SOURCE_WORDS], DriverError> {
    let TileSource { at, lines, depth } = source;
    let mut map = sys::CUtensorMap { opaque: [0; TILE_SOURCE_WORDS] };
    let (sizes, stride) = ([u64::from(depth), u64::from(lines)], [u64::from(depth)]);
    let (tile, steps) = ([TILE, TILE], [1, 1]);
    // SAFETY: arrays have as many members as there are dimensions, one less for strides, and live through the call; the
    // matrix is not read by it.
    unsafe {
        sys::cuTensorMapEncodeTiled(
            &raw mut map,
            sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_UINT8,
            2,
            at.0 as *mut c_void,
            sizes.as_ptr(),
            stride.as_ptr(),
            tile.as_ptr(),
            steps.as_ptr(),
            sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
            sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
            sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    }
    .result()?;
    Ok(map.opaque)
}

impl Driver for Nvidia {
    fn description(&self) -> &DeviceDescription {
        &self.description
    }

    fn has_products(&self, shape: ProductShape) -> bool {
        self.products.as_ref().is_some_and(|_| Products::takes(shape))
    }

    fn alloc(&mut self, bytes: u64) -> Result<Address, BackendError> {
        let free = self.context.mem_get_info().map_or(0, |(free, _)| free as u64);
        let refused = BackendError::OutOfMemory { wanted_bytes: bytes, free_bytes: free };
        let Ok(len) = usize::try_from(bytes.max(1)) else { return Err(refused) };
        // SAFETY: nothing is read before it was written, which is what `Backend::alloc` promises.
        let Ok(piece) = (unsafe { self.stream.alloc::<u8>(len) }) else { return Err(refused) };
        let at = piece.device_ptr(&self.stream).0;
        self.memory.insert(at, piece);
        Ok(Address(at))
    }

    fn free(&mut self, at: Address) {
        // The stream frees it after everything that was asked for before.
        self.memory.remove(&at.0).expect("reserved memory");
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), BackendError> {
        if bytes.is_empty() {
            return Ok(());
        }
        let stream = Arc::clone(&self.stream);
        let (piece, at) = self.piece(to);
        let mut place = piece.slice_mut(at..at + bytes.len());
        stream.memcpy_htod(bytes, &mut place).map_err(lost)
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), BackendError> {
        if bytes.is_empty() {
            return self.stream.synchronize().map_err(lost);
        }
        let stream = Arc::clone(&self.stream);
        let (piece, at) = self.piece(from);
        let place = piece.slice(at..at + bytes.len());
        stream.memcpy_dtoh(&place, bytes).map_err(lost)?;
        stream.synchronize().map_err(lost)
    }

    unsafe fn submit(&mut self, work: &[Work]) -> Result<(), BackendError> {
        if work.is_empty() || work.len() > GRAPH_WORK_MAX {
            // SAFETY: the caller's promise is what is asked for.
            return unsafe { self.enqueue(work) };
        }
        let seen = self.graphs.seen(work);
        seen.times = seen.times.saturating_add(1);
        if let Some(graph) = &seen.graph {
            return graph.launch().map_err(lost);
        }
        if seen.times < GRAPH_AFTER {
            // SAFETY: the caller's promise is what is asked for.
            return unsafe { self.enqueue(work) };
        }
        // SAFETY: the caller's promise is what is asked for.
        let graph = unsafe { self.capture(work) }?;
        let Some(graph) = graph else {
            // SAFETY: the caller's promise is what is asked for.
            return unsafe { self.enqueue(work) };
        };
        let launched = graph.launch().map_err(lost);
        self.graphs.seen(work).graph = Some(graph);
        launched
    }

    unsafe fn nanoseconds(&mut self, work: &[Work]) -> Result<u64, BackendError> {
        let timing = Some(sys::CUevent_flags::CU_EVENT_DEFAULT);
        let start = self.stream.record_event(timing).map_err(lost)?;
        // SAFETY: the caller's promise is what is asked for.
        unsafe { self.enqueue(work) }?;
        let end = self.stream.record_event(timing).map_err(lost)?;
        let milliseconds = start.elapsed_ms(&end).map_err(lost)?;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a time is positive and short; it chooses a kernel and reaches no result"
        )]
        Ok((f64::from(milliseconds) * 1e6) as u64)
    }
}

impl Drop for Nvidia {
    fn drop(&mut self) {
        // Graphs name memory, so they go first.
        self.graphs = Graphs::default();
        let _ = self.stream.synchronize(); // a lost device has nothing left to wait for
    }
}
