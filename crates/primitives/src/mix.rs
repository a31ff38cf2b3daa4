/// Deterministic words for conformance cases: splitmix64 (Steele, Lea, Flood, OOPSLA 2014).
///
/// The stream is part of `conformance.toml`, so it never changes; it is no source of secrets.
#[derive(Clone, Debug)]
pub struct Mix(u64);

impl Mix {
    /// A stream that starts from `seed`.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next word.
    pub const fn u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A word in `[-2^bits, 2^bits)`; `bits` is at most 31.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "bits <= 31 bounds it"
    )]
    pub const fn i32(&mut self, bits: u32) -> i32 {
        ((self.u64() >> (63 - bits)) as i64 - (1 << bits)) as i32
    }

    /// A word in `[0, bound)`; `bound` is not zero.
    pub const fn below(&mut self, bound: u64) -> u64 {
        self.u64() % bound
    }
}
