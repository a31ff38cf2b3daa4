//! The operations of [`Lanes`] as loops over eight lanes.

use super::{Lanes, Lookup16, Work};

/// Any CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

type Word = [i32; 8];

#[inline(always)]
fn map(x: Word, f: impl Fn(i32) -> i32) -> Word {
    x.map(f)
}

#[inline(always)]
fn zip(x: Word, y: Word, f: impl Fn(i32, i32) -> i32) -> Word {
    core::array::from_fn(|i| f(x[i], y[i]))
}

impl Lanes for Portable {
    const WIDTH: usize = 8;
    type Word = Word;
    type Wide = [i64; 4];

    #[inline(always)]
    fn vectorize<W: Work<Self>>(self, work: W) -> W::Output {
        work.run(self)
    }

    #[inline(always)]
    fn load(self, x: &[i32]) -> Word {
        *x.first_chunk().expect("a word is loaded from a word or more")
    }

    #[inline(always)]
    fn store(self, x: Word, out: &mut [i32]) {
        out[..8].copy_from_slice(&x);
    }

    #[inline(always)]
    fn splat(self, x: i32) -> Word {
        [x; 8]
    }

    #[inline(always)]
    fn add(self, x: Word, y: Word) -> Word {
        zip(x, y, i32::wrapping_add)
    }

    #[inline(always)]
    fn sub(self, x: Word, y: Word) -> Word {
        zip(x, y, i32::wrapping_sub)
    }

    #[inline(always)]
    fn mul(self, x: Word, y: Word) -> Word {
        zip(x, y, i32::wrapping_mul)
    }

    #[inline(always)]
    fn min(self, x: Word, y: Word) -> Word {
        zip(x, y, i32::min)
    }

    #[inline(always)]
    fn max(self, x: Word, y: Word) -> Word {
        zip(x, y, i32::max)
    }

    #[inline(always)]
    fn abs(self, x: Word) -> Word {
        map(x, i32::wrapping_abs)
    }

    #[inline(always)]
    fn shift_right(self, x: Word, shift: u32) -> Word {
        map(x, |x| x >> shift)
    }

    #[inline(always)]
    fn shift_right_each(self, x: Word, shift: Word) -> Word {
        zip(x, shift, |x, shift| {
            x.cast_unsigned().checked_shr(shift.cast_unsigned()).unwrap_or(0).cast_signed()
        })
    }

    #[inline(always)]
    fn within(self, x: Word, from: isize, to: isize, other: Word) -> Word {
        core::array::from_fn(
            |i| if (from..to).contains(&i.cast_signed()) { x[i] } else { other[i] },
        )
    }

    #[inline(always)]
    fn greatest(self, x: Word) -> i32 {
        x.into_iter().fold(i32::MIN, i32::max)
    }

    #[inline(always)]
    fn total(self, x: Word) -> i64 {
        x.into_iter().map(i64::from).sum()
    }

    #[inline(always)]
    fn products(self, x: Word, y: Word) -> ([i64; 4], [i64; 4]) {
        let product = |i: usize| i64::from(x[i]) * i64::from(y[i]);
        (core::array::from_fn(|i| product(2 * i)), core::array::from_fn(|i| product(2 * i + 1)))
    }

    #[inline(always)]
    fn wide_splat(self, x: i64) -> [i64; 4] {
        [x; 4]
    }

    #[inline(always)]
    fn wide_add(self, x: [i64; 4], y: [i64; 4]) -> [i64; 4] {
        core::array::from_fn(|i| x[i].wrapping_add(y[i]))
    }

    #[inline(always)]
    fn wide_total(self, x: [i64; 4]) -> i64 {
        x.into_iter().fold(0, i64::wrapping_add)
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "32 bits of a lane are what is asked for")]
    fn narrow(self, even: [i64; 4], odd: [i64; 4], shift: u32) -> Word {
        core::array::from_fn(|i| (if i % 2 == 0 { even } else { odd }[i / 2] >> shift) as i32)
    }

    #[inline(always)]
    fn lookup(self, table: &[u32; 256], x: Word) -> Word {
        map(x, |x| table[(x & 255).cast_unsigned() as usize].cast_signed())
    }

    #[inline(always)]
    fn lookup16(self, table: Lookup16<'_>, x: Word) -> Word {
        map(x, |x| table.padded()[(x.cast_unsigned() as usize).min(table.last())].into())
    }

    #[inline(always)]
    #[expect(clippy::cast_possible_truncation, reason = "the lanes are codes")]
    fn store_codes(self, words: &[Word; 4], out: &mut [i8; 32]) {
        for (out, x) in out.iter_mut().zip(words.as_flattened()) {
            *out = *x as i8;
        }
    }
}
