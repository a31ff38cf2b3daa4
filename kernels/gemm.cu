// Exact products of codes on tensor cores, requantized as they leave. Definition: crates/ops/src/gemm.rs.
//
// Rows of codes and channels of weights both lie along the depth, so both are read in lines of 16 bytes. Sums are exact in
// any order, which is what the split of the depth in `gemm_few` and any choice between these kernels rests on.

struct GemmParams {
    /// `[rows, depth]`, and low halves where codes have 15 bits.
    const i8* codes;
    const i8* low;
    /// `[channels, depth]`; depth is a multiple of 32.
    const i8* weights;
    i64 rows;
    i64 channels;
    i64 depth;
    Epilogue to;
};

// Many rows: a block of 8 warps makes 128 rows of 128 channels, a warp 64 rows of 32. Tiles of 64 codes of depth pass
// through shared memory, the next two on their way while one is multiplied.

#define TILE 128
#define TILE_DEPTH 64
#define TILE_STAGES 3
#define TILE_BYTES (TILE * TILE_DEPTH)

/// Where 16 bytes of a row of a tile stand: rows that are read together lie in different banks.
DEVICE i32 tile_place(i32 row, i32 part) {
    return row * TILE_DEPTH + ((part ^ ((row >> 1) & 3)) * 16);
}

/// Begins to copy a tile of `count` lines, the first of them `first`; beyond the last line the last one is read again.
DEVICE void begin_tile(u8* tile, const i8* lines, i64 first, i64 count, i64 depth, i64 at) {
    for (i32 piece = (i32)threadIdx.x; piece < TILE * 4; piece += 256) {
        i32 row = piece / 4, part = piece % 4;
        i64 line = least(first + row, count - 1), place = at + part * 16;
        bool is_there = place < depth;
        begin_copy(tile + tile_place(row, part), lines + line * depth + (is_there ? place : 0), is_there);
    }
}

