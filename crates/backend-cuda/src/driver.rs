//! What a machine that runs kernels is.

use hyperion_ops::BackendError;

use crate::Kernel;

/// Words of a kernel's arguments at most; every argument struct of `kernels/*.cu` is shorter.
pub const WORDS: usize = 32;

/// A place in a device's memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address(pub u64);

impl Address {
    /// The place `bytes` further on.
    #[must_use]
    pub const fn plus(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

/// Words of a [`TileSource`] in a kernel's arguments, as `TileSource` of device.cu has them.
pub const TILE_SOURCE_WORDS: usize = 16;

/// A matrix of bytes without gaps that a kernel copies tiles of 128 lines of 128 bytes from. The driver describes it to the
/// device in its own words, which the kernel hands on unread; what is beyond the matrix is zero in a tile.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TileSource {
    /// Where it begins, a multiple of 16.
    pub at: Address,
    /// Its lines.
    pub lines: u32,
    /// Bytes of each, a multiple of 16.
    pub depth: u32,
}

/// One launch of a kernel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Launch {
    /// Which.
    pub kernel: Kernel,
    /// Blocks along x and y.
    pub grid: [u32; 2],
    /// Threads of a block: whole warps.
    pub threads: u32,
    /// Dynamic shared memory of a block.
    pub shared_bytes: u32,
    /// What the kernel copies tiles from; where there is something, it stands before the words.
    pub tiles: Option<[TileSource; 2]>,
    /// The kernel's argument struct, member by member; what is left is 0.
    pub words: [u64; WORDS],
}

impl Launch {
    /// A launch whose argument struct has these members.
    ///
    /// # Panics
    ///
    /// When there are more than [`WORDS`].
    pub fn new(
        kernel: Kernel,
        grid: [u32; 2],
        threads: u32,
        shared_bytes: u32,
        arguments: &[u64],
    ) -> Self {
        let mut words = [0; WORDS];
        words[..arguments.len()].copy_from_slice(arguments);
        Self { kernel, grid, threads, shared_bytes, tiles: None, words }
    }
}

/// Sizes of a product of codes: `rows` of codes times `channels` of weights, each `depth` long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProductShape {
    /// Rows of codes.
    pub rows: u32,
    /// Channels of weights.
    pub channels: u32,
    /// Codes of each, a multiple of 32.
    pub depth: u32,
}

/// One thing for a device to do.
#[expect(clippy::large_enum_variant, reason = "nearly all work is launches")]
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Work {
    /// A kernel of ours.
    Launch(Launch),
    /// The library's exact int8 product: i32 sums `[rows, channels]` at `out`.
    Product {
        /// Its sizes.
        shape: ProductShape,
        /// i8 `[rows, depth]`.
        codes: Address,
        /// i8 `[channels, depth]`.
        weights: Address,
        /// i32 `[rows, channels]`.
        out: Address,
    },
}

/// A device as its driver describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceDescription {
    /// The name that a person recognises.
    pub name: String,
    /// Major and minor number of its architecture; 9 and 0 are `sm_90`.
    pub architecture: (u32, u32),
    /// Bytes of memory that are free.
    pub memory_bytes: u64,
    /// Dynamic shared memory that a block may have.
    pub shared_bytes_max: u32,
    /// Whether launches may have [`TileSource`]s.
    pub has_tiles: bool,
    /// Version of the driver, and how kernels were compiled.
    pub driver: String,
}

/// Memory, transfers and launches of one device. Everything happens in the order in which it was asked for.
pub trait Driver: Send {
    /// What the device is.
    fn description(&self) -> &DeviceDescription;

    /// Whether the device takes [`Work::Product`] of this shape.
    fn has_products(&self, shape: ProductShape) -> bool;

    /// Reserves memory, at a multiple of 256.
    ///
    /// # Errors
    ///
    /// When there is not that much, or the device is lost.
    fn alloc(&mut self, bytes: u64) -> Result<Address, BackendError>;

    /// Gives memory back once everything before is done. `at` came from [`alloc`](Self::alloc).
    fn free(&mut self, at: Address);

    /// Copies to memory that was reserved.
    ///
    /// # Errors
    ///
    /// When the device is lost.
    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), BackendError>;

    /// Waits for everything before, then copies from memory that was reserved.
    ///
    /// # Errors
    ///
    /// When the device is lost.
    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), BackendError>;

    /// Does work in this order; it need not be done on return.
    ///
    /// # Safety
    ///
    /// Every address in `work` lies in memory that was reserved here and not given back, and what the kernel reads
    /// and writes from it on, as its argument struct says, lies in the same memory.
    ///
    /// # Errors
    ///
    /// When the device is lost.
    unsafe fn submit(&mut self, work: &[Work]) -> Result<(), BackendError>;

    /// Does the same, waits for it, and says how long the device took.
    ///
    /// # Safety
    ///
    /// As for [`submit`](Self::submit).
    ///
    /// # Errors
    ///
    /// When the device is lost.
    unsafe fn nanoseconds(&mut self, work: &[Work]) -> Result<u64, BackendError>;
}
