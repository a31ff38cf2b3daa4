//! A generator on a device: answers join, grow by a token a step, and leave, all in one batch (continuous batching).
//!
//! ```text
//! step   1. a token of every answer that has read its prompt, the draft model's proposals behind it
//!        2. pieces of prompts, oldest answer first, in the rows that are left
//!        3. one run; a token is drawn for each answer of 1, and for each whose prompt ended in 2
//! ```
//!
//! A block's calls have 1 and 2 to themselves before all others: they find rows, and pages, as if nobody else were there.
//!
//! No choice here changes a bit of any answer: however rows are cut and mixed, the logits are those of one prefill
//! (`docs/exact-inference.md`, "cache"). So a prompt that begins like an earlier text takes over its pages, an answer whose pages
//! others need begins anew later, and a proposal counts exactly when it is the token that is drawn.

use std::{ops::Range, sync::Arc};

use hyperion_model::{Context, Decoder, Limits, Model, ModelError, Outputs, Sampler, Tensor, Turn};
use hyperion_ops::{
    Backend,
    logprob::{ALTERNATIVES_MAX, logprobs},
};
use hyperion_primitives::Dtype;

use self::{draft::Draft, prefixes::Prefixes};
use crate::{
    Class, Drawing, EngineConfig,
    known::ids,
    machine::{Joined, LeaseId, Progress, Step},
};

mod draft;
mod prefixes;

/// Rows of logits of a step at least: proposals need some beside the answers' own.
const OUTPUTS_MIN: u32 = 32;

/// What a generator reserves on a device.
pub(crate) fn limits(model: &Model, config: &EngineConfig) -> Limits {
    let program = model.program();
    let longest = u64::from(program.context().div_ceil(Decoder::PAGE_ROWS));
    let answers = u64::from(config.answers_max.max(1));
    let pages = config.cache_bytes_max / Decoder::page_bytes(program).max(1);
    let pages = pages.clamp(longest, longest.saturating_mul(answers));
    Limits {
        rows_max: config.step_rows_max.max(config.answers_max).max(1),
        outputs_max: config.answers_max.max(OUTPUTS_MIN),
        pages: u32::try_from(pages).unwrap_or(u32::MAX),
    }
}

/// Bytes that a generator takes of a device: weights, buffers, cache.
pub(crate) fn bytes(model: &Model, limits: Limits) -> u64 {
    model.weights_bytes().saturating_add(Decoder::bytes(model.program(), limits))
}

/// An answer on its way.
#[derive(Debug)]
struct Running {
    lease: LeaseId,
    /// Prompt, then answer.
    tokens: Vec<u32>,
    prompt: usize,
    /// What of them the device has read.
    context: Context,
    /// What of them the draft model has read.
    ahead: Option<Context>,
    drawing: Arc<Drawing>,
    sampler: Sampler,
    /// Whether it is a block's call.
    is_chain: bool,
    /// Whether to say how likely its tokens were.
    logprobs: bool,
}

/// What is left of a step.
#[derive(Debug)]
struct Room {
    rows: usize,
    outputs: usize,
}

impl Running {
    /// Tokens that the device has not read.
    fn unread(&self) -> &[u32] {
        &self.tokens[self.context.len() as usize..]
    }

    /// Whether only the last token is unread: a draw is a row away.
    fn is_drawing(&self) -> bool {
        self.tokens.len() == self.context.len() as usize + 1
    }

    /// Tokens that the answer may still get.
    fn left(&self) -> usize {
        self.drawing.tokens_max() as usize - (self.tokens.len() - self.prompt)
    }
}

/// Part of a step: tokens of one answer.
#[derive(Debug)]
struct Piece {
    /// Place among the running.
    at: usize,
    tokens: Vec<u32>,
    outputs: Outputs,
    /// Of the tokens, those at the end that a draft model proposed.
    proposed: usize,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Generator {
    decoder: Decoder,
    draft: Option<Draft>,
    /// A block's calls, then the others; each in the order in which they joined.
    running: Vec<Running>,
    prefixes: Prefixes,
    prompt_rows_max: usize,
}

impl Generator {
    /// Loads a generator, and the model that drafts for it.
    ///
    /// # Errors
    ///
    /// When the device has too little memory, or a model is none that generates.
    pub(crate) fn load(
        model: &Model,
        draft: Option<&Model>,
        backend: &mut dyn Backend,
        config: &EngineConfig,
    ) -> Result<Self, ModelError> {
        let decoder = Decoder::load(model, backend, limits(model, config))?;
        let draft = draft
            .map(|draft| {
                let limits = limits(draft, config);
                Decoder::load(draft, backend, limits)
                    .map(|decoder| Draft::new(decoder, config.draft_tokens))
            })
            .transpose()?;
        Ok(Self {
            decoder,
            draft,
            running: Vec::new(),
            prefixes: Prefixes::new(config.prefix_reuse),
            prompt_rows_max: config.prompt_rows_max.max(1) as usize,
        })
    }

