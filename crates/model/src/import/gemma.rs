//! Gemma 2 and the text models of Gemma 3.
//!
//! A Llama block with norms after the sub-layers as well, scales of which the source holds what they have beyond one, the tanh
//! form of GELU, an embedding times `√hidden`, and windows in most layers. Gemma 2 caps scores and logits softly; Gemma 3
//! has a norm over each head and a base of its own for the rotary frequencies of layers with windows.
//!
//! Folded here, exactly or correctly rounded: the one beyond, `√hidden`, `log2(e)` over the root of `query_pre_attn_scalar`.

use std::path::Path;

use hyperion_ops::{
    ActivationTable, Cap, NormKind, NormShape, Pairing, RopeShape, constant::attention_multiplier,
    sample::LOG2E_Q24,
};
use serde::Deserialize;
use serde_json::{Number, Value};

use super::{
    ImportError,
    decoder::{Residual, Template},
    fill::{Factor, Gamma, Part},
    json::{eps_q32, ratio, required},
    llama::{Rope, frequencies},
    sizes::{Sizes, Stated, small, unsupported},
};
use crate::program::{Op, ValueId};

/// What flows from layer to layer reaches hundreds of thousands here.
const RESIDUAL: Residual = Residual { shift: 4 };

/// `config.json`.
#[derive(Debug, Deserialize)]
struct Config {
    model_type: String,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: Option<usize>,
    hidden_activation: Option<String>,
    hidden_act: Option<String>,
    max_position_embeddings: usize,
    vocab_size: usize,
    rms_norm_eps: Number,
    rope_theta: Option<Number>,
    rope_local_base_freq: Option<Number>,
    rope_scaling: Option<Rope>,
    rope_parameters: Option<Value>,
    #[serde(default)]
    attention_bias: bool,
    tie_word_embeddings: Option<bool>,
    sliding_window: Option<u32>,
    sliding_window_pattern: Option<usize>,
    layer_types: Option<Vec<String>>,
    query_pre_attn_scalar: Option<u32>,
    attn_logit_softcapping: Option<Number>,
    final_logit_softcapping: Option<Number>,
    #[serde(default)]
    use_bidirectional_attention: bool,
    quantization_config: Option<Value>,
}

/// `rope_parameters`, as newer files have it.
#[derive(Debug, Default, Deserialize)]
struct RopeOfKinds {
    full_attention: Option<Rope>,
    sliding_attention: Option<Rope>,
}

