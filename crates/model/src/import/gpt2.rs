//! GPT-2: learned positions, `LayerNorm`, the tanh form of GELU, weights held inputs by outputs.
//!
//! `log2(e)/√head_dim` is folded into the queries' rows and bias, exactly.

use std::path::Path;

use hyperion_ops::{ActivationTable, NormKind, NormShape};
use serde::Deserialize;
use serde_json::{Number, Value};

use super::{
    ImportError,
    decoder::{Residual, Template},
    fill::{Factor, Gamma, Part},
    json::{eps_q32, required},
    sizes::{Sizes, Stated, small, unsupported},
    source::Tensors,
};
use crate::program::{Op, ValueId};

/// `config.json`.
#[derive(Debug, Deserialize)]
struct Config {
    n_embd: usize,
    n_layer: usize,
    n_head: usize,
    n_positions: usize,
    n_inner: Option<usize>,
    vocab_size: usize,
    activation_function: Option<String>,
    layer_norm_epsilon: Number,
    scale_attn_weights: Option<bool>,
    #[serde(default)]
    scale_attn_by_inverse_layer_idx: bool,
    #[serde(default)]
    add_cross_attention: bool,
    tie_word_embeddings: Option<bool>,
    quantization_config: Option<Value>,
}

/// The decoder's program, and where its tensors come from.
pub(super) fn template(folder: &Path, source: &dyn Tensors) -> Result<Template, ImportError> {
    let config: Config = required(&folder.join("config.json"))?;
    let sizes = Sizes::new(Stated {
        hidden: config.n_embd,
        inner: config.n_inner.unwrap_or_else(|| config.n_embd.saturating_mul(4)),
        layers: config.n_layer,
        vocab: config.vocab_size,
        positions: config.n_positions,
        heads: config.n_head,
        kv_heads: config.n_head,
        head_dim: None,
    })?;
    let activation = config.activation()?;
    let eps = eps_q32(&config.layer_norm_epsilon);
    let eps = eps.ok_or_else(|| {
        let want = "a number from 0 to below 1";
        unsupported("layer_norm_epsilon", &config.layer_norm_epsilon, want)
    })?;
    let norm = NormShape::new(NormKind::Layer, Residual::USUAL.eps(eps), small(sizes.hidden));
    let norm = norm.expect("the width was checked with the sizes");
    let prefix = if source.has("transformer.wte.weight") { "transformer." } else { "" };
    let block = Block { prefix, sizes, norm, activation };

    let hidden = sizes.hidden;
    let mut template = Template::new(sizes.context, Residual::USUAL);
    let x = template.embed(&format!("{prefix}wte.weight"), (sizes.vocab, hidden), None);
    let positions = format!("{prefix}wpe.weight");
    let mut x = template.positions(&positions, config.n_positions, hidden, x);
    for layer in 0..sizes.layers {
        x = block.push(&mut template, layer, x)?;
    }
    let head = (config.tie_word_embeddings == Some(false)).then(|| "lm_head.weight".to_owned());
    let last = |part: &str| format!("{prefix}ln_f.{part}");
    let last = (norm, last("weight"), Some(last("bias")));
    template.head(last, head, (sizes.vocab, hidden), None, x)?;
    Ok(template)
}

impl Config {
    fn activation(&self) -> Result<ActivationTable, ImportError> {
        let refused = [
            ("scale_attn_weights", self.scale_attn_weights == Some(false)),
            ("scale_attn_by_inverse_layer_idx", self.scale_attn_by_inverse_layer_idx),
            ("add_cross_attention", self.add_cross_attention),
            ("quantization_config", self.quantization_config.is_some()),
        ];
        if let Some((key, _)) = refused.into_iter().find(|(_, is_asked)| *is_asked) {
            return Err(unsupported(key, &"set otherwise", "its default is supported"));
        }
        match self.activation_function.as_deref().unwrap_or("gelu_new") {
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => Ok(ActivationTable::GeluTanh),
            "gelu" => Ok(ActivationTable::Gelu),
            "relu" => Ok(ActivationTable::Relu),
            "silu" | "swish" => Ok(ActivationTable::Silu),
            other => {
                let want = "gelu_new, gelu, relu, silu are supported";
                Err(unsupported("activation_function", &other, want))
            }
        }
    }
}

/// What the layers share.
struct Block<'a> {
    prefix: &'a str,
    sizes: Sizes,
    norm: NormShape,
    activation: ActivationTable,
}

impl Block<'_> {
    fn push(
        &self,
        template: &mut Template,
        layer: usize,
        x: ValueId,
    ) -> Result<ValueId, ImportError> {
        let name = |part: &str| format!("{}h.{layer}.{part}", self.prefix);
        let Sizes { hidden, inner, attention, query_q30, .. } = self.sizes;
        let part = |part: &str, rows: usize| {
            let bias = Some(name(&format!("{part}.bias")));
            Part::new(name(&format!("{part}.weight")), rows).with_bias(bias).transposed()
        };
        let norm = |template: &mut Template, part: &str, x| {
            let (gamma, beta) = (name(&format!("{part}.weight")), name(&format!("{part}.bias")));
            template.norm(self.norm, Gamma::new(gamma), Some(beta), Factor::ONE, x)
        };
        let y = norm(template, "ln_1", x);
        let qkv = part("attn.c_attn", 3 * hidden).with_factor(hidden, query_q30);
        let qkv = template.linear(vec![qkv], hidden, false, y)?;
        let [q, k, v] = [0, 1, 2].map(|third| {
            let columns = Op::Columns { start: small(third * hidden), len: small(hidden) };
            template.push(columns, &[qkv])
        });
        let y = template.push(Op::Attention(attention), &[q, k, v]);
        let y = template.linear(
            vec![part("attn.c_proj", hidden).for_residual(Residual::USUAL)],
            hidden,
            false,
            y,
        )?;
        let x = template.push(Op::Add, &[y, x]);
        let y = norm(template, "ln_2", x);
        let y = template.linear(vec![part("mlp.c_fc", inner)], hidden, false, y)?;
        let y = template.push(Op::Activation(self.activation), &[y]);
        let y = template.linear(
            vec![part("mlp.c_proj", hidden).for_residual(Residual::USUAL)],
            inner,
            true,
            y,
        )?;
        Ok(template.push(Op::Add, &[y, x]))
    }
}
