//! Exact decoders beside candle in f32: one of each family, random weights.

mod common;

use std::{path::Path, sync::Arc};

use common::{
    Folder,
    decoders::{FAMILIES, family, ids, imported},
    import_bytes,
};
use hyperion_model::{
    Model, Tokenizer, Trust,
    import::Precision,
    oracle::{Agreement, CheckError, Oracle, OracleError, check, perplexity},
    program::Op,
};
use hyperion_ops::{Cpu, KernelSet, Reference, Serial};
use hyperion_primitives::Mix;

fn inputs(mix: &mut Mix, lengths: &[usize]) -> Vec<Vec<u8>> {
    let bytes = |len: &usize| ids(mix, *len).into_iter().flat_map(u32::to_le_bytes).collect();
    lengths.iter().map(bytes).collect()
}

#[test]
fn each_family_says_what_float_says() {
    let mut mix = Mix::new(61);
    for name in FAMILIES {
        let folder = family(name);
        let oracle = Oracle::open(folder.write().path()).unwrap();
        let inputs = inputs(&mut mix, &[40, 7, 1]);
        let mut heard = Vec::new();
        let report =
            check(&folder.model(), &oracle, &mut Reference::default(), &inputs, &mut |done| {
                heard.push(done);
            });
        let report = report.unwrap();
        println!("{name}: {report}");
        assert_eq!(heard, [1, 2, 3]);
        assert!(report.min() > 0.999, "{name}: {report}");
        let (equal, tokens) = report.next_tokens();
        assert_eq!(tokens, 48);
        assert!(equal * 10 >= tokens * 9, "{name}: {report}");
    }
}

#[test]
fn weights_of_sixteen_bits_are_nearer_to_float() {
    let mut mix = Mix::new(61);
    for name in FAMILIES {
        let oracle = Oracle::open(family(name).write().path()).unwrap();
        let inputs = inputs(&mut mix, &[40, 7, 1]);
        let report = |precision| {
            let model = Model::from_bytes(imported(name, precision), Trust::Roots).unwrap();
            check(&model, &oracle, &mut Reference::default(), &inputs, &mut |_| {}).unwrap()
        };
        let (eight, wide) = (report(Precision::EightBits), report(Precision::SixteenBits));
        println!("{name}: {eight}; {wide}");
        assert!(1.0 - wide.mean() < (1.0 - eight.mean()) / 2.0, "{name}: {eight}; {wide}");
        assert!(wide.next_tokens().0 + 1 >= wide.next_tokens().1, "{name}: {wide}");
    }
}

/// Multiplies a pair of columns of the last key head, which has twelve: rows of weights and bias.
fn enlarge_keys(folder: &mut Folder, times: f32) {
    for (name, (_, shape, bytes)) in &mut folder.tensors {
        if !name.contains("k_proj") {
            continue;
        }
        let (rows, numbers) = (shape[0], bytes.len() / 4);
        let (width, half) = (numbers / rows, 6);
        for row in [rows - half - 2, rows - 2] {
            for number in bytes[row * width * 4..][..width * 4].chunks_mut(4) {
                let value = f32::from_le_bytes(number.try_into().expect("four bytes")) * times;
                number.copy_from_slice(&value.to_le_bytes());
            }
        }
    }
}

#[test]
fn key_columns_many_times_the_rest_are_balanced_and_nothing_else_changes() {
    // Heads of twelve columns; a key head has one reader in llama2, two in the others, and a bias in qwen2.
    for name in ["llama2", "llama3", "qwen2"] {
        let mut mix = Mix::new(71);
        let mut folder = family(name);
        enlarge_keys(&mut folder, 16.0);
        let oracle = Oracle::open(folder.write().path()).unwrap();
        let inputs = inputs(&mut mix, &[40]);
        let model = folder.model();
        let report = check(&model, &oracle, &mut Reference::default(), &inputs, &mut |_| {});
        let report = report.unwrap();
        println!("{name}: {report}");
        assert!(report.min() > 0.99, "{name}: {report}");
        // The first linear step has queries, keys and values; the pair is a quarter as large as it was, its readers four times.
        let plain = family(name).model();
        let step = |model: &Model, row: usize| {
            let nodes = model.program().nodes();
            let op = nodes.iter().position(|node| matches!(node.op, Op::Linear(_))).unwrap();
            let of = |slot: u16| model.tensor(op as u32, slot).unwrap()[row];
            f64::from(of(1)) / f64::from(of(2).cast_signed()).exp2()
        };
        let (queries, keys) = (48, if name == "llama2" { 48 } else { 24 });
        for row in [queries + keys - 8, queries + keys - 2] {
            let ratio = step(&model, row) / step(&plain, row);
            assert!((3.9..4.1).contains(&ratio), "{name}, key row {row}: {ratio}");
        }
        for row in [queries - 8, queries - 2] {
            let ratio = step(&model, row) / step(&plain, row);
            assert!((3.9..4.1).contains(&ratio), "{name}, query row {row}: {ratio}");
        }
    }
}

