//! What the same adapter does in f32: products by a shader of the same tile, four rows of four columns a thread.

use wgpu::{BufferUsages, PollType};

use crate::Options;

const SHADER: &str = "
struct Params { rows: u32, depth: u32, columns: u32, unused: u32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> weights: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> p: Params;
@compute @workgroup_size(64)
fn products(@builtin(global_invocation_id) id: vec3<u32>) {
    let quads = p.columns / 4u;
    if (id.x >= quads) { return; }
    let row = 4u * id.y;
    let r0 = row * p.depth;
    let r1 = r0 + p.depth;
    let r2 = r1 + p.depth;
    let r3 = r2 + p.depth;
    var s0 = vec4<f32>();
    var s1 = vec4<f32>();
    var s2 = vec4<f32>();
    var s3 = vec4<f32>();
    for (var i = 0u; i < p.depth; i++) {
        let w = weights[i * quads + id.x];
        s0 += x[r0 + i] * w;
        s1 += x[r1 + i] * w;
        s2 += x[r2 + i] * w;
        s3 += x[r3 + i] * w;
    }
    out[row * quads + id.x] = s0;
    out[(row + 1u) * quads + id.x] = s1;
    out[(row + 2u) * quads + id.x] = s2;
    out[(row + 3u) * quads + id.x] = s3;
}";

/// The adapter, opened a second time.
pub(crate) struct Peer {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipeline: wgpu::ComputePipeline,
}

impl Peer {
    pub(crate) fn open(index: usize) -> Self {
        let descriptor = wgpu::InstanceDescriptor::new_without_display_handle();
        let instance = wgpu::Instance::new(descriptor);
        let backends = wgpu::Backends::VULKAN | wgpu::Backends::METAL | wgpu::Backends::DX12;
        let mut adapters = pollster::block_on(instance.enumerate_adapters(backends));
        adapters.sort_by_key(|adapter| adapter.get_info().device_type == wgpu::DeviceType::Cpu);
        let opened = adapters[index].request_device(&wgpu::DeviceDescriptor::default());
        let (device, queue) = pollster::block_on(opened).expect("it opened once");
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: None,
            source: wgpu::ShaderSource::Wgsl(SHADER.into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("products"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache: None,
        });
        Self { device, queue, pipeline }
    }

    /// The least time of one product of these sizes, in seconds; its result is checked first.
    pub(crate) fn products(&self, options: &Options, rows: u32, depth: u32, columns: u32) -> f64 {
        let value = |i: u32| ((i.wrapping_mul(2_654_435_761) >> 24) as f32) / 128.0 - 1.0;
        let x: Vec<f32> = (0..rows * depth).map(value).collect();
        let w: Vec<f32> = (0..depth * columns).map(|i| value(i + 77)).collect();
        let buffer = |bytes: u64, usage| {
            self.device.create_buffer(&wgpu::BufferDescriptor {
                label: None,
                size: bytes,
                usage: usage | BufferUsages::COPY_DST,
                mapped_at_creation: false,
            })
        };
        let filled = |data: &[u8], usage| {
            let buffer = buffer(data.len() as u64, usage);
            self.queue.write_buffer(&buffer, 0, data);
            buffer
        };
        let bytes = |floats: &[f32]| -> Vec<u8> {
            floats.iter().flat_map(|float| float.to_le_bytes()).collect()
        };
        let params: Vec<u8> =
            [rows, depth, columns, 0].iter().flat_map(|word| word.to_le_bytes()).collect();
        let out_bytes = 4 * u64::from(rows) * u64::from(columns);
        let buffers = [
            filled(&bytes(&x), BufferUsages::STORAGE),
            filled(&bytes(&w), BufferUsages::STORAGE),
            buffer(out_bytes, BufferUsages::STORAGE | BufferUsages::COPY_SRC),
            filled(&params, BufferUsages::UNIFORM),
        ];
        let entries: Vec<_> = (0..)
            .zip(&buffers)
            .map(|(binding, buffer)| wgpu::BindGroupEntry {
                binding,
                resource: buffer.as_entire_binding(),
            })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout: &self.pipeline.get_bind_group_layout(0),
            entries: &entries,
        });
        let run = || {
            let mut encoder = self.device.create_command_encoder(&Default::default());
            {
                let mut pass = encoder.begin_compute_pass(&Default::default());
                pass.set_pipeline(&self.pipeline);
                pass.set_bind_group(0, &group, &[]);
                pass.dispatch_workgroups((columns / 4).div_ceil(64), rows / 4, 1);
            }
            self.queue.submit([encoder.finish()]);
            self.device.poll(PollType::wait_indefinitely()).expect("the device lives");
        };
        run();
        let staging = buffer(4, BufferUsages::MAP_READ);
        let mut encoder = self.device.create_command_encoder(&Default::default());
        encoder.copy_buffer_to_buffer(&buffers[2], out_bytes - 4, &staging, 0, 4);
        self.queue.submit([encoder.finish()]);
        staging.slice(..).map_async(wgpu::MapMode::Read, |mapped| mapped.expect("mapped"));
        self.device.poll(PollType::wait_indefinitely()).expect("the device lives");
        let range = staging.slice(..).get_mapped_range().expect("mapped");
        let got = f32::from_le_bytes(range[..4].try_into().expect("four bytes"));
        let last =
            |i: u32| x[((rows - 1) * depth + i) as usize] * w[(i * columns + columns - 1) as usize];
        let want: f32 = (0..depth).map(last).sum();
        assert!((got - want).abs() < 0.01 + want.abs() / 1000.0, "{got} is not {want}");
        options.best(run)
    }
}
