//! Decoders of the Llama family: Llama 2 and 3, Mistral, Qwen2 and 2.5, Qwen3.
//!
//! They share one block (RMS norms, rotary positions, grouped heads, a gated feed-forward layer) and differ in what
//! [`Architecture`] lists. `config.json` says which it is; whoever reads another format fills the same struct.
//!
//! What the operator set states differently is folded here, exactly: `log2(e)/√head_dim` into the queries' rows, or with
//! a norm over each query head into that norm's scale.

use std::{path::Path, sync::Arc};

use hyperion_ops::{
    ActivationTable, NormKind, NormShape, Pairing, RopeShape,
    constant::{rope_frequency, rope_llama3},
};
use serde::Deserialize;
use serde_json::{Number, Value};

use super::{
    ImportError,
    decoder::{Residual, Template},
    fill::{Factor, Gamma, Part},
    json::{eps_q32, ratio, required, whole},
    mixing::Mixing,
    sizes::{Sizes, Stated, small, unsupported},
};
use crate::program::{Op, ValueId};

/// `config.json`.
#[derive(Debug, Deserialize)]
struct Config {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: Option<usize>,
    head_dim: Option<usize>,
    hidden_act: Option<String>,
    max_position_embeddings: usize,
    vocab_size: usize,
    rms_norm_eps: Number,
    rope_theta: Option<Number>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Rope>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    sliding_window: Option<u32>,
    use_sliding_window: Option<bool>,
    max_window_layers: Option<usize>,
    layer_types: Option<Vec<String>>,
    partial_rotary_factor: Option<Number>,
    quantization_config: Option<Value>,
}

/// `rope_scaling`, or `rope_parameters` as newer files have it.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Rope {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    pub(super) rope_theta: Option<Number>,
    factor: Option<Number>,
    low_freq_factor: Option<Number>,
    high_freq_factor: Option<Number>,
    original_max_position_embeddings: Option<u32>,
}

/// How the turns per position differ from the plain ones.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scaling {
    /// Not at all.
    None,
    /// All of them are divided.
    Linear { factor: u32 },
    /// Long waves are divided, short ones are not.
    Llama3 { factor: u32, low: u32, high: u32, context: u32 },
    /// Each is divided by a ratio of its own.
    Each(Vec<(u64, u64)>),
}

/// What the members of the family differ in.
#[derive(Clone, Debug)]
pub(super) struct Architecture {
    pub(super) sizes: Sizes,
    pub(super) eps_q32: u32,
    /// Base of the rotary frequencies.
    pub(super) theta: (u64, u64),
    pub(super) scaling: Scaling,
    /// Positions that each layer's rows see; 0: all.
    pub(super) windows: Vec<u32>,
    /// Whether queries, keys and values have a bias.
    pub(super) has_qkv_bias: bool,
    /// Whether the projection after attention has one.
    pub(super) has_out_bias: bool,
    /// Whether the feed-forward layer has.
    pub(super) has_mlp_bias: bool,
    /// Whether each head of queries and of keys goes through a norm.
    pub(super) has_head_norms: bool,
    /// Whether the head is the embedding.
    pub(super) is_tied: bool,
}

impl Architecture {
    /// Reads a folder's `config.json`.
    pub(super) fn of(folder: &Path) -> Result<Self, ImportError> {
        let config: Config = required(&folder.join("config.json"))?;
        let family = config.model_type.as_str();
        let kv_heads = config.num_key_value_heads.unwrap_or(config.num_attention_heads);
        let sizes = Sizes::new(Stated {
            hidden: config.hidden_size,
            inner: config.intermediate_size,
            layers: config.num_hidden_layers,
            vocab: config.vocab_size,
            positions: config.max_position_embeddings,
            heads: config.num_attention_heads,
            kv_heads,
            head_dim: config.head_dim,
        })?;
        config.refuse_what_is_not_supported()?;
        let eps_q32 = eps_q32(&config.rms_norm_eps);
        let eps_q32 = eps_q32.ok_or_else(|| {
            unsupported("rms_norm_eps", &config.rms_norm_eps, "a number from 0 to below 1")
        })?;
        let rope = config.rope_parameters.clone().or_else(|| config.rope_scaling.clone());
        let rope = rope.unwrap_or_default();
        let theta = config.rope_theta.clone().or_else(|| rope.rope_theta.clone());
        let theta = theta.unwrap_or_else(|| 10_000.into());
        let theta_ratio = ratio(&theta).filter(|(over, under)| over >= under && *under > 0);
        let want = "a number of at least 1 is supported";
        Ok(Self {
            theta: theta_ratio.ok_or_else(|| unsupported("rope_theta", &theta, want))?,
            scaling: rope.scaling()?,
            windows: config.windows()?,
            sizes,
            eps_q32,
            has_qkv_bias: family == "qwen2" || config.attention_bias,
            has_out_bias: family != "qwen2" && config.attention_bias,
            has_mlp_bias: config.mlp_bias,
            has_head_norms: family == "qwen3",
            is_tied: config.tie_word_embeddings,
        })
    }

