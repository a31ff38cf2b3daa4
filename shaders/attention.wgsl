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
    // The first row, or the first four, of this dispatch.
    row: u32,
    // What scores are softly kept within, in octaves in Q16, and its `R`; 0: nothing.
    cap: u32,
    cap_inverse: u32,
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
    return kept_within(req(acc, step_mantissa(step) * step_mantissa(key_step), shift));
}

/// A score, capped if there is a cap.
fn kept_within(score: i32) -> i32 {
    if (p.cap == 0u) {
        return score;
    }
    return capped_score(score, p.cap, p.cap_inverse);
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

// The same for four rows of a sequence at once, whose heads are narrow: every key and value that is read serves four rows.

/// Rows that a workgroup attends from.
const ROWS: u32 = 4u;
/// Words of a head's codes at most.
const WORDS: u32 = 16u;
/// Keys whose scores workgroup memory keeps.
const ROWS_CACHE: u32 = 256u;

// Of each four rows: the first, how many, first row of the sequence, rows of the sequence; position of the first of those.
@group(0) @binding(3) var<storage, read> quads: array<array<vec4<u32>, 2>>;

// A word of codes, or a key, of all four rows.
var<workgroup> queries: array<vec4<u32>, WORDS>;
var<workgroup> row_scores: array<vec4<i32>, ROWS_CACHE>;
var<workgroup> row_weights: array<vec4<i32>, BLOCK>;
// By share and word of columns, row by row; what threads tell each other in between.
var<workgroup> shared4: array<vec4<i32>, 256>;
var<workgroup> rows_low: array<vec4<u32>, 64>;
var<workgroup> rows_high: array<vec4<u32>, 64>;

fn greatest4(lane: u32, x: vec4<i32>) -> vec4<i32> {
    workgroupBarrier();
    shared4[lane] = x;
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            shared4[lane] = max(shared4[lane], shared4[lane + half]);
        }
    }
    workgroupBarrier();
    return shared4[0];
}

/// Four 64-bit numbers.
struct Wide4 {
    low: vec4<u32>,
    high: vec4<u32>,
}

fn add4(a: Wide4, b: Wide4) -> Wide4 {
    let low = a.low + b.low;
    return Wide4(low, a.high + b.high + select(vec4<u32>(), vec4<u32>(1u), low < a.low));
}

fn total4(lane: u32, part: Wide4) -> Wide4 {
    workgroupBarrier();
    shared4[lane] = bitcast<vec4<i32>>(part.low);
    shared4[GROUP + lane] = bitcast<vec4<i32>>(part.high);
    for (var half = GROUP / 2u; half > 0u; half /= 2u) {
        workgroupBarrier();
        if (lane < half) {
            let other = lane + half;
            let lhs = Wide4(bitcast<vec4<u32>>(shared4[lane]), bitcast<vec4<u32>>(shared4[GROUP + lane]));
            let rhs = Wide4(bitcast<vec4<u32>>(shared4[other]), bitcast<vec4<u32>>(shared4[GROUP + other]));
            let sum = add4(lhs, rhs);
            shared4[lane] = bitcast<vec4<i32>>(sum.low);
            shared4[GROUP + lane] = bitcast<vec4<i32>>(sum.high);
        }
    }
    workgroupBarrier();
    return Wide4(bitcast<vec4<u32>>(shared4[0]), bitcast<vec4<u32>>(shared4[GROUP]));
}

/// Steps of four queries.
struct Steps4 {
    mantissas: vec4<u32>,
    exponents: vec4<i32>,
}

fn computed_scores(row: u32, head: u32, by: Steps4) -> vec4<i32> {
    let key = row * p.kv_heads + head;
    let start = p.k_at + key * p.words;
    var acc = vec4<i32>();
    for (var word = 0u; word < p.words; word++) {
        let k = codes[start + word];
        let q = queries[word];
        acc += vec4<i32>(dot4I8Packed(q.x, k), dot4I8Packed(q.y, k), dot4I8Packed(q.z, k), dot4I8Packed(q.w, k));
    }
    let step = steps[p.k_steps + key];
    let multipliers = by.mantissas * step_mantissa(step);
    let shifts = vec4<i32>(24 - step_exponent(step)) - by.exponents;
    return vec4<i32>(
        kept_within(req(acc.x, multipliers.x, shifts.x)),
        kept_within(req(acc.y, multipliers.y, shifts.y)),
        kept_within(req(acc.z, multipliers.z, shifts.z)),
        kept_within(req(acc.w, multipliers.w, shifts.w)),
    );
}

