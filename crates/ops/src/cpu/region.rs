//! Cuts a list of steps into stages.
//!
//! A run of steps that work row by row becomes one [`Region`], so that a block of rows goes through all of
//! them while it is in the cache and threads meet only at its end. A linear step takes the non-linearity
//! or the residual sum after it along, and what nobody reads after the region never leaves it. Attention,
//! chosen rows and pooling look at other rows and stand between regions.

use alloc::vec::Vec;
use core::ops::Range;

use hyperion_primitives::Dtype;

use super::{
    linear::FEW_ROWS,
    matrix::{Extent, Extents, Place},
};
use crate::{
    ActivationTable, AttentionShape, Cache, Cap, NormShape, PoolMode, RopeShape, Sequence, Step,
    View, WeightId,
};

/// One thing to do before the next can start.
#[derive(Debug)]
pub(super) enum Stage<'s> {
    Rows(Region<'s>),
    Attention(AttentionStep<'s>),
    Choose {
        rows: &'s [u32],
        input: View,
        out: View,
    },
    Pool {
        mode: PoolMode,
        unit: bool,
        sequences: &'s [Sequence],
        input: View,
        out: View,
    },
    /// A step whose own views lie across each other: its inputs are copied first.
    Apart(Step<'s>),
}

/// Attention of one step, its result still head by head.
#[derive(Clone, Copy, Debug)]
pub(super) struct AttentionStep<'s> {
    pub(super) shape: AttentionShape,
    pub(super) sequences: &'s [Sequence],
    /// Where keys and values go and come from; without it they are those of the rows themselves.
    pub(super) cache: Option<Cache<'s>>,
    pub(super) q: View,
    pub(super) k: View,
    pub(super) v: View,
}

/// Steps that go row by row.
#[derive(Debug)]
pub(super) struct Region<'s> {
    pub(super) rows: usize,
    pub(super) extents: Extents,
    pub(super) steps: Vec<RowStep<'s>>,
}

impl Region<'_> {
    /// Whether it multiplies so few rows that reading the weights is what takes time.
    pub(super) fn is_few(&self) -> bool {
        let is_linear = |step: &RowStep<'_>| matches!(step, RowStep::Linear { .. });
        self.rows <= FEW_ROWS && self.steps.iter().any(is_linear)
    }
}

/// A step of a region.
#[derive(Clone, Copy, Debug)]
pub(super) enum RowStep<'s> {
    /// Collects the heads that attention left.
    Context {
        shape: AttentionShape,
        sequences: &'s [Sequence],
        out: Place,
    },
    Embed {
        table: WeightId,
        tokens: Place,
        out: Place,
    },
    Position {
        table: WeightId,
        sequences: &'s [Sequence],
        input: Place,
        out: Place,
    },
    Norm {
        weights: WeightId,
        shape: NormShape,
        input: Place,
        out: Place,
    },
    Linear {
        weights: WeightId,
        input: Place,
        out: Place,
        then: Then,
    },
    Rope {
        frequencies: WeightId,
        shape: RopeShape,
        sequences: &'s [Sequence],
        input: Place,
        out: Place,
    },
    Activation {
        table: ActivationTable,
        input: Place,
        out: Place,
    },
    Softcap {
        cap: Cap,
        input: Place,
        out: Place,
    },
    Gate {
        gate: Place,
        up: Place,
        out: Place,
    },
    Add {
        lhs: Place,
        rhs: Place,
        out: Place,
    },
    Argmax {
        input: Place,
        out: Place,
    },
}

/// What a linear step does with its result before it writes it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Then {
    Nothing,
    Activation(ActivationTable),
    Add(Place),
}

