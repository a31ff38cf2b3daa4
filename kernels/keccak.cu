// Leaves of a tensor's commitment: keccak-256 of 0x00, "CT1", the tile's index and the tile; a thread hashes one tile of
// 1,024 bytes. Definition: crates/primitives/src/tensor.rs; FIPS 202 with the padding of Keccak.

#define KECCAK_RATE_WORDS 17
#define LEAF_TILE_BYTES 1024

struct KeccakParams {
    /// Leaves of 32 bytes.
    u64* leaves;
    const u8* data;
    /// Bytes of data; the last tile is filled with zeros.
    i64 bytes;
    i64 tiles;
};

DEVICE u64 rotate_left(u64 x, u32 by) {
    return by == 0 ? x : (x << by) | (x >> (64 - by));
}

/// The permutation of 1,600 bits, 24 rounds.
DEVICE void permute(u64 (&state)[25]) {
    // The bits of the round constants come from a shift register, "LFSR" of FIPS 202, section 3.2.5.
    u8 constant = 1;
    for (i32 round = 0; round < 24; round++) {
        u64 parity[5];
        for (i32 x = 0; x < 5; x++) {
            parity[x] = state[x] ^ state[x + 5] ^ state[x + 10] ^ state[x + 15] ^ state[x + 20];
        }
        for (i32 x = 0; x < 5; x++) {
            u64 change = parity[(x + 4) % 5] ^ rotate_left(parity[(x + 1) % 5], 1);
            for (i32 y = 0; y < 25; y += 5) {
                state[x + y] ^= change;
            }
        }
        i32 x = 1, y = 0;
        u64 moved = state[1];
        for (u32 t = 0; t < 24; t++) {
            i32 next = (2 * x + 3 * y) % 5;
            x = y;
            y = next;
            u64 here = state[x + 5 * y];
            state[x + 5 * y] = rotate_left(moved, (t + 1) * (t + 2) / 2 % 64);
            moved = here;
        }
        for (i32 row = 0; row < 25; row += 5) {
            u64 line[5];
            for (i32 i = 0; i < 5; i++) {
                line[i] = state[row + i];
            }
            for (i32 i = 0; i < 5; i++) {
                state[row + i] = line[i] ^ (~line[(i + 1) % 5] & line[(i + 2) % 5]);
            }
        }
        for (u32 bit = 0; bit < 7; bit++) {
            if (constant & 1) {
                state[0] ^= 1ull << ((1u << bit) - 1);
            }
            constant = (u8)((constant << 1) ^ (constant & 0x80 ? 0x71 : 0));
        }
    }
}

KERNEL(keccak, 128, KeccakParams) {
    i64 tile = (i64)blockIdx.x * blockDim.x + threadIdx.x;
    if (tile >= p.tiles) {
        return;
    }
    u64 state[25] = {};
    i64 first = tile * LEAF_TILE_BYTES, end = least(first + LEAF_TILE_BYTES, p.bytes);
    // The message is 4 bytes, the index in 8 bytes, and 1,024 bytes: byte i of it, then one bit of padding at either end.
    const i64 header = 12, message = header + LEAF_TILE_BYTES;
    i64 word = 0;
    for (i64 at = 0; at < 8 * KECCAK_RATE_WORDS * 8; at += 8) {
        u64 value = 0;
        for (i64 i = 0; i < 8; i++) {
            i64 place = at + i, from = first + place - header;
            u64 byte = 0;
            if (place < 4) {
                byte = (0x31544300u >> (8 * place)) & 255; // 0x00 "CT1"
            } else if (place < header) {
                byte = ((u64)tile >> (8 * (header - 1 - place))) & 255;
            } else if (place < message) {
                byte = from < end ? p.data[from] : 0;
            } else if (place == message) {
                byte = 1;
            }
            if (place == 8 * KECCAK_RATE_WORDS * 8 - 1) {
                byte ^= 0x80;
            }
            value |= byte << (8 * i);
        }
        state[word] ^= value;
        if (++word == KECCAK_RATE_WORDS) {
            permute(state);
            word = 0;
        }
    }
    for (i64 i = 0; i < 4; i++) {
        p.leaves[4 * tile + i] = state[i];
    }
}
