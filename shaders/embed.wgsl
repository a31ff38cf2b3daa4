// One row of a table for each token. Definition: crates/ops/src/embed.rs.

struct Params {
    rows: u32,
    width: u32,
    // Elements: first, and from one row to the next.
    tokens_at: u32,
    tokens_stride: u32,
    out_at: u32,
    out_stride: u32,
    // Rows of the table that this binding holds, and words of each.
    first: u32,
    count: u32,
    words: u32,
    // 1 if codes have 16 bits.
    halves: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<i32>;
@group(0) @binding(1) var<storage, read> tokens: array<u32>;
@group(0) @binding(2) var<storage, read> codes: array<u32>;
@group(0) @binding(3) var<storage, read> steps: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(64)
fn embed(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= p.width || id.y >= p.rows) {
        return;
    }
    let row = tokens[p.tokens_at + id.y * p.tokens_stride] - p.first;
    if (row < p.count) {
        out[p.out_at + id.y * p.out_stride + id.x] = dequantized(row, id.x);
    }
}