/// The stages of a list of steps, in order.
pub(super) fn stages<'s>(steps: &'s [Step<'s>]) -> Vec<Stage<'s>> {
    let mut stages = Vec::new();
    let mut run = Run::default();
    for (at, step) in steps.iter().enumerate() {
        let rest = &steps[at + 1..];
        match *step {
            Step::Attention { shape, sequences, q, k, v, out } => {
                run.finish(&mut stages, &steps[at..]);
                let cache = None;
                stages.push(Stage::Attention(AttentionStep { shape, sequences, cache, q, k, v }));
                run.start(Pending::Context { shape, sequences, out }, out.rows as usize, &[out]);
            }
            Step::CachedAttention { shape, sequences, cache, q, k, v, out } => {
                run.finish(&mut stages, &steps[at..]);
                let cache = Some(cache);
                stages.push(Stage::Attention(AttentionStep { shape, sequences, cache, q, k, v }));
                run.start(Pending::Context { shape, sequences, out }, out.rows as usize, &[out]);
            }
            Step::Rows { rows, input, out } => {
                run.finish(&mut stages, &steps[at..]);
                stages.push(Stage::Choose { rows, input, out });
            }
            Step::Pool { mode, unit, sequences, input, out } => {
                run.finish(&mut stages, &steps[at..]);
                stages.push(Stage::Pool { mode, unit, sequences, input, out });
            }
            ref step if run.absorbs(step, rest) => {}
            ref step => {
                let views = views(step);
                if views[0].rows == 0 {
                    continue;
                }
                if !run.add(step, &views) {
                    run.finish(&mut stages, &steps[at..]);
                    if !run.add(step, &views) {
                        stages.push(Stage::Apart(*step));
                    }
                }
            }
        }
    }
    run.finish(&mut stages, &[]);
    stages
}

/// A region under construction.
#[derive(Default)]
struct Run<'s> {
    rows: usize,
    extents: Extents,
    steps: Vec<Pending<'s>>,
}

/// A step whose places are not known until the region's matrices are.
#[derive(Clone, Copy)]
enum Pending<'s> {
    Context { shape: AttentionShape, sequences: &'s [Sequence], out: View },
    Step(&'s Step<'s>),
    Activated { linear: &'s Step<'s>, table: ActivationTable, out: View },
    Added { linear: &'s Step<'s>, other: View, out: View },
}

impl<'s> Run<'s> {
    fn start(&mut self, step: Pending<'s>, rows: usize, views: &[View]) {
        self.rows = rows;
        assert!(self.extents.add(views), "one view fits alone");
        self.steps.push(step);
    }

    /// Appends a step; `false` if it has to wait for the end of the region.
    fn add(&mut self, step: &'s Step<'s>, views: &[View]) -> bool {
        let rows = views[0].rows as usize;
        let fits = self.steps.is_empty() || self.rows == rows;
        if !fits || !self.extents.add(views) {
            return false;
        }
        self.rows = rows;
        self.steps.push(Pending::Step(step));
        true
    }

    /// Lets the linear step before take `step` along, if nobody else reads what it would have written.
    fn absorbs(&mut self, step: &'s Step<'s>, rest: &[Step<'s>]) -> bool {
        let Some(Pending::Step(linear @ Step::Linear { out: between, .. })) = self.steps.last()
        else {
            return false;
        };
        let (fused, views) = match *step {
            Step::Activation { table, input, out } if input == *between => {
                (Pending::Activated { linear, table, out }, [out, out])
            }
            Step::Add { lhs, rhs, out } if (lhs == *between) != (rhs == *between) => {
                let other = if lhs == *between { rhs } else { lhs };
                let apart = !Extent::new(other).overlaps(Extent::new(out));
                if !apart || Extent::new(other).overlaps(Extent::new(*between)) {
                    return false;
                }
                (Pending::Added { linear, other, out }, [other, out])
            }
            _ => return false,
        };
        let absorbed = !is_read(*between, rest) && self.extents.add(&views);
        if absorbed {
            *self.steps.last_mut().expect("matched above") = fused;
        }
        absorbed
    }

    /// Ends the region; `rest` are the steps after it.
    fn finish(&mut self, stages: &mut Vec<Stage<'s>>, rest: &[Step<'_>]) {
        let Self { rows, mut extents, steps } = core::mem::take(self);
        if steps.is_empty() {
            return;
        }
        let placed = |extents: &Extents| steps.iter().map(|step| step.placed(extents)).collect();
        let in_buffers: Vec<RowStep<'s>> = placed(&extents);
        extents.set_private(|matrix, extent| {
            writes_first(&in_buffers, matrix) && is_overwritten(extent, rest)
        });
        stages.push(Stage::Rows(Region { rows, steps: placed(&extents), extents }));
    }
}

