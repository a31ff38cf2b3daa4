// Exact attention; a workgroup attends from one row of one head. Definition: crates/ops/src/attention.rs.
//
// Three passes over the visible keys: the greatest score, the sum of exponentials, then block by block weights, their
// codes and the weighed values. Scores of up to CACHE keys, and then their exponentials, are kept in workgroup memory; those
// of more are computed again in every pass, so no score ever goes to device memory.

struct Params {
    heads: u32,
    kv_heads: u32,
    head_dim: u32,
    // Words of a head's codes, four codes each.
    words: u32,
    // Where the codes of queries, keys and values start, and their steps.
    q_at: u32,
    k_at: u32,
    v_at: u32,
    q_steps: u32,
    k_steps: u32,
    v_steps: u32,
    out_at: u32,
    out_stride: u32,
    causal: u32,
    window: u32,
    // The first row of this dispatch.
    row: u32,
}

/// Whether attention weights have 15 bits: two products, high and low halves.
override FINE: bool = false;

/// Scores that workgroup memory keeps.
const CACHE: u32 = 1024u;
/// Absolute positions of a block.
const BLOCK: u32 = 256u;

@group(0) @binding(0) var<storage, read_write> out: array<i32>;
@group(0) @binding(1) var<storage, read> codes: array<u32>;
@group(0) @binding(2) var<storage, read> steps: array<u32>;
// Of each row: first row of its sequence, rows of the sequence, absolute position of the first, 0.
@group(0) @binding(3) var<storage, read> places: array<vec4<u32>>;
// Powers 2^(-i/256) in Q28.
@group(0) @binding(4) var<storage, read> powers: array<u32>;
@group(1) @binding(0) var<uniform> p: Params;

var<workgroup> query: array<u32, 64>;
// Scores, then exponentials.
var<workgroup> scores: array<i32, CACHE>;
var<workgroup> greatest: array<i32, GROUP>;
var<workgroup> sums: array<vec2<u32>, GROUP>;
// Codes of a block's weights.
var<workgroup> weights: array<i32, BLOCK>;
// Weighed values of a block by share and word of columns, and what all blocks so far came to.
var<workgroup> partial: array<vec4<i32>, 64>;
var<workgroup> partial_low: array<vec4<i32>, 64>;
var<workgroup> context_low: array<vec4<u32>, 64>;
var<workgroup> context_high: array<vec4<u32>, 64>;

fn greatest_of(lane: u32, x: i32) -> i32 {
    workgroupBarrier();
    greatest[lane] = x;
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            greatest[lane] = max(greatest[lane], greatest[lane + half]);
        }
    }
    workgroupBarrier();
    return greatest[0];
}

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

/// The score of a key: `row` counts all rows, `step` is the query's.
fn computed_score(row: u32, head: u32, step: u32) -> i32 {
    let key = row * p.kv_heads + head;
    let start = p.k_at + key * p.words;
    var acc = 0;
    for (var word = 0u; word < p.words; word++) {
        acc += dot4I8Packed(query[word], codes[start + word]);
    }
    let key_step = steps[p.k_steps + key];
    let shift = 24 - step_exponent(step) - step_exponent(key_step);
    return req(acc, step_mantissa(step) * step_mantissa(key_step), shift);
}

fn exponential(below: u32) -> u32 {
    let shift = (below >> 8u) + 5u;
    if (shift > 28u) {
        return 0u;
    }
    return powers[below & 255u] >> shift;
}

/// A block's sum becomes an activation: `fit`, then `req`.
fn weighed(acc: i32, multiplier: u32, shift: i32) -> i32 {
    if (shift > 32) {
        return req(acc, multiplier >> u32(min(shift - 32, 31)), 32);
    }
    return req(acc, multiplier, shift);
}