    /// The decoder's program, and where its tensors come from, by the names of Hugging Face checkpoints.
    pub(super) fn template(&self) -> Result<Template, ImportError> {
        let sizes = &self.sizes;
        let norm =
            NormShape::new(NormKind::Rms, Residual::USUAL.eps(self.eps_q32), small(sizes.hidden));
        let norm = norm.expect("the width was checked with the sizes");
        let mut template = Template::new(sizes.context, Residual::USUAL);
        let frequencies = frequencies(self.theta, &self.scaling, sizes.attention.head_dim)?;
        let block = Block {
            architecture: self,
            norm,
            frequencies: &frequencies,
            mixing: Mixing::of(sizes.hidden).map(Arc::new),
            value_mixing: Mixing::of(sizes.attention.head_dim as usize).map(Arc::new),
        };
        let size = (sizes.vocab, sizes.hidden);
        let mixing = block.mixing.as_ref();
        let mut x = template.embed("model.embed_tokens.weight", size, mixing);
        for (layer, window) in self.windows.iter().enumerate() {
            x = block.push(&mut template, layer, *window, x)?;
        }
        let head = (!self.is_tied).then(|| "lm_head.weight".to_owned());
        let norm = (norm, "model.norm.weight".to_owned(), None);
        template.head(norm, head, size, mixing, x)?;
        Ok(template)
    }
}

/// Turns per position of each rotary pair of heads of `rot` columns.
pub(super) fn frequencies(
    theta: (u64, u64),
    scaling: &Scaling,
    rot: u32,
) -> Result<Vec<u64>, ImportError> {
    let all = (0..rot / 2).map(|pair| {
        let plain = rope_frequency(theta, rot, pair)?;
        match scaling {
            Scaling::None => Some(plain),
            Scaling::Linear { factor } => divide(plain, ((*factor).into(), 1)),
            Scaling::Llama3 { factor, low, high, context } => {
                rope_llama3(plain, *factor, *low, *high, *context)
            }
            Scaling::Each(factors) => divide(plain, *factors.get(pair as usize)?),
        }
    });
    let all: Option<Vec<u64>> = all.collect();
    all.ok_or_else(|| {
        let got = format!("{theta:?}, {scaling:?}");
        unsupported("rope_theta, rope_scaling", &got, "frequencies that can be rounded")
    })
}

/// A frequency divided by a ratio, half up.
fn divide(frequency: u64, (over, under): (u64, u64)) -> Option<u64> {
    let (numerator, divisor) = (u128::from(frequency).checked_mul(under.into())?, u128::from(over));
    (numerator.checked_mul(2)?.checked_add(divisor)?).checked_div(2 * divisor)?.try_into().ok()
}

impl Config {
    fn refuse_what_is_not_supported(&self) -> Result<(), ImportError> {
        let act = self.hidden_act.as_deref().unwrap_or("silu");
        if !matches!(act, "silu" | "swish") {
            return Err(unsupported("hidden_act", &act, "silu is supported"));
        }
        if let Some(share) = self.partial_rotary_factor.as_ref().filter(|s| whole(s) != Some(1)) {
            return Err(unsupported("partial_rotary_factor", share, "1 is supported"));
        }
        if let Some(quantized) = &self.quantization_config {
            let want = "weights in f32, f16 or bf16 are supported";
            return Err(unsupported("quantization_config", quantized, want));
        }
        Ok(())
    }

