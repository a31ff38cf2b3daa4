// A grid of CUDA threads on the CPU, for tests of kernels/*.cu on machines without a GPU.
//
// Every thread of a block is a fiber on one system thread; a fiber runs until it has to wait for others. What differs from
// a GPU is chosen so that mistakes show:
//
// * The order in which fibers run is forwards, backwards or mixed, so a missing barrier gives other bits in one of them.
// * An asynchronous copy or product is made at the wait that promises it and no earlier; a copy of a tile either there or
//   at once, which is chosen by the order, so a stage that is filled before it may be gives other bits in one of them.
// * Dynamic shared memory starts out full of noise.
// * Threads of a warp that meet at different instructions, or leave others waiting, end the process with a message.

#pragma once

#include <algorithm>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <string>
#include <ucontext.h>
#include <vector>

struct Index {
    unsigned x, y, z;
};

namespace emulator {

constexpr size_t STACK_BYTES = 64 << 10;

enum class Waits { no, warp, block, tiles, done };

struct Copy {
    void* to;
    const void* from;
    bool is_there;
};

/// What stands at a place where threads wait for tiles (PTX ISA, "mbarrier"), of which one thread arrives.
struct Arriving {
    /// Phases that have ended.
    unsigned ended = 0;
    bool has_arrived = false;
    /// Bytes expected, and bytes of the copies begun, in this phase.
    size_t expected = 0, begun = 0;
    std::vector<std::function<void()>> copies;
};

struct Fiber {
    ucontext_t start;
    jmp_buf place;
    bool is_started = false;
    Waits waits = Waits::no;
    const char* at = "";
    Index thread;
    /// Asynchronous copies: those not grouped yet, and groups under way.
    std::vector<Copy> copies;
    std::vector<std::vector<Copy>> groups;
    /// Asynchronous products under way.
    std::vector<std::function<void()>> products;
    /// What it waits for with `Waits::tiles`: the phase of this parity.
    const Arriving* arriving = nullptr;
    unsigned phase = 0;
    std::vector<char> stack = std::vector<char>(STACK_BYTES);
};

/// What lanes of a warp give each other: two rounds, because a lane may be one exchange ahead of another.
struct Exchange {
    uint64_t words[2][32][8];
};

struct Grid {
    Index grid, block, block_index;
    std::vector<Fiber> fibers;
    std::vector<Exchange> exchanges;
    std::vector<unsigned> rounds;
    std::vector<unsigned char> shared;
    std::map<const void*, Arriving> arrivals;
    /// Whether tiles are copied at once.
    bool is_eager = false;
    std::function<void()> kernel;
    Fiber* current = nullptr;
    jmp_buf scheduler;
};

inline thread_local Grid grid;

[[noreturn]] inline void complain(const char* what, const char* at) {
    std::fprintf(stderr, "emulator: block %u, %u: %s at %s\n", grid.block_index.x, grid.block_index.y, what, at);
    std::abort();
}

/// Gives the thread up until the scheduler comes back to it.
inline void wait(Waits waits, const char* at) {
    Fiber* self = grid.current;
    self->waits = waits;
    self->at = at;
    if (_setjmp(self->place) == 0) {
        _longjmp(grid.scheduler, 1);
    }
}

inline void entry() {
    grid.kernel();
    if (!grid.current->copies.empty() || !grid.current->products.empty()) {
        complain("a thread ends with copies or products under way", grid.current->at);
    }
    grid.current->waits = Waits::done;
    _longjmp(grid.scheduler, 1);
}

inline void resume(Fiber& fiber) {
    grid.current = &fiber;
    fiber.waits = Waits::no;
    if (_setjmp(grid.scheduler) == 0) {
        if (fiber.is_started) {
            _longjmp(fiber.place, 1);
        }
        fiber.is_started = true;
        setcontext(&fiber.start);
    }
}

/// Whether threads `first .. end` all wait for the same thing, and so may go on; those that are done do not count.
inline bool release(std::vector<Fiber>& fibers, size_t first, size_t end, Waits waits) {
    const char* at = nullptr;
    for (size_t i = first; i < end; i++) {
        const Fiber& fiber = fibers[i];
        if (fiber.waits == Waits::done) {
            if (waits == Waits::warp) {
                return false;
            }
            continue;
        }
        if (fiber.waits != waits) {
            return false;
        }
        if (waits == Waits::warp && at != nullptr && std::strcmp(at, fiber.at) != 0) {
            complain("lanes of a warp meet at different instructions", at);
        }
        at = fiber.at;
    }
    if (at == nullptr) {
        return false;
    }
    for (size_t i = first; i < end; i++) {
        if (fibers[i].waits == waits) {
            fibers[i].waits = Waits::no;
        }
    }
    return true;
}

/// Runs one block; `order` is 0 forwards, 1 backwards, else mixed by it.
inline void run_block(unsigned order) {
    size_t threads = grid.fibers.size();
    std::vector<size_t> sequence(threads);
    for (size_t i = 0; i < threads; i++) {
        sequence[i] = order == 1 ? threads - 1 - i : i;
    }
    uint64_t seed = order + grid.block_index.x * 31 + grid.block_index.y;
    for (size_t i = threads; order > 1 && i > 1; i--) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        std::swap(sequence[i - 1], sequence[(seed >> 33) % i]);
    }
    std::fill(grid.shared.begin(), grid.shared.end(), 0xa5);
    grid.arrivals.clear();
    grid.is_eager = order & 2;
    for (size_t i = 0; i < threads; i++) {
        Fiber& fiber = grid.fibers[i];
        fiber.thread = {unsigned(i), 0, 0};
        fiber.is_started = false;
        fiber.waits = Waits::no;
        fiber.copies.clear();
        fiber.groups.clear();
        fiber.products.clear();
        getcontext(&fiber.start);
        fiber.start.uc_stack.ss_sp = fiber.stack.data();
        fiber.start.uc_stack.ss_size = fiber.stack.size();
        fiber.start.uc_link = nullptr;
        makecontext(&fiber.start, entry, 0);
    }
    for (;;) {
        bool has_run = false, is_done = true;
        for (size_t i : sequence) {
            Fiber& fiber = grid.fibers[i];
            is_done = is_done && fiber.waits == Waits::done;
            if (fiber.waits == Waits::no) {
                resume(fiber);
                has_run = true;
            }
        }
        if (is_done) {
            for (const auto& [place, arriving] : grid.arrivals) {
                if (arriving.has_arrived || arriving.begun != 0) {
                    complain("a block ends with tiles under way", "wait_for_tiles");
                }
            }
            return;
        }
        bool is_free = false;
        for (Fiber& fiber : grid.fibers) {
            bool waits = fiber.waits == Waits::tiles;
            // Whoever comes first after the arrival ends the phase, for all.
            if (waits && (fiber.arriving->has_arrived || fiber.arriving->ended % 2 != fiber.phase)) {
                fiber.waits = Waits::no;
                is_free = true;
            }
        }
        for (size_t first = 0; first < threads; first += 32) {
            is_free |= release(grid.fibers, first, first + 32, Waits::warp);
        }
        is_free |= release(grid.fibers, 0, threads, Waits::block);
        if (!has_run && !is_free) {
            complain("threads wait for others that never come", grid.fibers[sequence[0]].at);
        }
    }
}

