//! Applies table non-linearities, a word at a time.

use crate::{
    ActivationTable,
    lanes::{Lanes, Lookup16},
    table,
};

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

/// Applies a non-linearity in place, as [`crate::activation::activation`].
#[inline(always)]
pub(crate) fn activation<L: Lanes>(l: L, table: ActivationTable, x: &mut [i32]) {
    let corrections = match table {
        ActivationTable::Relu => None,
        ActivationTable::Gelu => Some(Lookup16::new(&GELU)),
        ActivationTable::GeluTanh => Some(Lookup16::new(&GELU_TANH)),
        ActivationTable::Silu => Some(Lookup16::new(&SILU)),
    };
    let (zero, half) = (l.splat(0), l.splat(128));
    for x in x.chunks_mut(L::WIDTH) {
        let word = l.load_some(x);
        let positive = l.max(word, zero);
        let y = match corrections {
            None => positive,
            // |x| + 128 stays far below 2^31.
            Some(corrections) => {
                let place = l.shift_right(l.add(l.abs(word), half), 8);
                l.sub(positive, l.lookup16(corrections, place))
            }
        };
        l.store_some(y, x);
    }
}
