//! GGUF files of tiny quantized models.

use std::fs::File;

use candle_core::{
    Device, Tensor,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Value},
    },
};
use hyperion_primitives::Mix;
use tempfile::TempDir;

use super::{
    continues,
    folders::{POSITIONS, PROMPT, WORDS, greedy, tokenizer, write},
};
use crate::{FloatError, FloatModel, Kind, Options, QUANTIZED};

const WIDTH: usize = 32;
const INNER: usize = 64;
const HEADS: usize = 4;
const KV_HEADS: usize = 2;

/// A tensor's name and shape.
type Shape = (String, Vec<usize>);

/// The tensors of a layer as an architecture names them.
fn layer(architecture: &str, at: usize) -> Vec<Shape> {
    let (dim, kv) = (WIDTH / HEADS, WIDTH / HEADS * KV_HEADS);
    let named = |name: &str, shape: &[usize]| (format!("blk.{at}.{name}"), shape.to_vec());
    let norm = |name: &str| named(&format!("{name}.weight"), &[WIDTH]);
    let apart = [
        named("attn_q.weight", &[WIDTH, WIDTH]),
        named("attn_k.weight", &[kv, WIDTH]),
        named("attn_v.weight", &[kv, WIDTH]),
    ];
    let out = named("attn_output.weight", &[WIDTH, WIDTH]);
    let down = named("ffn_down.weight", &[WIDTH, INNER]);
    let gated = [
        named("ffn_gate.weight", &[INNER, WIDTH]),
        named("ffn_up.weight", &[INNER, WIDTH]),
        down.clone(),
    ];
    let heads = [named("attn_q_norm.weight", &[dim]), named("attn_k_norm.weight", &[dim])];
    let biases =
        [named("attn_q.bias", &[WIDTH]), named("attn_k.bias", &[kv]), named("attn_v.bias", &[kv])];
    let norms = [norm("attn_norm"), norm("ffn_norm")];
    let posts = [norm("post_attention_norm"), norm("post_ffw_norm")];
    match architecture {
        "llama" => [&apart[..], &[out], &gated, &norms].concat(),
        "qwen2" => [&apart[..], &biases, &[out], &gated, &norms].concat(),
        "qwen3" => [&apart[..], &heads, &[out], &gated, &norms].concat(),
        "gemma3" => [&apart[..], &heads, &[out], &gated, &norms, &posts].concat(),
        "glm4" => {
            let both = named("ffn_up.weight", &[2 * INNER, WIDTH]);
            [&apart[..], &biases, &[out, both, down], &norms, &posts].concat()
        }
        "phi2" => {
            let biased = |name: &str, rows: usize, width: usize| {
                [
                    named(&format!("{name}.weight"), &[rows, width]),
                    named(&format!("{name}.bias"), &[rows]),
                ]
            };
            [
                biased("attn_qkv", 3 * WIDTH, WIDTH),
                biased("attn_output", WIDTH, WIDTH),
                biased("ffn_up", INNER, WIDTH),
                biased("ffn_down", WIDTH, INNER),
                [norm("attn_norm"), named("attn_norm.bias", &[WIDTH])],
            ]
            .concat()
        }
        "phi3" => {
            let qkv = named("attn_qkv.weight", &[WIDTH + 2 * kv, WIDTH]);
            let both = named("ffn_up.weight", &[2 * INNER, WIDTH]);
            [&[qkv, out, both, down][..], &norms].concat()
        }
        "lfm2" if at == 0 => {
            let conv = [
                named("shortconv.conv.weight", &[WIDTH, 3]),
                named("shortconv.in_proj.weight", &[3 * WIDTH, WIDTH]),
                named("shortconv.out_proj.weight", &[WIDTH, WIDTH]),
            ];
            [&conv[..], &gated, &norms].concat()
        }
        "lfm2" => [&apart[..], &heads, &[out], &gated, &norms].concat(),
        other => panic!("no layer of `{other}`"),
    }
}

fn metadata(architecture: &str) -> Vec<(String, Value)> {
    let number = |n: usize| Value::U32(u32::try_from(n).unwrap());
    let (epsilon, dim) = (Value::F32(1e-5), WIDTH / HEADS);
    let kv_heads = match architecture {
        "lfm2" => Value::Array(vec![Value::U32(0), number(KV_HEADS)]),
        // Candle takes this one to have no groups.
        "phi2" => number(HEADS),
        _ => number(KV_HEADS),
    };
    let own = [
        ("attention.head_count", number(HEADS)),
        ("attention.head_count_kv", kv_heads),
        ("attention.key_length", number(dim)),
        ("attention.value_length", number(dim)),
        ("attention.layer_norm_rms_epsilon", epsilon.clone()),
        ("attention.layer_norm_epsilon", epsilon),
        ("attention.sliding_window", number(64)),
        ("block_count", number(2)),
        ("context_length", number(POSITIONS as usize)),
        ("embedding_length", number(WIDTH)),
        ("feed_forward_length", number(INNER)),
        ("rope.dimension_count", number(dim)),
        ("rope.freq_base", Value::F32(10_000.0)),
        ("shortconv.l_cache", number(3)),
    ];
    let own = own.map(|(key, value)| (format!("{architecture}.{key}"), value));
    let shared = [
        ("general.architecture".to_owned(), Value::String(architecture.to_owned())),
        ("general.dtype".to_owned(), Value::U32(0)),
        ("tokenizer.ggml.eos_token_id".to_owned(), Value::U32(7)),
        (
            "tokenizer.chat_template".to_owned(),
            Value::String("{{ messages[0].content }}".to_owned()),
        ),
    ];
    own.into_iter().chain(shared).collect()
}

