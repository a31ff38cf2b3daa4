//! GGUF files, written by candle: a file makes the model of the checkpoint whose numbers it holds, and a damaged one is refused.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::{
    fs,
    io::Cursor,
    path::{Path, PathBuf},
};

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};
use common::{Folder, decoders::family_of, import_bytes};
use hyperion_primitives::Mix;
use safetensors::Dtype;
use serde_json::json;

/// Whole blocks of 32 in every row.
fn folder(name: &str) -> Folder {
    family_of(name, 64, 96)
}

/// What a GGUF file calls a tensor of a checkpoint.
fn own(name: &str) -> String {
    let whole = [
        ("model.embed_tokens.", "token_embd."),
        ("model.norm.", "output_norm."),
        ("lm_head.", "output."),
        ("model.layers.", "blk."),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ];
    whole.iter().fold(name.to_owned(), |name, (theirs, own)| name.replace(theirs, own))
}

/// Rows of queries or keys as llama-architecture files have them, pairs side by side.
fn permuted(tensor: &Tensor, heads: usize) -> Tensor {
    let dims = tensor.dims().to_vec();
    let half = dims[0] / heads / 2;
    let split = tensor.reshape((heads, 2, half, tensor.elem_count() / dims[0])).unwrap();
    split.transpose(1, 2).unwrap().contiguous().unwrap().reshape(dims).unwrap()
}

/// Rounds the matrices of a folder to a type, and writes the same numbers as a GGUF file.
fn both(mut folder: Folder, kind: GgmlDType) -> (Folder, Vec<u8>) {
    let family = folder.config["model_type"].as_str().unwrap().to_owned();
    let size = |key: &str| folder.config[key].as_u64().unwrap() as usize;
    let heads = [size("num_attention_heads"), size("num_key_value_heads")];
    let mut written = Vec::new();
    for (name, (_, shape, data)) in &mut folder.tensors {
        let floats = data.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
        let tensor = Tensor::from_vec::<_, f32>(floats, shape.as_slice(), &Device::Cpu).unwrap();
        let kind = if shape.len() == 2 { kind } else { GgmlDType::F32 };
        let rounded = QTensor::quantize(&tensor, kind).unwrap().dequantize(&Device::Cpu).unwrap();
        let floats: Vec<f32> = rounded.flatten_all().unwrap().to_vec1().unwrap();
        *data = floats.iter().flat_map(|float| float.to_le_bytes()).collect();
        let heads = match name.as_str() {
            name if family != "llama" || name.contains("norm") => None,
            name if name.contains("q_proj") => Some(heads[0]),
            name if name.contains("k_proj") => Some(heads[1]),
            _ => None,
        };
        let tensor = heads.map_or(tensor.clone(), |heads| permuted(&tensor, heads));
        written.push((own(name), QTensor::quantize(&tensor, kind).unwrap()));
    }
    let number = |key: &str| Value::U32(folder.config[key].as_u64().unwrap() as u32);
    let float = |key: &str| Value::F32(folder.config[key].as_f64().unwrap() as f32);
    let mut metadata = vec![
        ("general.architecture".to_owned(), Value::String(family.clone())),
        ("tokenizer.ggml.tokens".to_owned(), Value::Array(vec![Value::String("a".into())])),
    ];
    for (key, value) in [
        ("context_length", number("max_position_embeddings")),
        ("embedding_length", number("hidden_size")),
        ("block_count", number("num_hidden_layers")),
        ("feed_forward_length", number("intermediate_size")),
        ("attention.head_count", number("num_attention_heads")),
        ("attention.head_count_kv", number("num_key_value_heads")),
        ("attention.layer_norm_rms_epsilon", float("rms_norm_eps")),
        ("rope.freq_base", float("rope_theta")),
    ] {
        metadata.push((format!("{family}.{key}"), value));
    }
    if let Some(head_dim) = folder.config.get("head_dim") {
        let head_dim = Value::U32(head_dim.as_u64().unwrap() as u32);
        metadata.push((format!("{family}.attention.key_length"), head_dim));
    }
    let metadata: Vec<(&str, &Value)> =
        metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        written.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    let mut file = Cursor::new(Vec::new());
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    (folder, file.into_inner())
}

fn put(folder: &Path, bytes: &[u8]) -> PathBuf {
    let path = folder.join("model.gguf");
    fs::write(&path, bytes).unwrap();
    path
}

#[test]
fn a_file_is_the_model_of_the_checkpoint_with_its_numbers() {
    let kinds = [GgmlDType::F32, GgmlDType::F16, GgmlDType::BF16, GgmlDType::Q8_0, GgmlDType::Q4_0];
    let place = tempfile::tempdir().unwrap();
    for (name, kinds) in [("llama2", &kinds[..]), ("qwen2", &kinds[3..4]), ("qwen3", &kinds[4..])] {
        for kind in kinds {
            let (folder, file) = both(folder(name), *kind);
            let got = import_bytes(&put(place.path(), &file)).unwrap();
            assert!(got == folder.import().unwrap(), "{name} as {kind:?}");
        }
    }
}

