//! A generator on a device: sequences grow piece by piece, and what was computed of them stays in a cache.
//!
//! A [`Decoder`] owns the weights and a pool of pages; a [`Context`] is one sequence's part of it. One call,
//! [`run`](Decoder::run), takes any mix of [`Turn`]s: a long prompt in pieces, single tokens of others. Because a cached
//! key or value is the very code that a prefill computes (`docs/exact-inference.md`, "cache"), every cut and every mix gives
//! the same logits.

mod pages;
mod replay;

use hyperion_ops::{Backend, BackendError, BufferId, Cache, Sequence, cache::PageShape};

use self::pages::Pages;
pub use self::replay::{Replay, replay};
use crate::{
    Model, ModelError, TurnError,
    loaded::{Batch, Loaded},
    plan::Plan,
    program::{Input, Op, Program},
};

/// Positions that a page holds.
pub(crate) const PAGE_ROWS: u32 = 32;

/// What a decoder reserves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Rows of a batch at most: tokens of all turns.
    pub rows_max: u32,
    /// Rows of logits of a batch at most.
    pub outputs_max: u32,
    /// Pages of cache; [`Decoder::PAGE_ROWS`] positions each, of all contexts together.
    pub pages: u32,
}

/// Which rows of a turn have their logits computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outputs {
    /// None: a piece of a prompt that goes on.
    None,
    /// The last: what the next token is drawn from.
    Last,
    /// All: what a text is scored by.
    All,
}

/// One sequence's tokens in a batch.
#[derive(Debug)]
pub struct Turn<'t> {
    /// The sequence; afterwards it holds the tokens too.
    pub context: &'t mut Context,
    /// Token ids that come next, one at least.
    pub tokens: &'t [u32],
    /// Which logits to compute.
    pub outputs: Outputs,
}

/// What is cached of one sequence. Its pages go back with [`Decoder::release`], and with all others when the decoder's memory
/// is reserved anew.
#[derive(Debug)]
pub struct Context {
    len: u32,
    pages: Vec<u32>,
    epoch: u64,
}

impl Context {
    /// Tokens that are cached.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether none are.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A generator loaded onto a device: weights packed, memory and cache reserved.
///
/// It is used with the device that loaded it and no other.
#[derive(Debug)]
pub struct Decoder {
    loaded: Loaded,
    limits: Limits,
    vocabulary: u32,
    /// Sizes of a page of each attention, and where its pages are.
    caches: Vec<(PageShape, BufferId)>,
    pages: Pages,
    /// Counts how often memory was reserved.
    epoch: u64,
}

impl Decoder {
    /// Positions that a page holds.
    pub const PAGE_ROWS: u32 = PAGE_ROWS;

    /// Packs the weights and reserves memory and cache.
    ///
    /// # Errors
    ///
    /// When the model does not generate tokens from tokens, one of its rows sees later ones, or the device has too little
    /// memory. What was taken is given back, but for buffers, which go with the device's [reset](Backend::reset).
    pub fn load(
        model: &Model,
        backend: &mut dyn Backend,
        limits: Limits,
    ) -> Result<Self, ModelError> {
        let program = model.program();
        if program.input() != Input::Tokens {
            return Err(ModelError::NotADecoder("it reads no tokens"));
        }
        if !matches!(program.nodes().last().map(|node| node.op), Some(Op::Sample)) {
            return Err(ModelError::NotADecoder("its program does not end in a draw"));
        }
        if program.nodes().iter().any(|node| matches!(node.op, Op::Pool { .. })) {
            return Err(ModelError::NotADecoder("it pools the rows of a sequence"));
        }
        let vocabulary = program.vocabulary().unwrap_or(0);
        let shapes =
            page_shapes(program).ok_or(ModelError::NotADecoder("a row of it sees later rows"))?;
        let plan = Plan::with_outputs(program, limits.rows_max, limits.outputs_max);
        let loaded = Loaded::new(model, backend, plan)?;
        let caches = shapes.into_iter().map(|shape| (shape, BufferId(0))).collect();
        let pages = Pages::new(limits.pages);
        let mut decoder = Self { loaded, limits, vocabulary, caches, pages, epoch: 0 };
        match decoder.reserve_caches(backend) {
            Ok(()) => Ok(decoder),
            Err(error) => {
                decoder.unload(backend);
                Err(error.into())
            }
        }
    }

    /// Reserves memory and cache anew after the device was [reset](Backend::reset); contexts from before are lost.
    ///
    /// # Errors
    ///
    /// When the device has too little memory.
    pub fn reserve(&mut self, backend: &mut dyn Backend) -> Result<(), BackendError> {
        self.loaded.reserve(backend)?;
        self.reserve_caches(backend)
    }

    fn reserve_caches(&mut self, backend: &mut dyn Backend) -> Result<(), BackendError> {
        self.epoch += 1;
        self.pages = Pages::new(self.limits.pages);
        for (shape, buffer) in &mut self.caches {
            *buffer = backend.alloc(u64::from(self.limits.pages) * shape.bytes())?;
        }
        Ok(())
    }