/// A folder with `model.gguf` of an architecture.
fn folder(architecture: &str, change: impl FnOnce(&mut Vec<(String, Value)>)) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let words = WORDS as usize;
    let mut shapes = vec![
        ("token_embd.weight".to_owned(), vec![words, WIDTH]),
        ("output.weight".to_owned(), vec![words, WIDTH]),
        ("output_norm.weight".to_owned(), vec![WIDTH]),
    ];
    if architecture == "phi2" {
        shapes.push(("output_norm.bias".to_owned(), vec![WIDTH]));
        shapes.push(("output.bias".to_owned(), vec![words]));
    }
    shapes.extend((0..2).flat_map(|at| layer(architecture, at)));
    let mut mix = Mix::new(5);
    let tensors: Vec<(String, QTensor)> = shapes
        .into_iter()
        .map(|(name, dims)| {
            let centre = if name.contains("norm") && name.ends_with("weight") { 1.0 } else { 0.0 };
            let unit = |mix: &mut Mix| mix.i32(20) as f32 / (1 << 20) as f32;
            let data = (0..dims.iter().product()).map(|_| centre + 0.3 * unit(&mut mix)).collect();
            let tensor = Tensor::from_vec::<_, f32>(data, dims.clone(), &Device::Cpu).unwrap();
            let is_matrix = dims.len() == 2 && dims[1].is_multiple_of(32);
            let dtype = if is_matrix { GgmlDType::Q8_0 } else { GgmlDType::F32 };
            (name, QTensor::quantize(&tensor, dtype).unwrap())
        })
        .collect();
    let mut metadata = metadata(architecture);
    change(&mut metadata);
    let metadata: Vec<(&str, &Value)> =
        metadata.iter().map(|(key, value)| (&**key, value)).collect();
    let tensors: Vec<(&str, &QTensor)> =
        tensors.iter().map(|(name, tensor)| (&**name, tensor)).collect();
    let mut file = File::create(folder.path().join("model.gguf")).unwrap();
    gguf_file::write(&mut file, &metadata, &tensors).unwrap();
    write(folder.path(), "tokenizer.json", &tokenizer());
    folder
}

fn open(folder: &TempDir) -> Result<FloatModel, FloatError> {
    FloatModel::open(&folder.path().join("model.gguf"), &Options::default())
}

#[test]
fn every_quantized_model_continues_with_its_cache_as_it_does_without() {
    let mut wrong = Vec::new();
    for architecture in QUANTIZED.iter().flat_map(|known| known.names) {
        let outcome =
            open(&folder(architecture, |_| {})).and_then(|mut model| continues(&mut model));
        if let Err(error) = outcome {
            wrong.push(format!("{architecture}: {error}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_file_says_how_it_wants_to_be_asked_and_what_is_left_out_is_refused() {
    let facts = open(&folder("llama", |_| {})).unwrap().facts();
    assert_eq!(
        (&facts.kind, facts.vocabulary, facts.rows_max),
        (&Kind::Generates, WORDS, POSITIONS)
    );
    assert_eq!(facts.advice.end_ids, [7]);
    assert!(facts.advice.chat_template.as_deref().unwrap().contains("messages"));
    assert!(facts.tokenizer.is_some() && facts.runs_on == "cpu gguf");
    let refused = |key: &str, value: Value| {
        open(&folder("llama", |all| all.push((key.to_owned(), value)))).unwrap_err().to_string()
    };
    assert!(
        refused("llama.rope.scaling.type", Value::String("yarn".to_owned())).contains("scaled")
    );
    let other = folder("llama", |all| {
        all.retain(|(key, _)| key != "general.architecture");
        all.push(("general.architecture".to_owned(), Value::String("bloom".to_owned())));
    });
    assert!(open(&other).unwrap_err().to_string().contains("`bloom`"));
    let mut one = open(&folder("lfm2", |_| {})).unwrap();
    let refused = one.generate(&PROMPT[..1], &greedy(1), &mut |_| true).unwrap_err();
    assert!(refused.to_string().contains("two tokens"));
}
