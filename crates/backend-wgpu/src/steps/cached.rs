//! Attention to a cache: pages are gathered beside the new rows' codes, and the kernels of plain attention do the rest.

use hyperion_ops::{AttentionShape, BackendError, Cache, Sequence, View};

use super::{KMIN, KMIN_SCORE, NARROW_WORDS, Recorder, Scratch, cap_words};
use crate::{
    kernels::Kernel,
    pass::{Binding, Copy},
};

/// Where the codes and steps of one sequence lie in the scratch, in words: queries, keys, values.
#[derive(Clone, Copy)]
struct Lie {
    codes: [u32; 3],
    steps: [u32; 3],
    /// Words of a row's codes, by part.
    row_words: [u32; 3],
    /// Heads of a row, by part.
    heads: [u32; 3],
}

impl Recorder<'_> {
    /// Adds each sequence's rows to its pages and attends from them, one sequence after another.
    pub(super) fn cached_attention(
        &mut self,
        shape: AttentionShape,
        sequences: &[Sequence],
        cache: Cache<'_>,
        qkv: [View; 3],
        out: View,
    ) -> Result<(), BackendError> {
        for (sequence, pages) in sequences.iter().zip(cache.pages) {
            if sequence.rows > 0 {
                let lie = self.lie(shape, *sequence)?;
                self.quantize_rows(shape, *sequence, lie, qkv);
                self.move_rows(*sequence, lie, (cache, pages));
                self.attend_to_cache(shape, *sequence, lie, out)?;
            }
        }
        Ok(())
    }

    /// Makes room for a sequence: its new queries, and all its keys and values.
    fn lie(&mut self, shape: AttentionShape, sequence: Sequence) -> Result<Lie, BackendError> {
        let words = shape.head_dim.div_ceil(4);
        let heads = [shape.heads, shape.kv_heads, shape.kv_heads];
        let all = sequence.position + sequence.rows;
        let rows = [sequence.rows, all, all];
        let parts = rows.iter().zip(heads);
        let count: u64 = parts.map(|(rows, heads)| u64::from(*rows) * u64::from(heads)).sum();
        Scratch::grow(self.gpu, &mut self.scratch.codes, count * u64::from(words))?;
        Scratch::grow(self.gpu, &mut self.scratch.steps, count)?;
        let queries = rows[0] * heads[0];
        let keys = rows[1] * heads[1];
        let steps = [0, queries, queries + keys];
        let row_words = heads.map(|heads| heads * words);
        Ok(Lie { codes: steps.map(|at| at * words), steps, row_words, heads })
    }

    /// Quantizes the new rows; keys and values come after those of the cached ones.
    fn quantize_rows(
        &mut self,
        shape: AttentionShape,
        sequence: Sequence,
        lie: Lie,
        qkv: [View; 3],
    ) {
        let words = shape.head_dim.div_ceil(4);
        for (part, view) in qkv.into_iter().enumerate() {
            let past = if part == 0 { 0 } else { sequence.position };
            let kmin = if part < 2 { KMIN_SCORE } else { KMIN };
            for (row, count) in Self::parts(sequence.rows, self.rows_max(&[view])) {
                let x = self.bind(view, sequence.row + row, count);
                let params = [
                    count,
                    shape.head_dim,
                    lie.heads[part],
                    x.at,
                    x.stride,
                    words,
                    lie.codes[part] + (past + row) * lie.row_words[part],
                    0,
                    lie.steps[part] + (past + row) * lie.heads[part],
                    kmin.unsigned_abs(),
                    0,
                    0,
                ];
                let bindings = [
                    Binding::whole(&self.scratch.codes),
                    Binding::whole(&self.scratch.steps),
                    x.binding,
                    Binding::whole(&self.tables.nothing),
                ];
                self.pass.dispatch(Kernel::Quantize, &bindings, &params, [lie.heads[part], count]);
            }
        }
    }

    /// Copies cached rows from their pages, and new rows to theirs.
    fn move_rows(&mut self, sequence: Sequence, lie: Lie, (cache, pages): (Cache<'_>, &[u32])) {
        let page = cache.page;
        let end = sequence.position + sequence.rows;
        let memory = &self.buffers[cache.buffer.0 as usize];
        let half = page.bytes() / 2;
        for (index, number) in (0..).zip(pages) {
            let first = index * page.rows;
            let runs = [
                (first, end.min(first + page.rows).min(sequence.position), true),
                (first.max(sequence.position), end.min(first + page.rows), false),
            ];
            for (start, stop, is_cached) in runs {
                if stop <= start {
                    continue;
                }
                for part in [1, 2] {
                    let page_at = u64::from(*number) * page.bytes() + half * (part as u64 - 1);
                    let (words, heads) = (lie.row_words[part], lie.heads[part]);
                    let steps_at = page_at + 4 * u64::from(page.rows) * u64::from(words);
                    let parts = [
                        (&self.scratch.codes, lie.codes[part], words, page_at),
                        (&self.scratch.steps, lie.steps[part], heads, steps_at),
                    ];
                    for (scratch, at, width, page_at) in parts {
                        let bytes = |rows: u32| 4 * u64::from(rows) * u64::from(width);
                        let here = (scratch.clone(), 4 * u64::from(at) + bytes(start));
                        let there = (memory.clone(), page_at + bytes(start - first));
                        let (from, to) = if is_cached { (there, here) } else { (here, there) };
                        self.pass.copy(Copy {
                            from: from.0,
                            from_at: from.1,
                            to: to.0,
                            to_at: to.1,
                            bytes: bytes(stop - start),
                        });
                    }
                }
            }
        }
    }

    /// Attends from the new rows. Kernels count rows from the sequence's first, so queries and results are said to start as
    /// many rows earlier as are cached; shaders add modulo 2^32.
    fn attend_to_cache(
        &mut self,
        shape: AttentionShape,
        sequence: Sequence,
        lie: Lie,
        out: View,
    ) -> Result<(), BackendError> {
        let words = shape.head_dim.div_ceil(4);
        let is_narrow = words <= NARROW_WORDS;
        let (past, all) = (sequence.position, sequence.position + sequence.rows);
        let places: Vec<u32> = if is_narrow {
            let quads = Self::parts(sequence.rows, 4);
            quads.flat_map(|(row, count)| [past + row, count, 0, all, 0, 0, 0, 0]).collect()
        } else {
            (0..all).flat_map(|_| [0, all, 0, 0]).collect()
        };
        let places = self.upload(places)?;
        let kernel = match (is_narrow, shape.p15) {
            (false, false) => Kernel::Attention,
            (false, true) => Kernel::AttentionFine,
            (true, false) => Kernel::AttentionRows,
            (true, true) => Kernel::AttentionRowsFine,
        };
        let cap = cap_words(shape.cap);
        let most = self.rows_max(&[out]).min(self.gpu.groups_max) / 4 * 4;
        for (first, count) in Self::parts(sequence.rows, most.max(4)) {
            let y = self.bind(out, sequence.row + first, count);
            let bindings = [
                y.binding,
                Binding::whole(&self.scratch.codes),
                Binding::whole(&self.scratch.steps),
                Binding::whole(&places),
                Binding::whole(&self.tables.exp2),
            ];
            let (row, groups) =
                if is_narrow { (first / 4, count.div_ceil(4)) } else { (past + first, count) };
            let params = [
                shape.heads,
                shape.kv_heads,
                shape.head_dim,
                words,
                lie.codes[0].wrapping_sub(past.wrapping_mul(lie.row_words[0])),
                lie.codes[1],
                lie.codes[2],
                lie.steps[0].wrapping_sub(past.wrapping_mul(lie.heads[0])),
                lie.steps[1],
                lie.steps[2],
                y.at.wrapping_sub((past + first).wrapping_mul(y.stride)),
                y.stride,
                1,
                shape.window,
                row,
                cap[0],
                cap[1],
            ];
            self.pass.dispatch(kernel, &bindings, &params, [shape.heads, groups]);
        }
        Ok(())
    }
}
