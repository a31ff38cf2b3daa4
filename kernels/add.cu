// Saturating sums, element by element. Definition: crates/ops/src/add.rs.

/// Two matrices in, one out; `gate` has the same.
struct PairParams {
    i32* out;
    i64 out_stride;
    const i32* first;
    i64 first_stride;
    const i32* second;
    i64 second_stride;
    i64 width;
};

KERNEL(add, 256, PairParams) {
    i64 column = (i64)blockIdx.y * blockDim.x + threadIdx.x, row = blockIdx.x;
    if (column < p.width) {
        i64 x = p.first[row * p.first_stride + column], y = p.second[row * p.second_stride + column];
        p.out[row * p.out_stride + column] = sat(x + y);
    }
}
