//! How a source tensor's numbers lie in its bytes, and the exact real that each of them stands for.
//!
//! ```text
//! Q8_0   32 numbers    d f16 ‖ q i8[32]                                        d·q
//! Q4_0   32 numbers    d f16 ‖ 16 bytes, low halves first                      d·(half − 8)
//! Q4_K   256 numbers   d f16 ‖ dmin f16 ‖ scales 12 bytes ‖ 128 bytes          d·s·half − dmin·m
//! Q6_K   256 numbers   low 128 bytes ‖ high 64 bytes ‖ s i8[16] ‖ d f16        d·s·(q − 32)
//! ```
//!
//! The layouts are those of ggml's `ggml-quants.c`. A block's number is a product of a binary16 and a small whole number, or
//! in `Q4_K` the difference of two such: never its float rounding.

use crate::real::{Format, Real};

/// How a tensor's numbers lie in its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    /// One after another.
    Plain(Format),
    /// Blocks of 32: a binary16 `d`, then 32 signed bytes `q`; a number is `d·q`.
    Q8_0,
    /// Blocks of 32: a binary16 `d`, then 16 bytes, whose low halves are numbers 0 to 15 and whose high halves are
    /// numbers 16 to 31; a number is `d·(half − 8)`.
    Q4_0,
    /// Blocks of 256, eight groups of 32 with a scale and an offset of 6 bits each.
    Q4K,
    /// Blocks of 256, sixteen groups of 16 with a scale of 8 bits each.
    Q6K,
}

/// Numbers of a small block.
const BLOCK: usize = 32;
/// Numbers of a large block.
const SUPER: usize = 256;
/// Where in a block of `Q4_K` the scales and the halves begin.
const Q4K_SCALES: usize = 4;
const Q4K_HALVES: usize = 16;
/// Where in a block of `Q6_K` the high bits, the scales and `d` begin.
const Q6K_HIGH: usize = 128;
const Q6K_SCALES: usize = 192;
const Q6K_D: usize = 208;

impl Encoding {
    /// Numbers that cannot be taken apart.
    pub(super) const fn block(self) -> usize {
        match self {
            Self::Plain(_) => 1,
            Self::Q8_0 | Self::Q4_0 => BLOCK,
            Self::Q4K | Self::Q6K => SUPER,
        }
    }

    /// Bytes of that many numbers.
    const fn block_bytes(self) -> usize {
        match self {
            Self::Plain(format) => format.bytes(),
            Self::Q8_0 => BLOCK + 2,
            Self::Q4_0 => BLOCK / 2 + 2,
            Self::Q4K => Q4K_HALVES + SUPER / 2,
            Self::Q6K => Q6K_D + 2,
        }
    }

    /// Bytes of so many numbers, whole blocks of them; `None` when there is no such number of bytes.
    pub(super) fn bytes(self, numbers: usize) -> Option<usize> {
        (numbers / self.block()).checked_mul(self.block_bytes())
    }

    /// Numbers in so many bytes.
    pub(super) fn numbers(self, bytes: usize) -> usize {
        bytes / self.block_bytes() * self.block()
    }

    /// Number `index`, exactly; `None` when it is infinite or none.
    pub(super) fn value(self, bytes: &[u8], index: usize) -> Option<Real> {
        let (block, place) = (index / self.block(), index % self.block());
        let block = &bytes[block * self.block_bytes()..][..self.block_bytes()];
        match self {
            Self::Plain(format) => format.read(block),
            Self::Q8_0 => {
                Some(Format::F16.read(block)?.times(block[2 + place].cast_signed().into()))
            }
            Self::Q4_0 => {
                let pair = block[2 + place % (BLOCK / 2)];
                let half = if place < BLOCK / 2 { pair & 15 } else { pair >> 4 };
                Some(Format::F16.read(block)?.times(i16::from(half) - 8))
            }
            Self::Q4K => q4k(block, place),
            Self::Q6K => q6k(block, place),
        }
    }
}

