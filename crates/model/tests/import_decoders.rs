//! Decoders from Hugging Face folders: the same folder gives the same model everywhere, and what is not supported is
//! refused by name.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::{collections::BTreeMap, fs, io::Cursor, path::Path};

use common::{
    Folder, SourceTensor,
    decoders::{FAMILIES, VOCABULARY, family},
    import_bytes, safetensors,
};
use hyperion_model::{
    Model, Trust,
    import::write,
    program::{Input, Op},
};
use safetensors::Dtype;
use serde_json::{Value, json};

#[test]
fn a_folder_gives_one_model_on_every_machine() {
    // Whoever changes one of these has changed what every imported model of that family is.
    let pinned = [
        ("llama2", "0xacb35996e536610adf14eb6f07373685d959a4748ebf798a12517cb171c1098f"),
        ("llama3", "0x379b1fabf121121f100f4ec76ab64a6c0d75c9d2bd1cd6149c65aeef656bbb22"),
        ("mistral", "0xcf803e96b84db2da815a6060b5d8abb7f373c88ff2b4d8a23674c815c0dfcedc"),
        ("qwen2", "0xe1c21f00f885e7c11f432ce46451686de5997f52b9c00684916508f01715b902"),
        ("qwen3", "0xcf77d3992df5a576450743d1414549fb446f95ea3728620ccba8bbbb052413d7"),
        ("gemma2", "0xd230e9cae5379e655b545a59a707d2b530eb204aecb38d6f6688f66545c2b573"),
        ("gemma3", "0x15b7ba2e9606569c95f98ca3f707dab5dbd6174e74b64ff82a239577a97a801a"),
        ("gpt2", "0x4ed30b9f95b7fb8e7569b4d7648782e73ab6ed452cc6af9756f421cb3483168c"),
    ];
    let got: Vec<(&str, String)> =
        FAMILIES.iter().map(|name| (*name, family(name).model().id().to_string())).collect();
    let want: Vec<(&str, String)> =
        pinned.iter().map(|(name, id)| (*name, (*id).to_owned())).collect();
    assert_eq!(got, want);
}

/// The file that a streamed import writes.
fn streamed(source: &Path) -> Result<Vec<u8>, String> {
    let mut out = Cursor::new(Vec::new());
    let mut heard = Vec::new();
    let id = write(source, &mut out, &mut |done, all| heard.push((done, all)));
    let id = id.map_err(|error| error.to_string())?;
    let bytes = out.into_inner();
    let model = Model::from_bytes(bytes.clone(), Trust::Nothing).unwrap();
    assert_eq!(model.id(), id);
    let steps = heard.len();
    assert_eq!(heard, (1..=steps).map(|done| (done, steps)).collect::<Vec<_>>());
    Ok(bytes)
}

#[test]
fn tensor_by_tensor_is_the_same_file_as_in_memory() {
    for name in FAMILIES {
        let folder = family(name).write();
        assert!(streamed(folder.path()).unwrap() == import_bytes(folder.path()).unwrap(), "{name}");
    }
}

#[test]
fn a_head_that_is_the_embedding_takes_no_room() {
    let model = family("llama3").model();
    let head = model.program().nodes().len() - 2;
    assert!(matches!(model.program().nodes()[head].op, Op::Linear(_)));
    let tensor = |op, slot| model.tensor(op, slot).unwrap().as_ptr();
    for slot in 0..3 {
        assert_eq!(tensor(0, slot), tensor(u32::try_from(head).unwrap(), slot));
    }
    // A head of its own is read even where it equals the embedding, and a tied one is not looked for.
    let mut untied = family("llama3");
    untied.config["tie_word_embeddings"] = json!(false);
    let error = untied.import().unwrap_err();
    assert_eq!(error, "the source has no tensor `lm_head.weight`");
    let embedding = untied.tensors["model.embed_tokens.weight"].clone();
    untied.tensors.insert("lm_head.weight".to_owned(), embedding);
    assert_ne!(untied.model().file_bytes(), model.file_bytes());
    untied.config["tie_word_embeddings"] = json!(true);
    assert_eq!(untied.model().id(), model.id());
}

