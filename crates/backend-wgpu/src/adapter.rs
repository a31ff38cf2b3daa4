//! Which devices there are, and opening one.

use std::{error::Error, fmt};

use crate::gpu::Gpu;

/// What an adapter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterKind {
    /// A GPU with memory of its own.
    Discrete,
    /// A GPU that shares the host's memory.
    Integrated,
    /// A part of a GPU that a hypervisor gives.
    Virtual,
    /// Shaders on the CPU, such as Mesa's lavapipe.
    Software,
    /// The driver does not say.
    Unknown,
}

impl AdapterKind {
    /// The word that `hyperion doctor` prints.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Discrete => "discrete",
            Self::Integrated => "integrated",
            Self::Virtual => "virtual",
            Self::Software => "software",
            Self::Unknown => "unknown",
        }
    }

    fn of(kind: wgpu::DeviceType) -> Self {
        match kind {
            wgpu::DeviceType::DiscreteGpu => Self::Discrete,
            wgpu::DeviceType::IntegratedGpu => Self::Integrated,
            wgpu::DeviceType::VirtualGpu => Self::Virtual,
            wgpu::DeviceType::Cpu => Self::Software,
            wgpu::DeviceType::Other => Self::Unknown,
        }
    }
}

/// An adapter as a person recognises it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterDescription {
    /// Its number: what `wgpu:N` names.
    pub index: usize,
    /// The driver's name for it.
    pub name: String,
    /// What it is.
    pub kind: AdapterKind,
    /// `vulkan`, `metal` or `dx12`.
    pub api: String,
    /// Driver and its version.
    pub driver: String,
    /// Bytes that one binding may hold; larger weights are cut.
    pub binding_bytes_max: u64,
}

impl AdapterDescription {
    fn new(index: usize, adapter: &wgpu::Adapter) -> Self {
        let info = adapter.get_info();
        Self {
            index,
            name: info.name,
            kind: AdapterKind::of(info.device_type),
            api: info.backend.to_string(),
            driver: format!("{} {}", info.driver, info.driver_info).trim().to_owned(),
            binding_bytes_max: adapter.limits().max_storage_buffer_binding_size,
        }
    }
}

/// Why an adapter could not be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// There is no adapter with this number.
    Absent {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The driver refused.
    Refused(String),
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent { index: _, count: 0 } => {
                f.write_str("no Vulkan, Metal or DX12 adapter was found; is a driver installed?")
            }
            Self::Absent { index, count } => {
                write!(f, "there is no adapter {index}; the last of {count} is {}", count - 1)
            }
            Self::Refused(why) => write!(f, "the driver refused the device: {why}"),
        }
    }
}

impl Error for OpenError {}

fn found() -> Vec<wgpu::Adapter> {
    let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
    let descriptor = wgpu::InstanceDescriptor {
        backends,
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    };
    let instance = wgpu::Instance::new(descriptor);
    let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
    // Software last; otherwise as the driver lists them.
    adapters.sort_by_key(|adapter| adapter.get_info().device_type == wgpu::DeviceType::Cpu);
    adapters
}

/// Every adapter, hardware before software. None is a normal answer.
pub fn adapters() -> Vec<AdapterDescription> {
    found()
        .iter()
        .enumerate()
        .map(|(index, adapter)| AdapterDescription::new(index, adapter))
        .collect()
}

/// Opens adapter `index` of [`adapters`]; bindings hold `binding_bytes_max` at most, if that is less than the adapter's.
pub(crate) fn open(
    index: usize,
    binding_bytes_max: Option<u64>,
) -> Result<(AdapterDescription, Gpu), OpenError> {
    let adapters = found();
    let adapter = adapters.get(index).ok_or(OpenError::Absent { index, count: adapters.len() })?;
    let mut limits = adapter.limits();
    let binding = &mut limits.max_storage_buffer_binding_size;
    *binding = binding_bytes_max.unwrap_or(*binding).min(*binding);
    let descriptor = wgpu::DeviceDescriptor {
        label: Some("hyperion"),
        required_limits: limits,
        ..wgpu::DeviceDescriptor::default()
    };
    let (device, queue) = pollster::block_on(adapter.request_device(&descriptor))
        .map_err(|error| OpenError::Refused(error.to_string()))?;
    Ok((AdapterDescription::new(index, adapter), Gpu::new(device, queue)))
}
