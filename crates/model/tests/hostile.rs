//! Whatever is read from outside is refused or is what it says; nothing panics, and no number in a file is believed
//! before the bytes for it are there.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::fs;

use common::Folder;
use hyperion_model::{Model, Prepared, Tokenizer, Trust, file::FileError};
use hyperion_ops::Reference;
use hyperion_primitives::Mix;
use proptest::prelude::*;
use serde_json::json;
use tempfile::TempDir;

/// A model file of some 20 KB, and where its table and its tensors begin.
fn file() -> (Vec<u8>, usize, usize) {
    let file = Folder::bert().import().unwrap();
    let number = |at: usize| u64::from_be_bytes(file[at..at + 8].try_into().unwrap()) as usize;
    let (table, data) = (number(32), number(40));
    (file, table, data)
}

#[test]
fn every_changed_byte_is_noticed() {
    let (file, _, data) = file();
    let mut mix = Mix::new(1);
    // All of the header, the program and the table with their gaps; a sample of the tensors.
    let places = (0..data).chain((data..file.len()).step_by(23));
    for at in places {
        let mut other = file.clone();
        other[at] ^= 1 + mix.below(255) as u8;
        assert!(Model::from_bytes(other, Trust::Nothing).is_err(), "byte {at}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let (file, _, data) = file();
    for end in (0..data).chain((data..file.len()).step_by(61)).chain([file.len() - 1]) {
        assert!(Model::from_bytes(file[..end].to_vec(), Trust::Nothing).is_err(), "cut at {end}");
        assert!(Model::from_bytes(file[..end].to_vec(), Trust::Roots).is_err(), "cut at {end}");
    }
    let longer = [&file[..], &[0; 64]].concat();
    assert!(Model::from_bytes(longer, Trust::Nothing).is_err());
}

#[test]
fn numbers_of_the_header_are_not_believed() {
    let (file, table, data) = file();
    let numbers =
        [0, 1, 63, 64, 127, 4096, 1 << 31, u64::from(u32::MAX), 1 << 62, (1 << 63) - 1, u64::MAX];
    // Every 8-byte field of the header, and dims, offset and bytes of the first and the last record.
    let records = [table, data - (data - table) % 128 - 128];
    let fields = [16, 24, 32, 40, 48, 56].into_iter();
    let fields = fields.chain(
        records.into_iter().flat_map(|record| (8..56).step_by(8).map(move |at| record + at)),
    );
    for at in fields {
        for number in numbers {
            let mut other = file.clone();
            other[at..at + 8].copy_from_slice(&number.to_be_bytes());
            if other != file {
                assert!(Model::from_bytes(other, Trust::Roots).is_err(), "{number} at byte {at}");
            }
        }
    }
    let mut many = file;
    many[12..16].fill(0xff);
    let error = Model::from_bytes(many, Trust::Nothing).unwrap_err().to_string();
    assert!(error.contains("the table ends at"), "{error}");
}

#[test]
fn an_error_names_the_place() {
    let (file, table, data) = file();
    let refusal = |at: usize, byte: u8| {
        let mut other = file.clone();
        other[at] = byte;
        match Model::from_bytes(other, Trust::Roots).unwrap_err() {
            hyperion_model::ModelError::File(error) => error,
            error => panic!("{error}"),
        }
    };
    let program_end = 128 + u64::from_be_bytes(file[24..32].try_into().unwrap());
    let cases = [
        ("no model file", 0, b'X', FileError::Magic),
        ("a gap after the program", table - 1, 1, FileError::Gap { at: table as u64 - 1 }),
        ("a gap in a record", table + 100, 1, FileError::Gap { at: table as u64 + 100 }),
        ("a gap before the tensors", data - 1, 1, FileError::Gap { at: data as u64 - 1 }),
        (
            "a reserved field",
            63,
            1,
            FileError::Field { at: 56, what: "a reserved field is not zero" },
        ),
    ];
    assert!(program_end < table as u64, "the program leaves a gap");
    for (name, at, byte, want) in cases {
        assert_eq!(refusal(at, byte), want, "{name}");
    }
    // The first tensor is the embedding's codes.
    let element = refusal(data + 5, 0);
    assert!(
        matches!(element, FileError::Element { at, op: 0, slot: 0, .. } if at == data as u64 + 5),
        "{element}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// A trusted file whose tensors were changed is another model, but not one that breaks the device.
    #[test]
    fn a_trusted_file_with_other_weights_is_refused_or_runs(seed in any::<u64>(), changes in 1..200_u32) {
        let (mut file, _, data) = file();
        let mut mix = Mix::new(seed);
        for _ in 0..changes {
            let at = data + mix.below((file.len() - data) as u64) as usize;
            file[at] = mix.u64() as u8;
        }
        if let Ok(model) = Model::from_bytes(file, Trust::Roots) {
            let mut backend = Reference::default();
            let prepared = Prepared::load(&model, &mut backend, 64).unwrap();
            let inputs = [common::tokens(&mut mix, 40), common::tokens(&mut mix, 3)];
            prop_assert_eq!(prepared.run(&mut backend, &[&inputs[0], &inputs[1]]).unwrap().len(), 2);
        }
    }

    #[test]
    fn a_bent_safetensors_file_is_refused_or_imported(
        seed in any::<u64>(), changes in 1..8_u32, cut in proptest::option::of(0..60_000_usize),
    ) {
        let folder = Folder::bert().write();
        let path = folder.path().join("model.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let mut mix = Mix::new(seed);
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap());
        for _ in 0..changes {
            // Mostly the header, where the numbers stand.
            let end = if mix.below(4) == 0 { bytes.len() as u64 } else { header };
            bytes[mix.below(end) as usize] = mix.u64() as u8;
        }
        bytes.truncate(cut.unwrap_or(usize::MAX));
        fs::write(&path, bytes).unwrap();
        if let Ok(file) = common::import_bytes(folder.path()) {
            prop_assert!(Model::from_bytes(file, Trust::Nothing).is_ok());
        }
    }

    #[test]
    fn a_bent_configuration_is_refused_or_imported(key in 0..8_usize, number in prop_oneof![
        Just(json!(null)), Just(json!("")), Just(json!(-1)), Just(json!(0.5)), Just(json!(1e300)), Just(json!(1e-300)), Just(json!(u64::MAX)),
        (0..100_u64).prop_map(|number| json!(number)), any::<u64>().prop_map(|number| json!(number)),
        (0..64_u32).prop_map(|shift| json!(1_u64 << shift)),
    ]) {
        const KEYS: [&str; 8] = [
            "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "layer_norm_eps",
            "vocab_size", "max_position_embeddings", "hidden_act",
        ];
        let mut folder = Folder::bert();
        folder.config[KEYS[key]] = number;
        if let Ok(file) = folder.import() {
            prop_assert!(Model::from_bytes(file, Trust::Nothing).is_ok());
        }
    }

    #[test]
    fn bytes_are_no_tokenizer(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        prop_assert!(Tokenizer::from_bytes(&bytes, 16).is_err());
    }
}

#[test]
fn a_bent_graph_is_refused() {
    let graphs = [
        (
            "no layers",
            json!({"input": {"name": "x", "width": 4}, "layers": [], "output": {"name": "y"}}),
        ),
        (
            "no width",
            json!({"input": {"name": "x", "width": 0}, "layers": [{"weight": "w"}], "output": {"name": "y"}}),
        ),
        (
            "a width beyond u32",
            json!({"input": {"name": "x", "width": 1_u64 << 32}, "layers": [{"weight": "w"}], "output": {"name": "y"}}),
        ),
        (
            "a width that is no width",
            json!({"input": {"name": "x", "width": 5}, "layers": [{"weight": "w"}], "output": {"name": "y"}}),
        ),
        (
            "an unknown activation",
            json!({"input": {"name": "x", "width": 4}, "layers": [{"weight": "w", "activation": "sine"}], "output": {"name": "y"}}),
        ),
        (
            "a weight that is not there",
            json!({"input": {"name": "x", "width": 4}, "layers": [{"weight": "v"}], "output": {"name": "y"}}),
        ),
        (
            "a bias of another length",
            json!({"input": {"name": "x", "width": 4}, "layers": [{"weight": "w", "bias": "w"}], "output": {"name": "y"}}),
        ),
        (
            "a scalar as weight",
            json!({"input": {"name": "x", "width": 4}, "layers": [{"weight": "s"}], "output": {"name": "y"}}),
        ),
        (
            "an unknown key",
            json!({"input": {"name": "x", "width": 4}, "layers": [{"weight": "w"}], "output": {"name": "y"}, "loss": 1}),
        ),
    ];
    let write = |graph: &serde_json::Value| {
        let folder = TempDir::new().unwrap();
        let float = |shape: &[usize]| {
            let len = shape.iter().product::<usize>() * 4;
            (safetensors::Dtype::F32, shape.to_vec(), vec![0; len])
        };
        let tensors = [("w", float(&[3, 4])), ("s", float(&[]))]
            .map(|(name, tensor)| (name.to_owned(), tensor));
        fs::write(folder.path().join("graph.json"), graph.to_string()).unwrap();
        fs::write(folder.path().join("model.safetensors"), common::safetensors(&tensors.into()))
            .unwrap();
        folder
    };
    for (name, graph) in graphs {
        assert!(common::import_bytes(write(&graph).path()).is_err(), "{name}");
    }
    let fine = json!({"input": {"name": "x", "width": 4}, "layers": [{"weight": "w"}], "output": {"name": "y"}});
    assert!(common::import_bytes(write(&fine).path()).is_ok(), "a weight of zeros is a model too");
}