#[test]
fn the_program_follows_the_configuration() {
    let mut folder = family("mistral");
    folder.config["max_position_embeddings"] = json!(131_072);
    let program = folder.model().program().clone();
    assert_eq!((program.input(), program.context()), (Input::Tokens, 65_536));
    let windows = |folder: &Folder| {
        let model = folder.model();
        let windows = model.program().nodes().iter().filter_map(|node| match node.op {
            Op::Attention(shape) => Some((shape.window, shape.causal, shape.p15)),
            _ => None,
        });
        windows.collect::<Vec<_>>()
    };
    assert_eq!(windows(&folder), [(9, true, true); 2]);
    let mut folder = family("qwen2");
    assert_eq!(windows(&folder), [(0, true, true); 2], "a window that is not used");
    folder.config["use_sliding_window"] = json!(true);
    assert_eq!(windows(&folder), [(0, true, true), (64, true, true)], "above max_window_layers");
    folder.config["layer_types"] = json!(["sliding_attention", "full_attention"]);
    assert_eq!(windows(&folder), [(64, true, true), (0, true, true)]);

    // Newer files say the same in other words.
    let (old, mut new) = (family("llama3"), family("llama3"));
    let mut rope = new.config["rope_scaling"].clone();
    rope["rope_theta"] = new.config["rope_theta"].clone();
    for key in ["rope_scaling", "rope_theta"] {
        new.config.as_object_mut().unwrap().remove(key);
    }
    new.config["rope_parameters"] = rope;
    assert_eq!(new.model().id(), old.model().id());
}

/// Writes a folder's tensors as two files with an index.
fn in_shards(folder: &Folder) -> tempfile::TempDir {
    let written = folder.write();
    fs::remove_file(written.path().join("model.safetensors")).unwrap();
    let mut shards: [BTreeMap<String, SourceTensor>; 2] = Default::default();
    let mut map = serde_json::Map::new();
    for (index, (name, tensor)) in folder.tensors.iter().enumerate() {
        shards[index % 2].insert(name.clone(), tensor.clone());
        map.insert(name.clone(), json!(format!("model-{}.safetensors", index % 2)));
    }
    for (index, shard) in shards.iter().enumerate() {
        let path = written.path().join(format!("model-{index}.safetensors"));
        fs::write(path, safetensors(shard)).unwrap();
    }
    let index = json!({"metadata": {"total_size": 0}, "weight_map": map});
    fs::write(written.path().join("model.safetensors.index.json"), index.to_string()).unwrap();
    written
}