@compute @workgroup_size(GROUP)
fn attention(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let row = p.row + group.y;
    let head = group.x;
    let kv_head = head * p.kv_heads / p.heads;
    let place = places[row];
    // Rows of the sequence count from its first.
    let own = row - place.x;
    var first = 0u;
    var end = place.y;
    if (p.causal == 1u) {
        end = own + 1u;
        if (p.window > 0u && own >= p.window) {
            first = own + 1u - p.window;
        }
    }
    let kept = end - first <= CACHE;

    let index = row * p.heads + head;
    for (var word = lane; word < p.words; word += GROUP) {
        query[word] = codes[p.q_at + index * p.words + word];
        context_low[word] = vec4<u32>();
        context_high[word] = vec4<u32>();
    }
    let step = steps[p.q_steps + index];
    workgroupBarrier();

    var top = -SAT;
    for (var key = first + lane; key < end; key += GROUP) {
        let score = computed_score(place.x + key, kv_head, step);
        if (kept) {
            scores[key - first] = score;
        }
        top = max(top, score);
    }
    top = greatest_of(lane, top);

    var part = vec2<u32>();
    for (var key = first + lane; key < end; key += GROUP) {
        var score: i32;
        if (kept) {
            score = scores[key - first];
        } else {
            score = computed_score(place.x + key, kv_head, step);
        }
        let e = exponential(u32(top - score));
        if (kept) {
            scores[key - first] = i32(e);
        }
        part = add64(part, vec2<u32>(e, 0u));
    }
    let sum = total(lane, part);
    let sum_shift = bit_length64(sum) - 16u;
    let inverse = 0x80000000u / shr64(sum, sum_shift).x;

    // A thread sums a word of columns over its share of the keys; several share a word where a head is narrow.
    let shares = max(GROUP / p.words, 1u);
    var start = first;
    while (start < end) {
        let stop = min(end, ((place.z + start) / BLOCK + 1u) * BLOCK - place.z);
        var exponent = -128;
        for (var key = start + lane; key < stop; key += GROUP) {
            let value_step = steps[p.v_steps + (place.x + key) * p.kv_heads + kv_head];
            exponent = max(exponent, step_exponent(value_step));
        }
        exponent = greatest_of(lane, exponent);
        var peak = 1;
        for (var key = start + lane; key < stop; key += GROUP) {
            var e: u32;
            if (kept) {
                e = u32(scores[key - first]);
            } else {
                e = exponential(u32(top - computed_score(place.x + key, kv_head, step)));
            }
            let value_step = steps[p.v_steps + (place.x + key) * p.kv_heads + kv_head];
            let full = e * step_mantissa(value_step);
            let w = i32(full >> u32(min(exponent - step_exponent(value_step), 31)));
            weights[key - start] = w;
            peak = max(peak, w);
        }
        let by = quantizer(u32(greatest_of(lane, peak)), -7);
        let bits = select(16u, 9u, FINE);
        for (var key = start + lane; key < stop; key += GROUP) {
            weights[key - start] = code(by, weights[key - start], bits);
        }
        workgroupBarrier();

        for (var item = lane; item < shares * p.words; item += GROUP) {
            let word = item % p.words;
            var acc = vec4<i32>();
            var acc_low = vec4<i32>();
            for (var key = start + item / p.words; key < stop; key += shares) {
                let packed = codes[p.v_at + ((place.x + key) * p.kv_heads + kv_head) * p.words + word];
                let values = vec4<i32>(
                    bitcast<i32>(packed << 24u) >> 24u,
                    bitcast<i32>(packed << 16u) >> 24u,
                    bitcast<i32>(packed << 8u) >> 24u,
                    bitcast<i32>(packed) >> 24u,
                );
                let all = weights[key - start];
                if (FINE) {
                    let upper = (all + 64) >> 7u;
                    acc += upper * values;
                    acc_low += (all - (upper << 7u)) * values;
                } else {
                    acc += all * values;
                }
            }
            partial[item] = acc;
            if (FINE) {
                partial_low[item] = acc_low;
            }
        }
        workgroupBarrier();
        let multiplier = (by.mantissa * inverse + 128u) >> 8u;
        let shift = 23 + i32(sum_shift) - by.exponent - exponent;
        for (var word = lane; word < p.words; word += GROUP) {
            var acc = vec4<i32>();
            var acc_low = vec4<i32>();
            for (var share = 0u; share < shares; share++) {
                acc += partial[word + share * p.words];
                if (FINE) {
                    acc_low += partial_low[word + share * p.words];
                }
            }
            var low = context_low[word];
            var high = context_high[word];
            for (var i = 0u; i < 4u; i++) {
                var y = widen(weighed(acc[i], multiplier, shift));
                if (FINE) {
                    y = add64(y, widen(weighed(acc_low[i], multiplier, shift + 7)));
                }
                let all = add64(vec2<u32>(low[i], high[i]), y);
                low[i] = all.x;
                high[i] = all.y;
            }
            context_low[word] = low;
            context_high[word] = high;
        }
        start = stop;
    }
    for (var word = lane; word < p.words; word += GROUP) {
        for (var i = 0u; i < 4u; i++) {
            let column = 4u * word + i;
            if (column < p.head_dim) {
                let y = sat64(vec2<u32>(context_low[word][i], context_high[word][i]));
                out[p.out_at + row * p.out_stride + head * p.head_dim + column] = y;
            }
        }
    }
}
