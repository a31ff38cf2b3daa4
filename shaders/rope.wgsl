// Rotary positions. Definition: crates/ops/src/rope.rs.

struct Params {
    rows: u32,
    width: u32,
    in_at: u32,
    in_stride: u32,
    out_at: u32,
    out_stride: u32,
    head_dim: u32,
    rot: u32,
    // 1 if columns 2j and 2j + 1 turn together, 0 if j and j + rot / 2 do.
    adjacent: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<i32>;
@group(0) @binding(1) var<storage, read> x: array<i32>;
// Turns per position of each pair, in units of 2^-64.
@group(0) @binding(2) var<storage, read> frequencies: array<vec2<u32>>;
// A quarter of a sine in Q14, both ends included.
@group(0) @binding(3) var<storage, read> sines: array<i32>;
@group(0) @binding(4) var<storage, read> positions: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

/// Cosine and sine of `position * frequency` turns.
fn cos_sin(frequency: vec2<u32>, position: u32) -> vec2<i32> {
    // Turns are counted modulo one: all of it wraps.
    let phase = mul_u32(position, frequency.x);
    let high = phase.y + position * frequency.y;
    let angle = (high + 0x8000u) >> 16u;
    let place = angle & 0x3fffu;
    let sin = sines[place];
    let cos = sines[16384u - place];
    switch angle >> 14u {
        case 0u: { return vec2<i32>(cos, sin); }
        case 1u: { return vec2<i32>(-sin, cos); }
        case 2u: { return vec2<i32>(-cos, -sin); }
        default: { return vec2<i32>(sin, -cos); }
    }
}

@compute @workgroup_size(64)
fn rope(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= p.width || id.y >= p.rows) {
        return;
    }
    let column = id.x % p.head_dim;
    let head = id.x - column;
    let from_row = p.in_at + id.y * p.in_stride + head;
    let to_row = p.out_at + id.y * p.out_stride + head;
    if (column >= p.rot) {
        out[to_row + column] = x[from_row + column];
        return;
    }
    // The first half of the turning columns stands for the pairs.
    if (column >= p.rot / 2u) {
        return;
    }
    let pair = select(vec2<u32>(column, column + p.rot / 2u), vec2<u32>(2u * column, 2u * column + 1u), p.adjacent == 1u);
    let turn = cos_sin(frequencies[column], positions[id.y]);
    let x0 = x[from_row + pair.x];
    let x1 = x[from_row + pair.y];
    let y0 = add64(mul_i32(x0, turn.x), neg64(mul_i32(x1, turn.y)));
    let y1 = add64(mul_i32(x0, turn.y), mul_i32(x1, turn.x));
    out[to_row + pair.x] = sat64(rshr64(y0, 14));
    out[to_row + pair.y] = sat64(rshr64(y1, 14));
}
