//! However a text is cut into pieces, and whatever else is in a batch: the logits after each of its tokens are those of one
//! prefill.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::sync::Arc;

use common::decoders::{FAMILIES, VOCABULARY, family, ids};
use hyperion_model::{Context, Decoder, Limits, Outputs, Turn};
use hyperion_ops::{Backend, Cpu, KernelSet, Reference, Serial};
use hyperion_primitives::Mix;

const LIMITS: Limits = Limits { rows_max: 96, outputs_max: 96, pages: 24 };

/// The definitions, and every kernel set of this machine.
fn devices() -> Vec<Box<dyn Backend>> {
    let reference: Box<dyn Backend> = Box::new(Reference::default());
    let cpus = KernelSet::available()
        .into_iter()
        .map(|set| Box::new(Cpu::new(set, Arc::new(Serial))) as _);
    [reference].into_iter().chain(cpus).collect()
}

/// Logits after each token of a text, in pieces as large as a batch may be.
fn in_one_go(decoder: &mut Decoder, backend: &mut dyn Backend, text: &[u32]) -> Vec<i32> {
    let mut context = decoder.begin();
    let mut logits = Vec::new();
    for tokens in text.chunks(decoder.limits().rows_max as usize) {
        let turn = Turn { context: &mut context, tokens, outputs: Outputs::All };
        logits.extend(decoder.run(backend, &mut [turn]).unwrap().remove(0));
    }
    decoder.release(context);
    logits
}

/// One text on its way.
struct Text {
    ids: Vec<u32>,
    context: Option<Context>,
    logits: Vec<i32>,
}

/// Runs texts through random batches of random pieces until all are done.
fn in_random_pieces(
    decoder: &mut Decoder,
    backend: &mut dyn Backend,
    mix: &mut Mix,
    texts: &[Vec<u32>],
) -> Vec<Vec<i32>> {
    let begin = |ids: &Vec<u32>| Text {
        ids: ids.clone(),
        context: Some(decoder.begin()),
        logits: Vec::new(),
    };
    let mut texts: Vec<Text> = texts.iter().map(begin).collect();
    while texts.iter().any(|text| !text.ids.is_empty()) {
        let single = mix.below(2) == 0;
        let mut room = LIMITS.rows_max as usize;
        let mut pieces: Vec<(usize, Vec<u32>)> = Vec::new();
        for (index, text) in texts.iter_mut().enumerate() {
            if text.ids.is_empty() || mix.below(4) == 0 {
                continue;
            }
            let len = if single { 1 } else { 1 + mix.below(40) as usize };
            let len = len.min(text.ids.len()).min(room);
            room -= len;
            if len > 0 {
                pieces.push((index, text.ids.drain(..len).collect()));
            }
        }
        if mix.below(2) == 0 {
            pieces.reverse();
        }
        let mut contexts: Vec<Context> =
            pieces.iter().map(|(index, _)| texts[*index].context.take().unwrap()).collect();
        let turns = contexts.iter_mut().zip(&pieces);
        let mut turns: Vec<Turn<'_>> = turns
            .map(|(context, (_, tokens))| Turn { context, tokens, outputs: Outputs::All })
            .collect();
        if turns.is_empty() {
            continue;
        }
        let logits = decoder.run(backend, &mut turns).unwrap();
        for (((index, _), context), logits) in pieces.iter().zip(contexts).zip(logits) {
            texts[*index].context = Some(context);
            texts[*index].logits.extend(logits);
        }
    }
    let finish = |text: Text| {
        decoder.release(text.context.unwrap());
        text.logits
    };
    texts.into_iter().map(finish).collect()
}

#[test]
fn any_cut_and_any_mix_gives_the_logits_of_one_prefill() {
    let mut mix = Mix::new(17);
    for name in FAMILIES {
        let model = family(name).model();
        let lengths = [70, 33, 1 + mix.below(8) as usize];
        let texts = lengths.map(|len| ids(&mut mix, len));
        let mut want: Option<Vec<Vec<i32>>> = None;
        for mut device in devices() {
            let kernels = format!("{name}, {}", device.info().kernels);
            let device = device.as_mut();
            let mut decoder = Decoder::load(&model, device, LIMITS).unwrap();
            let whole: Vec<Vec<i32>> =
                texts.iter().map(|text| in_one_go(&mut decoder, device, text)).collect();
            let want = want.get_or_insert(whole.clone());
            assert!(whole == *want, "{kernels}: one by one");
            let rounds = if kernels.ends_with("scalar") { 1 } else { 4 };
            for round in 0..rounds {
                let got = in_random_pieces(&mut decoder, device, &mut mix, &texts);
                assert!(got == *want, "{kernels}: schedule {round}");
            }
            assert_eq!(decoder.free_pages(), LIMITS.pages as usize, "{kernels}: all given back");
        }
    }
}