inline std::map<std::string, std::function<void(const uint64_t*)>>& kernels() {
    static std::map<std::string, std::function<void(const uint64_t*)>> all;
    return all;
}

struct Registered {
    Registered(const char* name, std::function<void(const uint64_t*)> kernel) {
        kernels()[name] = std::move(kernel);
    }
};

/// What every lane of the warp gave, lane by lane.
inline const uint64_t (*exchange(std::initializer_list<uint64_t> words, const char* at))[8] {
    size_t index = grid.current->thread.x / 32, lane = grid.current->thread.x % 32;
    // The round changes once all lanes have come; each lane counts for itself.
    unsigned round = grid.rounds[grid.current->thread.x]++ % 2;
    std::copy(words.begin(), words.end(), grid.exchanges[index].words[round][lane]);
    wait(Waits::warp, at);
    return grid.exchanges[index].words[round];
}

inline void make(const std::vector<Copy>& copies) {
    for (const Copy& copy : copies) {
        if (copy.is_there) {
            std::memcpy(copy.to, copy.from, 16);
        } else {
            std::memset(copy.to, 0, 16);
        }
    }
}

} // namespace emulator

#define threadIdx (emulator::grid.current->thread)
#define blockIdx (emulator::grid.block_index)
#define blockDim (emulator::grid.block)
#define gridDim (emulator::grid.grid)

