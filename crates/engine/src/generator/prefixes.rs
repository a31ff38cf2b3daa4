//! Texts that were read before, for prompts that begin alike.

use hyperion_model::{Context, Decoder};

/// Texts kept at most.
const KEPT_MAX: usize = 64;

/// Texts and what is cached of them, the one that was last of use last.
#[derive(Debug)]
pub(super) struct Prefixes {
    kept: Vec<(Vec<u32>, Context)>,
    on: bool,
}

impl Prefixes {
    pub(super) const fn new(on: bool) -> Self {
        Self { kept: Vec::new(), on }
    }

    /// The context that shares most of a text, of those kept and those given, and how many tokens it shares; whole pages
    /// alone count, and the last token of the text is read in any case.
    pub(super) fn find<'c>(
        &'c mut self,
        text: &[u32],
        running: impl Iterator<Item = (&'c [u32], &'c Context)>,
    ) -> Option<(&'c Context, u32)> {
        if !self.on {
            return None;
        }
        let most = text.len().saturating_sub(1);
        let shared = |tokens: &[u32], context: &Context| {
            let alike = tokens.iter().zip(text).take_while(|(a, b)| a == b).count();
            let tokens = alike.min(most).min(context.len() as usize);
            u32::try_from(tokens).unwrap_or(u32::MAX) / Decoder::PAGE_ROWS * Decoder::PAGE_ROWS
        };
        let of_kept = self.kept.iter().map(|(tokens, context)| shared(tokens, context));
        let best = of_kept.enumerate().max_by_key(|(at, tokens)| (*tokens, *at));
        let running = running
            .map(|(tokens, context)| (shared(tokens, context), context))
            .max_by_key(|(tokens, _)| *tokens);
        if let Some((tokens, context)) = running
            && tokens > 0
            && best.is_none_or(|(_, kept)| kept < tokens)
        {
            return Some((context, tokens));
        }
        let (at, tokens) = best.filter(|(_, tokens)| *tokens > 0)?;
        let used = self.kept.remove(at);
        self.kept.push(used);
        self.kept.last().map(|(_, context)| (context, tokens))
    }

    /// Keeps a text that has ended; one that it goes on from is kept in it.
    pub(super) fn keep(&mut self, decoder: &mut Decoder, text: Vec<u32>, context: Context) {
        if !self.on || context.len() < Decoder::PAGE_ROWS {
            decoder.release(context);
            return;
        }
        if let Some(at) = self.kept.iter().position(|(kept, _)| text.starts_with(kept)) {
            let (_, context) = self.kept.remove(at);
            decoder.release(context);
        }
        self.kept.push((text, context));
        if self.kept.len() > KEPT_MAX {
            self.evict(decoder);
        }
    }

    /// Gives up the text that was of no use for longest; `false` when there is none.
    pub(super) fn evict(&mut self, decoder: &mut Decoder) -> bool {
        if self.kept.is_empty() {
            return false;
        }
        let (_, context) = self.kept.remove(0);
        decoder.release(context);
        true
    }
}
