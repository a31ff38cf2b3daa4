// Copies chosen rows of elements of 2 or 4 bytes. Definition: crates/ops/src/rows.rs.

struct RowsParams {
    void* out;
    i64 out_stride;
    const void* x;
    i64 stride;
    const u32* chosen;
    i64 width;
    i64 element_bytes;
};

KERNEL(rows, 256, RowsParams) {
    i64 column = (i64)blockIdx.y * blockDim.x + threadIdx.x, row = blockIdx.x;
    if (column >= p.width) {
        return;
    }
    i64 from = (i64)p.chosen[row] * p.stride + column, to = row * p.out_stride + column;
    if (p.element_bytes == 4) {
        ((u32*)p.out)[to] = ((const u32*)p.x)[from];
    } else {
        ((u16*)p.out)[to] = ((const u16*)p.x)[from];
    }
}