/// Number `place` of a block: `d·s·half − dmin·m`, s and m those of the group of 32 that it lies in.
fn q4k(block: &[u8], place: usize) -> Option<Real> {
    let (d, dmin) = (Format::F16.read(block)?, Format::F16.read(&block[2..])?);
    let (scale, offset) = group(&block[Q4K_SCALES..Q4K_HALVES], place / BLOCK);
    // Two groups share 32 bytes: the first has the low halves, the second the high ones.
    let pair = block[Q4K_HALVES + place / (2 * BLOCK) * BLOCK + place % BLOCK];
    let half = if (place / BLOCK).is_multiple_of(2) { pair & 15 } else { pair >> 4 };
    // Exponents of binary16 numbers are at most 29 apart, so the sum leaves nothing out.
    Some(d.times(i16::from(scale) * i16::from(half)).plus(dmin.times(-i16::from(offset))))
}

/// Scale and offset of one of eight groups, 6 bits each. Bytes 0–3 and 4–7 hold the first four scales and offsets, and in
/// their highest two bits the highest two of the other four; bytes 8–11 hold the other four's lower halves.
fn group(scales: &[u8], index: usize) -> (u8, u8) {
    if index < 4 {
        return (scales[index] & 63, scales[index + 4] & 63);
    }
    let low = scales[index + 4];
    (low & 15 | scales[index - 4] >> 6 << 4, low >> 4 | scales[index] >> 6 << 4)
}

/// Number `place` of a block: `d·s·(q − 32)`, s that of the group of 16 that it lies in.
fn q6k(block: &[u8], place: usize) -> Option<Real> {
    // Each half of a block is four runs of 32 numbers. Runs 0 and 2 share 32 bytes of low bits, and so do 1 and 3; all
    // four share 32 bytes of high bits, two bits each.
    let (half, run, at) = (place / 128, place / BLOCK % 4, place % BLOCK);
    let pair = block[64 * half + BLOCK * (run % 2) + at];
    let low = if run < 2 { pair & 15 } else { pair >> 4 };
    let high = block[Q6K_HIGH + BLOCK * half + at] >> (2 * run) & 3;
    let scale = i16::from(block[Q6K_SCALES + place / 16].cast_signed());
    Some(Format::F16.read(&block[Q6K_D..])?.times(scale * (i16::from(low | high << 4) - 32)))
}

#[cfg(test)]
mod tests {
    use hyperion_primitives::Mix;

    use super::*;

    /// The value of a binary16, in units of 2^-24, so that every one of them is whole.
    fn f16_q24(bits: u16) -> i64 {
        let (exponent, fraction) = (i64::from(bits >> 10 & 31), i64::from(bits & 1023));
        let magnitude = if exponent == 0 { fraction } else { (fraction + 1024) << (exponent - 1) };
        if bits >> 15 == 1 { -magnitude } else { magnitude }
    }

    fn q24(real: Real) -> i64 {
        let magnitude = real.mantissa << (real.exponent + 24);
        let magnitude = i64::try_from(magnitude).unwrap();
        if real.is_negative { -magnitude } else { magnitude }
    }

    fn random(mix: &mut Mix, bytes: usize, halves: &[usize]) -> Vec<u8> {
        let mut block: Vec<u8> = (0..bytes).map(|_| mix.u64() as u8).collect();
        for at in halves {
            // Not infinite: the highest exponent bit is clear.
            block[at + 1] &= 0xbf;
        }
        block
    }

    /// All 256 numbers of a block in the order in which ggml's reference unpacks them, in units of 2^-24.
    fn unpack_q4k(block: &[u8]) -> Vec<i64> {
        let half = |at: usize| f16_q24(u16::from_le_bytes([block[at], block[at + 1]]));
        let (d, dmin, s) = (half(0), half(2), &block[4..16]);
        let mut scales: Vec<(i64, i64)> =
            (0..4).map(|j| ((s[j] & 63).into(), (s[j + 4] & 63).into())).collect();
        for j in 4..8 {
            let scale = (s[j + 4] % 16) + 16 * (s[j - 4] / 64);
            let offset = (s[j + 4] / 16) + 16 * (s[j] / 64);
            scales.push((scale.into(), offset.into()));
        }
        let mut out = Vec::new();
        for (chunk, pair) in block[16..].chunks(32).zip(scales.chunks(2)) {
            out.extend(chunk.iter().map(|b| d * pair[0].0 * i64::from(b % 16) - dmin * pair[0].1));
            out.extend(chunk.iter().map(|b| d * pair[1].0 * i64::from(b / 16) - dmin * pair[1].1));
        }
        out
    }

