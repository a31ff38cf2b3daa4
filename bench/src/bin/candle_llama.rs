//! candle on a GGUF file's weights in f32: the peer of prefill (line L3).
//!
//! `candle_llama MODEL.gguf [--prefill 512] [--rounds 3]` dequantizes the file, runs candle-transformers' Llama on a prompt and prints one JSON
//! object: tokens a second, the best round. Queries' and keys' rows stay in the file's order, which is the same work.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{collections::HashMap, error::Error, fs::File, time::Instant};

use candle_core::{DType, Device, Tensor, quantized::gguf_file::Content};
use candle_nn::VarBuilder;
use candle_transformers::models::llama::{Cache, Config, Llama};
use hyperion_primitives::Mix;
use serde_json::json;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let path =
        arguments.first().ok_or("usage: candle_llama MODEL.gguf [--prefill N] [--rounds N]")?;
    let number = |name: &str, otherwise: usize| -> Result<usize, Box<dyn Error>> {
        let at = arguments.iter().position(|argument| argument == name);
        Ok(at.and_then(|at| arguments.get(at + 1)).map_or(Ok(otherwise), |value| value.parse())?)
    };
    let (prefill, rounds) = (number("--prefill", 512)?, number("--rounds", 3)?);
    let mut file = File::open(path)?;
    let content = Content::read(&mut file)?;
    let size = |key: &str| -> Result<usize, Box<dyn Error>> {
        let value = content.metadata.get(&format!("llama.{key}")).ok_or("a size is missing")?;
        Ok(value.to_u32()? as usize)
    };
    let config = Config {
        hidden_size: size("embedding_length")?,
        intermediate_size: size("feed_forward_length")?,
        vocab_size: size("vocab_size")?,
        num_hidden_layers: size("block_count")?,
        num_attention_heads: size("attention.head_count")?,
        num_key_value_heads: size("attention.head_count_kv")?,
        use_flash_attn: false,
        rms_norm_eps: 1e-5,
        rope_theta: 10_000.0,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling: None,
        max_position_embeddings: size("context_length")?,
        tie_word_embeddings: false,
    };
    let mut tensors = HashMap::new();
    for name in content.tensor_infos.keys() {
        let tensor = content.tensor(&mut file, name, &Device::Cpu)?.dequantize(&Device::Cpu)?;
        tensors.insert(theirs(name), tensor);
    }
    let vocabulary = config.vocab_size as u64;
    let builder = VarBuilder::from_tensors(tensors, DType::F32, &Device::Cpu);
    let model = Llama::load(builder, &config)?;
    let mut mix = Mix::new(3);
    let mut best = f64::INFINITY;
    for _ in 0..rounds {
        let tokens: Vec<u32> = (0..prefill).map(|_| mix.below(vocabulary) as u32).collect();
        let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
        let mut cache = Cache::new(true, DType::F32, &config, &Device::Cpu)?;
        let begin = Instant::now();
        let logits = model.forward(&input, 0, &mut cache)?;
        best = best.min(begin.elapsed().as_secs_f64());
        let logits: Vec<f32> = logits.flatten_all()?.to_vec1()?;
        assert!(logits.iter().all(|logit| logit.is_finite()), "logits are numbers");
    }
    println!("{}", json!({ "dtype": "f32", "prefill_tokens_per_s": prefill as f64 / best }));
    Ok(())
}

/// What candle calls a tensor of the file.
fn theirs(name: &str) -> String {
    const PARTS: [(&str, &str); 9] = [
        ("attn_norm", "input_layernorm"),
        ("attn_q", "self_attn.q_proj"),
        ("attn_k", "self_attn.k_proj"),
        ("attn_v", "self_attn.v_proj"),
        ("attn_output", "self_attn.o_proj"),
        ("ffn_norm", "post_attention_layernorm"),
        ("ffn_gate", "mlp.gate_proj"),
        ("ffn_up", "mlp.up_proj"),
        ("ffn_down", "mlp.down_proj"),
    ];
    let stem = name.trim_end_matches(".weight");
    let whole = match stem {
        "token_embd" => Some("model.embed_tokens".to_owned()),
        "output_norm" => Some("model.norm".to_owned()),
        "output" => Some("lm_head".to_owned()),
        _ => None,
    };
    let layer = || {
        let (layer, part) = stem.strip_prefix("blk.")?.split_once('.')?;
        let (_, theirs) = PARTS.iter().find(|(own, _)| *own == part)?;
        Some(format!("model.layers.{layer}.{theirs}"))
    };
    format!("{}.weight", whole.or_else(layer).expect("a tensor of a Llama"))
}
