// One row of a table for each token. Definition: crates/ops/src/embed.rs.

/// Codes and steps of a table, row by row; `position` has the same.
struct CodeTable {
    const void* codes;
    const u32* steps;
    i64 width;
    /// 1 if codes have 16 bits.
    i64 wide;
};

/// sat(rshr(code * B, kw - 16)) of a column; the shift is -14 to 24.
DEVICE i32 dequantized(const CodeTable& table, i64 row, i64 column) {
    i64 at = row * table.width + column;
    i64 code = table.wide ? ((const i16*)table.codes)[at] : ((const i8*)table.codes)[at];
    u32 step = table.steps[row];
    return sat(rshr(code * (i64)step_mantissa(step), step_exponent(step) - 16));
}

struct EmbedParams {
    i32* out;
    i64 out_stride;
    const u32* tokens;
    i64 tokens_stride;
    CodeTable table;
};

KERNEL(embed, 256, EmbedParams) {
    i64 column = (i64)blockIdx.y * blockDim.x + threadIdx.x, row = blockIdx.x;
    if (column < p.table.width) {
        p.out[row * p.out_stride + column] = dequantized(p.table, p.tokens[row * p.tokens_stride], column);
    }
}
