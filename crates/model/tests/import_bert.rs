//! Encoders from Hugging Face folders: the same to the bit every time, and refused by name.

mod common;

use common::{Folder, HIDDEN, INNER, POSITIONS, VOCABULARY, WIDE, WIDE_INNER};
use hyperion_model::{
    Model, Prepared, Trust,
    program::{Codes, Op},
};
use hyperion_ops::{PoolMode, Reference};
use hyperion_primitives::{B256, Dtype, Mix, keccak256};
use safetensors::Dtype as SourceDtype;
use serde_json::json;

#[test]
fn importing_twice_gives_the_same_file() {
    let file = Folder::bert().import().unwrap();
    assert_eq!(file, Folder::bert().import().unwrap());
    // What the folder says beside the weights is no part of the model.
    let mut other = Folder::bert();
    other.config["transformers_version"] = json!("9");
    other.tensors.insert("pooler.dense.weight".into(), (SourceDtype::F32, vec![1], vec![0; 4]));
    other.tensors.insert("embeddings.position_ids".into(), (SourceDtype::I64, vec![1], vec![0; 8]));
    assert_eq!(file, other.import().unwrap());
    let mut other = Folder::bert();
    other.tensors =
        other.tensors.into_iter().map(|(name, tensor)| (format!("bert.{name}"), tensor)).collect();
    assert_eq!(file, other.import().unwrap(), "names with and without the prefix");
}

#[test]
fn every_weight_and_the_tokenizer_are_part_of_the_identity() {
    let folder = Folder::bert();
    let id = folder.model().id();
    for name in folder.tensors.keys() {
        let mut other = folder.clone();
        // The first element becomes 1.5, larger than any other.
        other.tensors.get_mut(name).unwrap().2[..4].copy_from_slice(&1.5_f32.to_le_bytes());
        assert_ne!(other.model().id(), id, "{name}");
    }
    let mut other = folder.clone();
    other.tokenizer = Some("{}".to_owned());
    assert_eq!(folder.model().tokenizer_hash(), B256::ZERO);
    assert_eq!(other.model().tokenizer_hash(), keccak256(b"{}"));
    assert_ne!(other.model().id(), id);
}

#[test]
fn the_program_has_the_layers_of_the_configuration() {
    let model = Folder::bert().model();
    let program = model.program();
    let linears = program.nodes().iter().filter_map(|node| match node.op {
        Op::Linear(shape) => Some((shape.k as usize, shape.n as usize)),
        _ => None,
    });
    let layer = [(HIDDEN, 3 * HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, INNER), (INNER, HIDDEN)];
    assert_eq!(linears.collect::<Vec<_>>(), [layer, layer].concat());
    let count =
        |wanted: fn(&Op) -> bool| program.nodes().iter().filter(|node| wanted(&node.op)).count();
    assert_eq!(count(|op| matches!(op, Op::Attention(shape) if !shape.causal)), 2);
    assert_eq!(count(|op| matches!(op, Op::Norm(_))), 5);
    assert_eq!(program.nodes().last().unwrap().op, Op::Pool { mode: PoolMode::Mean, unit: true });
    assert!(matches!(program.nodes()[0].op, Op::Embed { codes: Codes::W8r, .. }));
    assert_eq!(
        (program.context() as usize, program.vocabulary()),
        (POSITIONS, Some(VOCABULARY as u32))
    );
    let manifest = model.manifest();
    assert_eq!(manifest.output_dims(5, 0), Some([1, HIDDEN as u64]));
    assert_eq!(manifest.output_dtype, Dtype::I16);
    let per_row = 2 * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * INNER) as u64;
    assert_eq!(manifest.macs(5, 0), Some(5 * per_row + 25 * 2 * 2 * HIDDEN as u64));
}

#[test]
fn wide_rows_are_divided_and_their_order_brought_back() {
    let model = Folder::wide_bert().model();
    let nodes = model.program().nodes();
    let linears: Vec<_> = nodes
        .iter()
        .filter_map(|node| match node.op {
            Op::Linear(shape) => Some((shape.k as usize, shape.n as usize, shape.a15)),
            _ => None,
        })
        .collect();
    let layer = [
        (32, 3 * WIDE, true),
        (WIDE - 32, 3 * WIDE, false),
        (WIDE, WIDE, false),
        (32, WIDE_INNER, true),
        (WIDE - 32, WIDE_INNER, false),
        (32, WIDE, true),
        (64, WIDE, false),
        (WIDE_INNER - 96, WIDE, false),
    ];
    let last = [(WIDE, WIDE, true)];
    assert_eq!(linears, [&layer[..], &layer, &last].concat());
    assert!(matches!(nodes.last().unwrap().op, Op::Pool { .. }));
    // The massive channels, the last among them, have become the first of every divided row.
    let starts = nodes.iter().filter_map(|node| match node.op {
        Op::Columns { start, len: 32 } => Some(start),
        _ => None,
    });
    assert_eq!(starts.collect::<Vec<_>>(), [0; 6]);
}

