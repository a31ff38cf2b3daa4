//! Applies table non-linearities, a word at a time.

use crate::{
    ActivationTable,
    lanes::{Lanes, Lookup16, work},
    table,
};

work! {
    /// [`activation`].
    Activation(table: ActivationTable, x: &'a [i32], out: &'a mut [i32]) -> (), Lanes,
    |l| activation(l, table, x, out)
}

static GELU: [u16; 2049] = padded(&table::GELU);
static GELU_TANH: [u16; 2049] = padded(&table::GELU_TANH);
static SILU: [u16; 4097] = padded(&table::SILU);

/// The table and one entry more, which a lookup reads but never uses.
const fn padded<const N: usize, const M: usize>(entries: &[u16; N]) -> [u16; M] {
    assert!(M == N + 1, "one entry more");
    let mut padded = [0; M];
    let mut i = 0;
    while i < N {
        padded[i] = entries[i];
        i += 1;
    }
    padded
}

/// A non-linearity by the word.
#[derive(Clone, Copy)]
pub(crate) struct Nonlinearity<L: Lanes> {
    corrections: Option<Lookup16<'static>>,
    zero: L::Word,
    half: L::Word,
}

impl<L: Lanes> Nonlinearity<L> {
    #[inline(always)]
    pub(crate) fn new(l: L, table: ActivationTable) -> Self {
        let corrections = match table {
            ActivationTable::Relu => None,
            ActivationTable::Gelu => Some(Lookup16::new(&GELU)),
            ActivationTable::GeluTanh => Some(Lookup16::new(&GELU_TANH)),
            ActivationTable::Silu => Some(Lookup16::new(&SILU)),
        };
        Self { corrections, zero: l.splat(0), half: l.splat(128) }
    }

    /// Applies it, as [`crate::activation::activation`].
    #[inline(always)]
    pub(crate) fn word(self, l: L, x: L::Word) -> L::Word {
        let positive = l.max(x, self.zero);
        match self.corrections {
            None => positive,
            // |x| + 128 stays far below 2^31.
            Some(corrections) => {
                let place = l.shift_right(l.add(l.abs(x), self.half), 8);
                l.sub(positive, l.lookup16(corrections, place))
            }
        }
    }
}

/// Applies a non-linearity to a row.
#[inline(always)]
fn activation<L: Lanes>(l: L, table: ActivationTable, x: &[i32], out: &mut [i32]) {
    let nonlinearity = Nonlinearity::new(l, table);
    for (x, out) in x.chunks(L::WIDTH).zip(out.chunks_mut(L::WIDTH)) {
        l.store_some(nonlinearity.word(l, l.load_some(x)), out);
    }
}
