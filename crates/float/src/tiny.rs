//! Folders of tiny models with random weights, one of each family, and what is asked of them.

use std::{collections::BTreeMap, fs, path::Path};

use candle_core::{DType, Device, Tensor};
use candle_nn::{VarBuilder, VarMap};
use hyperion_primitives::Mix;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    DECODERS, ENCODERS, Ending, FloatError, FloatModel, Generation, Kind, Options, decoder,
    encoder, folder::Folder,
};

const WORDS: u32 = 61;
const POSITIONS: u32 = 40;

/// The tensors of a family, under the names and in the shapes that candle asks for.
fn weights(folder: &Folder, seed: u64) -> VarMap {
    let map = VarMap::new();
    let builder = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    if decoder::FAMILIES.contains(&folder.text("model_type")) {
        drop(decoder::load(folder, builder, DType::F32, &Device::Cpu).unwrap());
    } else {
        drop(encoder::load(folder, builder).unwrap());
    }
    // Candle's own first values come from a generator that cannot be seeded.
    let mut mix = Mix::new(seed);
    let vars: BTreeMap<_, _> = map.data().lock().unwrap().clone().into_iter().collect();
    for (name, var) in vars {
        let dims = var.dims().to_vec();
        let (centre, spread) = match dims.len() {
            1 if name.contains("orm") && name.ends_with("weight") => (1.0, 0.2),
            1 => (0.0, 0.1),
            _ if name.contains("embed") => (0.0, 1.0),
            _ => (0.0, 1.7 / (dims[dims.len() - 1] as f32).sqrt()),
        };
        let unit = |mix: &mut Mix| mix.i32(20) as f32 / (1 << 20) as f32;
        let data = (0..var.elem_count()).map(|_| centre + spread * unit(&mut mix)).collect();
        var.set(&Tensor::from_vec::<_, f32>(data, dims, &Device::Cpu).unwrap()).unwrap();
    }
    map
}

/// A tokenizer that knows `w0` to `w60`.
fn tokenizer() -> Value {
    let words: BTreeMap<String, u32> = (0..WORDS).map(|id| (format!("w{id}"), id)).collect();
    json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
        "normalizer": null, "pre_tokenizer": {"type": "Whitespace"}, "post_processor": null,
        "decoder": null, "model": {"type": "WordLevel", "vocab": words, "unk_token": "w0"},
    })
}

