// LayerNorm and RMSNorm; a block normalises one group of columns of one row. Definition: crates/ops/src/norm.rs.

struct NormParams {
    i32* out;
    i64 out_stride;
    const i32* x;
    i64 stride;
    /// Scale and shift of each column.
    const i32* weights;
    /// Columns of a group, and groups of a row.
    i64 width;
    i64 groups;
    i64 eps_q32;
    /// 1 if the mean is taken away.
    i64 centre;
};

KERNEL(norm, 1024, NormParams) {
    i64 row = blockIdx.x / p.groups, first = blockIdx.x % p.groups * p.width;
    const i32* x = p.x + row * p.stride + first;
    i32* out = p.out + row * p.out_stride + first;
    u32 peak = 1;
    for (i64 i = threadIdx.x; i < p.width; i += blockDim.x) {
        peak = (u32)most(peak, magnitude(x[i]));
    }
    i32 drop = (i32)most(bit_length(reduce_block(peak, Largest())) - 24, 0);
    i64 mean = 0;
    if (p.centre) {
        i64 sum = 0; // |sum| <= 2^38 over all threads
        for (i64 i = threadIdx.x; i < p.width; i += blockDim.x) {
            sum += rshr(x[i], drop);
        }
        mean = floor_div(2 * reduce_block(sum, Sum()) + p.width, 2 * p.width);
    }
    u64 squares = 0; // below 2^63 over all threads
    for (i64 i = threadIdx.x; i < p.width; i += blockDim.x) {
        i64 c = rshr(x[i], drop) - mean;
        squares += (u64)(c * c);
    }
    u64 variance = reduce_block(squares, Sum()) / (u64)p.width + ((u64)p.eps_q32 >> (2 * drop));
    InverseRoot root = inv_root(variance > 0 ? variance : 1);
    for (i64 i = threadIdx.x; i < p.width; i += blockDim.x) {
        i64 t = rshr((rshr(x[i], drop) - mean) * (i64)root.reciprocal, 17 + root.k / 2);
        out[i] = sat(rshr(t * p.weights[2 * i], 12) + p.weights[2 * i + 1]);
    }
}
