// Saturating products, element by element. Definition: crates/ops/src/gate.rs.

struct Params {
    rows: u32,
    width: u32,
    first_at: u32,
    first_stride: u32,
    second_at: u32,
    second_stride: u32,
    out_at: u32,
    out_stride: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<i32>;
@group(0) @binding(1) var<storage, read> first: array<i32>;
@group(0) @binding(2) var<storage, read> second: array<i32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(64)
fn gate(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= p.width || id.y >= p.rows) {
        return;
    }
    let x = first[p.first_at + id.y * p.first_stride + id.x];
    let y = second[p.second_at + id.y * p.second_stride + id.x];
    out[p.out_at + id.y * p.out_stride + id.x] = sat64(rshr64(mul_i32(x, y), 16));
}