#define DEVICE static inline
#define DEVICE_MEMBER inline
#define SHARED static thread_local
#define DYNAMIC_SHARED(name) unsigned char* name = emulator::grid.shared.data()
#define KERNEL(name, threads, Params)                                                                                   \
    static void name(const Params p);                                                                                  \
    static emulator::Registered name##_registered(#name, [](const uint64_t* words) {                                   \
        if (blockDim.x > threads || blockDim.x % 32 != 0) {                                                            \
            emulator::complain("another number of threads than the kernel is made for", #name);                        \
        }                                                                                                              \
        Params p;                                                                                                      \
        std::memcpy(&p, words, sizeof p);                                                                              \
        name(p);                                                                                                       \
    });                                                                                                                \
    static void name(const Params p)

DEVICE void barrier() {
    emulator::wait(emulator::Waits::block, "barrier");
}

DEVICE int leading_zeros(unsigned long long x) {
    return x == 0 ? 64 : __builtin_clzll(x);
}

template <class T>
DEVICE T shuffle_xor(T x, int lanes) {
    uint64_t word = 0;
    std::memcpy(&word, &x, sizeof x);
    auto all = emulator::exchange({word}, "shuffle_xor");
    std::memcpy(&x, &all[threadIdx.x % 32 ^ lanes][0], sizeof x);
    return x;
}

DEVICE void multiply(int (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    auto all = emulator::exchange({a[0], a[1], a[2], a[3], b0, b1}, "multiply");
    unsigned group = threadIdx.x % 32 / 4, quarter = threadIdx.x % 4;
    for (unsigned i = 0; i < 4; i++) {
        unsigned column = 2 * quarter + i % 2;
        for (unsigned k = 0; k < 32; k++) {
            uint64_t row_word = all[group * 4 + k % 16 / 4][i / 2 + 2 * (k / 16)];
            uint64_t column_word = all[column * 4 + k % 16 / 4][4 + k / 16];
            c[i] += int8_t(row_word >> (8 * (k % 4))) * int8_t(column_word >> (8 * (k % 4)));
        }
    }
}

DEVICE void load_matrices(unsigned (&words)[4], const void* row) {
    if (reinterpret_cast<uintptr_t>(row) % 16 != 0) {
        emulator::complain("a row of a matrix is not at a multiple of 16", "load_matrices");
    }
    auto all = emulator::exchange({reinterpret_cast<uintptr_t>(row)}, "load_matrices");
    unsigned lane = threadIdx.x % 32;
    for (unsigned matrix = 0; matrix < 4; matrix++) {
        auto from = reinterpret_cast<const unsigned char*>(all[matrix * 8 + lane / 4][0]) + lane % 4 * 4;
        std::memcpy(&words[matrix], from, 4);
    }
}

DEVICE void begin_copy(void* to, const void* from, bool is_there) {
    if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) {
        emulator::complain("a copy is not at a multiple of 16", "begin_copy");
    }
    emulator::grid.current->copies.push_back({to, from, is_there});
}

DEVICE void group_copies() {
    auto& fiber = *emulator::grid.current;
    fiber.groups.push_back(std::move(fiber.copies));
    fiber.copies.clear();
}

template <int GROUPS>
DEVICE void wait_for_copies() {
    auto& groups = emulator::grid.current->groups;
    while (groups.size() > GROUPS) {
        emulator::make(groups.front());
        groups.erase(groups.begin());
    }
}

#define HAS_GROUP_PRODUCTS 1

DEVICE unsigned shared_place(const void* at) {
    return unsigned(static_cast<const unsigned char*>(at) - emulator::grid.shared.data()) + 0x400;
}