    /// Gives the packed weights back. Buffers go with the device's [reset](Backend::reset).
    pub fn unload(self, backend: &mut dyn Backend) {
        self.loaded.unload(backend);
    }

    /// What was reserved.
    pub const fn limits(&self) -> Limits {
        self.limits
    }

    /// Logits of a row; token ids are below it.
    pub const fn vocabulary(&self) -> u32 {
        self.vocabulary
    }

    /// Positions of a sequence at most.
    pub const fn context_max(&self) -> u32 {
        self.loaded.program().context()
    }

    /// Pages that no context holds.
    pub fn free_pages(&self) -> usize {
        self.pages.free()
    }

    /// Bytes of all memory but weights that `limits` reserve for a model.
    pub fn bytes(program: &Program, limits: Limits) -> u64 {
        let plan = Plan::with_outputs(program, limits.rows_max, limits.outputs_max);
        plan.bytes() + cache_bytes(program, limits.pages.saturating_mul(PAGE_ROWS))
    }

    /// Bytes of a page, of all attentions together; 0 for a program that has none.
    pub fn page_bytes(program: &Program) -> u64 {
        cache_bytes(program, PAGE_ROWS)
    }

    /// Pages that `tokens` more tokens of a context take.
    pub fn pages_missing(context: &Context, tokens: usize) -> usize {
        let positions = context.len as usize + tokens;
        positions.div_ceil(PAGE_ROWS as usize).saturating_sub(context.pages.len())
    }

    /// A sequence of no tokens yet.
    pub const fn begin(&self) -> Context {
        Context { len: 0, pages: Vec::new(), epoch: self.epoch }
    }

    /// A sequence that begins as another does: it shares the pages that the first `tokens` tokens fill, and holds as many
    /// tokens as these pages do.
    pub fn fork(&mut self, context: &Context, tokens: u32) -> Context {
        let mut forked = self.begin();
        if context.epoch == self.epoch {
            let whole = tokens.min(context.len) / PAGE_ROWS;
            forked.pages = context.pages[..whole as usize].to_vec();
            forked.pages.iter().for_each(|page| self.pages.share(*page));
            forked.len = whole * PAGE_ROWS;
        }
        forked
    }

    /// Forgets a sequence's tokens from `tokens` on; their pages go back. What is appended next takes their place.
    ///
    /// A page that is shared is never written to again: other contexts share pages only while they are full, and this one
    /// forgets no token that another context holds a page of.
    pub fn truncate(&mut self, context: &mut Context, tokens: u32) {
        if context.epoch == self.epoch && tokens < context.len {
            let kept = tokens.div_ceil(PAGE_ROWS) as usize;
            context.pages.drain(kept..).for_each(|page| self.pages.give(page));
            context.len = tokens;
        }
    }

    /// Gives a sequence's pages back.
    pub fn release(&mut self, context: Context) {
        if context.epoch == self.epoch {
            context.pages.into_iter().for_each(|page| self.pages.give(page));
        }
    }