impl<'s> Pending<'s> {
    fn placed(&self, extents: &Extents) -> RowStep<'s> {
        let place = |view: View| extents.place(view);
        let fused = |linear: &Step<'s>, out: View, then: Then| {
            let Step::Linear { weights, input, .. } = *linear else {
                unreachable!("only a linear step absorbs the next")
            };
            RowStep::Linear { weights, input: place(input), out: place(out), then }
        };
        match *self {
            Self::Context { shape, sequences, out } => {
                RowStep::Context { shape, sequences, out: place(out) }
            }
            Self::Activated { linear, table, out } => fused(linear, out, Then::Activation(table)),
            Self::Added { linear, other, out } => fused(linear, out, Then::Add(place(other))),
            Self::Step(step) => RowStep::new(step, place),
        }
    }
}

impl<'s> RowStep<'s> {
    /// The step with its views found.
    fn new(step: &Step<'s>, place: impl Fn(View) -> Place) -> Self {
        match *step {
            Step::Embed { table, tokens, out } => {
                Self::Embed { table, tokens: place(tokens), out: place(out) }
            }
            Step::Position { table, sequences, input, out } => {
                Self::Position { table, sequences, input: place(input), out: place(out) }
            }
            Step::Norm { weights, shape, input, out } => {
                Self::Norm { weights, shape, input: place(input), out: place(out) }
            }
            Step::Linear { weights, input, out, .. } => {
                let then = Then::Nothing;
                Self::Linear { weights, input: place(input), out: place(out), then }
            }
            Step::Rope { frequencies, shape, sequences, input, out } => {
                Self::Rope { frequencies, shape, sequences, input: place(input), out: place(out) }
            }
            Step::Activation { table, input, out } => {
                Self::Activation { table, input: place(input), out: place(out) }
            }
            Step::Softcap { cap, input, out } => {
                Self::Softcap { cap, input: place(input), out: place(out) }
            }
            Step::Gate { gate, up, out } => {
                Self::Gate { gate: place(gate), up: place(up), out: place(out) }
            }
            Step::Add { lhs, rhs, out } => {
                Self::Add { lhs: place(lhs), rhs: place(rhs), out: place(out) }
            }
            Step::Argmax { input, out } => Self::Argmax { input: place(input), out: place(out) },
            Step::Attention { .. }
            | Step::CachedAttention { .. }
            | Step::Rows { .. }
            | Step::Pool { .. } => {
                unreachable!("these look at other rows and are stages of their own")
            }
        }
    }
}

impl RowStep<'_> {
    /// What the step reads, a place may stand twice, and what it writes.
    fn places(&self) -> (Option<[Place; 2]>, Place) {
        match *self {
            Self::Context { out, .. } => (None, out),
            Self::Embed { tokens: input, out, .. }
            | Self::Position { input, out, .. }
            | Self::Norm { input, out, .. }
            | Self::Rope { input, out, .. }
            | Self::Activation { input, out, .. }
            | Self::Softcap { input, out, .. }
            | Self::Argmax { input, out } => (Some([input; 2]), out),
            Self::Linear { input, out, then: Then::Add(other), .. } => (Some([input, other]), out),
            Self::Linear { input, out, .. } => (Some([input; 2]), out),
            Self::Gate { gate, up, out } => (Some([gate, up]), out),
            Self::Add { lhs, rhs, out } => (Some([lhs, rhs]), out),
        }
    }
}