fn config(family: &str) -> Value {
    let mut config = json!({
        "model_type": family, "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
        "max_position_embeddings": POSITIONS, "rms_norm_eps": 1e-5, "layer_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "torch_dtype": "float32",
    });
    let more = match family {
        "bert" | "roberta" | "xlm-roberta" => json!({
            "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1,
            "type_vocab_size": 2, "initializer_range": 0.02, "pad_token_id": 1,
            "position_embedding_type": "absolute",
        }),
        "distilbert" => json!({
            "dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "activation": "gelu",
            "initializer_range": 0.02, "pad_token_id": 0,
        }),
        "modernbert" => json!({
            "pad_token_id": 0, "global_attn_every_n_layers": 2, "global_rope_theta": 160_000.0,
            "local_attention": 8, "local_rope_theta": 10000.0,
        }),
        "gemma" | "gemma2" | "gemma3_text" => json!({
            "head_dim": 8, "hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": 8, "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0, "rope_local_base_freq": 10000.0,
            "sliding_window": 16, "sliding_window_pattern": 2,
            "num_key_value_heads": if family == "gemma3_text" { 1 } else { 2 },
        }),
        "glm4" => json!({
            "head_dim": 8, "partial_rotary_factor": 0.5, "attention_bias": true,
        }),
        "helium" => json!({
            "head_dim": 8, "bos_token_id": 1, "eos_token_id": 2, "mlp_bias": false,
            "tie_word_embeddings": false,
        }),
        "mixtral" => {
            json!({"num_experts_per_tok": 2, "num_local_experts": 4, "use_flash_attn": false})
        }
        "phi" => json!({
            "hidden_act": "gelu_new", "partial_rotary_factor": 0.5, "qk_layernorm": false,
            "tie_word_embeddings": false,
        }),
        "qwen2_moe" => json!({
            "num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16, "decoder_sparse_step": 1, "norm_topk_prob": true,
        }),
        "qwen3" => json!({"head_dim": 16}),
        "qwen3_moe" => json!({
            "head_dim": 16, "num_experts_per_tok": 2, "num_experts": 4, "moe_intermediate_size": 16,
            "decoder_sparse_step": 1, "norm_topk_prob": true,
        }),
        "starcoder2" => json!({"norm_epsilon": 1e-5, "use_bias": true, "hidden_act": "gelu"}),
        _ => json!({}),
    };
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn write(folder: &Path, name: &str, json: &Value) {
    fs::write(folder.join(name), json.to_string()).unwrap();
}

/// A folder with a changed configuration; weights of another seed are other weights.
fn changed(family: &str, seed: u64, change: impl FnOnce(&mut Value)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut config = config(family);
    change(&mut config);
    write(folder.path(), "config.json", &config);
    write(folder.path(), "tokenizer.json", &tokenizer());
    let mut read = Folder::open(folder.path()).unwrap();
    if DECODERS.contains(&family) {
        decoder::prepare(&mut read).unwrap();
        read.config.entry("tie_word_embeddings").or_insert(false.into());
    }
    weights(&read, seed).save(folder.path().join("model.safetensors")).unwrap();
    folder
}

fn folder(family: &str) -> TempDir {
    changed(family, 5, |_| {})
}

fn open(folder: &TempDir) -> Result<FloatModel, FloatError> {
    FloatModel::open(folder.path(), &Options::default())
}

fn greedy(tokens_max: u32) -> Generation {
    Generation {
        temperature: 0.0,
        top_k: 0,
        top_p: 1.0,
        frequency: 0.0,
        presence: 0.0,
        tokens_max,
        ends: Vec::new(),
        seed: 0,
    }
}

const PROMPT: [u32; 5] = [3, 14, 15, 9, 26];

#[test]
fn every_decoder_continues_with_its_cache_as_it_does_without() {
    for family in DECODERS {
        let mut model = open(&folder(family)).unwrap_or_else(|error| panic!("{family}: {error}"));
        assert_eq!(model.facts().kind, Kind::Generates, "{family}");
        let told = model.generate(&PROMPT, &greedy(6), &mut |_| true).unwrap();
        assert_eq!((told.tokens.len(), told.ending), (6, Ending::Length), "{family}");
        let mut whole = PROMPT.to_vec();
        for _ in 0..6 {
            let next = model.generate(&whole, &greedy(1), &mut |_| true).unwrap();
            whole.extend(next.tokens);
        }
        assert_eq!(whole[PROMPT.len()..], told.tokens, "{family}");
        assert_eq!(model.generate(&PROMPT, &greedy(6), &mut |_| true).unwrap(), told, "{family}");
    }
}

#[test]
fn a_cache_that_turns_sees_its_window() {
    let turns = |config: &mut Value| config["sliding_window"] = json!(4);
    let mut model = open(&changed("gemma3_text", 5, turns)).unwrap();
    let told = model.generate(&PROMPT, &greedy(12), &mut |_| true).unwrap().tokens;
    let mut whole = PROMPT.to_vec();
    for _ in 0..12 {
        whole.extend(model.generate(&whole, &greedy(1), &mut |_| true).unwrap().tokens);
    }
    assert_eq!(whole[PROMPT.len()..], told);
}

#[test]
fn every_encoder_gives_a_vector_of_unit_length_that_tells_texts_apart() {
    for family in ENCODERS {
        let model = open(&folder(family)).unwrap_or_else(|error| panic!("{family}: {error}"));
        let facts = model.facts();
        assert_eq!(facts.kind, Kind::Embeds { width: 32 }, "{family}");
        let of = |text: &str| model.embed(&facts.encode(text).unwrap()).unwrap();
        let vector = of("w3 w14 w15");
        let length: i64 = vector.iter().map(|code| i64::from(*code).pow(2)).sum();
        assert!((length - (1 << 30)).abs() < 1 << 20, "{family}: {length}");
        assert_eq!(of("w3 w14 w15"), vector, "{family}");
        assert_ne!(of("w3 w14 w16"), vector, "{family}");
    }
}

#[test]
fn pooling_is_what_the_folder_says() {
    let folder = folder("bert");
    let mean = open(&folder).unwrap();
    fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    write(folder.path(), "1_Pooling/config.json", &json!({"pooling_mode_cls_token": true}));
    let first = open(&folder).unwrap();
    assert_ne!(mean.embed(&PROMPT).unwrap(), first.embed(&PROMPT).unwrap());
    assert_eq!(mean.embed(&PROMPT[..1]).unwrap(), first.embed(&PROMPT[..1]).unwrap());
    assert_ne!(mean.facts().id, first.facts().id);
    write(folder.path(), "1_Pooling/config.json", &json!({"pooling_mode_lasttoken": true}));
    assert!(open(&folder).unwrap_err().to_string().contains("lasttoken"));
}

#[test]
fn an_answer_ends_at_an_end_id_at_its_length_where_the_context_is_full_or_when_nobody_listens() {
    let mut model = open(&folder("llama")).unwrap();
    let mut ask = |how: &Generation, prompt: &[u32], goes_on: &mut dyn FnMut(u32) -> bool| {
        model.generate(prompt, how, goes_on)
    };
    let whole = ask(&greedy(6), &PROMPT, &mut |_| true).unwrap().tokens;
    let stops = Generation { ends: vec![whole[2]], ..greedy(6) };
    let told = ask(&stops, &PROMPT, &mut |_| true).unwrap();
    let end = whole.iter().position(|id| *id == whole[2]).unwrap();
    assert_eq!((told.tokens.as_slice(), told.ending), (&whole[..=end], Ending::Stop));
    let mut heard = Vec::new();
    let cut = ask(&greedy(6), &PROMPT, &mut |id| {
        heard.push(id);
        heard.len() < 2
    });
    assert_eq!(cut.unwrap().ending, Ending::Cut);
    assert_eq!(heard, whole[..2]);
    let long = vec![1; POSITIONS as usize - 2];
    let told = ask(&greedy(6), &long, &mut |_| true).unwrap();
    assert_eq!((told.tokens.len(), told.ending), (3, Ending::Length));

    let refused = |prompt: &[u32], how: &Generation| {
        open(&folder("llama"))
            .unwrap()
            .generate(prompt, how, &mut |_| true)
            .unwrap_err()
            .to_string()
    };
    assert!(refused(&[], &greedy(1)).contains("0 tokens"));
    assert!(refused(&[1; 41], &greedy(1)).contains("1 to 40"));
    assert!(refused(&PROMPT, &greedy(0)).contains("one token at least"));
    assert!(refused(&[61], &greedy(1)).contains("token 61"));
    let hot = Generation { temperature: f64::NAN, ..greedy(1) };
    assert!(refused(&PROMPT, &hot).contains("out of range"));
}

#[test]
fn draws_repeat_with_their_seed_and_penalties_count() {
    let mut model = open(&folder("qwen2")).unwrap();
    let mut draw = |how: &Generation| model.generate(&PROMPT, how, &mut |_| true).unwrap().tokens;
    let warm = |seed| Generation { temperature: 1.5, top_p: 0.9, seed, ..greedy(20) };
    assert_eq!(draw(&warm(1)), draw(&warm(1)));
    assert_ne!(draw(&warm(1)), draw(&warm(2)));
    let narrow = Generation { temperature: 1.0, top_k: 1, ..greedy(8) };
    assert_eq!(draw(&narrow), draw(&greedy(8)), "the first of one is the largest");
    let never_twice = Generation { presence: 1e6, ..greedy(20) };
    let mut told = draw(&never_twice);
    told.sort_unstable();
    told.dedup();
    assert_eq!(told.len(), 20);
}

#[test]
fn what_candle_would_leave_out_is_refused() {
    let refused = |family: &str, key: &str, value: Value| {
        let folder = folder(family);
        let mut config = config(family);
        config[key] = value;
        write(folder.path(), "config.json", &config);
        open(&folder).unwrap_err().to_string()
    };
    assert!(refused("qwen2", "rope_scaling", json!({"type": "yarn"})).contains("rope_scaling"));
    assert!(refused("llama", "attention_bias", json!(true)).contains("biases"));
    assert!(refused("llama", "head_dim", json!(16)).contains("heads"));
    assert!(refused("llama", "num_attention_heads", json!(0)).contains("0 heads"));
    assert!(refused("llama", "quantization_config", json!({"bits": 4})).contains("quantized"));
    let unknown = refused("llama", "model_type", json!("t5"));
    assert!(unknown.contains("`t5`") && unknown.contains("qwen3") && unknown.contains("bert"));
    let missing = tempfile::tempdir().unwrap();
    assert!(open(&missing).unwrap_err().to_string().contains("config.json"));
    let bare = folder("llama");
    fs::remove_file(bare.path().join("model.safetensors")).unwrap();
    assert!(open(&bare).unwrap_err().to_string().contains(".safetensors"));
}

#[test]
fn a_sequence_ends_with_the_window_where_the_cache_does_not_turn() {
    let context = |family: &str, change: fn(&mut Value)| {
        open(&changed(family, 5, change)).unwrap().facts().context
    };
    assert_eq!(context("mistral", |config| config["sliding_window"] = json!(9)), 9);
    assert_eq!(context("gemma3_text", |_| {}), POSITIONS);
    let unused = |config: &mut Value| {
        config["sliding_window"] = json!(9);
        config["use_sliding_window"] = json!(false);
    };
    assert_eq!(context("qwen3", unused), POSITIONS);
    assert_eq!(open(&folder("roberta")).unwrap().facts().context, POSITIONS - 2);
}

#[test]
fn an_identity_is_what_was_read_and_what_computes() {
    let id = |folder: &TempDir, options: &Options| {
        FloatModel::open(folder.path(), options).unwrap().facts().id
    };
    let plain = Options::default();
    let one = id(&folder("llama"), &plain);
    assert_eq!(one, id(&folder("llama"), &plain), "where a folder lies does not matter");
    assert_ne!(one, id(&changed("llama", 6, |_| {}), &plain));
    assert_ne!(one, id(&changed("llama", 5, |config| config["rope_theta"] = json!(9.0)), &plain));
    assert_ne!(one, id(&folder("llama"), &Options { dtype: "f16".to_owned(), ..plain.clone() }));
    let told = folder("llama");
    write(told.path(), "generation_config.json", &json!({"eos_token_id": [7, 2]}));
    assert_ne!(one, id(&told, &plain));
    assert_eq!(open(&told).unwrap().facts().ends, [2, 7]);

    let manifest = include_str!("../../../Cargo.toml");
    let version = crate::ENGINE.rsplit(' ').next().unwrap();
    assert!(manifest.contains(&format!("candle-transformers = \"={version}\"")));
}
