//! Shaders and their pipelines.

use crate::gpu::Gpu;

/// A shader with its constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kernel {
    Embed,
    Position,
    Norm,
    Quantize,
    Gemm,
    GemmFine,
    Rope,
    Attention,
    AttentionFine,
    AttentionRows,
    AttentionRowsFine,
    Activation,
    Softcap,
    Gate,
    Add,
    Rows,
    RowsOfHalves,
    Pool,
    Argmax,
}

/// What a pipeline is made of.
struct Source {
    /// Entry point.
    entry: &'static str,
    /// Text of the shader, without what all share.
    text: &'static str,
    /// Bindings that it writes, and those that it reads after them.
    writes: u32,
    reads: u32,
    /// Whether the constant `FINE` is set.
    fine: Option<bool>,
}

const COMMON: &str = include_str!("../../../shaders/common.wgsl");
const TABLE: &str = include_str!("../../../shaders/table.wgsl");
const CAP: &str = include_str!("../../../shaders/cap.wgsl");

impl Kernel {
    const ALL: [Self; 19] = [
        Self::Embed,
        Self::Position,
        Self::Norm,
        Self::Quantize,
        Self::Gemm,
        Self::GemmFine,
        Self::Rope,
        Self::Attention,
        Self::AttentionFine,
        Self::AttentionRows,
        Self::AttentionRowsFine,
        Self::Activation,
        Self::Softcap,
        Self::Gate,
        Self::Add,
        Self::Rows,
        Self::RowsOfHalves,
        Self::Pool,
        Self::Argmax,
    ];

    const fn source(self) -> Source {
        macro_rules! shader {
            ($entry:literal, $file:literal, $writes:literal, $reads:literal, $fine:expr) => {
                Source {
                    entry: $entry,
                    text: include_str!(concat!("../../../shaders/", $file, ".wgsl")),
                    writes: $writes,
                    reads: $reads,
                    fine: $fine,
                }
            };
        }
        match self {
            Self::Embed => shader!("embed", "embed", 1, 3, None),
            Self::Position => shader!("position", "position", 1, 4, None),
            Self::Norm => shader!("norm", "norm", 1, 2, None),
            Self::Quantize => shader!("quantize", "quantize", 2, 2, None),
            Self::Gemm => shader!("gemm", "gemm", 1, 4, Some(false)),
            Self::GemmFine => shader!("gemm", "gemm", 1, 4, Some(true)),
            Self::Rope => shader!("rope", "rope", 1, 4, None),
            Self::Attention => shader!("attention", "attention", 1, 4, Some(false)),
            Self::AttentionFine => shader!("attention", "attention", 1, 4, Some(true)),
            Self::AttentionRows => shader!("attention_rows", "attention", 1, 4, Some(false)),
            Self::AttentionRowsFine => shader!("attention_rows", "attention", 1, 4, Some(true)),
            Self::Activation => shader!("activation", "activation", 1, 2, None),
            Self::Softcap => shader!("softcap", "softcap", 1, 2, None),
            Self::Gate => shader!("gate", "gate", 1, 2, None),
            Self::Add => shader!("add", "add", 1, 2, None),
            Self::Rows => shader!("rows", "rows", 1, 2, None),
            Self::RowsOfHalves => shader!("rows_of_halves", "rows", 1, 2, None),
            Self::Pool => shader!("pool", "pool", 1, 2, None),
            Self::Argmax => shader!("argmax", "argmax", 1, 1, None),
        }
    }

    /// The whole text of its shader.
    pub(crate) fn text(self) -> String {
        let own = self.source().text;
        let shared = match self {
            Self::Embed | Self::Position => TABLE,
            Self::Attention
            | Self::AttentionFine
            | Self::AttentionRows
            | Self::AttentionRowsFine
            | Self::Softcap => CAP,
            _ => "",
        };
        format!("{COMMON}\n{shared}\n{own}")
    }
}

/// A kernel that is ready to run.
#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) pipeline: wgpu::ComputePipeline,
    pub(crate) bindings: wgpu::BindGroupLayout,
}

/// All of them.
#[derive(Debug)]
pub(crate) struct Kernels {
    pipelines: Vec<Pipeline>,
    /// One block of parameters, at an offset that each dispatch says.
    pub(crate) params: wgpu::BindGroupLayout,
}

impl Kernels {
    /// Compiles every shader for workgroups of `group` threads.
    pub(crate) fn new(gpu: &Gpu, group: u32) -> Self {
        let params = layout(gpu, &[entry(0, wgpu::BufferBindingType::Uniform, true)]);
        let pipelines = Kernel::ALL.map(|kernel| Pipeline::new(gpu, kernel, group, &params));
        Self { pipelines: pipelines.into(), params }
    }

    pub(crate) fn get(&self, kernel: Kernel) -> &Pipeline {
        &self.pipelines[kernel as usize]
    }
}

impl Pipeline {
    fn new(gpu: &Gpu, kernel: Kernel, group: u32, params: &wgpu::BindGroupLayout) -> Self {
        let source = kernel.source();
        let storage = |read_only| wgpu::BufferBindingType::Storage { read_only };
        let entries: Vec<_> = (0..source.writes + source.reads)
            .map(|binding| entry(binding, storage(binding >= source.writes), false))
            .collect();
        let bindings = layout(gpu, &entries);
        let module = gpu.device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(source.entry),
            source: wgpu::ShaderSource::Wgsl(kernel.text().into()),
        });
        let pipeline_layout = gpu.device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(source.entry),
            bind_group_layouts: &[Some(&bindings), Some(params)],
            immediate_size: 0,
        });
        let fine = source.fine.map(|fine| ("FINE", f64::from(u8::from(fine))));
        let constants: Vec<_> = [("GROUP", f64::from(group))].into_iter().chain(fine).collect();
        let pipeline = gpu.device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(source.entry),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some(source.entry),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Every kernel writes what it reads there.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        Self { pipeline, bindings }
    }
}

fn layout(gpu: &Gpu, entries: &[wgpu::BindGroupLayoutEntry]) -> wgpu::BindGroupLayout {
    let descriptor = wgpu::BindGroupLayoutDescriptor { label: None, entries };
    gpu.device.create_bind_group_layout(&descriptor)
}

fn entry(
    binding: u32,
    ty: wgpu::BufferBindingType,
    has_dynamic_offset: bool,
) -> wgpu::BindGroupLayoutEntry {
    wgpu::BindGroupLayoutEntry {
        binding,
        visibility: wgpu::ShaderStages::COMPUTE,
        ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
        count: None,
    }
}

#[cfg(test)]
mod tests {
    use naga::valid::{Capabilities, ValidationFlags, Validator};

    use super::Kernel;

    #[test]
    fn shaders_are_valid_wherever_webgpu_is() {
        for kernel in Kernel::ALL {
            let text = kernel.text();
            let module = naga::front::wgsl::parse_str(&text)
                .unwrap_or_else(|error| panic!("{kernel:?}: {}", error.emit_to_string(&text)));
            Validator::new(ValidationFlags::all(), Capabilities::empty())
                .validate(&module)
                .unwrap_or_else(|error| panic!("{kernel:?}: {}", error.emit_to_string(&text)));
            assert!(!text.contains("f32"), "{kernel:?}: no floats");
        }
    }
}