/// Whether the steps read no column of a matrix that they have not written.
fn writes_first(steps: &[RowStep<'_>], matrix: usize) -> bool {
    let mut written = Vec::new();
    for step in steps {
        let (inputs, out) = step.places();
        for input in inputs.iter().flatten().filter(|input| input.matrix == matrix) {
            let mut unwritten = alloc::vec![input.column..input.column + input.width];
            written.iter().for_each(|columns| remove(&mut unwritten, columns));
            if !unwritten.is_empty() {
                return false;
            }
        }
        if out.matrix == matrix {
            written.push(out.column..out.column + out.width);
        }
    }
    true
}

/// Whether the steps overwrite all that stands in `extent` before they read any of it.
fn is_overwritten(extent: Extent, steps: &[Step<'_>]) -> bool {
    let mut alive = alloc::vec![extent.start..extent.end()];
    for step in steps {
        for view in reads(step).into_iter().filter(|view| view.rows > 0) {
            let read = Extent::new(view);
            let overlaps =
                |alive: &Range<usize>| alive.start < read.end() && read.start < alive.end;
            if read.buffer == extent.buffer && (!is_words(view) || alive.iter().any(overlaps)) {
                return false;
            }
        }
        let [.., out] = views(step);
        if is_dense(out) && out.buffer.0 as usize == extent.buffer {
            let out = Extent::new(out);
            remove(&mut alive, &(out.start..out.end()));
            if alive.is_empty() {
                return true;
            }
        }
    }
    // Whoever runs the list may read it.
    false
}

/// Takes a range out of others.
fn remove(ranges: &mut Vec<Range<usize>>, gone: &Range<usize>) {
    *ranges = ranges
        .iter()
        .flat_map(|range| {
            let before = range.start..range.end.min(gone.start);
            let after = range.start.max(gone.end)..range.end;
            [before, after]
        })
        .filter(|range| !range.is_empty())
        .collect();
}

/// The views of a step that goes row by row, its result last; a view may stand twice.
pub(super) fn views(step: &Step<'_>) -> [View; 3] {
    match *step {
        Step::Embed { tokens, out, .. } => [tokens, tokens, out],
        Step::Position { input, out, .. }
        | Step::Norm { input, out, .. }
        | Step::Linear { input, out, .. }
        | Step::Rope { input, out, .. }
        | Step::Activation { input, out, .. }
        | Step::Softcap { input, out, .. }
        | Step::Argmax { input, out }
        | Step::Rows { input, out, .. }
        | Step::Pool { input, out, .. } => [input, input, out],
        Step::Gate { gate, up, out } => [gate, up, out],
        Step::Add { lhs, rhs, out } => [lhs, rhs, out],
        Step::Attention { q, out, .. } | Step::CachedAttention { q, out, .. } => [q, q, out],
    }
}

/// The views that a step reads; one may stand several times.
fn reads(step: &Step<'_>) -> [View; 3] {
    match *step {
        Step::Attention { q, k, v, .. } | Step::CachedAttention { q, k, v, .. } => [q, k, v],
        _ => {
            let [first, second, _] = views(step);
            [first, second, second]
        }
    }
}

/// Whether one of the steps may read what stands in `value` now.
fn is_read(value: View, steps: &[Step<'_>]) -> bool {
    for step in steps {
        if reads(step).into_iter().any(|view| view.rows > 0 && view_overlaps(view, value)) {
            return true;
        }
        let [.., out] = views(step);
        if out == value || covers(out, value) {
            return false;
        }
    }
    false
}

/// Whether a matrix without gaps leaves no element of `value` as it was.
fn covers(out: View, value: View) -> bool {
    if !is_dense(out) || !is_words(value) || out.buffer != value.buffer {
        return false;
    }
    let (out, value) = (Extent::new(out), Extent::new(value));
    out.start <= value.start && out.end() >= value.end()
}

/// Whether a view has no gaps between its rows, which are words.
fn is_dense(view: View) -> bool {
    view.rows > 0 && (view.stride == view.width || view.rows == 1) && is_words(view)
}

fn is_words(view: View) -> bool {
    view.dtype.bytes() == Dtype::I32.bytes()
}

/// Whether two views may share an element; views of other types count in other units.
fn view_overlaps(view: View, value: View) -> bool {
    if is_words(view) && is_words(value) {
        Extent::new(view).overlaps(Extent::new(value))
    } else {
        view.buffer == value.buffer
    }
}
