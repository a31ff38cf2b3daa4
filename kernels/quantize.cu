// Rows become codes and steps; a block quantizes one group of columns of one row. Definition: crates/ops/src/quantize.rs.

struct QuantizeParams {
    i8* codes;
    /// Low halves of 15-bit codes, or nothing.
    i8* low;
    u32* steps;
    const i32* x;
    i64 stride;
    /// Q14 factors of the columns, or nothing.
    const u32* factors;
    /// Columns of a group, and groups of a row: a head, or the whole row.
    i64 width;
    i64 groups;
    /// Codes of a group, a multiple of 4; those beyond its width are 0.
    i64 depth;
    i64 kmin;
};

DEVICE i32 element(const QuantizeParams& p, const i32* x, i64 column) {
    return p.factors ? sat(rshr((i64)x[column] * p.factors[column], 14)) : x[column];
}

KERNEL(quantize, 1024, QuantizeParams) {
    i64 index = blockIdx.x;
    const i32* x = p.x + index / p.groups * p.stride + index % p.groups * p.width;
    u32 peak = 1;
    for (i64 column = threadIdx.x; column < p.width; column += blockDim.x) {
        peak = (u32)most(peak, magnitude(element(p, x, column)));
    }
    Quantizer by = quantizer(reduce_block(peak, Largest()), (i32)p.kmin);
    if (threadIdx.x == 0) {
        p.steps[index] = pack_step(by.mantissa, by.exponent);
    }
    for (i64 word = threadIdx.x; word < p.depth / 4; word += blockDim.x) {
        u32 high = 0, low = 0;
        for (i64 i = 0; i < 4 && 4 * word + i < p.width; i++) {
            i32 v = element(p, x, 4 * word + i);
            if (p.low) {
                i32 all = code(by, v, 9), upper = high_half(all);
                high |= ((u32)upper & 255) << (8 * i);
                low |= ((u32)(all - upper * 128) & 255) << (8 * i);
            } else {
                high |= ((u32)code(by, v, 16) & 255) << (8 * i);
            }
        }
        ((u32*)(p.codes + index * p.depth))[word] = high;
        if (p.low) {
            ((u32*)(p.low + index * p.depth))[word] = low;
        }
    }
}

/// Where the codes of a row of values go, in bytes: the head's first column, and from one column to the next.
struct ValuePlace {
    u32 start;
    u32 stride;
};

struct QuantizeValuesParams {
    i8* codes;
    u32* steps;
    const i32* x;
    i64 stride;
    const ValuePlace* places;
    i64 head_dim;
    i64 heads;
};

/// Values of a head, a column of keys after another, as the products of `attention` read them.
KERNEL(quantize_values, 256, QuantizeValuesParams) {
    i64 index = blockIdx.x, row = index / p.heads, head = index % p.heads;
    const i32* x = p.x + row * p.stride + head * p.head_dim;
    u32 peak = 1;
    for (i64 column = threadIdx.x; column < p.head_dim; column += blockDim.x) {
        peak = (u32)most(peak, magnitude(x[column]));
    }
    Quantizer by = quantizer(reduce_block(peak, Largest()), -7);
    if (threadIdx.x == 0) {
        p.steps[index] = pack_step(by.mantissa, by.exponent);
    }
    ValuePlace place = p.places[row];
    for (i64 column = threadIdx.x; column < p.head_dim; column += blockDim.x) {
        p.codes[place.start + (head * p.head_dim + column) * place.stride] = (i8)code(by, x[column], 16);
    }
}