    /// Runs a batch of turns: appends their tokens to their contexts, and returns of each turn the logits asked for, Q16
    /// `[rows, vocabulary]`.
    ///
    /// # Errors
    ///
    /// When a turn is not possible, or the batch has more rows, outputs or new pages than there is room for; then nothing
    /// has changed. When the device fails contexts hold what they held before.
    pub fn run(
        &mut self,
        backend: &mut dyn Backend,
        turns: &mut [Turn<'_>],
    ) -> Result<Vec<Vec<i32>>, ModelError> {
        let batch = self.batch(turns)?;
        self.take_pages(turns)?;
        let tokens: Vec<u8> =
            turns.iter().flat_map(|turn| turn.tokens).flat_map(|id| id.to_le_bytes()).collect();
        backend.write(self.loaded.view(0, &batch).buffer, 0, &tokens)?;
        let pages: Vec<&[u32]> = turns.iter().map(|turn| turn.context.pages.as_slice()).collect();
        let cache = |(page, buffer): &(PageShape, BufferId)| Cache {
            buffer: *buffer,
            page: *page,
            pages: &pages,
        };
        let caches: Vec<Cache<'_>> = self.caches.iter().map(cache).collect();
        backend.run(&self.loaded.steps(&batch, &caches))?;
        let logits = self.logits(backend, &batch, turns)?;
        for (turn, sequence) in turns.iter_mut().zip(&batch.sequences) {
            turn.context.len += sequence.rows;
        }
        Ok(logits)
    }

    /// Appends a prompt to a context, in as many pieces as it takes, and returns the logits after its last token.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run); pieces before the one that failed stay in the context.
    pub fn prefill(
        &mut self,
        backend: &mut dyn Backend,
        context: &mut Context,
        tokens: &[u32],
    ) -> Result<Vec<i32>, ModelError> {
        let pieces = tokens.len().div_ceil(self.limits.rows_max as usize).max(1);
        let mut last = Vec::new();
        for index in 0..pieces {
            let start = index * self.limits.rows_max as usize;
            let end = tokens.len().min(start + self.limits.rows_max as usize);
            let outputs = if index + 1 == pieces { Outputs::Last } else { Outputs::None };
            let turn = Turn { context, tokens: &tokens[start..end], outputs };
            last = self.run(backend, &mut [turn])?.remove(0);
        }
        Ok(last)
    }

    /// Appends one token to each of some contexts and returns the logits after it, one row a context.
    ///
    /// # Errors
    ///
    /// As for [`run`](Self::run).
    pub fn step(
        &mut self,
        backend: &mut dyn Backend,
        contexts: &mut [(&mut Context, u32)],
    ) -> Result<Vec<Vec<i32>>, ModelError> {
        let turns = contexts.iter_mut().map(|(context, token)| Turn {
            context,
            tokens: std::slice::from_ref(token),
            outputs: Outputs::Last,
        });
        self.run(backend, &mut turns.collect::<Vec<_>>())
    }

    /// Sizes of a batch, every turn checked.
    fn batch(&self, turns: &[Turn<'_>]) -> Result<Batch, ModelError> {
        let (rows_max, outputs_max) = (self.limits.rows_max, self.limits.outputs_max);
        let rows: u64 = turns.iter().map(|turn| turn.tokens.len() as u64).sum();
        if rows == 0 || rows > rows_max.into() {
            return Err(ModelError::Rows { got: rows, max: rows_max });
        }
        let mut batch = Batch::default();
        for (index, turn) in turns.iter().enumerate() {
            self.check(turn).map_err(|cause| ModelError::Turn { index, cause })?;
            let rows = u32::try_from(turn.tokens.len()).expect("checked with the sum");
            let row = batch.rows;
            batch.sequences.push(Sequence { row, rows, position: turn.context.len });
            batch.rows += rows;
            match turn.outputs {
                Outputs::None => {}
                Outputs::Last => batch.chosen.push(batch.rows - 1),
                Outputs::All => batch.chosen.extend(row..batch.rows),
            }
        }
        if batch.chosen.len() > outputs_max as usize {
            let got = batch.chosen.len() as u64;
            return Err(ModelError::Outputs { got, max: outputs_max });
        }
        Ok(batch)
    }

    fn check(&self, turn: &Turn<'_>) -> Result<(), TurnError> {
        if turn.context.epoch != self.epoch {
            return Err(TurnError::Lost);
        }
        if turn.tokens.is_empty() {
            return Err(TurnError::Empty);
        }
        let (got, max) =
            (u64::from(turn.context.len) + turn.tokens.len() as u64, self.context_max());
        if got > max.into() {
            return Err(TurnError::Length { got, max });
        }
        let vocabulary = self.vocabulary;
        match turn.tokens.iter().find(|token| **token >= vocabulary) {
            Some(token) => Err(TurnError::Token { token: *token, vocabulary }),
            None => Ok(()),
        }
    }

    /// Gives every turn the pages that its tokens need.
    fn take_pages(&mut self, turns: &mut [Turn<'_>]) -> Result<(), ModelError> {
        let missing = |turn: &Turn<'_>| Self::pages_missing(turn.context, turn.tokens.len());
        let (wanted, free) = (turns.iter().map(missing).sum(), self.pages.free());
        if wanted > free {
            return Err(ModelError::Pages { wanted, free });
        }
        for turn in turns {
            for _ in 0..missing(turn) {
                turn.context.pages.push(self.pages.take().expect("counted above"));
            }
        }
        Ok(())
    }

    /// Reads what the draw would read.
    fn logits(
        &self,
        backend: &mut dyn Backend,
        batch: &Batch,
        turns: &[Turn<'_>],
    ) -> Result<Vec<Vec<i32>>, BackendError> {
        let draw = self.loaded.program().nodes().last().expect("a decoder ends in a draw");
        let view = self.loaded.view(draw.inputs[0], batch);
        let mut row = 0;
        let mut logits = Vec::with_capacity(turns.len());
        for (turn, sequence) in turns.iter().zip(&batch.sequences) {
            let rows = match turn.outputs {
                Outputs::None => 0,
                Outputs::Last => 1,
                Outputs::All => sequence.rows,
            };
            let data = Loaded::read(backend, view, row, rows)?;
            let words = data.as_chunks().0.iter().map(|bytes| i32::from_le_bytes(*bytes));
            logits.push(words.collect());
            row += rows;
        }
        Ok(logits)
    }
}

/// Sizes of a page of each attention; `None` when a row sees later ones.
fn page_shapes(program: &Program) -> Option<Vec<PageShape>> {
    let attentions = program.nodes().iter().filter_map(|node| match node.op {
        Op::Attention(shape) => Some(PageShape::new(shape, PAGE_ROWS)),
        _ => None,
    });
    attentions.collect()
}

/// Bytes of a cache of so many positions; 0 for a program that has none.
pub(crate) fn cache_bytes(program: &Program, positions: u32) -> u64 {
    let shapes = page_shapes(program).unwrap_or_default();
    shapes.iter().map(|shape| u64::from(shape.pages(positions)) * shape.bytes()).sum()
}