/// The decoder's program, and where its tensors come from.
pub(super) fn template(folder: &Path) -> Result<Template, ImportError> {
    let config: Config = required(&folder.join("config.json"))?;
    config.refuse_what_is_not_supported()?;
    let sizes = Sizes::new(Stated {
        hidden: config.hidden_size,
        inner: config.intermediate_size,
        layers: config.num_hidden_layers,
        vocab: config.vocab_size,
        positions: config.max_position_embeddings,
        heads: config.num_attention_heads,
        kv_heads: config.num_key_value_heads,
        head_dim: Some(config.head_dim.unwrap_or(256)),
    })?;
    let eps = eps_q32(&config.rms_norm_eps);
    let eps = eps.ok_or_else(|| {
        unsupported("rms_norm_eps", &config.rms_norm_eps, "a number from 0 to below 1")
    })?;
    let norm = |width| {
        NormShape::new(NormKind::Rms, RESIDUAL.eps(eps), width).expect("sizes were checked before")
    };
    let head_dim = sizes.attention.head_dim;
    let scalar = config.query_pre_attn_scalar.unwrap_or(256);
    let query_q30 = attention_multiplier(scalar).and_then(|q30| u32::try_from(q30).ok());
    let query_q30 = query_q30.filter(|q30| *q30 < 1 << 31);
    let block = Block {
        sizes,
        norm: norm(small(sizes.hidden)),
        head_norm: (config.model_type == "gemma3_text")
            .then(|| NormShape::new(NormKind::Rms, eps, head_dim).expect("sizes were checked")),
        query_q30: query_q30
            .ok_or_else(|| unsupported("query_pre_attn_scalar", &scalar, "1 or more"))?,
        cap: config.score_cap()?,
        frequencies: config.frequencies(head_dim)?,
    };

    let hidden = sizes.hidden;
    let mut template = Template::new(sizes.context, RESIDUAL);
    let root = root_q30(hidden);
    // √hidden is 128 at most, so an eighth of it, which fits a multiplier, is what is left of 2^-4 after 2^3.
    let embedded = Factor::shifted(root_over(root, 3 + RESIDUAL.shift), 3);
    let words = "model.embed_tokens.weight";
    let mut x = template.embed_times(embedded, words, (sizes.vocab, hidden), None);
    for (layer, window) in config.windows()?.into_iter().enumerate() {
        x = block.push(&mut template, layer, window, x)?;
    }
    let is_tied = config.tie_word_embeddings != Some(false);
    let head = (!is_tied).then(|| "lm_head.weight".to_owned());
    // An embedding that is the head as well carries √hidden and the residual's factor there, too.
    let factor = if is_tied {
        Factor::shifted(inverse_root_q30(hidden), RESIDUAL.shift)
    } else {
        Factor::ONE
    };
    let last = Gamma::beyond_one("model.norm.weight".to_owned());
    let last = (block.norm, last, None, factor);
    let logits = template.logits(last, head, (sizes.vocab, hidden), None, x)?;
    let logits = match config.logit_cap()? {
        Some(cap) => template.push(Op::Softcap(cap), &[logits]),
        None => logits,
    };
    template.push(Op::Sample, &[logits]);
    Ok(template)
}

/// `√size · 2^30`, rounded half up.
fn root_q30(size: usize) -> u64 {
    // Four times the square, so that the root has one binary digit more than is kept.
    let twice = ((size as u128) << 62).isqrt();
    u64::try_from((twice + 1) >> 1).expect("below 2^38")
}

/// `2^30 / √size`, rounded half up.
fn inverse_root_q30(size: usize) -> u32 {
    let twice = ((1_u128 << 62) / size as u128).isqrt();
    u32::try_from((twice + 1) >> 1).expect("2^30 at most")
}

/// A Q30 number divided by a power of two, half up.
fn root_over(root: u64, shift: u32) -> u32 {
    u32::try_from((root + (1 << (shift - 1))) >> shift).expect("128 · 2^30 over 2^7 at most")
}

impl Config {
    fn refuse_what_is_not_supported(&self) -> Result<(), ImportError> {
        let act = self.hidden_activation.as_deref().or(self.hidden_act.as_deref());
        let act = act.unwrap_or("gelu_pytorch_tanh");
        if act != "gelu_pytorch_tanh" {
            return Err(unsupported("hidden_activation", &act, "gelu_pytorch_tanh is supported"));
        }
        let refused = [
            ("attention_bias", self.attention_bias),
            ("use_bidirectional_attention", self.use_bidirectional_attention),
            ("quantization_config", self.quantization_config.is_some()),
        ];
        match refused.into_iter().find(|(_, is_asked)| *is_asked) {
            Some((key, _)) => Err(unsupported(key, &"set", "models without are supported")),
            None => Ok(()),
        }
    }

    /// Positions that each layer's rows see; 0: all.
    fn windows(&self) -> Result<Vec<u32>, ImportError> {
        let window = self.sliding_window.unwrap_or(4_096);
        let stated = self.layer_types.as_ref();
        if let Some(types) = stated.filter(|types| types.len() != self.num_hidden_layers) {
            return Err(unsupported("layer_types", &types.len(), "one a layer"));
        }
        (0..self.num_hidden_layers)
            .map(|layer| match stated.map(|types| types[layer].as_str()) {
                Some("full_attention") => Ok(0),
                Some("sliding_attention") => Ok(window),
                Some(other) => {
                    let want = "full_attention and sliding_attention are supported";
                    Err(unsupported("layer_types", &other, want))
                }
                None => Ok(if (layer + 1) % self.pattern() == 0 { 0 } else { window }),
            })
            .collect()
    }