    /// Gives the packed weights back; running answers are lost.
    pub(crate) fn unload(self, backend: &mut dyn Backend) {
        self.decoder.unload(backend);
        if let Some(draft) = self.draft {
            draft.decoder.unload(backend);
        }
    }

    /// Whether a step would do something.
    pub(crate) const fn is_idle(&self) -> bool {
        self.running.is_empty()
    }

    /// The logits after a prompt: what a known question is answered with.
    pub(crate) fn logits(
        &mut self,
        backend: &mut dyn Backend,
        prompt: &[u32],
    ) -> Result<Tensor, ModelError> {
        while self.decoder.free_pages() < prompt.len().div_ceil(Decoder::PAGE_ROWS as usize)
            && self.prefixes.evict(&mut self.decoder)
        {}
        logits(&mut self.decoder, backend, prompt)
    }

    /// Takes an answer in.
    pub(crate) fn join(&mut self, joined: Joined) {
        let tokens = ids(&joined.prompt);
        let sampler = joined.drawing.sampler(joined.seed, &tokens);
        let is_chain = joined.class == Class::Chain;
        let place = if is_chain { self.blocks() } else { self.running.len() };
        let running = Running {
            lease: joined.lease,
            prompt: tokens.len(),
            tokens,
            context: self.decoder.begin(),
            ahead: None,
            drawing: joined.drawing,
            sampler,
            is_chain,
            logprobs: joined.logprobs,
        };
        self.running.insert(place, running);
    }

    /// How many of the running are a block's.
    fn blocks(&self) -> usize {
        self.running.partition_point(|running| running.is_chain)
    }

    /// Gives an answer up; what was cached of it is free at once.
    pub(crate) fn give_up(&mut self, lease: LeaseId) {
        if let Some(at) = self.running.iter().position(|running| running.lease == lease) {
            let running = self.running.remove(at);
            self.release(running.context, running.ahead);
        }
    }

    fn release(&mut self, context: Context, ahead: Option<Context>) {
        self.decoder.release(context);
        if let (Some(draft), Some(ahead)) = (&mut self.draft, ahead) {
            draft.decoder.release(ahead);
        }
    }

    /// One step for all running answers.
    ///
    /// # Errors
    ///
    /// When the device fails.
    pub(crate) fn step(&mut self, backend: &mut dyn Backend) -> Result<Step, ModelError> {
        let proposals = match &mut self.draft {
            Some(draft) => draft.propose(backend, &mut self.running)?,
            None => Vec::new(),
        };
        let mut pieces = self.pieces(proposals);
        self.make_room(&mut pieces);
        let logits = self.run(backend, &pieces)?;
        let mut step = Step {
            rows: pieces.iter().map(|piece| piece.tokens.len() as u64).sum(),
            ..Step::default()
        };
        for (piece, logits) in pieces.iter().zip(logits) {
            if piece.outputs != Outputs::None {
                self.draw(piece, &logits, &mut step);
            }
        }
        self.leave(&step);
        Ok(step)
    }

    /// What of each answer goes into the next run.
    fn pieces(&mut self, mut proposals: Vec<(usize, Vec<u32>)>) -> Vec<Piece> {
        let Limits { rows_max, outputs_max, .. } = self.decoder.limits();
        let mut room = Room { rows: rows_max as usize, outputs: outputs_max as usize };
        let mut pieces = Vec::new();
        let blocks = self.blocks();
        for places in [0..blocks, blocks..self.running.len()] {
            self.draws(places.clone(), &mut proposals, &mut room, &mut pieces);
            self.prompts(places, &mut room, &mut pieces);
        }
        pieces
    }

