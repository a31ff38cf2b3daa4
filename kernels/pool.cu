// One row for each sequence; a block makes one. Definition: crates/ops/src/pool.rs.

struct PoolParams {
    /// i32, or i16 of a row of length one.
    void* out;
    i64 out_stride;
    const i32* x;
    i64 stride;
    /// First row of each sequence, and how many.
    const u32* sequences;
    i64 width;
    /// 0 mean, 1 first, 2 last.
    i64 mode;
    /// 1 if the row gets length one.
    i64 unit;
};

/// The sum of a column over the rows that count.
DEVICE i64 column_sum(const PoolParams& p, i64 column) {
    i64 first = p.sequences[2 * blockIdx.x], rows = p.sequences[2 * blockIdx.x + 1];
    i64 start = p.mode == 2 ? rows - 1 : 0, end = p.mode == 1 ? 1 : rows;
    i64 sum = 0;
    for (i64 row = start; row < end; row++) {
        sum += p.x[(first + row) * p.stride + column];
    }
    return sum;
}

KERNEL(pool, 256, PoolParams) {
    i64 to = (i64)blockIdx.x * p.out_stride;
    if (!p.unit) {
        i64 count = p.mode == 0 ? p.sequences[2 * blockIdx.x + 1] : 1;
        for (i64 i = threadIdx.x; i < p.width; i += blockDim.x) {
            ((i32*)p.out)[to + i] = (i32)floor_div(2 * column_sum(p, i) + count, 2 * count);
        }
        return;
    }
    u64 peak = 1;
    for (i64 i = threadIdx.x; i < p.width; i += blockDim.x) {
        i64 sum = column_sum(p, i);
        peak = (u64)most((i64)peak, sum < 0 ? -sum : sum);
    }
    i32 drop = (i32)most(bit_length(reduce_block(peak, Largest())) - 24, 0);
    u64 squares = 0;
    for (i64 i = threadIdx.x; i < p.width; i += blockDim.x) {
        i64 c = rshr(column_sum(p, i), drop);
        squares += (u64)(c * c);
    }
    squares = reduce_block(squares, Sum());
    InverseRoot root = inv_root(squares > 0 ? squares : 1);
    for (i64 i = threadIdx.x; i < p.width; i += blockDim.x) {
        i64 unit = rshr(rshr(column_sum(p, i), drop) * (i64)root.reciprocal, 16 + root.k / 2);
        ((i16*)p.out)[to + i] = (i16)least(most(unit, -32767), 32767);
    }
}
