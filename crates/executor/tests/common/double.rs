//! Models small enough to write down: a classifier that counts bright pixels, an encoder that sums words, a writer that counts
//! on from its prompt's last token.

use std::collections::BTreeMap;

use hyperion_executor::precompile::{Manifest, Run};
use hyperion_primitives::{B256, Dtype, Mix, ModelId, ProgramId};
use hyperion_verify::{Formula, OutputRows};

pub(crate) const DIGITS: ModelId = ModelId(B256::repeat_byte(0xd1));
pub(crate) const ENCODER: ModelId = ModelId(B256::repeat_byte(0xe2));
pub(crate) const WRITER: ModelId = ModelId(B256::repeat_byte(0xa4));
/// Registered, but no block may run it.
pub(crate) const FOREIGN: ModelId = ModelId(B256::repeat_byte(0xf3));
pub(crate) const WIDTH: usize = 384;

pub(crate) fn manifests() -> BTreeMap<ModelId, Manifest> {
    let digits = Manifest {
        program_id: ProgramId(B256::repeat_byte(1)),
        active: true,
        native: true,
        causal: false,
        generator: false,
        input_dtype: Dtype::I32,
        input_width: 64,
        vocabulary: 0,
        output_dtype: Dtype::I32,
        output_width: 10,
        output_rows: OutputRows::Rows,
        rows_max: 256,
        macs: Formula { per_row: 6_464, ..Formula::default() },
        elements: Formula { per_row: 202, ..Formula::default() },
        peak_bytes: 1 << 20,
    };
    // Counts of all-MiniLM-L6-v2: six layers of width 384.
    let encoder = Manifest {
        program_id: ProgramId(B256::repeat_byte(2)),
        input_dtype: Dtype::U32,
        input_width: 1,
        vocabulary: 30_522,
        output_dtype: Dtype::I16,
        output_width: 384,
        output_rows: OutputRows::One,
        macs: Formula { per_row: 10_616_832, per_pair: 4_608, ..Formula::default() },
        elements: Formula { base: 384, per_row: 48_000, per_pair: 72, ..Formula::default() },
        ..digits
    };
    // Longer texts than penalties are counted for fit its context and a call's work.
    let writer = Manifest {
        program_id: ProgramId(B256::repeat_byte(4)),
        causal: true,
        generator: true,
        output_dtype: Dtype::U32,
        output_width: 1,
        output_rows: OutputRows::Tokens,
        rows_max: 8_192,
        macs: Formula { per_row: 4_096, per_pair: 64, per_out: 8_192, ..Formula::default() },
        elements: Formula { per_row: 128, per_pair: 1, per_out: 257, ..Formula::default() },
        vocabulary: 2_048,
        ..encoder
    };
    let foreign = Manifest { native: false, ..digits };
    let all = [(DIGITS, digits), (ENCODER, encoder), (WRITER, writer), (FOREIGN, foreign)];
    BTreeMap::from(all)
}

pub(crate) fn output(run: &Run) -> Vec<u8> {
    let (words, _) = run.input.as_chunks::<4>();
    if run.model == ENCODER {
        let ids: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
        return embedding(&ids);
    }
    if run.model == WRITER {
        let last = words.last().map_or(0, |word| u32::from_le_bytes(*word));
        let step = 1 + u32::from(run.seed[0]);
        let next = (1..=run.sampling.tokens_max).map(|nth| (last + step * nth) % 2_048);
        return next.flat_map(u32::to_le_bytes).collect();
    }
    let rows = words.chunks(64).map(|row| {
        let bright = row.iter().filter(|pixel| i32::from_le_bytes(**pixel) == 1 << 16).count();
        (0..10).flat_map(move |digit| i32::to_le_bytes((digit == bright % 10).into()))
    });
    rows.flatten().collect()
}

/// An image with so many bright pixels, told apart by `variant`.
pub(crate) fn image(bright: usize, variant: i32) -> Vec<u8> {
    let mut pixels = [0_i32; 64];
    pixels[..bright].fill(1 << 16);
    pixels[63] = variant;
    pixels.iter().flat_map(|pixel| pixel.to_le_bytes()).collect()
}

/// Token ids of words, framed as a text.
pub(crate) fn text(words: &[u32]) -> Vec<u8> {
    let ids = [&[101], words, &[102]].concat();
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// The words' random directions, summed and cut to unit length: texts that share words are near.
fn embedding(ids: &[u32]) -> Vec<u8> {
    let mut sums = [0_i64; WIDTH];
    for id in ids.iter().filter(|id| ![101, 102].contains(*id)) {
        let mut mix = Mix::new((*id).into());
        sums.iter_mut().for_each(|sum| *sum += mix.below(2_001) as i64 - 1_000);
    }
    let norm = sums.iter().map(|sum| sum * sum).sum::<i64>().isqrt().max(1);
    sums.iter().flat_map(|sum| ((sum * 32_767 / norm) as i16).to_le_bytes()).collect()
}
