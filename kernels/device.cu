// The instructions of the device that C++ has no word for. Kernels name them through these functions only, so that
// crates/backend-cuda/tests/emulator can give the same functions on a machine without a GPU.

#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define SHARED __shared__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
/// A kernel of at most `threads` threads a block; its one argument is a struct of 8-byte members, which is read where it lies.
/// The prefix keeps it apart from what CUDA declares by itself, such as `norm`.
#define KERNEL(name, threads, Params)                                                                                   \
    extern "C" __global__ void __launch_bounds__(threads) hyperion_##name(const __grid_constant__ Params p)

DEVICE void barrier() {
    __syncthreads();
}

DEVICE int leading_zeros(unsigned long long x) {
    return __clzll((long long)x);
}

template <class T>
DEVICE T shuffle_xor(T x, int lanes) {
    return __shfl_xor_sync(0xffffffffu, x, lanes);
}

/// c += A * B, exactly: A is 16 rows of 32 codes, B 32 codes of 8 columns, c 16 x 8.
///
/// Of lane l, with g = l / 4 and t = l % 4: a[0] and a[2] are codes 4t..4t+3 and 16+4t.. of row g, a[1] and a[3] of row
/// g + 8; b[0] and b[1] the same of column g; c[0], c[1] columns 2t and 2t+1 of row g, c[2], c[3] of row g + 8.
/// PTX ISA, "Matrix Fragments for mma.m16n8k32".
DEVICE void multiply(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// A place in shared memory as a number.
DEVICE unsigned shared_place(const void* at) {
    return (unsigned)__cvta_generic_to_shared(at);
}

/// Loads four matrices of 8 rows of 16 bytes from shared memory: lane 8m + r says where row r of matrix m starts, and gets
/// bytes 4 (l % 4).. of row l / 4 of each.
DEVICE void load_matrices(unsigned (&words)[4], const void* row) {
    unsigned at = shared_place(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(at)
                 : "memory");
}

/// Begins to copy 16 bytes to shared memory, or zeros unless `is_there`.
DEVICE void begin_copy(void* to, const void* from, bool is_there) {
    unsigned at = shared_place(to);
    int bytes = is_there ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(bytes) : "memory");
}

/// Makes the copies begun since the last call one group.
DEVICE void group_copies() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

/// Waits until at most the last `GROUPS` groups of this thread are under way.
template <int GROUPS>
DEVICE void wait_for_copies() {
    asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}

// Hopper's products: four warps multiply together, straight from shared memory, while the threads go on. They exist only in
// code for that very architecture.

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_GROUP_PRODUCTS 1
#else
#define HAS_GROUP_PRODUCTS 0
#endif

