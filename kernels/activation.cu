// Non-linearities by table. Definition: crates/ops/src/activation.rs.

/// Corrections of a table and the index of the last.
struct ActivationTable {
    const u32* corrections;
    i64 last;
};

DEVICE i32 activated(const ActivationTable& table, i32 x) {
    i64 place = least((magnitude(x) + 128) >> 8, table.last);
    return (i32)most(x, 0) - (i32)table.corrections[place];
}

struct ActivationParams {
    i32* out;
    i64 out_stride;
    const i32* x;
    i64 stride;
    i64 width;
    ActivationTable table;
};

KERNEL(activation, 256, ActivationParams) {
    i64 column = (i64)blockIdx.y * blockDim.x + threadIdx.x, row = blockIdx.x;
    if (column < p.width) {
        p.out[row * p.out_stride + column] = activated(p.table, p.x[row * p.stride + column]);
    }
}