    /// Every so many layers, the last of them sees everything.
    fn pattern(&self) -> usize {
        let usual = if self.model_type == "gemma2" { 2 } else { 6 };
        self.sliding_window_pattern.filter(|pattern| *pattern > 0).unwrap_or(usual)
    }

    /// Turns per position in layers that see everything, and in those with a window.
    fn frequencies(&self, head_dim: u32) -> Result<[Vec<u64>; 2], ImportError> {
        let kinds: RopeOfKinds = match &self.rope_parameters {
            Some(value) => serde_json::from_value(value.clone())
                .map_err(|_| unsupported("rope_parameters", value, "those of two kinds"))?,
            None => RopeOfKinds::default(),
        };
        let theta = |number: Option<&Number>, usual: u64| {
            let number = number.cloned().unwrap_or_else(|| usual.into());
            let theta = ratio(&number).filter(|(over, under)| over >= under && *under > 0);
            theta.ok_or_else(|| unsupported("rope_theta", &number, "a number of at least 1"))
        };
        let is_third = self.model_type == "gemma3_text";
        let full = kinds.full_attention.clone().or_else(|| self.rope_scaling.clone());
        let full = full.unwrap_or_default();
        let usual = if is_third { 1_000_000 } else { 10_000 };
        let of_full = theta(full.rope_theta.as_ref().or(self.rope_theta.as_ref()), usual)?;
        let all = frequencies(of_full, &full.scaling()?, head_dim)?;
        if !is_third {
            return Ok([all.clone(), all]);
        }
        let near = kinds.sliding_attention.unwrap_or_default();
        let stated = near.rope_theta.as_ref().or(self.rope_local_base_freq.as_ref());
        let of_near = theta(stated, 10_000)?;
        Ok([all, frequencies(of_near, &near.scaling()?, head_dim)?])
    }

    fn cap(key: &'static str, number: Option<&Number>) -> Result<Option<u32>, ImportError> {
        let Some(number) = number else { return Ok(None) };
        let q16 = ratio(number).and_then(|(over, under)| {
            let scaled = u128::from(over) << 17;
            u32::try_from((scaled / u128::from(under) + 1) >> 1).ok()
        });
        let want = "a number from 1 to 256 is supported";
        q16.map(Some).ok_or_else(|| unsupported(key, number, want))
    }

    /// What scores are kept within, in octaves.
    fn score_cap(&self) -> Result<Option<Cap>, ImportError> {
        let key = "attn_logit_softcapping";
        let Some(q16) = Self::cap(key, self.attn_logit_softcapping.as_ref())? else {
            return Ok(None);
        };
        let octaves = (u64::from(q16) * LOG2E_Q24 + (1 << 23)) >> 24;
        let cap = u32::try_from(octaves).ok().and_then(Cap::new);
        cap.map(Some).ok_or_else(|| unsupported(key, &(q16 >> 16), "1 to 177 is supported"))
    }

    /// What logits are kept within.
    fn logit_cap(&self) -> Result<Option<Cap>, ImportError> {
        let key = "final_logit_softcapping";
        let Some(q16) = Self::cap(key, self.final_logit_softcapping.as_ref())? else {
            return Ok(None);
        };
        let cap = Cap::new(q16);
        cap.map(Some).ok_or_else(|| unsupported(key, &(q16 >> 16), "1 to 256 is supported"))
    }
}

/// What the layers share.
struct Block {
    sizes: Sizes,
    norm: NormShape,
    head_norm: Option<NormShape>,
    query_q30: u32,
    cap: Option<Cap>,
    frequencies: [Vec<u64>; 2],
}