    /// A token of each answer that has read its prompt, and what was proposed behind it.
    fn draws(
        &self,
        places: Range<usize>,
        proposals: &mut Vec<(usize, Vec<u32>)>,
        room: &mut Room,
        pieces: &mut Vec<Piece>,
    ) {
        let running = &self.running[places.clone()];
        // The oldest has a row in every step: it is what goes on when nothing else can.
        let kept = usize::from(running.first().is_some_and(|oldest| !oldest.is_drawing()));
        let most = room.rows.min(room.outputs).saturating_sub(kept);
        let drawing = places.zip(running).filter(|(_, running)| running.is_drawing());
        let before = pieces.len();
        pieces.extend(drawing.take(most).map(|(at, running)| Piece {
            at,
            tokens: running.unread().to_vec(),
            outputs: Outputs::Last,
            proposed: 0,
        }));
        let drawn = pieces.len() - before;
        *room = Room { rows: room.rows - drawn, outputs: room.outputs - drawn };
        for piece in &mut pieces[before..] {
            let Some(place) = proposals.iter().position(|(at, _)| *at == piece.at) else {
                continue;
            };
            let (_, mut tokens) = proposals.swap_remove(place);
            tokens.truncate(room.rows.min(room.outputs).saturating_sub(kept));
            room.rows -= tokens.len();
            room.outputs -= tokens.len();
            if !tokens.is_empty() {
                piece.proposed = tokens.len();
                piece.tokens.extend(tokens);
                piece.outputs = Outputs::All;
            }
        }
    }

    /// Pieces of prompts, the oldest answer first.
    fn prompts(&mut self, places: Range<usize>, room: &mut Room, pieces: &mut Vec<Piece>) {
        // A long prompt does not hold up those who wait for their next token.
        let most = if pieces.is_empty() { usize::MAX } else { self.prompt_rows_max };
        let mut rows = room.rows.min(most);
        for at in places {
            if self.running[at].is_drawing() || rows == 0 {
                continue;
            }
            let must = at == 0 || pieces.is_empty();
            if self.running[at].context.is_empty() && !self.begin(at, must) {
                break;
            }
            let unread = self.running[at].unread();
            let ends = unread.len() <= rows;
            if ends && room.outputs == 0 {
                continue;
            }
            let tokens = unread[..unread.len().min(rows)].to_vec();
            rows -= tokens.len();
            room.rows -= tokens.len();
            room.outputs -= usize::from(ends);
            let outputs = if ends { Outputs::Last } else { Outputs::None };
            pieces.push(Piece { at, tokens, outputs, proposed: 0 });
        }
    }

    /// Begins to read a prompt, from where an earlier text that begins alike ends; `false` while others' pages leave no room for
    /// it. It `must` where nothing else is in the step. Others give way to a block's call.
    fn begin(&mut self, at: usize, must: bool) -> bool {
        let alike = self.prefixes.find(
            &self.running[at].tokens,
            self.running.iter().map(|other| (other.tokens.as_slice(), &other.context)),
        );
        if let Some((context, tokens)) = alike {
            let forked = self.decoder.fork(context, tokens);
            self.running[at].context = forked;
        }
        // A page more for each that does not give way: they grow meanwhile.
        let running = &self.running[at];
        let beside = if running.is_chain { self.blocks() } else { self.running.len() };
        let wanted = Decoder::pages_missing(&running.context, running.unread().len()) + beside;
        while self.decoder.free_pages() < wanted
            && (self.prefixes.evict(&mut self.decoder) || self.preempt(beside).is_some())
        {}
        if must || self.decoder.free_pages() >= wanted {
            return true;
        }
        let begun = std::mem::replace(&mut self.running[at].context, self.decoder.begin());
        self.decoder.release(begun);
        false
    }

    /// Takes its pages from the answer that is last of those from a place on, which begins anew when there is room.
    fn preempt(&mut self, first: usize) -> Option<usize> {
        let holds = |at: &usize| !self.running[*at].context.is_empty();
        let last = (first..self.running.len()).rev().find(holds)?;
        let context = std::mem::replace(&mut self.running[last].context, self.decoder.begin());
        let ahead = self.running[last].ahead.take();
        self.release(context, ahead);
        Some(last)
    }

