// Rows become codes and steps; a workgroup quantizes one group of columns of one row.
// Definition: crates/ops/src/quantize.rs.

struct Params {
    rows: u32,
    // Columns of a group, and groups of a row: a head, or the whole row.
    width: u32,
    groups: u32,
    in_at: u32,
    in_stride: u32,
    // Words of the codes of a group, four codes each; where the first stands, and those of low halves.
    words: u32,
    codes_at: u32,
    low_at: u32,
    steps_at: u32,
    // `-kmin`.
    finest: u32,
    // 1 for 15-bit codes, taken apart.
    fine: u32,
    // 1 if columns have factors.
    with_factors: u32,
}

@group(0) @binding(0) var<storage, read_write> codes: array<u32>;
@group(0) @binding(1) var<storage, read_write> steps: array<u32>;
@group(0) @binding(2) var<storage, read> x: array<i32>;
@group(0) @binding(3) var<storage, read> factors: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

var<workgroup> peaks: array<u32, GROUP>;

fn element(start: u32, column: u32) -> i32 {
    let v = x[start + column];
    if (p.with_factors == 1u) {
        return sat64(rshr64(mul_i32(v, i32(factors[column])), 14));
    }
    return v;
}

@compute @workgroup_size(GROUP)
fn quantize(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let start = p.in_at + group.y * p.in_stride + group.x * p.width;
    var peak = 1u;
    for (var column = lane; column < p.width; column += GROUP) {
        peak = max(peak, u32(abs(element(start, column))));
    }
    peaks[lane] = peak;
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            peaks[lane] = max(peaks[lane], peaks[lane + half]);
        }
    }
    workgroupBarrier();
    let by = quantizer(peaks[0], -i32(p.finest));
    let index = group.y * p.groups + group.x;
    if (lane == 0u) {
        steps[p.steps_at + index] = pack_step(by.mantissa, by.exponent);
    }
    for (var word = lane; word < p.words; word += GROUP) {
        var high = 0u;
        var low = 0u;
        for (var i = 0u; i < 4u; i++) {
            let column = 4u * word + i;
            if (column < p.width) {
                let v = element(start, column);
                if (p.fine == 1u) {
                    let all = code(by, v, 9u);
                    let upper = (all + 64) >> 7u;
                    high |= (bitcast<u32>(upper) & 255u) << (8u * i);
                    low |= (bitcast<u32>(all - (upper << 7u)) & 255u) << (8u * i);
                } else {
                    high |= (bitcast<u32>(code(by, v, 16u)) & 255u) << (8u * i);
                }
            }
        }
        codes[p.codes_at + index * p.words + word] = high;
        if (p.fine == 1u) {
            codes[p.low_at + index * p.words + word] = low;
        }
    }
}
