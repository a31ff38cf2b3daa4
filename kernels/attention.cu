// Exact attention on tensor cores; a block of 4 warps attends from up to 16 rows of one head. Definition:
// crates/ops/src/attention.rs.
//
// Keys are taken in chunks whose scores shared memory holds, so no score ever goes to device memory. With one chunk its
// scores are made once; with more they are made again in each of the three passes: greatest score, sum of exponentials,
// weighed values. Sums, maxima and the blocks of 256 absolute positions are the definition's, so the split into chunks
// cannot change a bit.

#define QUERIES 16
#define BLOCK_KEYS 256
/// Bytes from one row of codes of weights to the next: rows that are read together lie in different banks.
#define WEIGHTS_STRIDE (BLOCK_KEYS + 16)
/// The score of a key that a row does not see.
#define UNSEEN (-0x7fffffff - 1)

/// Rows that a block attends from, all of one sequence.
struct QueryTile {
    /// The first, counted from all rows, and how many.
    u32 row;
    u32 count;
    /// Keys and values of the sequence: the first, counted from those of all sequences, how many, and the absolute position of
    /// the first.
    u32 sequence;
    u32 rows;
    u32 position;
    /// Where its values start, in bytes, and from one column of them to the next. The first key stands at
    /// `position % 256` of a column, so that blocks start at multiples of 256.
    u32 values;
    u32 values_stride;
    /// Absolute position of the first row.
    u32 first;
};

struct AttentionParams {
    i32* out;
    i64 out_stride;
    /// Codes `[rows, heads, depth]` of queries and `[rows, kv_heads, depth]` of keys; depth is a multiple of 32.
    const i8* queries;
    const u32* query_steps;
    const i8* keys;
    const u32* key_steps;
    /// Codes of values as `quantize_values` lays them.
    const i8* values;
    const u32* value_steps;
    const QueryTile* tiles;
    /// Powers 2^(-i/256) in Q28.
    const u32* powers;
    i64 heads;
    i64 kv_heads;
    i64 head_dim;
    i64 depth;
    i64 causal;
    i64 window;
    /// Keys of a chunk, a multiple of 256.
    i64 chunk;
    /// What scores are softly kept within, in octaves.
    Cap cap;
};

DEVICE u32 exponential(const u32* powers, i32 top, i32 score) {
    if (score == UNSEEN) {
        return 0;
    }
    u32 below = (u32)top - (u32)score, shift = (below >> 8) + 5;
    return shift > 28 ? 0 : powers[below & 255] >> shift;
}

/// A block's sum becomes an activation: `fit`, then `req`.
DEVICE i64 weighed(i32 acc, u32 multiplier, i32 shift) {
    if (shift > 32) {
        multiplier >>= least(shift - 32, 31);
        shift = 32;
    }
    return req(acc, multiplier, shift);
}

/// One row of the tile as the eight threads that share it see it.
struct Row {
    /// Absolute positions that it sees.
    i64 first;
    i64 end;
    i32 top;
    u32 inverse;
    i32 sum_shift;
};

/// What a row's codes of a block are weighed with.
struct Weighing {
    u32 multiplier;
    i32 shift;
};