    fn unpack_q6k(block: &[u8]) -> Vec<i64> {
        let d = f16_q24(u16::from_le_bytes([block[208], block[209]]));
        let mut out = vec![0; 256];
        for n in 0..2 {
            let (ql, qh) = (&block[64 * n..][..64], &block[128 + 32 * n..][..32]);
            let s: Vec<i64> =
                block[192 + 8 * n..][..8].iter().map(|s| s.cast_signed().into()).collect();
            let out = &mut out[128 * n..][..128];
            for l in 0..32 {
                let q = [
                    ql[l] % 16 + 16 * (qh[l] % 4),
                    ql[l + 32] % 16 + 16 * (qh[l] / 4 % 4),
                    ql[l] / 16 + 16 * (qh[l] / 16 % 4),
                    ql[l + 32] / 16 + 16 * (qh[l] / 64),
                ];
                for (run, q) in q.into_iter().enumerate() {
                    out[32 * run + l] = d * s[2 * run + l / 16] * (i64::from(q) - 32);
                }
            }
        }
        out
    }

    #[test]
    fn large_blocks_hold_the_numbers_that_their_format_says() {
        let mut mix = Mix::new(29);
        for _ in 0..500 {
            for (encoding, unpack, halves) in [
                (Encoding::Q4K, unpack_q4k as fn(&[u8]) -> Vec<i64>, &[0, 2][..]),
                (Encoding::Q6K, unpack_q6k, &[208]),
            ] {
                let block = random(&mut mix, encoding.block_bytes(), halves);
                let mut two = block.clone();
                two.extend(&block);
                let got = |at| q24(encoding.value(&two, at).unwrap());
                let want = unpack(&block);
                assert_eq!((0..256).map(got).collect::<Vec<_>>(), want);
                assert_eq!((256..512).map(got).collect::<Vec<_>>(), want);
            }
        }
    }

    #[test]
    fn a_block_whose_scale_is_infinite_holds_no_number() {
        for (encoding, at) in [
            (Encoding::Q8_0, 0),
            (Encoding::Q4_0, 0),
            (Encoding::Q4K, 0),
            (Encoding::Q4K, 2),
            (Encoding::Q6K, 208),
        ] {
            let mut block = vec![0; encoding.block_bytes()];
            assert_eq!(encoding.value(&block, 5), Some(encoding.value(&block, 6).unwrap()));
            block[at + 1] = 0x7c;
            assert_eq!(encoding.value(&block, 5), None, "{encoding:?}");
        }
    }

    /// Candle computes the same numbers in f32, rounding once.
    #[cfg(feature = "float")]
    #[test]
    fn candle_says_the_same_rounded_once() {
        use candle_core::{Device, quantized::GgmlDType, quantized::ggml_file::qtensor_from_ggml};
        let mut mix = Mix::new(31);
        for (encoding, kind, halves) in
            [(Encoding::Q4K, GgmlDType::Q4K, &[0, 2][..]), (Encoding::Q6K, GgmlDType::Q6K, &[208])]
        {
            let bytes: Vec<u8> =
                (0..64).flat_map(|_| random(&mut mix, encoding.block_bytes(), halves)).collect();
            let tensor = qtensor_from_ggml(kind, &bytes, vec![64, 256], &Device::Cpu).unwrap();
            let tensor = tensor.dequantize(&Device::Cpu).unwrap().flatten_all().unwrap();
            let want: Vec<f32> = tensor.to_vec1().unwrap();
            for (index, want) in want.into_iter().enumerate() {
                // 51 bits at most, so f64 holds it and one rounding remains.
                let exact = q24(encoding.value(&bytes, index).unwrap()) as f64 / (1 << 24) as f64;
                assert_eq!(exact as f32, want, "{kind:?} {index}");
            }
        }
    }
}