/// The same fields as on a device, but for the start, which may lie beyond 18 bits here.
DEVICE unsigned long long describe(const void* rows) {
    if (shared_place(rows) % 1024 != 0) {
        emulator::complain("rows of a group product do not start at a multiple of 1,024", "describe");
    }
    return (unsigned long long)(shared_place(rows) >> 4) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

DEVICE void open_products() {}

/// Code k of row r of what a description says: the start counts in 16 bytes, and every address is swapped by its own row of
/// 128 bytes.
DEVICE int described(unsigned long long description, unsigned row, unsigned k) {
    unsigned place = unsigned(description & 0x3fff) * 16 + row / 8 * 1024 + row % 8 * 128 + k;
    place ^= (place >> 7 & 7) << 4;
    return reinterpret_cast<signed char*>(emulator::grid.shared.data())[place - 0x400];
}

DEVICE void begin_products(int (&c)[64], unsigned long long a, unsigned long long b) {
    unsigned thread = threadIdx.x % 128, lane = thread % 32;
    int* sums = c;
    emulator::grid.current->products.push_back([=] {
        for (unsigned i = 0; i < 64; i++) {
            unsigned row = thread / 32 * 16 + i / 2 % 2 * 8 + lane / 4, column = i / 4 * 8 + lane % 4 * 2 + i % 2;
            for (unsigned k = 0; k < 32; k++) {
                sums[i] += described(a, row, k) * described(b, column, k);
            }
        }
    });
}

/// As driver.rs describes a matrix to this device: its address, its lines, and bytes of each.
struct TileSource {
    unsigned long long words[16];
};

typedef unsigned long long Arrival;

DEVICE void new_arrival(Arrival* arrival) {
    emulator::grid.arrivals[arrival] = {};
}

DEVICE void show_arrivals() {}

DEVICE emulator::Arriving& arriving(Arrival* arrival, const char* at) {
    auto found = emulator::grid.arrivals.find(arrival);
    if (found == emulator::grid.arrivals.end()) {
        emulator::complain("a place for tiles is not new", at);
    }
    return found->second;
}

DEVICE void expect_bytes(Arrival* arrival, unsigned bytes) {
    auto& place = arriving(arrival, "expect_bytes");
    if (place.has_arrived) {
        emulator::complain("a second arrival in one phase", "expect_bytes");
    }
    place.has_arrived = true;
    place.expected += bytes;
}

DEVICE void begin_tile_copy(void* to, const TileSource& from, int column, int line, Arrival* arrival) {
    if (shared_place(to) % 1024 != 0 || from.words[0] % 16 != 0 || from.words[2] % 16 != 0 || column % 16 != 0) {
        emulator::complain("a tile, its matrix or its column stands where none may", "begin_tile_copy");
    }
    auto& place = arriving(arrival, "begin_tile_copy");
    auto copy = [to, from, column, line] {
        auto matrix = reinterpret_cast<const unsigned char*>(from.words[0]);
        long long lines = from.words[1], depth = from.words[2];
        for (unsigned at = 0; at < 128 * 128; at++) {
            long long row = (long long)line + at / 128, byte = (long long)column + at % 128;
            bool is_inside = row >= 0 && row < lines && byte >= 0 && byte < depth;
            // Every address is swapped by its own row of 128 bytes.
            unsigned swapped = at ^ (at >> 7 & 7) << 4;
            static_cast<unsigned char*>(to)[swapped] = is_inside ? matrix[row * depth + byte] : 0;
        }
    };
    place.begun += 128 * 128;
    if (emulator::grid.is_eager) {
        copy();
    } else {
        place.copies.push_back(copy);
    }
}

DEVICE void wait_for_tiles(Arrival* arrival, unsigned phase) {
    auto& place = arriving(arrival, "wait_for_tiles");
    // The phase with this parity has ended if the one under way has the other.
    while (place.ended % 2 == phase % 2) {
        if (place.has_arrived) {
            if (place.begun != place.expected) {
                emulator::complain("other bytes are expected than are begun to be copied", "wait_for_tiles");
            }
            for (auto& copy : place.copies) {
                copy();
            }
            place = {place.ended + 1, false, 0, 0, {}};
        } else {
            emulator::grid.current->arriving = &place;
            emulator::grid.current->phase = phase % 2;
            emulator::wait(emulator::Waits::tiles, "wait_for_tiles");
        }
    }
}

DEVICE void wait_for_products() {
    auto& products = emulator::grid.current->products;
    for (auto& product : products) {
        product();
    }
    products.clear();
}