    /// Positions that each layer's rows see; 0: all.
    fn windows(&self) -> Result<Vec<u32>, ImportError> {
        let layers = self.num_hidden_layers;
        // Mistral has a window wherever it states one; the Qwens only where they say that they use it.
        let stated = match self.model_type.as_str() {
            "mistral" => self.sliding_window,
            "qwen2" | "qwen3" if self.use_sliding_window == Some(true) => self.sliding_window,
            _ => None,
        };
        let window = stated.unwrap_or(0);
        if let Some(types) = &self.layer_types {
            let want = "one of full_attention and sliding_attention for each layer";
            let of = |kind: &String| match kind.as_str() {
                "full_attention" => Some(0),
                "sliding_attention" if window > 0 => Some(window),
                _ => None,
            };
            let windows: Option<Vec<u32>> = types.iter().map(of).collect();
            let windows = windows.filter(|windows| windows.len() == layers);
            return windows.ok_or_else(|| unsupported("layer_types", &types.join(", "), want));
        }
        let first = match self.model_type.as_str() {
            "qwen2" | "qwen3" => self.max_window_layers.unwrap_or(0),
            _ => 0,
        };
        Ok((0..layers).map(|layer| if layer >= first { window } else { 0 }).collect())
    }
}

impl Rope {
    /// The rule that is stated.
    pub(super) fn scaling(&self) -> Result<Scaling, ImportError> {
        let number = |key, number: &Option<Number>| {
            let want = "a whole number of at least 1 is supported";
            let got = number.as_ref().map_or_else(|| "missing".to_owned(), ToString::to_string);
            let whole = number.as_ref().and_then(whole).filter(|whole| *whole > 0);
            whole.ok_or_else(|| unsupported(key, &got, want))
        };
        match self.rope_type.as_deref() {
            None | Some("default") => Ok(Scaling::None),
            Some("linear") => Ok(Scaling::Linear { factor: number("factor", &self.factor)? }),
            Some("llama3") => {
                let low = number("low_freq_factor", &self.low_freq_factor)?;
                let high = number("high_freq_factor", &self.high_freq_factor)?;
                let key = "original_max_position_embeddings";
                let context = self.original_max_position_embeddings.filter(|context| *context > 0);
                let context = context.ok_or_else(|| unsupported(key, &"missing", "1 at least"))?;
                if high <= low {
                    let want = "above low_freq_factor";
                    return Err(unsupported("high_freq_factor", &high, want));
                }
                Ok(Scaling::Llama3 { factor: number("factor", &self.factor)?, low, high, context })
            }
            Some(other) => {
                let want = "default, linear and llama3 are supported";
                Err(unsupported("rope_type", &other, want))
            }
        }
    }
}

/// One layer under construction.
struct Block<'a> {
    architecture: &'a Architecture,
    norm: NormShape,
    frequencies: &'a [u64],
    /// How what flows from layer to layer is held.
    mixing: Option<Arc<Mixing>>,
    /// How the values of a head are held.
    value_mixing: Option<Arc<Mixing>>,
}