#[test]
fn a_window_is_seen_as_float_sees_it() {
    // Without its window the same model says something else, so the agreement above is not blind to it.
    let mut mix = Mix::new(67);
    let mut folder = family("mistral");
    let oracle = Oracle::open(folder.write().path()).unwrap();
    folder.config["sliding_window"] = serde_json::Value::Null;
    let inputs = inputs(&mut mix, &[40]);
    let report =
        check(&folder.model(), &oracle, &mut Reference::default(), &inputs, &mut |_| {}).unwrap();
    assert!(report.min() < 0.99, "{report}");
}

#[test]
fn perplexity_is_that_of_float_within_a_percent() {
    let mut mix = Mix::new(71);
    let text = ids(&mut mix, 150);
    for name in ["llama3", "gpt2"] {
        let folder = family(name);
        let oracle = Oracle::open(folder.write().path()).unwrap();
        let mut done = 0;
        let scored = perplexity(
            &folder.model(),
            Some(&oracle),
            &mut Reference::default(),
            (&text, 70),
            &mut |tokens| done = tokens,
        );
        let scored = scored.unwrap();
        println!("{name}: {scored}");
        assert_eq!((done, scored.tokens), (150, 147), "{name}: three pieces");
        let share = scored.exact / scored.float.unwrap();
        assert!((0.97..1.03).contains(&share), "{name}: {scored}");
    }
}

#[test]
fn a_trained_model_is_as_sure_of_its_held_out_text_as_float_is() {
    let source = Path::new("../../fixtures/pydoc");
    let model = Model::from_bytes(import_bytes(source).unwrap(), Trust::Nothing).unwrap();
    let oracle = Oracle::open(source).unwrap();
    let tokenizer = Tokenizer::open(&source.join("tokenizer.json"), u32::MAX).unwrap();
    let tokenizer = tokenizer.for_model(model.tokenizer_hash()).unwrap();
    let text = std::fs::read_to_string(source.join("heldout.txt")).unwrap();
    // Six windows; `hyperion model perplexity` scores the whole.
    let ids = &tokenizer.encode(&text).unwrap()[..3072];
    let mut device = Cpu::new(KernelSet::best(), Arc::new(Serial));
    let scored = perplexity(&model, Some(&oracle), &mut device, (ids, 512), &mut |_| {});
    let scored = scored.unwrap();
    println!("{scored}");
    let share = scored.exact / scored.float.unwrap();
    assert!((0.99..1.01).contains(&share), "{scored}");
}

#[test]
fn kinds_are_not_mixed_up() {
    let (decoder, encoder) = (family("qwen2"), Folder::bert());
    let oracle = Oracle::open(decoder.write().path()).unwrap();
    assert!(oracle.is_decoder() && !oracle.is_encoder());
    assert!(matches!(oracle.embed(&[1]), Err(OracleError::Kind { .. })));
    assert!(matches!(oracle.next_logits(&[]), Err(OracleError::Length { .. })));
    assert!(matches!(oracle.next_logits(&[61]), Err(OracleError::Token { id: 61, .. })));
    let mut device = Reference::default();
    let inputs = inputs(&mut Mix::new(1), &[3]);
    let error = check(&encoder.model(), &oracle, &mut device, &inputs, &mut |_| {}).unwrap_err();
    assert!(matches!(error, CheckError::Source { .. }), "{error}");
    let error = perplexity(&decoder.model(), None, &mut device, (&[1], 9), &mut |_| {});
    assert!(matches!(error, Err(CheckError::NoInputs)));
    let other = Oracle::open(encoder.write().path()).unwrap();
    assert!(matches!(other.next_logits(&[1]), Err(OracleError::Kind { .. })));
}

#[test]
fn agreement_counts_rows() {
    let exact = [65_536, 0, 0, 65_536];
    let agreement = Agreement::of_logits(&exact, &[vec![2.0, 0.0], vec![2.0, 0.0]]);
    assert_eq!(agreement, Agreement::Logits { tokens: 2, equal: 1, cosine: 0.5 });
}
