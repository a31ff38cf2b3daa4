//! Folders of tiny models with random weights, one of each family, and what is asked of them.

mod folders;
mod gguf;
mod images;

use std::fs;

use candle_core::Tensor;
use candle_nn::VarBuilder;
use serde_json::{Value, json};

use self::folders::{POSITIONS, PROMPT, changed, config, folder, greedy, open, write};
use crate::{
    Ending, FAMILIES, Family, FloatError, FloatModel, Generation, Kind, Net, Options, QUANTIZED,
};

/// Names of families that can be told from one another in what they do.
pub(super) const DECODERS: &[&str] = &[
    "based",
    "chatglm",
    "codegeex4",
    "deepseek_v2",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3_text",
    "gemma4_text",
    "glm4",
    "glm4_chat",
    "gpt_bigcode",
    "granite",
    "granitemoehybrid",
    "helium",
    "lfm2",
    "llama",
    "mamba",
    "mamba2",
    "mistral",
    "mixformer-sequential",
    "mixtral",
    "olmo",
    "olmo2",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "recurrent_gemma",
    "rwkv5",
    "rwkv6",
    "smollm3",
    "stablelm",
    "starcoder2",
];
pub(super) const ANSWERERS: &[&str] = &["marian", "t5"];
pub(super) const ENCODERS: &[&str] = &[
    "bert",
    "clip_text_model",
    "deberta-v2",
    "distilbert",
    "jina_bert",
    "modernbert",
    "nomic_bert",
    "roberta",
    "siglip_text_model",
    "xlm-roberta",
];

/// Whether a continuation with the cache is the one without it.
pub(super) fn continues(model: &mut FloatModel) -> Result<(), FloatError> {
    let told = model.generate(&PROMPT, &greedy(6), &mut |_| true)?;
    let mut whole = PROMPT.to_vec();
    for _ in 0..6 {
        whole.extend(model.generate(&whole, &greedy(1), &mut |_| true)?.tokens);
    }
    let again = model.generate(&PROMPT, &greedy(6), &mut |_| true)?;
    if (told.tokens.len(), told.ending) != (6, Ending::Length)
        || whole[PROMPT.len()..] != told.tokens
        || again != told
    {
        let text =
            format!("{told:?}, again {again:?}, without a cache {:?}", &whole[PROMPT.len()..]);
        return Err(FloatError::Input(text));
    }
    Ok(())
}

