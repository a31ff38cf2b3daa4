// Values softly kept within a cap, element by element. Definition: crates/ops/src/softcap.rs.

struct Params {
    rows: u32,
    width: u32,
    in_at: u32,
    in_stride: u32,
    out_at: u32,
    out_stride: u32,
    // The cap in Q16, and `R`.
    cap: u32,
    inverse: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<i32>;
@group(0) @binding(1) var<storage, read> x: array<i32>;
// Powers 2^(-i/256) in Q28.
@group(0) @binding(2) var<storage, read> powers: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(64)
fn softcap(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= p.width || id.y >= p.rows) {
        return;
    }
    let v = x[p.in_at + id.y * p.in_stride + id.x];
    out[p.out_at + id.y * p.out_stride + id.x] = softcapped(v, p.cap, p.inverse);
}
