//! Registers of 32-bit integers, as every kernel but the matrix products uses them.
//!
//! A kernel is written once, over [`Lanes`]; an instruction set is a token that proves the CPU has it, and
//! a file of a few dozen operations, each one or two instructions. [`portable`] is the same file as plain
//! loops. What differs more than in its width, the products, has its own files beside
//! [`gemm`](mod@crate::gemm) and [`attention`](mod@crate::attention).
//!
//! Methods take slices and are safe: a token cannot be had where the instructions are missing, loads and
//! stores check their length, and lookups bound their index.

#[cfg(target_arch = "x86_64")]
pub(crate) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(crate) mod avx512;
pub(crate) mod portable;

/// A table that lookups by lane read: entries of 16 bits and one more, because a lane reads 32 bits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lookup16<'a> {
    padded: &'a [u16],
}

impl<'a> Lookup16<'a> {
    /// The table that `padded` is but for its last entry; two entries at least.
    pub(crate) const fn new(padded: &'a [u16]) -> Self {
        assert!(padded.len() >= 2, "an entry and the padding");
        Self { padded }
    }

    /// Index of the last entry.
    pub(crate) const fn last(self) -> usize {
        self.padded.len() - 2
    }

    /// The entries and the padding.
    pub(crate) const fn padded(self) -> &'a [u16] {
        self.padded
    }
}

/// Something to do with an instruction set.
///
/// A function of its own instead of a closure, because only a function can be told to be inlined where the
/// instructions are enabled; [`work!`] writes one.
pub(crate) trait Work<L: Lanes> {
    /// What comes of it.
    type Output;

    /// Does it.
    fn run(self, l: L) -> Self::Output;
}

/// Makes a [`Work`] of a kernel call: its arguments become fields.
macro_rules! work {
    ($(#[$doc:meta])* $name:ident($($field:ident: $type:ty),* $(,)?) -> $output:ty, $bound:ident, |$l:ident| $call:expr) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub(crate) struct $name<'a> {
            $(pub(crate) $field: $type),*
        }

        impl<'a, L: $crate::lanes::$bound> $crate::lanes::Work<L> for $name<'a> {
            type Output = $output;

            #[inline(always)]
            fn run(self, $l: L) -> $output {
                let Self { $($field),* } = self;
                $call
            }
        }
    };
}

pub(crate) use work;

/// The operations of one instruction set on `WIDTH` lanes.
///
/// Arithmetic wraps; every use states the bound that keeps it from doing so.
pub(crate) trait Lanes: Copy + Send + Sync + 'static {
    /// Lanes of a word: 8 or 16, so a word divides 32 codes.
    const WIDTH: usize;
    /// `WIDTH` lanes of 32 bits.
    type Word: Copy;
    /// `WIDTH / 2` lanes of 64 bits.
    type Wide: Copy;

    /// Does `work`, compiled for this instruction set together with whatever it inlines.
    fn vectorize<W: Work<Self>>(self, work: W) -> W::Output;

    /// The first `WIDTH` elements.
    fn load(self, x: &[i32]) -> Self::Word;
    /// Writes the first `WIDTH` elements.
    fn store(self, x: Self::Word, out: &mut [i32]);
    /// `x` in every lane.
    fn splat(self, x: i32) -> Self::Word;

    /// Sum.
    fn add(self, x: Self::Word, y: Self::Word) -> Self::Word;
    /// Difference.
    fn sub(self, x: Self::Word, y: Self::Word) -> Self::Word;
    /// Low 32 bits of the product.
    fn mul(self, x: Self::Word, y: Self::Word) -> Self::Word;
    /// Lesser, signed.
    fn min(self, x: Self::Word, y: Self::Word) -> Self::Word;
    /// Greater, signed.
    fn max(self, x: Self::Word, y: Self::Word) -> Self::Word;
    /// Magnitude.
    fn abs(self, x: Self::Word) -> Self::Word;
    /// Arithmetic shift of all lanes by `shift`, below 32.
    fn shift_right(self, x: Self::Word, shift: u32) -> Self::Word;
    /// Logical shift of each lane by its own amount; 0 from 32 on.
    fn shift_right_each(self, x: Self::Word, shift: Self::Word) -> Self::Word;
    /// `x` in lanes `from..to`, `other` elsewhere; both bounds may lie outside `0..WIDTH`.
    fn within(self, x: Self::Word, from: isize, to: isize, other: Self::Word) -> Self::Word;

    /// Greatest lane, signed.
    fn greatest(self, x: Self::Word) -> i32;
    /// Sum of all lanes, signed, as 64 bits.
    fn total(self, x: Self::Word) -> i64;

    /// Signed products of the even lanes and of the odd lanes.
    fn products(self, x: Self::Word, y: Self::Word) -> (Self::Wide, Self::Wide);
    /// `x` in every lane.
    fn wide_splat(self, x: i64) -> Self::Wide;
    /// Sum.
    fn wide_add(self, x: Self::Wide, y: Self::Wide) -> Self::Wide;
    /// Sum of all lanes.
    fn wide_total(self, x: Self::Wide) -> i64;
    /// Bits `shift..shift + 32` of each lane, `shift` from 1 to 32: even lanes from `even`, odd from `odd`.
    ///
    /// Where a lane shifted right fits 32 bits, these are its value.
    fn narrow(self, even: Self::Wide, odd: Self::Wide, shift: u32) -> Self::Word;

    /// Entry `x & 255` for each lane.
    fn lookup(self, table: &[u32; 256], x: Self::Word) -> Self::Word;
    /// Entry `min(x, last)` for each lane, `x` unsigned.
    fn lookup16(self, table: Lookup16<'_>, x: Self::Word) -> Self::Word;

    /// Narrows the first 32 lanes of four words, each within an `i8`.
    fn store_codes(self, words: &[Self::Word; 4], out: &mut [i8; 32]);

    /// The first elements of `x`, fewer than `WIDTH` if there are no more, then zeros.
    #[inline(always)]
    fn load_some(self, x: &[i32]) -> Self::Word {
        if x.len() >= Self::WIDTH {
            return self.load(x);
        }
        let mut padded = [0; 16];
        padded[..x.len()].copy_from_slice(x);
        self.load(&padded)
    }

    /// Writes the first lanes, as many as `out` holds.
    #[inline(always)]
    fn store_some(self, x: Self::Word, out: &mut [i32]) {
        if out.len() >= Self::WIDTH {
            return self.store(x, out);
        }
        let mut padded = [0; 16];
        self.store(x, &mut padded);
        out.copy_from_slice(&padded[..out.len()]);
    }
}

/// Evaluates `rshr(x * m, shift)` for results that fit 32 bits, shifts 1 to 32: `wide` of the definitions.
#[inline(always)]
pub(crate) fn scale<L: Lanes>(l: L, x: L::Word, m: L::Word, half: L::Wide, shift: u32) -> L::Word {
    let (even, odd) = l.products(x, m);
    l.narrow(l.wide_add(even, half), l.wide_add(odd, half), shift)
}

/// The rounding term of [`scale`].
#[inline(always)]
pub(crate) fn half<L: Lanes>(l: L, shift: u32) -> L::Wide {
    l.wide_splat(1 << (shift - 1))
}

#[cfg(test)]
mod tests;
