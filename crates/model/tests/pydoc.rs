//! The pydoc model, a trained decoder in the repository: imported the same to the bit everywhere, and it answers the same.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::{path::PathBuf, sync::Arc};

use common::import_bytes;
use hyperion_model::{Decoder, Limits, Model, Sampler, Trust, import::generation::Generation};
use hyperion_ops::{Backend, Cpu, KernelSet, Reference, Sampling, Serial};
use tokenizers::Tokenizer;

fn folder() -> PathBuf {
    PathBuf::from("../../fixtures/pydoc")
}

fn model() -> Model {
    Model::from_bytes(import_bytes(&folder()).unwrap(), Trust::Nothing).unwrap()
}

/// Continues a prompt with the tokens of the largest logits, until one of them ends the answer.
fn greedy(
    decoder: &mut Decoder,
    device: &mut dyn Backend,
    (prompt, end_ids): (&[u32], &[u32]),
    tokens_max: usize,
) -> Vec<u32> {
    let mut sampler = Sampler::new(Sampling::GREEDY, [0; 32], &[]);
    let mut context = decoder.begin();
    let mut logits = decoder.prefill(device, &mut context, prompt).unwrap();
    let mut answer = Vec::new();
    while answer.len() < tokens_max {
        let token = sampler.next(&logits);
        answer.push(token);
        if end_ids.contains(&token) {
            break;
        }
        logits = decoder.step(device, &mut [(&mut context, token)]).unwrap().remove(0);
    }
    decoder.release(context);
    answer
}

#[test]
fn the_folder_gives_one_model_on_every_machine() {
    let model = model();
    assert_eq!(
        model.id().to_string(),
        "0x0d47c47e6b5c8470eb8ced2a62aca13beafacb4acf27032f2af15ce57a13e1ba"
    );
    assert_eq!((model.program().context(), model.program().vocabulary()), (1024, Some(2048)));
    let advice = Generation::of(&folder()).unwrap();
    assert_eq!(
        (advice.begin_id, advice.end_ids, advice.sampling),
        (Some(0), vec![1], Sampling::GREEDY)
    );
}

#[test]
fn a_question_has_one_answer_whatever_the_kernels() {
    let question = "<|user|>Explain str.join<|end|><|assistant|>";
    // Whoever changes one of these ids has changed the bits of some operator.
    let want = [
        557, 18, 78, 83, 264, 12, 1634, 13, 203, 203, 402, 263, 430, 610, 297, 270, 370, 71, 338,
        82, 374, 306, 270, 1027, 293, 203, 14, 1634, 1323, 478, 302, 1210, 536, 6, 512, 334, 1071,
        406, 1045, 386, 732, 1104, 17, 203, 801, 738, 293, 388, 1634, 1431, 1188, 915, 302, 1080,
        6, 687, 18, 225, 446, 203, 269, 566, 552, 1515, 1400, 297, 270, 430, 458, 90, 563, 284,
        513, 460, 18, 1,
    ];
    let text = r#"str.join(iterable)

Return a string which is the concatenation of the strings in
*iterable*. A "TypeError" will be raised if there are any non-
string values in *iterable*, including "bytes" objects.  The
separator between elements is the string providing this method."#;
    let (model, advice) = (model(), Generation::of(&folder()).unwrap());
    let tokenizer = Tokenizer::from_file(folder().join("tokenizer.json")).unwrap();
    let prompt = tokenizer.encode(question, true).unwrap().get_ids().to_vec();
    assert_eq!(prompt[..2], [0, 3], "a text begins with the token that says so");
    let limits = Limits { rows_max: 32, outputs_max: 1, pages: 4 };
    let cpus = KernelSet::available().into_iter().map(|set| Cpu::new(set, Arc::new(Serial)));
    let mut devices: Vec<Box<dyn Backend>> = vec![Box::new(Reference::default())];
    devices.extend(cpus.map(|cpu| Box::new(cpu) as _));
    for mut device in devices {
        let kernels = device.info().kernels.clone();
        let mut decoder = Decoder::load(&model, device.as_mut(), limits).unwrap();
        let answer = greedy(&mut decoder, device.as_mut(), (&prompt, &advice.end_ids), 96);
        assert_eq!(tokenizer.decode(&answer, true).unwrap(), text, "{kernels}");
        assert_eq!(answer, want, "{kernels}");
    }
}