#[test]
fn pooling_follows_the_modules() {
    let pooled = |mode: &str, normalize: bool| {
        let mut folder = Folder::bert();
        folder.pooling = json!({mode: true, "word_embedding_dimension": 24});
        if !normalize {
            folder.modules.as_mut().unwrap().as_array_mut().unwrap().pop();
        }
        folder.model().program().nodes().last().unwrap().op
    };
    let cases = [
        ("pooling_mode_mean_tokens", true, Op::Pool { mode: PoolMode::Mean, unit: true }),
        ("pooling_mode_mean_tokens", false, Op::Pool { mode: PoolMode::Mean, unit: false }),
        ("pooling_mode_cls_token", true, Op::Pool { mode: PoolMode::First, unit: true }),
        ("pooling_mode_lasttoken", false, Op::Pool { mode: PoolMode::Last, unit: false }),
    ];
    for (mode, normalize, want) in cases {
        assert_eq!(pooled(mode, normalize), want, "{mode} {normalize}");
    }
    let mut folder = Folder::bert();
    folder.modules = None;
    let model = folder.model();
    assert_eq!(
        model.manifest().output_dims(5, 0),
        Some([5, HIDDEN as u64]),
        "hidden states, row by row"
    );
}

#[test]
fn halves_of_the_same_numbers_give_the_same_model() {
    // Numbers that bf16 holds exactly, once as f32 and once as bf16.
    let mut wide = Folder::bert();
    for (_, _, data) in wide.tensors.values_mut() {
        data.chunks_exact_mut(4).for_each(|number| number[..2].fill(0));
    }
    let mut narrow = wide.clone();
    for (dtype, _, data) in narrow.tensors.values_mut() {
        *dtype = SourceDtype::BF16;
        *data = data.chunks_exact(4).flat_map(|number| [number[2], number[3]]).collect();
    }
    assert_eq!(wide.import().unwrap(), narrow.import().unwrap());
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    type Bend = fn(&mut Folder);
    let query = "encoder.layer.1.attention.self.query.weight";
    let cases: [(&str, Bend, &str); 14] = [
        ("another family", |f| f.config["model_type"] = json!("t5"), "model_type is t5"),
        ("a decoder", |f| f.config["is_decoder"] = json!(true), "is_decoder is true"),
        ("an activation", |f| f.config["hidden_act"] = json!("mish"), "hidden_act is mish"),
        (
            "relative positions",
            |f| f.config["position_embedding_type"] = json!("relative_key"),
            "relative_key",
        ),
        (
            "heads that do not divide",
            |f| f.config["num_attention_heads"] = json!(5),
            "num_attention_heads is 5",
        ),
        ("no heads", |f| f.config["num_attention_heads"] = json!(0), "num_attention_heads is 0"),
        ("an epsilon of one", |f| f.config["layer_norm_eps"] = json!(1), "layer_norm_eps is 1"),
        ("no vocabulary", |f| f.config["vocab_size"] = json!("many"), "config.json"),
        (
            "a missing tensor",
            |f| drop(f.tensors.remove("encoder.layer.1.output.dense.bias")),
            "output.dense.bias",
        ),
        ("another shape", |f| f.config["vocab_size"] = json!(22), "[23, 24], want [22, 24]"),
        ("a weight that is no number", |f| infect(f, f32::NAN), "query.weight"),
        ("an infinite weight", |f| infect(f, f32::INFINITY), "not a finite number"),
        ("a weight of a million", |f| infect(f, 1e6), "larger than the format holds"),
        (
            "pooling by maximum",
            |f| f.pooling = json!({"pooling_mode_max_tokens": true}),
            "1_Pooling/config.json",
        ),
    ];
    fn infect(folder: &mut Folder, value: f32) {
        let (_, _, data) =
            folder.tensors.get_mut("encoder.layer.1.attention.self.query.weight").unwrap();
        data[40..44].copy_from_slice(&value.to_le_bytes());
    }
    assert!(Folder::bert().tensors.contains_key(query));
    for (name, bend, want) in cases {
        let mut folder = Folder::bert();
        bend(&mut folder);
        let error = folder.import().expect_err(name);
        assert!(error.contains(want), "{name}: {error}");
    }
}

#[test]
fn an_output_is_a_vector_of_length_one() {
    let model = Folder::bert().model();
    let mut backend = Reference::default();
    let prepared = Prepared::load(&model, &mut backend, 48).unwrap();
    let mut mix = Mix::new(3);
    for len in [1, 2, 17, 48] {
        let input = common::tokens(&mut mix, len);
        let output = prepared.run(&mut backend, &[&input]).unwrap().remove(0);
        let square: i64 = output.elements().iter().map(|x| x * x).sum();
        let one = 1_i64 << 30;
        assert!((square - one).abs() < one / 1000, "{len} tokens: {square}");
    }
    let again = Model::from_bytes(Folder::bert().import().unwrap(), Trust::Roots).unwrap();
    assert_eq!(again.id(), model.id());
}
