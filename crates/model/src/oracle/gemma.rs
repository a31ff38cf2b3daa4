//! Gemma 2 and Gemma 3 in candle's tensors. Those of candle-transformers scale queries by the width of a head whatever the
//! configuration says, and see one key more than a window has.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{Linear, Module as _, VarBuilder, linear_no_bias, ops::softmax_last_dim};
use serde_json::{Map, Value};

use super::OracleError;

/// The float model.
pub(super) struct Gemma {
    words: Tensor,
    layers: Vec<Layer>,
    last: Norm,
    head: Tensor,
    heads: [usize; 2],
    head_width: usize,
    /// What scores are multiplied by.
    scale: f64,
    /// What scores and logits are kept within.
    caps: [Option<f64>; 2],
}

struct Layer {
    norms: [Norm; 4],
    /// Queries, keys, values, output.
    attention: [Linear; 4],
    head_norms: Option<[Norm; 2]>,
    /// Gate, up, down.
    inner: [Linear; 3],
    /// Keys that a row sees, itself among them.
    window: Option<usize>,
    /// Base of the rotary frequencies, and what positions are divided by.
    rope: (f64, f64),
}

/// Root mean square, times one more than the weight.
struct Norm {
    weight: Tensor,
    eps: f64,
}

impl Norm {
    fn load(width: usize, eps: f64, weights: &VarBuilder<'_>) -> Result<Self, OracleError> {
        Ok(Self { weight: (weights.get(width, "weight")? + 1.0)?, eps })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, OracleError> {
        let squares = (x.sqr()?.mean_keepdim(D::Minus1)? + self.eps)?;
        Ok(x.broadcast_div(&squares.sqrt()?)?.broadcast_mul(&self.weight)?)
    }
}

/// `cap · tanh(x / cap)`.
fn capped(x: Tensor, cap: Option<f64>) -> Result<Tensor, OracleError> {
    match cap {
        Some(cap) => Ok(((x / cap)?.tanh()? * cap)?),
        None => Ok(x),
    }
}

impl Gemma {
    pub(super) fn load(
        config: &Map<String, Value>,
        weights: &VarBuilder<'_>,
    ) -> Result<Self, OracleError> {
        let number = |key: &str| config.get(key).and_then(Value::as_f64);
        let size = |key: &str| config.get(key).and_then(Value::as_u64).map(|size| size as usize);
        let is_third = config.get("model_type").and_then(Value::as_str) == Some("gemma3_text");
        let (hidden, inner) =
            (size("hidden_size").unwrap_or(0), size("intermediate_size").unwrap_or(0));
        let heads =
            ["num_attention_heads", "num_key_value_heads"].map(|key| size(key).unwrap_or(1));
        let head_width = size("head_dim").unwrap_or(256);
        let eps = number("rms_norm_eps").unwrap_or(1e-6);
        let vocabulary = size("vocab_size").unwrap_or(0);
        let head = weights.get((vocabulary, hidden), "lm_head.weight").ok();
        let weights = weights.pp("model");
        let words = weights.get((vocabulary, hidden), "embed_tokens.weight")?;
        let pattern = size("sliding_window_pattern").unwrap_or(if is_third { 6 } else { 2 });
        let types = config.get("layer_types").and_then(Value::as_array);
        let factor = config.get("rope_scaling").and_then(|rope| rope.get("factor")?.as_f64());
        let layer = |index: usize| {
            let weights = weights.pp(format!("layers.{index}"));
            let norm = |name: &str| Norm::load(hidden, eps, &weights.pp(name));
            let linear = |name: &str, inputs, outputs| {
                linear_no_bias(inputs, outputs, weights.pp(name)).map_err(OracleError::from)
            };
            let [queries, keys] = heads.map(|heads| heads * head_width);
            let sees_all = match types {
                Some(types) => types[index].as_str() == Some("full_attention"),
                None => (index + 1).is_multiple_of(pattern),
            };
            let base = number("rope_theta").unwrap_or(10_000.0);
            let near = number("rope_local_base_freq").unwrap_or(10_000.0);
            let head_norm =
                |name: &str| Norm::load(head_width, eps, &weights.pp(format!("self_attn.{name}")));
            Ok::<_, OracleError>(Layer {
                norms: [
                    norm("input_layernorm")?,
                    norm("post_attention_layernorm")?,
                    norm("pre_feedforward_layernorm")?,
                    norm("post_feedforward_layernorm")?,
                ],
                attention: [
                    linear("self_attn.q_proj", hidden, queries)?,
                    linear("self_attn.k_proj", hidden, keys)?,
                    linear("self_attn.v_proj", hidden, keys)?,
                    linear("self_attn.o_proj", queries, hidden)?,
                ],
                head_norms: if is_third {
                    Some([head_norm("q_norm")?, head_norm("k_norm")?])
                } else {
                    None
                },
                inner: [
                    linear("mlp.gate_proj", hidden, inner)?,
                    linear("mlp.up_proj", hidden, inner)?,
                    linear("mlp.down_proj", inner, hidden)?,
                ],
                window: if sees_all { None } else { size("sliding_window") },
                rope: match (is_third, sees_all) {
                    (true, false) => (near, 1.0),
                    _ => (base, factor.unwrap_or(1.0)),
                },
            })
        };
        let layers = 0..size("num_hidden_layers").unwrap_or(0);
        Ok(Self {
            layers: layers.map(layer).collect::<Result<_, _>>()?,
            last: Norm::load(hidden, eps, &weights.pp("norm"))?,
            head: head.unwrap_or_else(|| words.clone()),
            words,
            heads,
            head_width,
            scale: number("query_pre_attn_scalar").unwrap_or(256.0).powf(-0.5),
            caps: ["attn_logit_softcapping", "final_logit_softcapping"].map(number),
        })
    }

