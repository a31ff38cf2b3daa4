// The instructions of the device that C++ has no word for. Kernels name them through these functions only, so that
// crates/backend-cuda/tests/emulator can give the same functions on a machine without a GPU.

#define DEVICE static __device__ __forceinline__
#define DEVICE_MEMBER __device__ __forceinline__
#define SHARED __shared__
#define DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
/// A kernel of at most `threads` threads a block; its one argument is a struct of 8-byte members. The prefix keeps it apart
/// from what CUDA declares by itself, such as `norm`.
#define KERNEL(name, threads, Params) extern "C" __global__ void __launch_bounds__(threads) hyperion_##name(const Params p)

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

/// Loads four matrices of 8 rows of 16 bytes from shared memory: lane 8m + r says where row r of matrix m starts, and gets
/// bytes 4 (l % 4).. of row l / 4 of each.
DEVICE void load_matrices(unsigned (&words)[4], const void* row) {
    unsigned at = (unsigned)__cvta_generic_to_shared(row);
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(at)
                 : "memory");
}

/// Begins to copy 16 bytes to shared memory, or zeros unless `is_there`.
DEVICE void begin_copy(void* to, const void* from, bool is_there) {
    unsigned at = (unsigned)__cvta_generic_to_shared(to);
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
