//! The operators as WGSL compute shaders, on any GPU that wgpu drives: Vulkan, Metal, DX12, or Vulkan in software.
//!
//! ```text
//! adapter.rs   which devices there are, and opening one
//! gpu.rs       a device: memory, transfers, and what went wrong
//! kernels.rs   shaders of shaders/*.wgsl, one pipeline each
//! weights.rs   weights in the device's own layout, cut to what one binding may hold
//! pass.rs      records dispatches, submits them together
//! steps.rs     each operator as dispatches
//! ```
//!
//! The shaders use no 64-bit integers, no floats, no subgroups and no optional feature, so they run wherever
//! WebGPU does; a device's only freedom is its speed. `hyperion_ops::conformance` is the proof.

mod adapter;
mod gpu;
mod kernels;
mod pass;
mod steps;
mod weights;

pub use adapter::{AdapterDescription, AdapterKind, OpenError, adapters};
pub use steps::{Form, Wgpu};
