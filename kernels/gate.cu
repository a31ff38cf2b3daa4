// Saturating products, element by element. Definition: crates/ops/src/gate.rs.

KERNEL(gate, 256, PairParams) {
    i64 column = (i64)blockIdx.y * blockDim.x + threadIdx.x, row = blockIdx.x;
    if (column < p.width) {
        i64 x = p.first[row * p.first_stride + column], y = p.second[row * p.second_stride + column];
        p.out[row * p.out_stride + column] = sat(rshr(x * y, 16));
    }
}
