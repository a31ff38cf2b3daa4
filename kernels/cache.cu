// Keys and values of growing sequences in pages. Definition: crates/ops/src/cache.rs.
//
// New rows are quantized into their pages; then the rows that a batch attends to are gathered as `attention` reads them.

/// Pages of a buffer, sizes in bytes: codes of keys, steps of keys, then the same of values half a page later.
struct Pages {
    u8* first;
    i64 half;
    /// Positions of a page, heads of a position, columns of a head, bytes of a head's codes.
    i64 rows;
    i64 heads;
    i64 head_dim;
    i64 code_bytes;
};

/// Where a position stands.
struct PagePlace {
    u32 page;
    u32 row;
};

/// Codes of a head of a position: of its key with `part` 0, of its value with 1.
DEVICE i8* page_codes(const Pages& pages, PagePlace place, i64 head, i64 part) {
    u8* page = pages.first + (2 * place.page + part) * pages.half;
    return (i8*)page + (place.row * pages.heads + head) * pages.code_bytes;
}

DEVICE u32* page_step(const Pages& pages, PagePlace place, i64 head, i64 part) {
    u8* page = pages.first + (2 * place.page + part) * pages.half;
    return (u32*)(page + pages.rows * pages.heads * pages.code_bytes) + place.row * pages.heads + head;
}

struct CacheAppendParams {
    Pages pages;
    const i32* keys;
    i64 keys_stride;
    const i32* values;
    i64 values_stride;
    /// Of each new row, which of the places below is its.
    const u32* positions;
    const PagePlace* places;
};

/// Along x a head of a new row, along y its key and its value.
KERNEL(cache_append, 256, CacheAppendParams) {
    i64 row = blockIdx.x / p.pages.heads, head = blockIdx.x % p.pages.heads, part = blockIdx.y;
    const i32* x = part ? p.values + row * p.values_stride : p.keys + row * p.keys_stride;
    x += head * p.pages.head_dim;
    u32 peak = 1;
    for (i64 column = threadIdx.x; column < p.pages.head_dim; column += blockDim.x) {
        peak = (u32)most(peak, magnitude(x[column]));
    }
    Quantizer by = quantizer(reduce_block(peak, Largest()), part ? -7 : -4);
    PagePlace place = p.places[p.positions[row]];
    i8* codes = page_codes(p.pages, place, head, part);
    for (i64 column = threadIdx.x; column < p.pages.code_bytes; column += blockDim.x) {
        codes[column] = column < p.pages.head_dim ? (i8)code(by, x[column], 16) : (i8)0;
    }
    if (threadIdx.x == 0) {
        *page_step(p.pages, place, head, part) = pack_step(by.mantissa, by.exponent);
    }
}

struct CacheGatherParams {
    Pages pages;
    const PagePlace* places;
    i8* keys;
    u32* key_steps;
    /// Codes of a head of keys, a multiple of 32.
    i64 depth;
    i8* values;
    u32* value_steps;
    /// Where the codes of each position's values go, as for `quantize_values`.
    const ValuePlace* value_places;
};

/// Along x a head of a position, along y its key and its value.
KERNEL(cache_gather, 256, CacheGatherParams) {
    i64 row = blockIdx.x / p.pages.heads, head = blockIdx.x % p.pages.heads, part = blockIdx.y;
    PagePlace place = p.places[row];
    const i8* codes = page_codes(p.pages, place, head, part);
    if (part == 0) {
        for (i64 column = threadIdx.x; column < p.depth; column += blockDim.x) {
            p.keys[blockIdx.x * p.depth + column] = column < p.pages.head_dim ? codes[column] : (i8)0;
        }
    } else {
        ValuePlace to = p.value_places[row];
        for (i64 column = threadIdx.x; column < p.pages.head_dim; column += blockDim.x) {
            p.values[to.start + (head * p.pages.head_dim + column) * to.stride] = codes[column];
        }
    }
    if (threadIdx.x == 0) {
        (part ? p.value_steps : p.key_steps)[blockIdx.x] = *page_step(p.pages, place, head, part);
    }
}
