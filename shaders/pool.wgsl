// One row for each sequence; a workgroup makes one. Definition: crates/ops/src/pool.rs.
//
// A unit row has elements of 16 bits, two to a word, so it is made as words first and copied by `rows_of_halves`.

struct Params {
    width: u32,
    in_at: u32,
    in_stride: u32,
    out_at: u32,
    out_stride: u32,
    // 0 mean, 1 first, 2 last.
    mode: u32,
    // 1 if the row gets length one.
    unit: u32,
}

@group(0) @binding(0) var<storage, read_write> out: array<i32>;
@group(0) @binding(1) var<storage, read> x: array<i32>;
// First row of each sequence, and how many.
@group(0) @binding(2) var<storage, read> sequences: array<vec2<u32>>;
@group(1) @binding(0) var<uniform> p: Params;

var<workgroup> sums: array<vec2<u32>, GROUP>;

/// The sum of a column over the rows that count.
fn column_sum(rows: vec2<u32>, column: u32) -> vec2<u32> {
    var first = 0u;
    var end = rows.y;
    if (p.mode == 1u) {
        end = 1u;
    }
    if (p.mode == 2u) {
        first = rows.y - 1u;
    }
    var sum = vec2<u32>();
    for (var row = first; row < end; row++) {
        sum = add64(sum, widen(x[p.in_at + (rows.x + row) * p.in_stride + column]));
    }
    return sum;
}

fn magnitude(a: vec2<u32>) -> vec2<u32> {
    if (bitcast<i32>(a.y) < 0) {
        return neg64(a);
    }
    return a;
}

fn larger(a: vec2<u32>, b: vec2<u32>) -> vec2<u32> {
    let b_is_larger = b.y > a.y || (b.y == a.y && b.x > a.x);
    return select(a, b, b_is_larger);
}

@compute @workgroup_size(GROUP)
fn pool(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let rows = sequences[group.y];
    let to = p.out_at + group.y * p.out_stride;
    if (p.unit == 0u) {
        let count = select(1u, rows.y, p.mode == 0u);
        for (var i = lane; i < p.width; i += GROUP) {
            let twice = shl64(column_sum(rows, i), 1u);
            out[to + i] = bitcast<i32>(div64_floor(add64(twice, vec2<u32>(count, 0u)), 2u * count).x);
        }
    } else {
        var peak = vec2<u32>(1u, 0u);
        for (var i = lane; i < p.width; i += GROUP) {
            peak = larger(peak, magnitude(column_sum(rows, i)));
        }
        sums[lane] = peak;
        for (var half = GROUP / 2u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if (lane < half) {
                sums[lane] = larger(sums[lane], sums[lane + half]);
            }
        }
        workgroupBarrier();
        let drop = max(i32(bit_length64(sums[0])) - 24, 0);
        workgroupBarrier();
        var squares = vec2<u32>();
        for (var i = lane; i < p.width; i += GROUP) {
            let c = u32(abs(bitcast<i32>(rshr64(column_sum(rows, i), drop).x)));
            squares = add64(squares, mul_u32(c, c));
        }
        sums[lane] = squares;
        for (var half = GROUP / 2u; half > 0u; half /= 2u) {
            workgroupBarrier();
            if (lane < half) {
                sums[lane] = add64(sums[lane], sums[lane + half]);
            }
        }
        workgroupBarrier();
        var all = sums[0];
        if (all.x == 0u && all.y == 0u) {
            all.x = 1u;
        }
        let root = inv_root(all);
        for (var i = lane; i < p.width; i += GROUP) {
            let c = bitcast<i32>(rshr64(column_sum(rows, i), drop).x);
            // Clamped to 30 bits first, which changes nothing that the last clamp does not.
            out[to + i] = clamp(sat64(rshr64(mul_i32(c, root.x), 16 + root.y / 2)), -32767, 32767);
        }
    }
}