    /// Logits after each token, `[tokens, vocabulary]`.
    pub(super) fn forward(&self, ids: &[u32]) -> Result<Tensor, OracleError> {
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let words = self.words.index_select(&ids, 0)?;
        let mut x = (&words * (words.dim(1)? as f64).sqrt())?;
        for layer in &self.layers {
            let [before, after, before_inner, after_inner] = &layer.norms;
            let y = self.attend(layer, &before.forward(&x)?)?;
            x = (x + after.forward(&y)?)?;
            let y = before_inner.forward(&x)?;
            let [gate, up, down] = &layer.inner;
            let y = down.forward(&(gate.forward(&y)?.gelu()? * up.forward(&y)?)?)?;
            x = (x + after_inner.forward(&y)?)?;
        }
        capped(self.last.forward(&x)?.matmul(&self.head.t()?)?, self.caps[1])
    }

    fn attend(&self, layer: &Layer, x: &Tensor) -> Result<Tensor, OracleError> {
        let rows = x.dim(0)?;
        let [queries, keys, values, out] = &layer.attention;
        let [heads, kv_heads] = self.heads;
        let split = |x: Tensor, heads: usize| {
            let x = x.reshape((rows, heads, self.head_width))?;
            Ok::<_, OracleError>(x.transpose(0, 1)?.contiguous()?)
        };
        let mut q = split(queries.forward(x)?, heads)?;
        let mut k = split(keys.forward(x)?, kv_heads)?;
        let v = split(values.forward(x)?, kv_heads)?;
        if let Some([of_queries, of_keys]) = &layer.head_norms {
            (q, k) = (of_queries.forward(&q)?, of_keys.forward(&k)?);
        }
        let (cos, sin) = self.turns(rows, layer.rope)?;
        let turned = |x: &Tensor| candle_nn::rotary_emb::rope(&x.unsqueeze(0)?, &cos, &sin);
        let (q, k) = (turned(&q)?.squeeze(0)?, turned(&k)?.squeeze(0)?);
        let unseen = unseen(rows, layer.window)?;
        let mut contexts = Vec::with_capacity(heads);
        // Head by head: the scores of all would be large.
        for head in 0..heads {
            let kv_head = head * kv_heads / heads;
            let scores = (q.get(head)?.matmul(&k.get(kv_head)?.t()?)? * self.scale)?;
            let scores = capped(scores, self.caps[0])?.broadcast_add(&unseen)?;
            contexts.push(softmax_last_dim(&scores)?.matmul(&v.get(kv_head)?)?);
        }
        Ok(out.forward(&Tensor::cat(&contexts, 1)?)?)
    }

    /// Cosines and sines of every position and pair.
    fn turns(
        &self,
        rows: usize,
        (base, factor): (f64, f64),
    ) -> Result<(Tensor, Tensor), OracleError> {
        let pairs = self.head_width / 2;
        let angles: Vec<f32> = (0..rows)
            .flat_map(|row| {
                (0..pairs).map(move |pair| {
                    (row as f64 / factor * base.powf(-(pair as f64) / pairs as f64)) as f32
                })
            })
            .collect();
        let angles = Tensor::from_vec(angles, (rows, pairs), &Device::Cpu)?;
        Ok((angles.cos()?, angles.sin()?))
    }
}

/// Minus infinity where a row does not see a key.
fn unseen(rows: usize, window: Option<usize>) -> Result<Tensor, OracleError> {
    let sees =
        |row: usize, key: usize| key <= row && window.is_none_or(|window| row - key < window);
    let all: Vec<f32> = (0..rows)
        .flat_map(|row| {
            (0..rows).map(move |key| if sees(row, key) { 0.0 } else { f32::NEG_INFINITY })
        })
        .collect();
    Ok(Tensor::from_vec(all, (rows, rows), &Device::Cpu)?.to_dtype(DType::F32)?)
}
