//! GPT-2 in candle's tensors, which candle-transformers does not have.

use candle_core::{D, DType, Device, Tensor};
use candle_nn::{LayerNorm, Module as _, VarBuilder, ops::softmax_last_dim};
use serde_json::{Map, Value};

use super::OracleError;

/// The float model.
pub(super) struct Gpt2 {
    words: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    last: LayerNorm,
    head: Tensor,
    heads: usize,
    /// Whether the activation is the tanh form of GELU; else it is the other form.
    is_tanh: bool,
}

struct Layer {
    norms: [LayerNorm; 2],
    attention: [Conv; 2],
    inner: [Conv; 2],
}

/// A linear layer whose weight is held inputs by outputs.
struct Conv {
    weight: Tensor,
    bias: Tensor,
}

impl Conv {
    fn load(weights: &VarBuilder<'_>, inputs: usize, outputs: usize) -> Result<Self, OracleError> {
        let weight = weights.get((inputs, outputs), "weight")?;
        Ok(Self { weight, bias: weights.get(outputs, "bias")? })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor, OracleError> {
        Ok(x.matmul(&self.weight)?.broadcast_add(&self.bias)?)
    }
}

impl Gpt2 {
    pub(super) fn load(
        config: &Map<String, Value>,
        weights: &VarBuilder<'_>,
    ) -> Result<Self, OracleError> {
        let size = |key: &str| config.get(key).and_then(Value::as_u64).unwrap_or(0) as usize;
        let text = |key: &str| config.get(key).and_then(Value::as_str);
        let (width, vocabulary) = (size("n_embd"), size("vocab_size"));
        let inner = if size("n_inner") > 0 { size("n_inner") } else { 4 * width };
        let eps = config.get("layer_norm_epsilon").and_then(Value::as_f64).unwrap_or(1e-5);
        let head = weights.get((vocabulary, width), "lm_head.weight").ok();
        let has_prefix = weights.contains_tensor("transformer.wte.weight");
        let weights = if has_prefix { weights.pp("transformer") } else { weights.clone() };
        let norm = |name: &str| candle_nn::layer_norm(width, eps, weights.pp(name));
        let words = weights.get((vocabulary, width), "wte.weight")?;
        let layer = |index: usize| {
            let part = |name: &str, inputs, outputs| {
                Conv::load(&weights.pp(format!("h.{index}.{name}")), inputs, outputs)
            };
            Ok::<_, OracleError>(Layer {
                norms: [norm(&format!("h.{index}.ln_1"))?, norm(&format!("h.{index}.ln_2"))?],
                attention: [
                    part("attn.c_attn", width, 3 * width)?,
                    part("attn.c_proj", width, width)?,
                ],
                inner: [part("mlp.c_fc", width, inner)?, part("mlp.c_proj", inner, width)?],
            })
        };
        Ok(Self {
            positions: weights.get((size("n_positions"), width), "wpe.weight")?,
            layers: (0..size("n_layer")).map(layer).collect::<Result<_, _>>()?,
            last: norm("ln_f")?,
            head: head.unwrap_or_else(|| words.clone()),
            words,
            heads: size("n_head"),
            is_tanh: text("activation_function") != Some("gelu"),
        })
    }

    /// Logits after each token, `[tokens, vocabulary]`.
    pub(super) fn forward(&self, ids: &[u32]) -> Result<Tensor, OracleError> {
        let rows = ids.len();
        let ids = Tensor::new(ids, &Device::Cpu)?;
        let mut x = (self.words.index_select(&ids, 0)? + self.positions.narrow(0, 0, rows)?)?;
        let future: Vec<f32> = (0..rows)
            .flat_map(|row| {
                (0..rows).map(move |key| if key > row { f32::NEG_INFINITY } else { 0.0 })
            })
            .collect();
        let future = Tensor::from_vec(future, (rows, rows), &Device::Cpu)?.to_dtype(DType::F32)?;
        for Layer { norms: [before, between], attention, inner } in &self.layers {
            let y = self.attend(&attention[0].forward(&before.forward(&x)?)?, &future)?;
            x = (x + attention[1].forward(&y)?)?;
            let y = inner[0].forward(&between.forward(&x)?)?;
            let y = if self.is_tanh { y.gelu()? } else { y.gelu_erf()? };
            x = (x + inner[1].forward(&y)?)?;
        }
        Ok(self.last.forward(&x)?.matmul(&self.head.t()?)?)
    }

    fn attend(&self, qkv: &Tensor, future: &Tensor) -> Result<Tensor, OracleError> {
        let (rows, width) = qkv.dims2()?;
        let head_width = width / 3 / self.heads;
        let parts = qkv.reshape((rows, 3, self.heads, head_width))?.permute((1, 2, 0, 3))?;
        let part = |index| parts.get(index).and_then(|part| part.contiguous());
        let (q, k, v) = (part(0)?, part(1)?, part(2)?);
        let scores = (q.matmul(&k.transpose(D::Minus2, D::Minus1)?.contiguous()?)?
            / (head_width as f64).sqrt())?;
        let shares = softmax_last_dim(&scores.broadcast_add(future)?)?;
        Ok(shares.matmul(&v)?.transpose(0, 1)?.reshape((rows, width / 3))?)
    }
}
