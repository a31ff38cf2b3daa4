// Copies chosen rows; a thread writes one word of the result. Definition: crates/ops/src/rows.rs.

struct Params {
    rows: u32,
    width: u32,
    // In elements, of 4 bytes (`rows`) or 2 (`rows_of_halves`).
    in_at: u32,
    in_stride: u32,
    out_at: u32,
    out_stride: u32,
    // The first word of the result that may hold an element, and how many.
    first_word: u32,
    words: u32,
    // Elements of the source from one column to the next.
    in_step: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<u32>;
@group(0) @binding(1) var<storage, read> x: array<u32>;
@group(0) @binding(2) var<storage, read> chosen: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

@compute @workgroup_size(64)
fn rows(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= p.width || id.y >= p.rows) {
        return;
    }
    out[p.out_at + id.y * p.out_stride + id.x] = x[p.in_at + chosen[id.y] * p.in_stride + id.x * p.in_step];
}

@compute @workgroup_size(64)
fn rows_of_halves(@builtin(global_invocation_id) id: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>) {
    let index = id.y * groups.x * 64u + id.x;
    if (index >= p.words) {
        return;
    }
    // Half a word may belong to the next row, or to nobody: it is kept.
    var word = out[p.first_word + index];
    for (var half = 0u; half < 2u; half++) {
        let place = 2u * (p.first_word + index) + half - p.out_at;
        let row = place / p.out_stride;
        let column = place % p.out_stride;
        if (row < p.rows && column < p.width) {
            let source = p.in_at + chosen[row] * p.in_stride + column * p.in_step;
            let element = (x[source / 2u] >> (16u * (source % 2u))) & 0xffffu;
            word = (word & ~(0xffffu << (16u * half))) | (element << (16u * half));
        }
    }
    out[p.first_word + index] = word;
}