impl Block {
    fn push(
        &self,
        template: &mut Template,
        layer: usize,
        window: u32,
        x: ValueId,
    ) -> Result<ValueId, ImportError> {
        let name = |part: &str| format!("model.layers.{layer}.{part}.weight");
        let Sizes { hidden, inner, .. } = self.sizes;
        let norm = |template: &mut Template, part: &str, factor, x| {
            template.norm(self.norm, Gamma::beyond_one(name(part)), None, factor, x)
        };
        // What a sub-layer's own norm follows has the residual's factor, and the norm's scale gives it back.
        let part = |part: &str, rows| Part::new(name(part), rows);
        let added = Factor::new(RESIDUAL.q30());

        let y = norm(template, "input_layernorm", Factor::ONE, x);
        let y = self.attention(template, &name, window, y)?;
        let out = part("self_attn.o_proj", hidden).for_residual(RESIDUAL);
        let y = template.linear(vec![out], self.sizes.query_width(), false, y)?;
        let y = norm(template, "post_attention_layernorm", added, y);
        let x = template.push(Op::Add, &[y, x]);

        let y = norm(template, "pre_feedforward_layernorm", Factor::ONE, x);
        let up = vec![part("mlp.gate_proj", inner), part("mlp.up_proj", inner)];
        let up = template.linear(up, hidden, false, y)?;
        let half = |start: usize| Op::Columns { start: small(start), len: small(inner) };
        let gate = template.push(half(0), &[up]);
        let up = template.push(half(inner), &[up]);
        let gate = template.push(Op::Activation(ActivationTable::GeluTanh), &[gate]);
        let y = template.push(Op::Gate, &[gate, up]);
        let down = part("mlp.down_proj", hidden).for_residual(RESIDUAL);
        let y = template.linear(vec![down], inner, true, y)?;
        let y = norm(template, "post_feedforward_layernorm", added, y);
        Ok(template.push(Op::Add, &[y, x]))
    }

    fn attention(
        &self,
        template: &mut Template,
        name: &dyn Fn(&str) -> String,
        window: u32,
        x: ValueId,
    ) -> Result<ValueId, ImportError> {
        let Self { sizes, head_norm, query_q30, .. } = self;
        let attention = sizes.attention.with_causal(window);
        let attention = self.cap.map_or(attention, |cap| attention.with_cap(cap));
        let (queries, keys) = (sizes.query_width(), sizes.kv_width());
        let part = |part: &str, rows| Part::new(name(&format!("self_attn.{part}")), rows);
        let q = part("q_proj", queries);
        // What a norm follows it would take out again, so there the norm's scale carries the multiplier.
        let q = if head_norm.is_some() { q } else { q.with_factor(queries, *query_q30) };
        let qkv = vec![q, part("k_proj", keys), part("v_proj", keys)];
        let qkv = template.linear(qkv, sizes.hidden, false, x)?;
        let columns =
            |start: usize, len: usize| Op::Columns { start: small(start), len: small(len) };
        let mut q = template.push(columns(0, queries), &[qkv]);
        let mut k = template.push(columns(queries, keys), &[qkv]);
        let v = template.push(columns(queries + keys, keys), &[qkv]);
        if let Some(norm) = *head_norm {
            let scale = |part: &str| Gamma::beyond_one(name(&format!("self_attn.{part}")));
            q = template.norm(norm, scale("q_norm"), None, Factor::new(*query_q30), q);
            k = template.norm(norm, scale("k_norm"), None, Factor::ONE, k);
        }
        let rope = |heads| {
            let rot = attention.head_dim;
            RopeShape::new(heads, rot, rot, Pairing::Half)
                .ok_or_else(|| unsupported("head_dim", &rot, "an even number is supported"))
        };
        let frequencies = &self.frequencies[usize::from(window > 0)];
        let q = template.rope(rope(attention.heads)?, frequencies, q);
        let k = template.rope(rope(attention.kv_heads)?, frequencies, k);
        Ok(template.push(Op::Attention(attention), &[q, k, v]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_are_rounded() {
        assert_eq!((root_q30(4), inverse_root_q30(4)), (2 << 30, 1 << 29));
        assert_eq!(root_q30(2_304), 48 << 30);
        assert_eq!(root_q30(1_152), 36_444_006_000);
        assert_eq!(inverse_root_q30(1_152), 31_635_422);
        assert_eq!(root_over(128 << 30, 7), 1 << 30);
    }
}
