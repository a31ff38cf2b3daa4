//! Records dispatches and submits them together.

use hyperion_ops::BackendError;
use wgpu::BufferUsages;

use crate::{
    gpu::Gpu,
    kernels::{Kernel, Kernels},
};

/// A part of a buffer that a kernel binds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Binding<'b> {
    pub(crate) buffer: &'b wgpu::Buffer,
    /// Bytes; the start is where the device lets bindings start.
    pub(crate) start: u64,
    pub(crate) len: u64,
}

impl<'b> Binding<'b> {
    /// All of a buffer.
    pub(crate) fn whole(buffer: &'b wgpu::Buffer) -> Self {
        Self { buffer, start: 0, len: buffer.size() }
    }
}

/// Dispatches under way.
pub(crate) struct Pass<'g> {
    gpu: &'g Gpu,
    kernels: &'g Kernels,
    commands: Vec<Command>,
    /// Parameters of all dispatches, each block where a uniform binding may start.
    params: Vec<u8>,
    params_align: usize,
}

/// What is recorded, in order.
enum Command {
    Dispatch(Dispatch),
    Copy(Copy),
}

/// Bytes that go from one buffer to another, all of them multiples of 4.
pub(crate) struct Copy {
    pub(crate) from: wgpu::Buffer,
    pub(crate) from_at: u64,
    pub(crate) to: wgpu::Buffer,
    pub(crate) to_at: u64,
    pub(crate) bytes: u64,
}

struct Dispatch {
    kernel: Kernel,
    bindings: wgpu::BindGroup,
    params_at: u32,
    groups: [u32; 2],
}

/// Bytes of the largest block of parameters.
const PARAMS_BYTES: usize = 80;

impl<'g> Pass<'g> {
    pub(crate) fn new(gpu: &'g Gpu, kernels: &'g Kernels) -> Self {
        let align = gpu.device.limits().min_uniform_buffer_offset_alignment as usize;
        let params_align = PARAMS_BYTES.next_multiple_of(align);
        Self { gpu, kernels, commands: Vec::new(), params: Vec::new(), params_align }
    }

    /// Appends a dispatch: the bindings in the order of the shader, its parameters, workgroups along x and y.
    pub(crate) fn dispatch(
        &mut self,
        kernel: Kernel,
        bindings: &[Binding<'_>],
        params: &[u32],
        groups: [u32; 2],
    ) {
        let entries: Vec<_> = (0..)
            .zip(bindings)
            .map(|(binding, bound)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: bound.buffer,
                    offset: bound.start,
                    size: std::num::NonZeroU64::new(bound.len),
                }),
            })
            .collect();
        let bindings = self.gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.kernels.get(kernel).bindings,
            entries: &entries,
        });
        let params_at = u32::try_from(self.params.len()).expect("a run has few dispatches");
        self.params.extend(params.iter().flat_map(|word| word.to_le_bytes()));
        let end = params_at as usize + self.params_align;
        assert!(self.params.len() <= params_at as usize + PARAMS_BYTES, "a block is small");
        self.params.resize(end, 0);
        let dispatch = Dispatch { kernel, bindings, params_at, groups };
        self.commands.push(Command::Dispatch(dispatch));
    }

    /// Appends a copy.
    pub(crate) fn copy(&mut self, copy: Copy) {
        self.commands.push(Command::Copy(copy));
    }

    /// Gives everything recorded to the device.
    pub(crate) fn submit(self) -> Result<(), BackendError> {
        let Self { gpu, kernels, commands, mut params, .. } = self;
        if commands.is_empty() {
            return gpu.check();
        }
        params.resize(params.len().max(PARAMS_BYTES), 0);
        let usage = BufferUsages::UNIFORM | BufferUsages::COPY_DST;
        let buffer = gpu.buffer(params.len() as u64, usage)?;
        gpu.queue.write_buffer(&buffer, 0, &params);
        let block = wgpu::BufferBinding {
            buffer: &buffer,
            offset: 0,
            size: std::num::NonZeroU64::new(PARAMS_BYTES as u64),
        };
        let group = gpu.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &kernels.params,
            entries: &[wgpu::BindGroupEntry {
                binding: 0,
                resource: wgpu::BindingResource::Buffer(block),
            }],
        });
        let mut encoder = gpu.device.create_command_encoder(&Default::default());
        // Copies stand between passes; dispatches in a row share one.
        let is_copy = |command: &Command| matches!(command, Command::Copy(_));
        for run in commands.chunk_by(|one, next| is_copy(one) == is_copy(next)) {
            if is_copy(&run[0]) {
                run.iter().for_each(|command| command.copy(&mut encoder));
                continue;
            }
            let mut pass = encoder.begin_compute_pass(&Default::default());
            for command in run {
                let Command::Dispatch(dispatch) = command else { continue };
                let [x, y] = dispatch.groups;
                pass.set_pipeline(&kernels.get(dispatch.kernel).pipeline);
                pass.set_bind_group(0, &dispatch.bindings, &[]);
                pass.set_bind_group(1, &group, &[dispatch.params_at]);
                pass.dispatch_workgroups(x, y, 1);
            }
        }
        gpu.queue.submit([encoder.finish()]);
        gpu.check()
    }
}

impl Command {
    fn copy(&self, encoder: &mut wgpu::CommandEncoder) {
        if let Self::Copy(Copy { from, from_at, to, to_at, bytes }) = self {
            encoder.copy_buffer_to_buffer(from, *from_at, to, *to_at, *bytes);
        }
    }
}