/// Describes 64 or more rows of 128 bytes in shared memory, each eighth row at a multiple of 1,024 bytes, whose 16-byte parts
/// are swapped by the row's number: part i of row r stands at i ^ (r % 8). PTX ISA, "Matrix Descriptor Format" of wgmma:
/// start and strides in 16 bytes, 1,024 bytes from eight rows to the next, mode 1 for 128 bytes of swizzle.
DEVICE unsigned long long describe(const void* rows) {
    unsigned at = shared_place(rows);
    return (unsigned long long)((at & 0x3ffff) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

/// Stands before the first of several products into the same sums.
DEVICE void open_products() {
#if HAS_GROUP_PRODUCTS
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

/// Begins c += A * B for four warps: A is 64 rows of 32 codes, B 32 codes of 128 columns, both as `describe` says, c 64 x 128.
/// Warp w gets rows 16w .. 16w+15, in each 8 columns as `multiply` has them.
DEVICE void begin_products(int (&c)[64], unsigned long long a, unsigned long long b) {
#if HAS_GROUP_PRODUCTS
    asm volatile(
        "{ wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 "
        "{%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,"
        "%30,%31,%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,"
        "%58,%59,%60,%61,%62,%63}, %64, %65, 1; }"
        : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3]), "+r"(c[4]), "+r"(c[5]), "+r"(c[6]), "+r"(c[7]), "+r"(c[8]),
          "+r"(c[9]), "+r"(c[10]), "+r"(c[11]), "+r"(c[12]), "+r"(c[13]), "+r"(c[14]), "+r"(c[15]), "+r"(c[16]),
          "+r"(c[17]), "+r"(c[18]), "+r"(c[19]), "+r"(c[20]), "+r"(c[21]), "+r"(c[22]), "+r"(c[23]), "+r"(c[24]),
          "+r"(c[25]), "+r"(c[26]), "+r"(c[27]), "+r"(c[28]), "+r"(c[29]), "+r"(c[30]), "+r"(c[31]), "+r"(c[32]),
          "+r"(c[33]), "+r"(c[34]), "+r"(c[35]), "+r"(c[36]), "+r"(c[37]), "+r"(c[38]), "+r"(c[39]), "+r"(c[40]),
          "+r"(c[41]), "+r"(c[42]), "+r"(c[43]), "+r"(c[44]), "+r"(c[45]), "+r"(c[46]), "+r"(c[47]), "+r"(c[48]),
          "+r"(c[49]), "+r"(c[50]), "+r"(c[51]), "+r"(c[52]), "+r"(c[53]), "+r"(c[54]), "+r"(c[55]), "+r"(c[56]),
          "+r"(c[57]), "+r"(c[58]), "+r"(c[59]), "+r"(c[60]), "+r"(c[61]), "+r"(c[62]), "+r"(c[63])
        : "l"(a), "l"(b));
#endif
}

// Hopper's copies of tiles: one thread asks for a whole tile, and the device computes the addresses and says when it has come.

/// A matrix that tiles are cut from, as the host's driver describes it (`cuTensorMapEncodeTiled`; `TileSource` of driver.rs): tiles
/// of 128 lines of 128 bytes that lie as `describe` says, with zeros for what is beyond the matrix.
struct alignas(64) TileSource {
    unsigned long long words[16];
};

/// A place in shared memory at which threads wait for tiles. It has phases: one ends when as many bytes have come as the one
/// thread that arrives expects.
typedef unsigned long long Arrival;

/// Makes a place ready for its first phase; `show_arrivals` and a barrier have to follow.
DEVICE void new_arrival(Arrival* arrival) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_place(arrival)) : "memory");
}

/// Makes new places visible to copies of tiles.
DEVICE void show_arrivals() {
#if HAS_GROUP_PRODUCTS
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

/// Arrives, and expects so many bytes in this phase.
DEVICE void expect_bytes(Arrival* arrival, unsigned bytes) {
#if HAS_GROUP_PRODUCTS
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_place(arrival)), "r"(bytes) : "memory");
#endif
}

/// Begins to copy the tile whose first byte is `column` of line `line` to a multiple of 1,024 in shared memory. All of its
/// bytes count for the phase, zeros too.
DEVICE void begin_tile_copy(void* to, const TileSource& from, int column, int line, Arrival* arrival) {
#if HAS_GROUP_PRODUCTS
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3}], [%4];" ::"r"(
                     shared_place(to)),
                 "l"(&from), "r"(column), "r"(line), "r"(shared_place(arrival))
                 : "memory");
#endif
}

/// Waits until a phase has ended; the first is 0, and they take turns with 1.
DEVICE void wait_for_tiles(Arrival* arrival, unsigned phase) {
#if HAS_GROUP_PRODUCTS
    unsigned at = shared_place(arrival), has_ended = 0;
    while (has_ended == 0) {
        asm volatile("{ .reg .pred ended; mbarrier.try_wait.parity.shared::cta.b64 ended, [%1], %2; selp.b32 %0, 1, 0, ended; }"
                     : "=r"(has_ended)
                     : "r"(at), "r"(phase)
                     : "memory");
    }
#endif
}

/// Waits for the products that were begun.
DEVICE void wait_for_products() {
#if HAS_GROUP_PRODUCTS
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
}
