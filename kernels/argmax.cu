// The lowest index among the largest elements; a block takes one row. Definition: crates/ops/src/argmax.rs.

struct ArgmaxParams {
    u32* out;
    i64 out_stride;
    const i32* x;
    i64 stride;
    i64 width;
};

KERNEL(argmax, 1024, ArgmaxParams) {
    const i32* x = p.x + (i64)blockIdx.x * p.stride;
    // Larger elements first, and of equals the one that stands before: one number that orders both.
    i64 best = -0x7fffffffffffffffll;
    for (i64 i = threadIdx.x; i < p.width; i += blockDim.x) {
        best = most(best, ((i64)x[i] << 32) + (0xffffffffll - i));
    }
    best = reduce_block(best, Largest());
    if (threadIdx.x == 0) {
        p.out[(i64)blockIdx.x * p.out_stride] = 0xffffffffu - (u32)best;
    }
}