#[test]
fn pieces_across_blocks_of_keys_give_the_same_logits() {
    // 300 tokens: two blocks of 256 positions, ten pages, and for one family a window behind which nothing is seen.
    let mut mix = Mix::new(23);
    let text = ids(&mut mix, 300);
    for name in ["llama3", "mistral"] {
        let model = family(name).model();
        for set in KernelSet::available() {
            let mut device = Cpu::new(set, Arc::new(Serial));
            let limits = Limits { rows_max: 300, outputs_max: 300, pages: 10 };
            let mut decoder = Decoder::load(&model, &mut device, limits).unwrap();
            let want = in_one_go(&mut decoder, &mut device, &text);
            let mut context = decoder.begin();
            let mut got = Vec::new();
            for piece in [&text[..8], &text[8..250], &text[250..260]] {
                let turn = Turn { context: &mut context, tokens: piece, outputs: Outputs::All };
                got.extend(decoder.run(&mut device, &mut [turn]).unwrap().remove(0));
            }
            for token in &text[260..] {
                got.extend(
                    decoder.step(&mut device, &mut [(&mut context, *token)]).unwrap().remove(0),
                );
            }
            assert!(got == want, "{name}, {}", set.name());
        }
    }
}

#[test]
fn what_follows_changes_nothing_before_it() {
    let mut mix = Mix::new(29);
    let text = ids(&mut mix, 60);
    let mut changed = text.clone();
    changed[41..].iter_mut().for_each(|id| *id = (*id + 1) % VOCABULARY as u32);
    for name in FAMILIES {
        let model = family(name).model();
        let mut device = Reference::default();
        let mut decoder = Decoder::load(&model, &mut device, LIMITS).unwrap();
        let [one, other] = [&text, &changed].map(|text| in_one_go(&mut decoder, &mut device, text));
        let split = 41 * VOCABULARY;
        assert!(one[..split] == other[..split], "{name}: rows before the change");
        assert!(one[split..] != other[split..], "{name}: rows after it");
    }
}

#[test]
fn a_prefill_of_any_length_and_steps_in_a_batch_agree() {
    let model = family("qwen3").model();
    let mut device = Cpu::new(KernelSet::best(), Arc::new(Serial));
    let limits = Limits { rows_max: 16, outputs_max: 2, pages: 8 };
    let mut decoder = Decoder::load(&model, &mut device, limits).unwrap();
    let text = ids(&mut Mix::new(31), 50);
    let [mut one, mut other] = [decoder.begin(), decoder.begin()];
    let whole = decoder.prefill(&mut device, &mut one, &text).unwrap();
    decoder.prefill(&mut device, &mut other, &text[..49]).unwrap();
    let mut short = decoder.begin();
    decoder.prefill(&mut device, &mut short, &text[..3]).unwrap();
    let rows =
        decoder.step(&mut device, &mut [(&mut short, text[3]), (&mut other, text[49])]).unwrap();
    assert_eq!(rows[1], whole);
    assert_eq!((one.len(), other.len(), short.len()), (50, 50, 4));
}

#[test]
fn a_sequence_that_begins_alike_shares_pages_and_gives_the_same_logits() {
    let model = family("llama3").model();
    let mut device = Cpu::new(KernelSet::best(), Arc::new(Serial));
    let mut decoder = Decoder::load(&model, &mut device, LIMITS).unwrap();
    let mut mix = Mix::new(37);
    let text = ids(&mut mix, 70);
    let mut first = decoder.begin();
    decoder.prefill(&mut device, &mut first, &text).unwrap();
    let mut second = decoder.fork(&first, 69);
    assert_eq!((second.len(), decoder.free_pages()), (64, 24 - 3), "whole pages only");
    let tail = ids(&mut mix, 9);
    let got = decoder.prefill(&mut device, &mut second, &tail).unwrap();
    decoder.release(first);
    assert_eq!(decoder.free_pages(), 24 - 3, "the other still holds two, and one of its own");
    let more = decoder.step(&mut device, &mut [(&mut second, 5)]).unwrap().remove(0);

    let mut alone = decoder.begin();
    let whole: Vec<u32> = text[..64].iter().chain(&tail).copied().collect();
    assert_eq!(decoder.prefill(&mut device, &mut alone, &whole).unwrap(), got);
    assert_eq!(decoder.step(&mut device, &mut [(&mut alone, 5)]).unwrap().remove(0), more);
}