template <i32 TILES, bool FINE>
DEVICE void attend(const AttentionParams& p) {
    DYNAMIC_SHARED(shared);
    SHARED Weighing weighings[QUERIES];
    i32* scores = (i32*)shared;
    i64 scores_stride = p.chunk + 4;
    u8* codes = shared + QUERIES * scores_stride * 4;
    u8* low_codes = codes + QUERIES * WEIGHTS_STRIDE;

    QueryTile tile = p.tiles[blockIdx.x];
    i64 head = blockIdx.y, kv_head = head * p.kv_heads / p.heads;
    i64 position = tile.position, sequence_end = position + tile.rows;
    i32 group = lane() / 4, quarter = lane() % 4;

    auto seen_from = [&](i64 row) {
        Row seen = {position, sequence_end, 0, 0, 0};
        i64 own = tile.first + row;
        if (row >= tile.count) {
            seen.end = seen.first;
        } else if (p.causal) {
            seen.end = own + 1;
            if (p.window > 0) {
                seen.first = most(position, own + 1 - p.window);
            }
        }
        return seen;
    };
    // The rows of a tile follow each other, so their ranges start with the first row's and end with the last one's.
    i64 all_first = seen_from(0).first, all_end = seen_from(tile.count - 1).end;
    i64 start = all_first / BLOCK_KEYS * BLOCK_KEYS;
    bool is_kept = all_end - start <= p.chunk;

    u32 query[8][4];
    {
        i64 upper = tile.row + least(group, tile.count - 1), lower = tile.row + least(group + 8, tile.count - 1);
        const u32* first = (const u32*)(p.queries + (upper * p.heads + head) * p.depth);
        const u32* second = (const u32*)(p.queries + (lower * p.heads + head) * p.depth);
#pragma unroll
        for (i32 k = 0; k < 8; k++) {
            if (k * 32 < p.depth) {
                query[k][0] = first[k * 8 + quarter];
                query[k][1] = second[k * 8 + quarter];
                query[k][2] = first[k * 8 + 4 + quarter];
                query[k][3] = second[k * 8 + 4 + quarter];
            }
        }
    }
    // Rows and steps of the two queries whose scores this thread gets.
    Row ranges[2] = {seen_from(group), seen_from(group + 8)};
    u32 steps[2];
    for (i32 i = 0; i < 2; i++) {
        i64 row = tile.row + least(group + 8 * i, tile.count - 1);
        steps[i] = p.query_steps[row * p.heads + head];
    }

    // Scores of the keys at `from .. from + chunk`, eight keys at a time for a warp.
    auto make_scores = [&](i64 from) {
        barrier(); // whoever reads the scores before is done
        i64 keys = least(p.chunk, all_end - from);
        for (i64 at = warp() * 8; at < keys; at += 32) {
            i64 key = most(least(from + at + group, sequence_end - 1), position) - position + tile.sequence;
            const u32* words = (const u32*)(p.keys + (key * p.kv_heads + kv_head) * p.depth);
            i32 acc[4] = {};
#pragma unroll
            for (i32 k = 0; k < 8; k++) {
                if (k * 32 < p.depth) {
                    multiply(acc, query[k], words[k * 8 + quarter], words[k * 8 + 4 + quarter]);
                }
            }
#pragma unroll
            for (i32 i = 0; i < 4; i++) {
                i64 column = at + quarter * 2 + i % 2, absolute = from + column;
                const Row& range = ranges[i / 2];
                i32 score = UNSEEN;
                if (absolute >= range.first && absolute < range.end) {
                    u32 step = p.key_steps[(absolute - position + tile.sequence) * p.kv_heads + kv_head];
                    u32 own = steps[i / 2];
                    score = req(acc[i], step_mantissa(own) * step_mantissa(step),
                                24 - step_exponent(own) - step_exponent(step));
                    if (p.cap.q16 > 0) {
                        score = capped_score(p.cap, p.powers, score);
                    }
                }
                scores[(group + i / 2 * 8) * scores_stride + column] = score;
            }
        }
        barrier();
    };

    // From here on eight threads share a row.
    i64 own_row = threadIdx.x / 8, share = threadIdx.x % 8;
    Row own = seen_from(own_row);
    i32* row_scores = scores + own_row * scores_stride;
    own.top = UNSEEN;
    for (i64 from = start; from < all_end; from += p.chunk) {
        make_scores(from);
        for (i64 at = share; at < least(p.chunk, all_end - from); at += 8) {
            own.top = (i32)most(own.top, row_scores[at]);
        }
    }
    own.top = reduce_lanes(own.top, 8, Largest());

    u64 sum = 0; // below 2^40
    for (i64 from = start; from < all_end; from += p.chunk) {
        if (!is_kept) {
            make_scores(from);
        }
        for (i64 at = share; at < least(p.chunk, all_end - from); at += 8) {
            u32 e = exponential(p.powers, own.top, row_scores[at]);
            row_scores[at] = (i32)e;
            sum += e;
        }
    }
    sum = reduce_lanes(sum, 8, Sum());
    if (sum > 0) { // a row beyond the last sees nothing
        own.sum_shift = bit_length(sum) - 16;
        own.inverse = (u32)((1ull << 31) / (sum >> own.sum_shift));
    }

    i64 context[TILES][4] = {};
    for (i64 from = start; from < all_end; from += p.chunk) {
        if (!is_kept) {
            make_scores(from);
            for (i64 at = share; at < least(p.chunk, all_end - from); at += 8) {
                row_scores[at] = (i32)exponential(p.powers, own.top, row_scores[at]);
            }
        }
        for (i64 block = from; block < least(from + p.chunk, all_end); block += BLOCK_KEYS) {
            i64 seen = most(block, own.first), seen_end = least(block + BLOCK_KEYS, own.end);
            const u32* value_steps = p.value_steps + kv_head;
            i32 greatest = -128;
            for (i64 at = block + share; at < block + BLOCK_KEYS; at += 8) {
                if (at >= seen && at < seen_end) {
                    u32 step = value_steps[(at - position + tile.sequence) * p.kv_heads];
                    greatest = (i32)most(greatest, step_exponent(step));
                }
            }
            greatest = reduce_lanes(greatest, 8, Largest());
            u32 peak = 1;
            for (i64 at = block + share; at < block + BLOCK_KEYS; at += 8) {
                if (at >= seen && at < seen_end) {
                    u32 step = value_steps[(at - position + tile.sequence) * p.kv_heads];
                    u32 w = (u32)row_scores[at - from] * step_mantissa(step);
                    w >>= least(greatest - step_exponent(step), 31);
                    row_scores[at - from] = (i32)w;
                    peak = (u32)most(peak, w);
                }
            }
            peak = reduce_lanes(peak, 8, Largest());
            Quantizer by = quantizer(peak, -7);
            for (i64 at = block + share; at < block + BLOCK_KEYS; at += 8) {
                i32 all = at >= seen && at < seen_end ? code(by, row_scores[at - from], FINE ? 9 : 16) : 0;
                i32 high = FINE ? high_half(all) : all;
                codes[own_row * WEIGHTS_STRIDE + (at - block)] = (u8)high;
                if (FINE) {
                    low_codes[own_row * WEIGHTS_STRIDE + (at - block)] = (u8)(all - high * 128);
                }
            }
            if (share == 0) {
                Weighing weighing = {(by.mantissa * own.inverse + 128) >> 8,
                                     23 + own.sum_shift - by.exponent - greatest};
                weighings[own_row] = weighing;
            }
            barrier();
            // Where the block stands in a column of values.
            i64 place = block - position / BLOCK_KEYS * BLOCK_KEYS;
#pragma unroll
            for (i32 t = 0; t < TILES; t++) {
                i64 first_column = (warp() + 4 * t) * 8;
                if (first_column >= p.head_dim) {
                    break;
                }
                i64 column = kv_head * p.head_dim + least(first_column + group, p.head_dim - 1);
                const i8* values = p.values + tile.values + column * tile.values_stride;
                i32 high[4] = {}, low[4] = {};
                for (i32 k = 0; k < BLOCK_KEYS / 32 && place + k * 32 < tile.values_stride; k++) {
                    const u32* words = (const u32*)(values + place + k * 32);
                    u32 b0 = words[quarter], b1 = words[4 + quarter];
                    auto row_codes = [&](const u8* of, u32(&a)[4]) {
                        const u32* upper = (const u32*)(of + group * WEIGHTS_STRIDE + k * 32);
                        const u32* lower = (const u32*)(of + (group + 8) * WEIGHTS_STRIDE + k * 32);
                        a[0] = upper[quarter];
                        a[1] = lower[quarter];
                        a[2] = upper[4 + quarter];
                        a[3] = lower[4 + quarter];
                    };
                    u32 a[4];
                    row_codes(codes, a);
                    multiply(high, a, b0, b1);
                    if (FINE) {
                        row_codes(low_codes, a);
                        multiply(low, a, b0, b1);
                    }
                }
#pragma unroll
                for (i32 i = 0; i < 4; i++) {
                    Weighing by = weighings[group + i / 2 * 8];
                    context[t][i] += weighed(high[i], by.multiplier, by.shift);
                    if (FINE) {
                        context[t][i] += weighed(low[i], by.multiplier, by.shift + 7);
                    }
                }
            }
            barrier(); // the codes are read by all before the next block's are written
        }
    }
#pragma unroll
    for (i32 t = 0; t < TILES; t++) {
#pragma unroll
        for (i32 i = 0; i < 4; i++) {
            i64 row = group + i / 2 * 8, column = (warp() + 4 * t) * 8 + quarter * 2 + i % 2;
            if (row < tile.count && column < p.head_dim) {
                p.out[(tile.row + row) * p.out_stride + head * p.head_dim + column] = sat(context[t][i]);
            }
        }
    }
}

// Heads of up to 64, 128 and 256 columns, with weights of 8 and of 15 bits.

KERNEL(attention_64, 128, AttentionParams) {
    attend<2, false>(p);
}

KERNEL(attention_128, 128, AttentionParams) {
    attend<4, false>(p);
}

KERNEL(attention_256, 128, AttentionParams) {
    attend<8, false>(p);
}

KERNEL(attention_64_fine, 128, AttentionParams) {
    attend<2, true>(p);
}

KERNEL(attention_128_fine, 128, AttentionParams) {
    attend<4, true>(p);
}

KERNEL(attention_256_fine, 128, AttentionParams) {
    attend<8, true>(p);
}