#[test]
fn a_file_of_large_blocks_is_the_model_of_the_checkpoint_with_its_numbers() {
    // Rows are whole blocks of 256. Candle's numbers are rounded to f32, which no code of these weights notices.
    let place = tempfile::tempdir().unwrap();
    for (name, kind) in [("llama2", GgmlDType::Q4K), ("qwen2", GgmlDType::Q6K)] {
        let (folder, file) = both(family_of(name, 256, 512), kind);
        let got = import_bytes(&put(place.path(), &file)).unwrap();
        assert!(got == folder.import().unwrap(), "{name} as {kind:?}");
    }
    let (_, file) = both(family_of("llama2", 256, 512), GgmlDType::Q4K);
    let mut mix = Mix::new(89);
    for _ in 0..20 {
        let cut = mix.below(file.len() as u64) as usize;
        assert!(import_bytes(&put(place.path(), &file[..cut])).is_err(), "{cut} bytes");
        let mut bent = file.clone();
        let at = mix.below(file.len() as u64) as usize;
        bent[at] ^= 1 << mix.below(8);
        let _ = import_bytes(&put(place.path(), &bent));
    }
}

#[test]
fn a_row_of_no_whole_blocks_is_refused() {
    // The header says `Q6_K` of an embedding whose rows have 64 numbers; the type's code follows its two sizes.
    let place = tempfile::tempdir().unwrap();
    let (_, mut file) = both(folder("llama2"), GgmlDType::Q8_0);
    let name = b"token_embd.weight";
    let at = file.windows(name.len()).position(|bytes| bytes == name).unwrap() + name.len();
    assert_eq!(file[at + 20..at + 24], 8_u32.to_le_bytes());
    file[at + 20] = 14;
    let error = import_bytes(&put(place.path(), &file)).unwrap_err();
    assert!(error.contains("`token_embd.weight` of shape [61, 64] is no whole blocks"), "{error}");
}

#[test]
fn scaled_frequencies_are_read_as_factors() {
    // Llama 3 files hold one factor a rotary pair; factors of 1 and 2 are those of the plain and of the linear rule.
    let place = tempfile::tempdir().unwrap();
    let (mut plain, _) = both(folder("llama2"), GgmlDType::F32);
    for factor in [1.0_f32, 2.0] {
        let mut with = plain.clone();
        let data = [factor; 8].iter().flat_map(|factor| factor.to_le_bytes()).collect();
        with.tensors.insert("rope_freqs.weight".into(), (Dtype::F32, vec![8], data));
        let (_, file) = both(with, GgmlDType::F32);
        if factor > 1.0 {
            plain.config["rope_scaling"] = json!({"rope_type": "linear", "factor": factor});
        }
        let got = import_bytes(&put(place.path(), &file)).unwrap();
        assert!(got == plain.import().unwrap(), "{factor}");
    }
}

#[test]
fn a_damaged_file_is_refused_or_read() {
    let place = tempfile::tempdir().unwrap();
    let (_, file) = both(folder("llama2"), GgmlDType::Q8_0);
    let mut mix = Mix::new(83);
    for _ in 0..60 {
        let cut = mix.below(file.len() as u64) as usize;
        assert!(import_bytes(&put(place.path(), &file[..cut])).is_err(), "{cut} bytes");
    }
    for _ in 0..200 {
        // The header is some four thousand bytes long.
        let mut bent = file.clone();
        bent[mix.below(4_000) as usize] ^= 1 << mix.below(8);
        let _ = import_bytes(&put(place.path(), &bent));
    }
    let mut infinite = file;
    let end = infinite.len();
    infinite[end - 4..].copy_from_slice(&f32::INFINITY.to_le_bytes());
    let error = import_bytes(&put(place.path(), &infinite)).unwrap_err();
    let want = "tensor `output_norm.weight`: row 0, column 63: not a finite number";
    assert_eq!(error, want);
    let error = import_bytes(&put(place.path(), b"GGUF\x01\0\0\0")).unwrap_err();
    assert!(error.contains("version 1, 2 and 3 are supported"), "{error}");
    let (_, file) = both(folder("llama2"), GgmlDType::Q5_0);
    let error = import_bytes(&put(place.path(), &file)).unwrap_err();
    assert!(
        error.contains("has type 6; F32, F16, BF16, Q8_0, Q4_0, Q4_K and Q6_K are supported"),
        "{error}"
    );
}
