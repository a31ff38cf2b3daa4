// Exact products of codes, requantized: a thread makes four rows of four channels.
// Definitions: crates/ops/src/gemm.rs, crates/ops/src/requantize.rs.

struct Params {
    rows: u32,
    // Channels that this binding holds, and those of the layer before them.
    channels: u32,
    first: u32,
    // Words of a row of codes, four codes each.
    words: u32,
    codes_at: u32,
    low_at: u32,
    steps_at: u32,
    out_at: u32,
    out_stride: u32,
}

/// Whether the codes have 15 bits: two products, high and low halves.
override FINE: bool = false;

@group(0) @binding(0) var<storage, read_write> out: array<i32>;
@group(0) @binding(1) var<storage, read> codes: array<u32>;
@group(0) @binding(2) var<storage, read> steps: array<u32>;
// `[words, channels / 4]`: a vector is four channels at one place of the depth.
@group(0) @binding(3) var<storage, read> weights: array<vec4<u32>>;
// Step and bias of each channel.
@group(0) @binding(4) var<storage, read> scales: array<vec2<u32>>;
@group(1) @binding(0) var<uniform> p: Params;

fn products(code: u32, weights: vec4<u32>) -> vec4<i32> {
    return vec4<i32>(
        dot4I8Packed(code, weights.x),
        dot4I8Packed(code, weights.y),
        dot4I8Packed(code, weights.z),
        dot4I8Packed(code, weights.w),
    );
}

fn finish(row: u32, quad: u32, high: vec4<i32>, low: vec4<i32>) {
    if (row >= p.rows) {
        return;
    }
    let step = steps[p.steps_at + row];
    let place = p.out_at + row * p.out_stride + p.first + 4u * quad;
    for (var i = 0u; i < 4u; i++) {
        let channel = 4u * quad + i;
        if (channel < p.channels) {
            let scale = scales[channel];
            let multiplier = step_mantissa(step) * step_mantissa(scale.x);
            let shift = step_exponent(scale.x) - step_exponent(step);
            var y = req(high[i], multiplier, shift);
            if (FINE) {
                y = clamp(y + req(low[i], multiplier, shift + 7), -SAT, SAT);
            }
            out[place + i] = clamp(y + bitcast<i32>(scale.y), -SAT, SAT);
        }
    }
}

@compute @workgroup_size(64)
fn gemm(@builtin(global_invocation_id) id: vec3<u32>) {
    let quads = (p.channels + 3u) / 4u;
    let quad = id.x;
    if (quad >= quads) {
        return;
    }
    // Rows beyond the last stand in the padding of the codes.
    let row = 4u * id.y;
    let r0 = row * p.words;
    let r1 = r0 + p.words;
    let r2 = r1 + p.words;
    let r3 = r2 + p.words;
    var h0 = vec4<i32>();
    var h1 = vec4<i32>();
    var h2 = vec4<i32>();
    var h3 = vec4<i32>();
    var l0 = vec4<i32>();
    var l1 = vec4<i32>();
    var l2 = vec4<i32>();
    var l3 = vec4<i32>();
    for (var word = 0u; word < p.words; word++) {
        let w = weights[word * quads + quad];
        let at = p.codes_at + word;
        h0 += products(codes[at + r0], w);
        h1 += products(codes[at + r1], w);
        h2 += products(codes[at + r2], w);
        h3 += products(codes[at + r3], w);
        if (FINE) {
            let low = p.low_at + word;
            l0 += products(codes[low + r0], w);
            l1 += products(codes[low + r1], w);
            l2 += products(codes[low + r2], w);
            l3 += products(codes[low + r3], w);
        }
    }
    finish(row, quad, h0, l0);
    finish(row + 1u, quad, h1, l1);
    finish(row + 2u, quad, h2, l2);
    finish(row + 3u, quad, h3, l3);
}