template <bool FINE>
DEVICE void gemm_many(const GemmParams& p) {
    DYNAMIC_SHARED(shared);
    const i32 operands = FINE ? 3 : 2;
    i64 first_channel = (i64)blockIdx.x * TILE, first_row = (i64)blockIdx.y * TILE;
    i32 warp_row = warp() % 2 * 64, warp_channel = warp() / 2 * 32;
    i64 tiles = (p.depth + TILE_DEPTH - 1) / TILE_DEPTH;
    i32 high[4][4][4] = {}, low[FINE ? 4 : 1][4][4] = {};

    auto begin = [&](i64 tile) {
        if (tile < tiles) {
            u8* stage = shared + tile % TILE_STAGES * operands * TILE_BYTES;
            begin_tile(stage, p.weights, first_channel, p.channels, p.depth, tile * TILE_DEPTH);
            begin_tile(stage + TILE_BYTES, p.codes, first_row, p.rows, p.depth, tile * TILE_DEPTH);
            if (FINE) {
                begin_tile(stage + 2 * TILE_BYTES, p.low, first_row, p.rows, p.depth, tile * TILE_DEPTH);
            }
        }
        group_copies();
    };
    for (i32 tile = 0; tile < TILE_STAGES - 1; tile++) {
        begin(tile);
    }
    for (i64 tile = 0; tile < tiles; tile++) {
        wait_for_copies<TILE_STAGES - 2>();
        barrier(); // the tile is there for all, and the one before is done with
        begin(tile + TILE_STAGES - 1);
        const u8* stage = shared + tile % TILE_STAGES * operands * TILE_BYTES;
        i32 matrix = lane() / 8, line = lane() % 8;
#pragma unroll
        for (i32 half = 0; half < 2; half++) {
            if (tile * TILE_DEPTH + half * 32 >= p.depth) {
                break;
            }
            u32 b[2][4];
#pragma unroll
            for (i32 pair = 0; pair < 2; pair++) {
                i32 channel = warp_channel + pair * 16 + matrix / 2 * 8 + line;
                load_matrices(b[pair], stage + tile_place(channel, half * 2 + matrix % 2));
            }
#pragma unroll
            for (i32 i = 0; i < 4; i++) {
                i32 place = tile_place(warp_row + i * 16 + matrix % 2 * 8 + line, half * 2 + matrix / 2);
                u32 a[4];
                load_matrices(a, stage + TILE_BYTES + place);
#pragma unroll
                for (i32 j = 0; j < 4; j++) {
                    multiply(high[i][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
                }
                if (FINE) {
                    load_matrices(a, stage + 2 * TILE_BYTES + place);
#pragma unroll
                    for (i32 j = 0; j < 4; j++) {
                        multiply(low[FINE ? i : 0][j], a, b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
                    }
                }
            }
        }
    }
#pragma unroll
    for (i32 i = 0; i < 4; i++) {
#pragma unroll
        for (i32 j = 0; j < 4; j++) {
#pragma unroll
            for (i32 k = 0; k < 4; k++) {
                i64 row = first_row + warp_row + i * 16 + k / 2 * 8 + lane() / 4;
                i64 channel = first_channel + warp_channel + j * 8 + lane() % 4 * 2 + k % 2;
                if (row < p.rows && channel < p.channels) {
                    finish<FINE>(p.to, row, channel, high[i][j][k], low[FINE ? i : 0][j][k]);
                }
            }
        }
    }
}

KERNEL(gemm, 256, GemmParams) {
    gemm_many<false>(p);
}

KERNEL(gemm_fine, 256, GemmParams) {
    gemm_many<true>(p);
}

// Many rows on Hopper: the same tiles, 128 codes deep. One thread asks for them, and products of four warps at once read
// shared memory by themselves, so that the next tiles' copies and this tile's products run beside each other.

#define GROUP_DEPTH 128
#define GROUP_STAGES 4
#define GROUP_TILE_BYTES (TILE * GROUP_DEPTH)

struct GroupParams {
    /// Tiles of the weights and of the codes below.
    TileSource weight_tiles;
    TileSource code_tiles;
    GemmParams product;
};

KERNEL(gemm_group, 256, GroupParams) {
#if HAS_GROUP_PRODUCTS
    DYNAMIC_SHARED(unaligned);
    SHARED Arrival arrivals[GROUP_STAGES];
    u8* shared = unaligned + (1024 - shared_place(unaligned) % 1024) % 1024;
    i64 first_channel = (i64)blockIdx.x * TILE, first_row = (i64)blockIdx.y * TILE;
    i32 group_row = warp() / 4 * 64;
    i64 tiles = (p.product.depth + GROUP_DEPTH - 1) / GROUP_DEPTH;
    i32 sums[64] = {};
    if (threadIdx.x == 0) {
        for (i32 stage = 0; stage < GROUP_STAGES; stage++) {
            new_arrival(&arrivals[stage]);
        }
        show_arrivals();
    }
    barrier();
    auto begin = [&](i64 tile) {
        if (tile < tiles && threadIdx.x == 0) {
            u8* stage = shared + tile % GROUP_STAGES * 2 * GROUP_TILE_BYTES;
            Arrival* arrival = &arrivals[tile % GROUP_STAGES];
            i32 place = (i32)(tile * GROUP_DEPTH);
            expect_bytes(arrival, 2 * GROUP_TILE_BYTES);
            begin_tile_copy(stage, p.weight_tiles, place, (i32)first_channel, arrival);
            begin_tile_copy(stage + GROUP_TILE_BYTES, p.code_tiles, place, (i32)first_row, arrival);
        }
    };
    for (i32 tile = 0; tile < GROUP_STAGES - 1; tile++) {
        begin(tile);
    }
    for (i64 tile = 0; tile < tiles; tile++) {
        wait_for_tiles(&arrivals[tile % GROUP_STAGES], tile / GROUP_STAGES % 2);
        barrier(); // the products of the tile before are made, so its stage may be filled
        begin(tile + GROUP_STAGES - 1);
        const u8* stage = shared + tile % GROUP_STAGES * 2 * GROUP_TILE_BYTES;
        u64 rows = describe(stage + GROUP_TILE_BYTES + group_row * GROUP_DEPTH), channels = describe(stage);
        open_products();
#pragma unroll
        for (i32 part = 0; part < GROUP_DEPTH / 32; part++) {
            begin_products(sums, rows + 2 * part, channels + 2 * part); // 32 codes are two times 16 bytes
        }
        wait_for_products();
    }
#pragma unroll
    for (i32 i = 0; i < 64; i++) {
        i64 row = first_row + group_row + warp() % 4 * 16 + i / 2 % 2 * 8 + lane() / 4;
        i64 channel = first_channel + i / 4 * 8 + lane() % 4 * 2 + i % 2;
        if (row < p.product.rows && channel < p.product.channels) {
            finish<false>(p.product.to, row, channel, sums[i], 0);
        }
    }
#endif
}

// Few rows: a block of 4 warps makes 16 rows of 32 channels, a warp a quarter of the depth. A lane reads 16 codes at once
// and deals them to two products; as rows and channels are dealt alike, each product still pairs equal places.

#define FEW_ROWS 16
#define FEW_CHANNELS 32

/// 16 codes.
struct alignas(16) Codes {
    u32 words[4];
};

DEVICE Codes codes_at(const i8* line, i64 place, i64 depth) {
    Codes none = {};
    return place < depth ? *(const Codes*)(line + place) : none;
}

template <bool FINE>
DEVICE void gemm_few(const GemmParams& p) {
    SHARED i32 parts[4][FINE ? 2 : 1][FEW_ROWS][FEW_CHANNELS];
    i64 first_channel = (i64)blockIdx.x * FEW_CHANNELS, first_row = (i64)blockIdx.y * FEW_ROWS;
    i32 group = lane() / 4, quarter = lane() % 4;
    i64 upper = least(first_row + group, p.rows - 1) * p.depth;
    i64 lower = least(first_row + group + 8, p.rows - 1) * p.depth;
    i32 high[4][4] = {}, low[FINE ? 4 : 1][4] = {};
    for (i64 tile = warp() * 64; tile < p.depth; tile += 4 * 64) {
        i64 place = tile + quarter * 16;
        Codes codes[2][2] = {{codes_at(p.codes + upper, place, p.depth), codes_at(p.codes + lower, place, p.depth)}, {}};
        if (FINE) {
            codes[1][0] = codes_at(p.low + upper, place, p.depth);
            codes[1][1] = codes_at(p.low + lower, place, p.depth);
        }
#pragma unroll
        for (i32 j = 0; j < 4; j++) {
            i64 channel = least(first_channel + j * 8 + group, p.channels - 1);
            Codes weights = codes_at(p.weights + channel * p.depth, place, p.depth);
#pragma unroll
            for (i32 fine = 0; fine < (FINE ? 2 : 1); fine++) {
#pragma unroll
                for (i32 w = 0; w < 4; w += 2) {
                    const Codes* x = codes[fine];
                    u32 a[4] = {x[0].words[w], x[1].words[w], x[0].words[w + 1], x[1].words[w + 1]};
                    multiply(fine ? low[FINE ? j : 0] : high[j], a, weights.words[w], weights.words[w + 1]);
                }
            }
        }
    }
#pragma unroll
    for (i32 j = 0; j < 4; j++) {
#pragma unroll
        for (i32 k = 0; k < 4; k++) {
            i32 row = k / 2 * 8 + group, channel = j * 8 + quarter * 2 + k % 2;
            parts[warp()][0][row][channel] = high[j][k];
            if (FINE) {
                parts[warp()][FINE ? 1 : 0][row][channel] = low[FINE ? j : 0][k];
            }
        }
    }
    barrier();
    for (i32 at = (i32)threadIdx.x; at < FEW_ROWS * FEW_CHANNELS; at += 128) {
        i32 row = at / FEW_CHANNELS, channel = at % FEW_CHANNELS;
        if (first_row + row < p.rows && first_channel + channel < p.channels) {
            i32 sums[2] = {};
            for (i32 part = 0; part < 4; part++) {
                for (i32 fine = 0; fine < (FINE ? 2 : 1); fine++) {
                    sums[fine] += parts[part][fine][row][channel];
                }
            }
            finish<FINE>(p.to, first_row + row, first_channel + channel, sums[0], sums[1]);
        }
    }
}

KERNEL(gemm_few_rows, 128, GemmParams) {
    gemm_few<false>(p);
}

KERNEL(gemm_few_rows_fine, 128, GemmParams) {
    gemm_few<true>(p);
}
