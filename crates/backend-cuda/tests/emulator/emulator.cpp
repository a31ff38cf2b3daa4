// The kernels of kernels/*.cu as a library for the CPU; tests/emulator.rs compiles and loads it.

#include "emulator.hpp"

#include "common.cu"
// In the order of crates/backend-cuda/src/kernels.rs, without device.cu, whose functions emulator.hpp has.
#include "activation.cu"
#include "add.cu"
#include "argmax.cu"
#include "embed.cu"
#include "gate.cu"
#include "softcap.cu"
#include "keccak.cu"
#include "norm.cu"
#include "pool.cu"
#include "position.cu"
#include "quantize.cu"

#include "cache.cu"
#include "requantize.cu"
#include "rope.cu"
#include "rows.cu"

#include "attention.cu"
#include "gemm.cu"

/// Runs a kernel; returns 0, or 1 if there is no such kernel. `order` says in which order threads run.
extern "C" int emulate(const char* name, const unsigned* grid_size, unsigned threads, unsigned shared_bytes,
                       const uint64_t* words, unsigned order) {
    auto found = emulator::kernels().find(name);
    if (found == emulator::kernels().end()) {
        return 1;
    }
    auto& grid = emulator::grid;
    grid.grid = {grid_size[0], grid_size[1], 1};
    grid.block = {threads, 1, 1};
    grid.fibers.resize(threads);
    grid.exchanges.resize((threads + 31) / 32);
    grid.shared.resize(shared_bytes);
    grid.kernel = [&] { found->second(words); };
    for (unsigned y = 0; y < grid_size[1]; y++) {
        for (unsigned x = 0; x < grid_size[0]; x++) {
            grid.block_index = {x, y, 0};
            grid.rounds.assign(threads, 0);
            emulator::run_block(order);
        }
    }
    return 0;
}

/// The library's product: `out[r][c]` becomes the sum of row r times channel c, plus `error`.
extern "C" void multiply_codes(const int8_t* codes, const int8_t* weights, int32_t* out, const unsigned* sizes, int error) {
    unsigned rows = sizes[0], channels = sizes[1], depth = sizes[2];
    for (unsigned row = 0; row < rows; row++) {
        for (unsigned channel = 0; channel < channels; channel++) {
            int32_t sum = error;
            for (unsigned k = 0; k < depth; k++) {
                sum += codes[size_t(row) * depth + k] * weights[size_t(channel) * depth + k];
            }
            out[size_t(row) * channels + channel] = sum;
        }
    }
}
