//! The seam: what a model of candle-transformers has to be, so that this crate can serve it.
//!
//! There are three kinds of it. One generates tokens ([`Generate`]), one turns tokens into rows that become a vector, one
//! turns rows of numbers into rows of numbers. [`Net`]'s constructors take candle's own functions for each.

use std::fmt;

use candle_core::{Result, Tensor};

/// A model that goes on where its input ends, one sequence at a time.
pub trait Generate: Send {
    /// Logits behind the last of `ids`, which are u32 `[1, n]`, n 1 or more; `past` others were given before. Of any
    /// rank: the last row is meant, and of it as many as the vocabulary has.
    ///
    /// # Errors
    ///
    /// When candle fails.
    fn next(&mut self, ids: &Tensor, past: usize) -> Result<Tensor>;

    /// Forgets the sequence.
    fn clear(&mut self);
}

/// A function of one tensor.
pub type Function = Box<dyn FnMut(&Tensor) -> Result<Tensor> + Send>;

/// A loaded model.
pub enum Net {
    /// Tokens that go on where the input ends.
    Generates(Box<dyn Generate>),
    /// A vector for a text.
    Embeds {
        /// From ids, u32 `[1, n]`, to rows `[1, n, width]`, or to one row `[1, width]` where the model pools itself.
        rows: Function,
        /// Numbers of a row.
        width: usize,
    },
    /// Rows of numbers for rows of numbers, such as the classes of images.
    Maps {
        /// From `[1, row…]` in the model's number format to as many numbers for every row, in any shape.
        map: Function,
        /// Shape of a row that goes in: channels, height, width of an image.
        row: Vec<usize>,
    },
}

impl fmt::Debug for Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Generates(_) => f.debug_struct("Generates").finish_non_exhaustive(),
            Self::Embeds { width, .. } => {
                f.debug_struct("Embeds").field("width", width).finish_non_exhaustive()
            }
            Self::Maps { row, .. } => {
                f.debug_struct("Maps").field("row", row).finish_non_exhaustive()
            }
        }
    }
}

impl Net {
    /// A model that keeps its cache and can empty it.
    pub fn cached<M: Send + 'static>(
        model: M,
        next: fn(&mut M, &Tensor, usize) -> Result<Tensor>,
        clear: fn(&mut M),
    ) -> Self {
        Self::Generates(Box::new(Cached { model, next, clear }))
    }

    /// A model whose sequence is a value of its own, made `fresh` for each: a cache beside the model, a recurrent state, or
    /// the model itself where it has a cache that cannot be emptied.
    ///
    /// # Errors
    ///
    /// When the first one cannot be made.
    pub fn stateful<S: Send + 'static>(
        fresh: impl Fn() -> Result<S> + Send + 'static,
        next: impl FnMut(&mut S, &Tensor, usize) -> Result<Tensor> + Send + 'static,
    ) -> Result<Self> {
        let state = Some(fresh()?);
        Ok(Self::Generates(Box::new(Stateful { state, fresh, next })))
    }

    /// As [`stateful`](Self::stateful), of a model that reads one token at a time: `next` gets `[1, 1]`.
    ///
    /// # Errors
    ///
    /// When the first state cannot be made.
    pub fn one_by_one<S: Send + 'static>(
        fresh: impl Fn() -> Result<S> + Send + 'static,
        mut next: impl FnMut(&mut S, &Tensor, usize) -> Result<Tensor> + Send + 'static,
    ) -> Result<Self> {
        Self::stateful(fresh, move |state, ids, past| {
            let (_, count) = ids.dims2()?;
            let mut logits = next(state, &ids.narrow(1, 0, 1)?, past)?;
            for at in 1..count {
                logits = next(state, &ids.narrow(1, at, 1)?, past + at)?;
            }
            Ok(logits)
        })
    }

    /// A model whose cache cannot be used: it reads the whole sequence, `[1, n]`, for each token.
    pub fn uncached(mut next: impl FnMut(&Tensor) -> Result<Tensor> + Send + 'static) -> Self {
        let next = move |state: &mut Option<Tensor>, ids: &Tensor, _| {
            let all = match state.take() {
                None => ids.clone(),
                Some(before) => Tensor::cat(&[&before, ids], 1)?,
            };
            let logits = next(&all);
            *state = Some(all);
            logits
        };
        Self::Generates(Box::new(Stateful { state: Some(None), fresh: || Ok(None), next }))
    }

    /// A model that embeds.
    pub fn embeds(
        width: usize,
        rows: impl FnMut(&Tensor) -> Result<Tensor> + Send + 'static,
    ) -> Self {
        Self::Embeds { rows: Box::new(rows), width }
    }

    /// A model of rows of numbers.
    pub fn maps(
        row: impl Into<Vec<usize>>,
        map: impl FnMut(&Tensor) -> Result<Tensor> + Send + 'static,
    ) -> Self {
        Self::Maps { map: Box::new(map), row: row.into() }
    }
}

struct Cached<M> {
    model: M,
    next: fn(&mut M, &Tensor, usize) -> Result<Tensor>,
    clear: fn(&mut M),
}

impl<M: Send> Generate for Cached<M> {
    fn next(&mut self, ids: &Tensor, past: usize) -> Result<Tensor> {
        (self.next)(&mut self.model, ids, past)
    }

    fn clear(&mut self) {
        (self.clear)(&mut self.model);
    }
}

struct Stateful<S, F, N> {
    /// `None`: no sequence has begun.
    state: Option<S>,
    fresh: F,
    next: N,
}

impl<S, F, N> Generate for Stateful<S, F, N>
where
    S: Send,
    F: Fn() -> Result<S> + Send,
    N: FnMut(&mut S, &Tensor, usize) -> Result<Tensor> + Send,
{
    fn next(&mut self, ids: &Tensor, past: usize) -> Result<Tensor> {
        let mut state = match self.state.take() {
            Some(state) => state,
            None => (self.fresh)()?,
        };
        let logits = (self.next)(&mut state, ids, past)?;
        self.state = Some(state);
        Ok(logits)
    }

    fn clear(&mut self) {
        self.state = None;
    }
}