#[test]
fn shards_give_the_model_of_one_file_and_damaged_ones_are_named() {
    let folder = family("qwen3");
    let shards = in_shards(&folder);
    assert!(streamed(shards.path()).unwrap() == folder.import().unwrap());

    let path = shards.path().join("model-1.safetensors");
    let whole = fs::read(&path).unwrap();
    fs::write(&path, &whole[..whole.len() - 1]).unwrap();
    let error = streamed(shards.path()).unwrap_err();
    assert!(error.contains("model-1.safetensors") && error.contains("cut off"), "{error}");
    fs::write(&path, &whole[..5]).unwrap();
    let error = streamed(shards.path()).unwrap_err();
    assert!(error.contains("5 bytes"), "{error}");
    fs::write(&path, [&[0xff; 8][..], &whole[8..]].concat()).unwrap();
    assert!(streamed(shards.path()).unwrap_err().contains("a header of"));
    fs::remove_file(&path).unwrap();
    assert!(streamed(shards.path()).unwrap_err().contains("model-1.safetensors"));

    fs::write(&path, &whole).unwrap();
    let index = shards.path().join("model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    fs::write(&index, text.replace("model-1", "../model-1")).unwrap();
    assert!(streamed(shards.path()).unwrap_err().contains("is no file name"));
    fs::write(&index, text.replacen("model-1", "model-0", 1)).unwrap();
    assert!(streamed(shards.path()).unwrap_err().contains("where the index says"));
}

#[test]
fn halves_of_the_same_numbers_give_the_same_model() {
    let (mut wide, mut narrow) = (family("llama2"), family("llama2"));
    for name in wide.tensors.keys().cloned().collect::<Vec<_>>() {
        let (_, shape, data) = &wide.tensors[&name];
        let high: Vec<[u8; 2]> = data.as_chunks::<4>().0.iter().map(|w| [w[2], w[3]]).collect();
        let whole = high.iter().flat_map(|half| [0, 0, half[0], half[1]]).collect();
        let half = (Dtype::BF16, shape.clone(), high.concat());
        narrow.tensors.insert(name.clone(), half);
        let whole = (Dtype::F32, shape.clone(), whole);
        wide.tensors.insert(name, whole);
    }
    assert_eq!(wide.model().id(), narrow.model().id());
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    let cases: [(&str, &str, Value, &str); 23] = [
        ("llama3", "model_type", json!("mixtral"), "model_type is mixtral"),
        ("llama3", "hidden_size", json!(0), "hidden_size is 0"),
        ("llama3", "hidden_size", json!(20_000), "hidden_size is 20000"),
        ("llama3", "hidden_size", json!(50), "num_attention_heads is 4"),
        ("llama3", "hidden_size", json!(52), "head_dim is 13; an even number is supported"),
        ("llama3", "num_hidden_layers", json!(1_000_000_000), "num_hidden_layers is 1000000000"),
        ("llama3", "num_hidden_layers", json!(3), "no tensor `model.layers.2."),
        ("llama3", "num_attention_heads", json!(5), "num_attention_heads is 5"),
        (
            "llama3",
            "num_key_value_heads",
            json!(3),
            "num_attention_heads is 4, num_key_value_heads 3",
        ),
        (
            "llama3",
            "num_key_value_heads",
            json!(4),
            "`model.layers.0.self_attn.k_proj.weight` is [24, 48]",
        ),
        ("llama3", "head_dim", json!(13), "head_dim is 13"),
        ("llama3", "head_dim", json!(512), "heads of 1 to 256 columns"),
        (
            "llama3",
            "vocab_size",
            json!(60),
            "`model.embed_tokens.weight` is [61, 48], want [60, 48]",
        ),
        ("llama3", "vocab_size", json!(500_000), "vocab_size is 500000"),
        ("llama3", "intermediate_size", json!(0), "intermediate_size is 0"),
        ("llama3", "max_position_embeddings", json!(0), "max_position_embeddings is 0"),
        ("llama3", "rms_norm_eps", json!(2.0), "rms_norm_eps is 2.0"),
        ("llama3", "rope_theta", json!(0.5), "rope_theta is 0.5"),
        (
            "llama3",
            "rope_scaling",
            json!({"rope_type": "yarn", "factor": 4.0}),
            "rope_type is yarn",
        ),
        ("llama3", "rope_scaling", json!({"type": "linear", "factor": 0.0}), "factor is 0.0"),
        ("llama3", "quantization_config", json!({"bits": 4}), "quantization_config is"),
        ("qwen2", "layer_types", json!(["full_attention"]), "layer_types is full_attention"),
        ("gpt2", "activation_function", json!("quick_gelu"), "activation_function is quick_gelu"),
    ];
    for (name, key, value, want) in cases {
        let mut folder = family(name);
        folder.config[key] = value.clone();
        let error = folder.import().unwrap_err();
        assert!(error.contains(want), "{name} {key} {value}: {error}");
    }
}

#[test]
fn a_weight_that_is_no_number_is_refused_with_its_place() {
    for bits in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut folder = family("qwen2");
        let (_, _, data) = folder.tensors.get_mut("model.layers.1.mlp.up_proj.weight").unwrap();
        data[4 * (48 * 7 + 5)..][..4].copy_from_slice(&bits.to_le_bytes());
        let error = folder.import().unwrap_err();
        let want =
            "tensor `model.layers.1.mlp.up_proj.weight`: row 7, column 5: not a finite number";
        assert_eq!(error, want);
    }
    let mut folder = family("gpt2");
    folder.tensors.remove("transformer.h.1.attn.c_attn.bias");
    let error = folder.import().unwrap_err();
    assert_eq!(error, "the source has no tensor `transformer.h.1.attn.c_attn.bias`");
}

/// A tokenizer of single letters.
fn tokenizer(ids: usize) -> String {
    let vocab: serde_json::Map<String, Value> =
        (0..ids).map(|id| (format!("w{id}"), json!(id))).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null, "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    })
    .to_string()
}

#[test]
fn a_tokenizer_of_another_vocabulary_is_refused() {
    let mut folder = family("llama2");
    folder.tokenizer = Some(tokenizer(VOCABULARY));
    assert!(!folder.model().tokenizer_hash().is_zero());
    folder.tokenizer = Some(tokenizer(VOCABULARY + 1));
    let error = folder.import().unwrap_err();
    assert!(error.contains("ids up to 61, the model has 61 tokens"), "{error}");
    folder.tokenizer = Some("{}".to_owned());
    assert!(folder.import().unwrap_err().contains("not a tokenizer file"));
}
