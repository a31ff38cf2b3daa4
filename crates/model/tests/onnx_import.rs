//! Classifiers from ONNX: the same model as from safetensors, and no panic whatever the bytes.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::path::{Path, PathBuf};

use common::import_bytes;
use hyperion_model::{
    Model, Trust,
    import::{ImportError, onnx},
};
use proptest::prelude::*;

fn digits(name: &str) -> PathBuf {
    Path::new("../../fixtures/digits").join(name)
}

fn file() -> Vec<u8> {
    std::fs::read(digits("model.onnx")).unwrap()
}

#[test]
fn the_same_weights_are_the_same_model_from_either_file() {
    let [safetensors, onnx] = ["", "model.onnx"].map(|name| import_bytes(&digits(name)).unwrap());
    assert!(safetensors == onnx, "the model files differ");
    let [safetensors, onnx] =
        [safetensors, onnx].map(|file| Model::from_bytes(file, Trust::Nothing).unwrap());
    assert_eq!(safetensors.program(), onnx.program());
    assert_eq!(safetensors.id(), onnx.id());
}

#[test]
fn a_file_that_is_not_there_or_not_onnx_is_refused_by_name() {
    let absent = onnx(&digits("absent.onnx")).unwrap_err();
    assert!(
        matches!(&absent, ImportError::Io { path, .. } if path.ends_with("absent.onnx")),
        "{absent}"
    );
    let cases = [
        ("safetensors", std::fs::read(digits("model.safetensors")).unwrap(), "not an ONNX file"),
        ("text", b"not a model".to_vec(), "not an ONNX file"),
        ("nothing", Vec::new(), "names no operator set"),
        ("half of it", file()[..13_000].to_vec(), "not an ONNX file"),
    ];
    for (name, bytes, want) in cases {
        let error = onnx::from_bytes(&bytes).unwrap_err().to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
}

#[test]
fn a_weight_that_is_no_number_is_refused_with_its_node() {
    let mut bytes = file();
    let clean = onnx::from_bytes(&bytes);
    assert!(clean.is_ok());
    // The first bias follows its name; its own field is `raw_data`, whose first float becomes infinite.
    let name = b"layers.0.bias";
    let mut places = bytes.windows(name.len()).enumerate().filter(|(_, window)| window == name);
    // The first place is the node's input, the second the initialiser.
    let at = places.nth(1).unwrap().0 + name.len();
    assert_eq!(bytes[at], 0x4a, "field 9, a length follows");
    bytes[at + 3..at + 7].copy_from_slice(&[0, 0, 0x80, 0x7f]);
    let error = onnx::from_bytes(&bytes).unwrap_err().to_string();
    assert!(error.contains("gemm0") && error.contains("not a finite number"), "{error}");
}

/// A change to a file's bytes.
#[derive(Clone, Debug)]
enum Change {
    Set(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Remove(prop::sample::Index, u8),
    Cut(prop::sample::Index),
}

fn change() -> impl Strategy<Value = Change> {
    let place = any::<prop::sample::Index>;
    prop_oneof![
        4 => (place(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        2 => (place(), prop::collection::vec(any::<u8>(), 1..9)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        2 => (place(), 1..9_u8).prop_map(|(at, len)| Change::Remove(at, len)),
        1 => place().prop_map(Change::Cut),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: Vec<Change>) -> Vec<u8> {
    for change in changes {
        let len = bytes.len();
        match change {
            _ if len == 0 => break,
            Change::Set(at, byte) => bytes[at.index(len)] = byte,
            Change::Insert(at, new) => {
                let at = at.index(len);
                bytes.splice(at..at, new);
            }
            Change::Remove(at, count) => {
                let at = at.index(len);
                bytes.drain(at..len.min(at + usize::from(count)));
            }
            Change::Cut(at) => bytes.truncate(at.index(len)),
        }
    }
    bytes
}

/// The file without its weights, where every byte is structure: nodes, names, shapes.
fn skeleton() -> Vec<u8> {
    let bytes = file();
    // The initialisers lie between the nodes and the inputs; the largest are the weights. Keeping the first kilobyte
    // keeps every node and the head of the first initialiser.
    bytes[..1024].to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn changed_files_are_read_or_refused(changes in prop::collection::vec(change(), 1..6)) {
        let _ = onnx::from_bytes(&changed(file(), changes));
    }

    #[test]
    fn changed_structure_is_read_or_refused(changes in prop::collection::vec(change(), 1..12)) {
        let _ = onnx::from_bytes(&changed(skeleton(), changes));
    }

    #[test]
    fn any_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..512)) {
        prop_assert!(onnx::from_bytes(&bytes).is_err());
    }
}
