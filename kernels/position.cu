// Adds the row of a table at each row's absolute position. Definition: crates/ops/src/position.rs.

struct PositionParams {
    i32* out;
    i64 out_stride;
    const i32* x;
    i64 stride;
    /// Absolute position of each row.
    const u32* positions;
    CodeTable table;
};

KERNEL(position, 256, PositionParams) {
    i64 column = (i64)blockIdx.y * blockDim.x + threadIdx.x, row = blockIdx.x;
    if (column < p.table.width) {
        i64 x = p.x[row * p.stride + column];
        p.out[row * p.out_stride + column] = sat(x + dequantized(p.table, p.positions[row], column));
    }
}
