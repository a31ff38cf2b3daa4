//! What a decoder refuses, and that a refusal leaves nothing behind.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use common::{
    Folder,
    decoders::{POSITIONS, VOCABULARY, family},
};
use hyperion_model::{Context, Decoder, Limits, ModelError, Outputs, Prepared, Turn};
use hyperion_ops::{Backend as _, BackendError, Reference};

const LIMITS: Limits = Limits { rows_max: 40, outputs_max: 3, pages: 2 };

fn loaded() -> (Decoder, Reference) {
    let mut device = Reference::default();
    let decoder = Decoder::load(&family("llama3").model(), &mut device, LIMITS).unwrap();
    (decoder, device)
}

fn turn<'t>(context: &'t mut Context, tokens: &'t [u32], outputs: Outputs) -> Turn<'t> {
    Turn { context, tokens, outputs }
}

#[test]
fn a_turn_that_is_not_possible_is_named_and_leaves_nothing_behind() {
    let (mut decoder, mut device) = loaded();
    let stranger = [0, VOCABULARY as u32];
    let cases = [
        (
            "a stranger",
            &stranger[..],
            Outputs::Last,
            "turn 1: token 61 is outside a vocabulary of 61",
        ),
        ("nothing", &[], Outputs::Last, "turn 1: there are no tokens"),
        ("too many rows", &[1; 40], Outputs::Last, "a batch of 41 rows, 1 to 40 were planned for"),
        ("too many outputs", &[1; 4], Outputs::All, "4 rows of output, 3 at most were planned for"),
    ];
    let (mut first, mut second) = (decoder.begin(), decoder.begin());
    for (name, tokens, outputs, want) in cases {
        let mut turns = [turn(&mut first, &[1], Outputs::None), turn(&mut second, tokens, outputs)];
        let error = decoder.run(&mut device, &mut turns).unwrap_err();
        assert_eq!(error.to_string(), want, "{name}");
        assert_eq!((first.len(), second.len(), decoder.free_pages()), (0, 0, 2), "{name}");
    }
    assert!(matches!(decoder.run(&mut device, &mut []), Err(ModelError::Rows { got: 0, .. })));
    let mut turns = [turn(&mut first, &[1], Outputs::None), turn(&mut second, &[2], Outputs::Last)];
    let logits = decoder.run(&mut device, &mut turns).unwrap();
    assert_eq!([logits[0].len(), logits[1].len()], [0, VOCABULARY]);
}

#[test]
fn a_full_cache_and_a_full_context_are_refused() {
    let (mut decoder, mut device) = loaded();
    let (mut first, mut second) = (decoder.begin(), decoder.begin());
    decoder.prefill(&mut device, &mut first, &[1; 33]).unwrap();
    let error = decoder.prefill(&mut device, &mut second, &[1]).unwrap_err();
    assert!(matches!(error, ModelError::Pages { wanted: 1, free: 0 }), "{error}");
    decoder.release(first);
    decoder.prefill(&mut device, &mut second, &[1]).unwrap();

    let limits = Limits { rows_max: 40, outputs_max: 1, pages: 11 };
    let mut decoder = Decoder::load(&family("gpt2").model(), &mut device, limits).unwrap();
    let mut context = decoder.begin();
    decoder.prefill(&mut device, &mut context, &[1; POSITIONS]).unwrap();
    let error = decoder.prefill(&mut device, &mut context, &[1]).unwrap_err();
    assert_eq!(error.to_string(), "turn 0: 321 tokens in all, the model has 320 positions");
}

#[test]
fn contexts_are_lost_with_the_devices_memory() {
    let (mut decoder, mut device) = loaded();
    let mut old = decoder.begin();
    decoder.prefill(&mut device, &mut old, &[1, 2, 3]).unwrap();
    device.reset();
    decoder.reserve(&mut device).unwrap();
    let error = decoder.prefill(&mut device, &mut old, &[1]).unwrap_err();
    assert_eq!(error.to_string(), "turn 0: its context was lost when the device was reset");
    assert!(decoder.fork(&old, 3).is_empty());
    decoder.release(old);
    let mut new = decoder.begin();
    decoder.prefill(&mut device, &mut new, &[1, 2, 3]).unwrap();
}

#[test]
fn only_a_generator_is_a_decoder_and_it_is_nothing_else() {
    let mut device = Reference::default();
    let error = Decoder::load(&Folder::bert().model(), &mut device, LIMITS).unwrap_err();
    assert_eq!(error.to_string(), "not a decoder: its program does not end in a draw");
    let error = Prepared::load(&family("llama2").model(), &mut device, 4).unwrap_err();
    assert!(matches!(error, ModelError::Unsupported { name: "sample", .. }), "{error}");
}

#[test]
fn memory_is_what_the_program_says_and_a_device_without_it_gets_its_weights_back() {
    let model = family("mistral").model();
    let bytes = Decoder::bytes(model.program(), LIMITS);
    // Two layers, two key heads of twelve columns: 2 · 2 · (12 + 4) bytes a position and layer.
    let more = Decoder::bytes(model.program(), Limits { pages: 3, ..LIMITS });
    assert_eq!(more - bytes, 2 * 32 * 2 * 2 * (12 + 4));
    let mut device = Reference::new(60_000);
    let error = Decoder::load(&model, &mut device, LIMITS).unwrap_err();
    assert!(matches!(error, ModelError::Backend(BackendError::OutOfMemory { .. })), "{error}");
}