#[test]
fn every_decoder_continues_with_its_cache_as_it_does_without() {
    let mut wrong = Vec::new();
    for family in DECODERS {
        let mut model = match open(&folder(family)) {
            Ok(model) => model,
            Err(error) => {
                wrong.push(format!("{family}: {error}"));
                continue;
            }
        };
        assert_eq!(model.facts().kind, Kind::Generates, "{family}");
        if let Err(error) = continues(&mut model) {
            wrong.push(format!("{family}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_answerer_answers_and_repeats_itself() {
    for family in ANSWERERS {
        let mut model = open(&folder(family)).unwrap_or_else(|error| panic!("{family}: {error}"));
        assert_eq!(model.facts().kind, Kind::Generates, "{family}");
        let mut ask = |prompt: &[u32]| model.generate(prompt, &greedy(6), &mut |_| true).unwrap();
        let told = ask(&PROMPT);
        assert_eq!(told.tokens.len(), 6, "{family}");
        ask(&PROMPT[..2]);
        assert_eq!(ask(&PROMPT), told, "{family}");
    }
}

#[test]
fn a_t5_that_is_an_encoder_embeds() {
    let only = |config: &mut Value| config["architectures"] = json!(["T5EncoderModel"]);
    let mut model = open(&changed("t5", 5, only)).unwrap();
    assert_eq!(model.facts().kind, Kind::Embeds { width: 32 });
    assert_eq!(model.embed(&PROMPT).unwrap().len(), 32);
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
        let mut model = open(&folder(family)).unwrap_or_else(|error| panic!("{family}: {error}"));
        assert_eq!(model.facts().kind, Kind::Embeds { width: 32 }, "{family}");
        let mut of =
            |ids: &[u32]| model.embed(ids).unwrap_or_else(|error| panic!("{family}: {error}"));
        let vector = of(&[3, 14, 15]);
        let length: i64 = vector.iter().map(|code| i64::from(*code).pow(2)).sum();
        assert!((length - (1 << 30)).abs() < 1 << 20, "{family}: {length}");
        assert_eq!(of(&[3, 14, 15]), vector, "{family}");
        assert_ne!(of(&[3, 14, 16]), vector, "{family}");
    }
}

#[test]
fn pooling_is_what_the_folder_says() {
    let folder = folder("bert");
    let mut mean = open(&folder).unwrap();
    fs::create_dir(folder.path().join("1_Pooling")).unwrap();
    write(folder.path(), "1_Pooling/config.json", &json!({"pooling_mode_cls_token": true}));
    let mut first = open(&folder).unwrap();
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
    let unknown = refused("llama", "model_type", json!("yolo"));
    assert!(refused("mamba", "state_size", json!(32)).contains("state_size"));
    assert!(refused("mamba2", "tie_word_embeddings", json!(false)).contains("head of its own"));
    assert!(unknown.contains("`yolo`") && unknown.contains("qwen3") && unknown.contains("bert"));
    let missing = tempfile::tempdir().unwrap();
    assert!(open(&missing).unwrap_err().to_string().contains("config.json"));
    let bare = folder("llama");
    fs::remove_file(bare.path().join("model.safetensors")).unwrap();
    assert!(open(&bare).unwrap_err().to_string().contains(".safetensors"));
}

#[test]
fn a_sequence_ends_with_the_window_where_the_cache_does_not_turn() {
    let context = |family: &str, change: fn(&mut Value)| {
        open(&changed(family, 5, change)).unwrap().facts().rows_max
    };
    assert_eq!(context("mistral", |config| config["sliding_window"] = json!(9)), 9);
    assert_eq!(context("gemma3_text", |_| {}), POSITIONS);
    let unused = |config: &mut Value| {
        config["sliding_window"] = json!(9);
        config["use_sliding_window"] = json!(false);
    };
    assert_eq!(context("qwen3", unused), POSITIONS);
    assert_eq!(open(&folder("roberta")).unwrap().facts().rows_max, POSITIONS - 2);
}

#[test]
fn an_identity_is_what_was_read_and_what_computes() {
    let id = |folder: &tempfile::TempDir, options: &Options| {
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
    assert_eq!(one, id(&told, &plain), "advice is no part of it");
    fs::remove_file(told.path().join("tokenizer.json")).unwrap();
    assert_ne!(one, id(&told, &plain));
    assert_eq!(open(&told).unwrap().facts().tokenizer, None);

    let manifest = include_str!("../../../Cargo.toml");
    let version = crate::ENGINE.rsplit(' ').next().unwrap();
    assert!(manifest.contains(&format!("candle-transformers = \"={version}\"")));
}

/// What a developer writes for a model that no family here knows.
const COUNTER: Family = Family {
    names: &["counter"],
    module: "none",
    load: |source| {
        let words = source.want(&["vocab_size"])?;
        let table: Tensor = VarBuilder::get(&source.weights(), (words, words), "table")?;
        let next = move |state: &mut usize, ids: &Tensor, _| {
            *state += ids.elem_count();
            let last = ids.flatten_all()?.to_vec1::<u32>()?;
            table.get(last[last.len() - 1] as usize)
        };
        Ok(Net::stateful(|| Ok(0), next)?)
    },
};

#[test]
fn a_family_of_ones_own_is_a_dozen_lines() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "config.json", &json!({"model_type": "counter", "vocab_size": 5}));
    let next = |word: usize| (0..5).map(move |at| f32::from(u8::from(at == (word + 2) % 5)));
    let table: Vec<f32> = (0..5).flat_map(next).collect();
    let table = Tensor::from_vec(table, (5, 5), &candle_core::Device::Cpu).unwrap();
    let file = folder.path().join("model.safetensors");
    candle_core::safetensors::save(&[("table", table)].into(), file).unwrap();
    let options = Options::default();
    assert!(FloatModel::open(folder.path(), &options).is_err());
    let mut model = FloatModel::open_as(folder.path(), &options, &COUNTER).unwrap();
    let told = model.generate(&[1], &greedy(4), &mut |_| true).unwrap();
    assert_eq!(told.tokens, [3, 0, 2, 4]);
}

#[test]
fn the_page_and_the_table_agree() {
    let page = include_str!("../../../docs/float.md");
    let rows: Vec<(&str, &str)> =
        page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` | ")).collect();
    let of = |module: &str| {
        let found: Vec<&str> =
            rows.iter().filter(|(name, _)| *name == module).map(|(_, row)| *row).collect();
        assert_eq!(found.len(), 1, "`{module}` has a row of its own in docs/float.md");
        found[0]
    };
    let folders = FAMILIES.iter().copied().flatten().map(|family| (family.module, family.names));
    let files = QUANTIZED.iter().map(|known| (known.module, known.names));
    let mut served = std::collections::BTreeSet::new();
    for (module, names) in folders.chain(files) {
        served.insert(module);
        for name in names {
            assert!(
                of(module).contains(&format!("`{name}`")),
                "{module}: `{name}` is not on the page"
            );
        }
    }
    for (module, row) in
        rows.iter().filter(|(_, row)| row.contains("no: ") || row.contains("yes: "))
    {
        assert_eq!(served.contains(module), row.starts_with("yes: "), "{module}: {row}");
    }
}
