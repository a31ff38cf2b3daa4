// LayerNorm and RMSNorm; a workgroup normalises one group of columns of one row. Definition: crates/ops/src/norm.rs.

struct Params {
    rows: u32,
    // Columns of a group.
    width: u32,
    in_at: u32,
    in_stride: u32,
    out_at: u32,
    out_stride: u32,
    eps_q32: u32,
    // 1 if the mean is taken away.
    centre: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<i32>;
@group(0) @binding(1) var<storage, read> x: array<i32>;
// Scale and shift of each column.
@group(0) @binding(2) var<storage, read> weights: array<vec2<i32>>;
@group(1) @binding(0) var<uniform> p: Params;

var<workgroup> peaks: array<u32, GROUP>;
var<workgroup> sums: array<vec2<u32>, GROUP>;

/// The sum of what each lane has; every lane gets it.
fn total(lane: u32, part: vec2<u32>) -> vec2<u32> {
    workgroupBarrier();
    sums[lane] = part;
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            sums[lane] = add64(sums[lane], sums[lane + half]);
        }
    }
    workgroupBarrier();
    return sums[0];
}

@compute @workgroup_size(GROUP)
fn norm(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let start = p.in_at + group.y * p.in_stride + group.x * p.width;
    var peak = 1u;
    for (var i = lane; i < p.width; i += GROUP) {
        peak = max(peak, u32(abs(x[start + i])));
    }
    peaks[lane] = peak;
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            peaks[lane] = max(peaks[lane], peaks[lane + half]);
        }
    }
    workgroupBarrier();
    let drop = u32(max(i32(bit_length(peaks[0])) - 24, 0));

    var mean = 0;
    if (p.centre == 1u) {
        var sum = vec2<u32>();
        for (var i = lane; i < p.width; i += GROUP) {
            sum = add64(sum, widen(rshr32(x[start + i], drop)));
        }
        let all = total(lane, sum);
        // |sum| <= 2^38, and the mean fits a word.
        mean = bitcast<i32>(div64_floor(add64(shl64(all, 1u), vec2<u32>(p.width, 0u)), 2u * p.width).x);
    }
    var squares = vec2<u32>();
    for (var i = lane; i < p.width; i += GROUP) {
        let c = u32(abs(rshr32(x[start + i], drop) - mean));
        squares = add64(squares, mul_u32(c, c));
    }
    let all = total(lane, squares);
    var variance = add64(div64(all, p.width), vec2<u32>(p.eps_q32 >> (2u * drop), 0u));
    if (variance.x == 0u && variance.y == 0u) {
        variance.x = 1u;
    }
    let root = inv_root(variance);
    let to = p.out_at + group.y * p.out_stride + group.x * p.width;
    for (var i = lane; i < p.width; i += GROUP) {
        let c = rshr32(x[start + i], drop) - mean;
        let t = bitcast<i32>(rshr64(mul_i32(c, root.x), 17 + root.y / 2).x);
        let scaled = rshr64(mul_i32(t, weights[i].x), 12);
        out[to + i] = sat64(add64(scaled, widen(weights[i].y)));
    }
}
