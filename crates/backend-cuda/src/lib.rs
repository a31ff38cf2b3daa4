//! The operators as CUDA kernels, on NVIDIA GPUs.
//!
//! ```text
//! driver.rs    what a machine that runs kernels is: memory, transfers, launches
//! nvidia.rs    that machine: CUDA's driver, graphs, events
//! libraries.rs which of CUDA's libraries are here
//! products.rs  cuBLASLt's int8 products, where they are faster
//! compile.rs   kernels/*.cu through NVRTC, kept on disk
//! kernels.rs   which kernels there are
//! weights.rs   weights in the device's own layout
//! room.rs      memory that steps need in between
//! steps.rs     each operator as launches
//! cuda.rs      the backend
//! ```
//!
//! CUDA's libraries are loaded when the first device is asked for, so one binary starts on every machine; where
//! they are not, [`devices`] says why. The backend itself knows only [`Driver`]: tests give it another one, which
//! runs the very same kernels on the CPU (`tests/emulator/`), so that everything but `nvidia.rs` and `products.rs`
//! is tested where there is no GPU.

mod compile;
mod cuda;
mod driver;
mod kernels;
mod libraries;
mod nvidia;
mod products;
mod room;
mod steps;
mod weights;

pub use compile::{CompileError, compile};
pub use cuda::Cuda;
pub use driver::{
    Address, DeviceDescription, Driver, Launch, ProductShape, TILE_SOURCE_WORDS, TileSource, WORDS,
    Work,
};
pub use kernels::{Kernel, source};
pub use nvidia::{OpenError, devices, open};