    /// Frees pages until the pieces have theirs: of texts that have ended, then of the answers that joined last, which
    /// begin anew when there is room.
    fn make_room(&mut self, pieces: &mut Vec<Piece>) {
        loop {
            let wanted: usize = pieces
                .iter()
                .map(|piece| {
                    Decoder::pages_missing(&self.running[piece.at].context, piece.tokens.len())
                })
                .sum();
            if wanted <= self.decoder.free_pages() {
                return;
            }
            if self.prefixes.evict(&mut self.decoder) {
                continue;
            }
            // The oldest goes on: a context of its length always fits.
            let Some(last) = self.preempt(1) else {
                pieces.retain(|piece| piece.at == 0);
                return;
            };
            pieces.retain(|piece| piece.at != last);
        }
    }

    fn run(
        &mut self,
        backend: &mut dyn Backend,
        pieces: &[Piece],
    ) -> Result<Vec<Vec<i32>>, ModelError> {
        if pieces.is_empty() {
            return Ok(Vec::new());
        }
        let mut contexts: Vec<(usize, &mut Context)> =
            self.running.iter_mut().map(|running| &mut running.context).enumerate().collect();
        let mut turns = Vec::with_capacity(pieces.len());
        for piece in pieces {
            let place = contexts.iter().position(|(at, _)| *at == piece.at);
            let (_, context) = contexts.swap_remove(place.expect("an answer has one piece a step"));
            turns.push(Turn { context, tokens: &piece.tokens, outputs: piece.outputs });
        }
        self.decoder.run(backend, &mut turns)
    }

    /// Draws from a piece's logits: one token, and one more after each proposal that was right.
    fn draw(&mut self, piece: &Piece, logits: &[i32], step: &mut Step) {
        let vocabulary = self.decoder.vocabulary() as usize;
        let running = &mut self.running[piece.at];
        let (_, proposed) = piece.tokens.split_at(piece.tokens.len() - piece.proposed);
        let mut tokens = Vec::with_capacity(1 + piece.proposed);
        let mut told = Vec::new();
        let mut ended = false;
        for (nth, row) in logits.chunks_exact(vocabulary).enumerate() {
            let token = running.sampler.next(row);
            running.tokens.push(token);
            tokens.push(token);
            if running.logprobs {
                told.push(logprobs(row, token, ALTERNATIVES_MAX));
            }
            ended = running.drawing.ends(&running.tokens[running.prompt..]);
            if ended || proposed.get(nth) != Some(&token) {
                break;
            }
        }
        step.proposed += piece.proposed as u64;
        step.accepted += tokens.len() as u64 - 1;
        // What was read of wrong proposals is forgotten.
        let read = u32::try_from(running.tokens.len() - 1).expect("a context's length");
        self.decoder.truncate(&mut running.context, read);
        if let (Some(draft), Some(ahead)) = (&mut self.draft, &mut running.ahead) {
            draft.decoder.truncate(ahead, read);
        }
        step.progress.push(Progress { lease: running.lease, tokens, logprobs: told, ended });
    }

    /// Takes the answers that have ended out; what was read of them is kept for texts that begin alike.
    fn leave(&mut self, step: &Step) {
        for progress in step.progress.iter().filter(|progress| progress.ended) {
            let place = self.running.iter().position(|running| running.lease == progress.lease);
            let mut running = self.running.remove(place.expect("it was in this step"));
            running.tokens.truncate(running.context.len() as usize);
            self.prefixes.keep(&mut self.decoder, running.tokens, running.context);
            if let (Some(draft), Some(ahead)) = (&mut self.draft, running.ahead) {
                draft.decoder.release(ahead);
            }
        }
    }
}

/// The logits after a prompt as a tensor `[1, vocabulary]`.
pub(crate) fn logits(
    decoder: &mut Decoder,
    backend: &mut dyn Backend,
    prompt: &[u32],
) -> Result<Tensor, ModelError> {
    let mut context = decoder.begin();
    let logits = decoder.prefill(backend, &mut context, prompt);
    decoder.release(context);
    let logits = logits?;
    let data = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
    Ok(Tensor::new(Dtype::I32, [1, logits.len() as u64], data))
}

/// An answer as a tensor `[tokens, 1]`.
pub(crate) fn output(tokens: &[u32]) -> Tensor {
    let data = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
    Tensor::new(Dtype::U32, [tokens.len() as u64, 1], data)
}