fn exponentials(below: vec4<u32>) -> vec4<u32> {
    return vec4<u32>(exponential(below.x), exponential(below.y), exponential(below.z), exponential(below.w));
}

@compute @workgroup_size(GROUP)
fn attention_rows(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
    let place = quads[p.row + group.y][0];
    let position = quads[p.row + group.y][1].x;
    let head = group.x;
    let kv_head = head * p.kv_heads / p.heads;
    let count = place.y;
    // Rows that are missing are the last once more, and are not written.
    let rows = vec4<u32>(place.x) + min(vec4<u32>(0u, 1u, 2u, 3u), vec4<u32>(count - 1u));
    let own = rows - place.z;
    var firsts = vec4<u32>();
    var ends = vec4<u32>(place.w);
    if (p.causal == 1u) {
        ends = own + 1u;
        if (p.window > 0u) {
            firsts = ends - min(ends, vec4<u32>(p.window));
        }
    }
    let first = firsts.x;
    let end = ends.w;
    let kept = end - first <= ROWS_CACHE;

    let heads = rows * p.heads + head;
    let starts = p.q_at + heads * p.words;
    for (var word = lane; word < p.words; word += GROUP) {
        queries[word] = vec4<u32>(codes[starts.x + word], codes[starts.y + word], codes[starts.z + word], codes[starts.w + word]);
    }
    for (var item = lane; item < ROWS * p.words; item += GROUP) {
        rows_low[item] = vec4<u32>();
        rows_high[item] = vec4<u32>();
    }
    let at = p.q_steps + heads;
    let q_steps = vec4<u32>(steps[at.x], steps[at.y], steps[at.z], steps[at.w]);
    let by = Steps4(q_steps & vec4<u32>(255u), vec4<i32>(q_steps >> vec4<u32>(8u)) - 128);
    workgroupBarrier();

    var top = vec4<i32>(-SAT - 1);
    for (var key = first + lane; key < end; key += GROUP) {
        let scores4 = computed_scores(place.z + key, kv_head, by);
        if (kept) {
            row_scores[key - first] = scores4;
        }
        let visible = (firsts <= vec4<u32>(key)) & (vec4<u32>(key) < ends);
        top = max(top, select(vec4<i32>(-SAT - 1), scores4, visible));
    }
    top = greatest4(lane, top);

    var part = Wide4();
    for (var key = first + lane; key < end; key += GROUP) {
        var scores4: vec4<i32>;
        if (kept) {
            scores4 = row_scores[key - first];
        } else {
            scores4 = computed_scores(place.z + key, kv_head, by);
        }
        let visible = (firsts <= vec4<u32>(key)) & (vec4<u32>(key) < ends);
        // What a row does not see may lie above its top.
        let e = select(vec4<u32>(), exponentials(vec4<u32>(max(top - scores4, vec4<i32>()))), visible);
        if (kept) {
            row_scores[key - first] = vec4<i32>(e);
        }
        part = add4(part, Wide4(e, vec4<u32>()));
    }
    let sum = total4(lane, part);
    var sum_shifts = vec4<i32>();
    var inverses = vec4<u32>();
    for (var r = 0u; r < ROWS; r++) {
        let all = vec2<u32>(sum.low[r], sum.high[r]);
        let shift = bit_length64(all) - 16u;
        sum_shifts[r] = i32(shift);
        inverses[r] = 0x80000000u / shr64(all, shift).x;
    }

    let shares = max(GROUP / p.words, 1u);
    var start = first;
    while (start < end) {
        let stop = min(end, ((position + start) / BLOCK + 1u) * BLOCK - position);
        var exponents = vec4<i32>(-128);
        for (var key = start + lane; key < stop; key += GROUP) {
            let step = steps[p.v_steps + (place.z + key) * p.kv_heads + kv_head];
            let visible = (firsts <= vec4<u32>(key)) & (vec4<u32>(key) < ends);
            exponents = max(exponents, select(vec4<i32>(-128), vec4<i32>(step_exponent(step)), visible));
        }
        exponents = greatest4(lane, exponents);
        var peaks = vec4<i32>(1);
        for (var key = start + lane; key < stop; key += GROUP) {
            var e: vec4<u32>;
            if (kept) {
                e = vec4<u32>(row_scores[key - first]);
            } else {
                let scores4 = computed_scores(place.z + key, kv_head, by);
                let visible = (firsts <= vec4<u32>(key)) & (vec4<u32>(key) < ends);
                e = select(vec4<u32>(), exponentials(vec4<u32>(max(top - scores4, vec4<i32>()))), visible);
            }
            let step = steps[p.v_steps + (place.z + key) * p.kv_heads + kv_head];
            let below = clamp(exponents - step_exponent(step), vec4<i32>(), vec4<i32>(31));
            let w = vec4<i32>((e * step_mantissa(step)) >> vec4<u32>(below));
            row_weights[key - start] = w;
            peaks = max(peaks, w);
        }
        peaks = greatest4(lane, peaks);
        let q0 = quantizer(u32(peaks.x), -7);
        let q1 = quantizer(u32(peaks.y), -7);
        let q2 = quantizer(u32(peaks.z), -7);
        let q3 = quantizer(u32(peaks.w), -7);
        let bits = select(16u, 9u, FINE);
        for (var key = start + lane; key < stop; key += GROUP) {
            let w = row_weights[key - start];
            row_weights[key - start] = vec4<i32>(code(q0, w.x, bits), code(q1, w.y, bits), code(q2, w.z, bits), code(q3, w.w, bits));
        }
        workgroupBarrier();
        var multipliers = (vec4<u32>(q0.mantissa, q1.mantissa, q2.mantissa, q3.mantissa) * inverses + 128u) >> vec4<u32>(8u);
        var shifts = 23 + sum_shifts - vec4<i32>(q0.exponent, q1.exponent, q2.exponent, q3.exponent) - exponents;

        // Codes of 15 bits go through twice: high halves, then low halves, whose shift is 7 more.
        for (var half = 0; half < select(1, 2, FINE); half++) {
            for (var item = lane; item < shares * p.words; item += GROUP) {
                let word = item % p.words;
                var a0 = vec4<i32>();
                var a1 = vec4<i32>();
                var a2 = vec4<i32>();
                var a3 = vec4<i32>();
                for (var key = start + item / p.words; key < stop; key += shares) {
                    let packed = codes[p.v_at + ((place.z + key) * p.kv_heads + kv_head) * p.words + word];
                    let values = vec4<i32>(
                        bitcast<i32>(packed << 24u) >> 24u,
                        bitcast<i32>(packed << 16u) >> 24u,
                        bitcast<i32>(packed << 8u) >> 24u,
                        bitcast<i32>(packed) >> 24u,
                    );
                    var w = row_weights[key - start];
                    if (FINE) {
                        let upper = (w + 64) >> vec4<u32>(7u);
                        w = select(w - (upper << vec4<u32>(7u)), upper, half == 0);
                    }
                    a0 += w.x * values;
                    a1 += w.y * values;
                    a2 += w.z * values;
                    a3 += w.w * values;
                }
                shared4[ROWS * item] = a0;
                shared4[ROWS * item + 1u] = a1;
                shared4[ROWS * item + 2u] = a2;
                shared4[ROWS * item + 3u] = a3;
            }
            workgroupBarrier();
            for (var item = lane; item < ROWS * p.words; item += GROUP) {
                let r = item % ROWS;
                var acc = vec4<i32>();
                for (var share = 0u; share < shares; share++) {
                    acc += shared4[item + ROWS * share * p.words];
                }
                let shift = shifts[r] + 7 * half;
                var all = Wide4(rows_low[item], rows_high[item]);
                let y = vec4<i32>(
                    weighed(acc.x, multipliers[r], shift),
                    weighed(acc.y, multipliers[r], shift),
                    weighed(acc.z, multipliers[r], shift),
                    weighed(acc.w, multipliers[r], shift),
                );
                all = add4(all, Wide4(bitcast<vec4<u32>>(y), bitcast<vec4<u32>>(y >> vec4<u32>(31u))));
                rows_low[item] = all.low;
                rows_high[item] = all.high;
            }
            workgroupBarrier();
        }
        start = stop;
    }
    for (var item = lane; item < ROWS * p.words; item += GROUP) {
        let r = item % ROWS;
        for (var i = 0u; i < 4u; i++) {
            let column = 4u * (item / ROWS) + i;
            if (r < count && column < p.head_dim) {
                let y = sat64(vec2<u32>(rows_low[item][i], rows_high[item][i]));
                out[p.out_at + (place.x + r) * p.out_stride + head * p.head_dim + column] = y;
            }
        }
    }
}