impl Block<'_> {
    fn push(
        &self,
        template: &mut Template,
        layer: usize,
        window: u32,
        x: ValueId,
    ) -> Result<ValueId, ImportError> {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        let Sizes { hidden, inner, .. } = self.architecture.sizes;
        let scale = Gamma::new(name("input_layernorm.weight"));
        let y = self.norm_before(template, &scale, x);
        let y = self.attention(template, &name, &scale, window, y)?;
        let x = template.push(Op::Add, &[y, x]);
        let scale = Gamma::new(name("post_attention_layernorm.weight"));
        let y = self.norm_before(template, &scale, x);
        let mixing = self.mixing.as_ref();
        let bias =
            |part: &str| self.architecture.has_mlp_bias.then(|| name(&format!("mlp.{part}.bias")));
        let part = |part: &str, rows| {
            Part::new(name(&format!("mlp.{part}.weight")), rows).with_bias(bias(part))
        };
        let up = ["gate_proj", "up_proj"].map(|up| part(up, inner).reads(mixing, Some(&scale)));
        let up = up.into();
        let up = template.linear(up, hidden, false, y)?;
        let half = |start: usize| Op::Columns { start: small(start), len: small(inner) };
        let gate = template.push(half(0), &[up]);
        let up = template.push(half(inner), &[up]);
        let gate = template.push(Op::Activation(ActivationTable::Silu), &[gate]);
        let y = template.push(Op::Gate, &[gate, up]);
        // The gate's products have a few channels many times the rest, so their codes have 15 bits.
        let down = part("down_proj", hidden).for_residual(Residual::USUAL).writes(mixing);
        let y = template.linear(vec![down], inner, true, y)?;
        Ok(template.push(Op::Add, &[y, x]))
    }

    /// The norm before a sub-layer; where channels are mixed, its scale is part of what reads it.
    fn norm_before(&self, template: &mut Template, scale: &Gamma, x: ValueId) -> ValueId {
        match self.mixing {
            Some(_) => template.plain_norm(self.norm, x),
            None => template.norm(self.norm, scale.clone(), None, Factor::ONE, x),
        }
    }

    fn attention(
        &self,
        template: &mut Template,
        name: &dyn Fn(&str) -> String,
        scale: &Gamma,
        window: u32,
        x: ValueId,
    ) -> Result<ValueId, ImportError> {
        let Architecture { sizes, has_qkv_bias, has_out_bias, has_head_norms, .. } =
            self.architecture;
        let attention = sizes.attention.with_causal(window);
        let (queries, keys) = (sizes.query_width(), sizes.kv_width());
        let part = |part: &str, rows, has_bias: bool| {
            let bias = has_bias.then(|| name(&format!("self_attn.{part}.bias")));
            Part::new(name(&format!("self_attn.{part}.weight")), rows).with_bias(bias)
        };
        let (mixing, value_mixing) = (self.mixing.as_ref(), self.value_mixing.as_ref());
        let q = part("q_proj", queries, *has_qkv_bias);
        // What a norm follows it would take out again, so there the norm's scale carries the multiplier.
        let q = if *has_head_norms { q } else { q.with_factor(queries, sizes.query_q30) };
        let k = part("k_proj", keys, *has_qkv_bias);
        let v = part("v_proj", keys, *has_qkv_bias);
        let qkv = [q, k, v.writes(value_mixing)].map(|part| part.reads(mixing, Some(scale)));
        let qkv = if *has_head_norms {
            template.linear(qkv.into(), sizes.hidden, false, x)?
        } else {
            template.rotary_linear(qkv, attention, sizes.hidden, x)?
        };
        let columns =
            |start: usize, len: usize| Op::Columns { start: small(start), len: small(len) };
        let mut q = template.push(columns(0, queries), &[qkv]);
        let mut k = template.push(columns(queries, keys), &[qkv]);
        let v = template.push(columns(queries + keys, keys), &[qkv]);
        if *has_head_norms {
            let head = NormShape::new(NormKind::Rms, self.architecture.eps_q32, attention.head_dim);
            let head = head.expect("a head is narrower than a row");
            let scale = |part: &str| Gamma::new(name(&format!("self_attn.{part}.weight")));
            q = template.norm(head, scale("q_norm"), None, Factor::new(sizes.query_q30), q);
            k = template.norm(head, scale("k_norm"), None, Factor::ONE, k);
        }
        let rope = |heads| {
            let rot = attention.head_dim;
            RopeShape::new(heads, rot, rot, Pairing::Half)
                .ok_or_else(|| unsupported("head_dim", &rot, "an even number is supported"))
        };
        let q = template.rope(rope(attention.heads)?, self.frequencies, q);
        let k = template.rope(rope(attention.kv_heads)?, self.frequencies, k);
        let y = template.push(Op::Attention(attention), &[q, k, v]);
        let out = part("o_proj", sizes.hidden, *has_out_bias).for_residual(Residual::USUAL);
        let out = out.reads(value_mixing, None).writes(mixing);
        template.linear(vec![out], queries, false, y)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frequency_is_divided_exactly_and_rounded_half_up() {
        assert_eq!(divide(10, (4, 1)), Some(3));
        assert_eq!(divide(9, (4, 1)), Some(2));
        assert_eq!(divide(u64::MAX, (1, 1)), Some(u64::MAX));
        assert_eq!(divide(3, (1, 2)), Some(6));
        assert_eq!(divide(3, (0, 1)), None);
    }
}
