//! GGUF files of the Llama family: architectures `llama`, `qwen2` and `qwen3`, with weights in F32, F16, BF16, `Q8_0`,
//! `Q4_0`, `Q4_K` and `Q6_K`.
//!
//! A block format's number is the exact real that it stands for, never its float rounding. Two things are turned back, so
//! that a file makes the same model as the checkpoint that it was converted from: dimensions, which GGUF lists from the
//! last, and the rows of queries and keys, which `llama` files hold in the order of adjacent rotary pairs.

mod header;

use std::{collections::BTreeMap, fs::File, path::Path};

use self::header::{Header, TensorInfo, Value};
use super::{
    ImportError,
    decoder::Template,
    encoding::Encoding,
    llama::{Architecture, Scaling},
    sizes::{Sizes, Stated, unsupported},
    source::{SourceTensor, Tensors, read_at},
};
use crate::real::{Format, Real};

/// An open file.
#[derive(Debug)]
pub(super) struct Gguf<'p> {
    path: &'p Path,
    file: File,
    values: BTreeMap<String, Value>,
    tensors: BTreeMap<String, TensorInfo>,
    /// Heads of queries and of keys whose rows are permuted.
    permuted: Option<[usize; 2]>,
}

/// Names of a layer's parts, in checkpoints and here.
const PARTS: [(&str, &str); 11] = [
    ("input_layernorm", "attn_norm"),
    ("self_attn.q_proj", "attn_q"),
    ("self_attn.k_proj", "attn_k"),
    ("self_attn.v_proj", "attn_v"),
    ("self_attn.o_proj", "attn_output"),
    ("self_attn.q_norm", "attn_q_norm"),
    ("self_attn.k_norm", "attn_k_norm"),
    ("post_attention_layernorm", "ffn_norm"),
    ("mlp.gate_proj", "ffn_gate"),
    ("mlp.up_proj", "ffn_up"),
    ("mlp.down_proj", "ffn_down"),
];

impl<'p> Gguf<'p> {
    /// Reads a file's header.
    pub(super) fn open(path: &'p Path) -> Result<Self, ImportError> {
        let (file, Header { values, tensors }) = header::read(path)?;
        Ok(Self { path, file, values, tensors, permuted: None })
    }

    /// The decoder's program, and where its tensors come from.
    pub(super) fn template(&mut self) -> Result<Template, ImportError> {
        let family = match self.values.get("general.architecture") {
            Some(Value::Text(family)) => family.clone(),
            other => return Err(self.wrong(format!("general.architecture is {other:?}"))),
        };
        if !matches!(family.as_str(), "llama" | "qwen2" | "qwen3") {
            let want = "llama, qwen2 and qwen3 are supported";
            return Err(unsupported("general.architecture", &family, want));
        }
        let key = |name: &str| format!("{family}.{name}");
        let heads = self.size(&key("attention.head_count"))?;
        let kv_heads = self.optional_size(&key("attention.head_count_kv"))?.unwrap_or(heads);
        let hidden = self.size(&key("embedding_length"))?;
        let head_dim = self.optional_size(&key("attention.key_length"))?;
        let embedding = self.shape("model.embed_tokens.weight");
        let sizes = Sizes::new(Stated {
            hidden,
            inner: self.size(&key("feed_forward_length"))?,
            layers: self.size(&key("block_count"))?,
            vocab: embedding.and_then(|shape| shape.first().copied()).unwrap_or(0),
            positions: self.size(&key("context_length"))?,
            heads,
            kv_heads,
            head_dim,
        })?;
        for name in ["expert_count", "attention.sliding_window"] {
            if let Some(count) = self.optional_size(&key(name))?.filter(|count| *count > 0) {
                let want = "files without are supported";
                return Err(unsupported("expert_count, attention.sliding_window", &count, want));
            }
        }
        let rot = self.optional_size(&key("rope.dimension_count"))?;
        if let Some(rot) = rot.filter(|rot| *rot != sizes.attention.head_dim as usize) {
            return Err(unsupported("rope.dimension_count", &rot, "whole heads are supported"));
        }
        let eps = self.real(&key("attention.layer_norm_rms_epsilon"))?;
        let eps = eps.and_then(|eps| eps.fixed(32, i32::MAX)?.try_into().ok());
        let theta = self.real(&key("rope.freq_base"))?;
        let theta = theta.map_or(Some((10_000, 1)), as_ratio).filter(|(over, under)| over >= under);
        let (has_bias, first) =
            (self.has("model.layers.0.self_attn.q_proj.bias"), family == "llama");
        self.permuted = first.then_some([heads, kv_heads]);
        let architecture = Architecture {
            sizes,
            eps_q32: eps
                .ok_or_else(|| self.wrong("no attention.layer_norm_rms_epsilon".to_owned()))?,
            theta: theta.ok_or_else(|| self.wrong("rope.freq_base below 1".to_owned()))?,
            scaling: self.scaling(&family)?,
            windows: vec![0; sizes.layers],
            has_qkv_bias: has_bias,
            has_out_bias: self.has("model.layers.0.self_attn.o_proj.bias"),
            has_mlp_bias: self.has("model.layers.0.mlp.down_proj.bias"),
            has_head_norms: family == "qwen3",
            is_tied: !self.has("lm_head.weight"),
        };
        architecture.template()
    }

    fn scaling(&self, family: &str) -> Result<Scaling, ImportError> {
        if let Some(shape) = self.shape("rope_freqs.weight").map(<[usize]>::to_vec) {
            let factors = self.get("rope_freqs.weight", &shape)?;
            let count = shape.iter().product();
            let factors = (0..count).map(|index| as_ratio(factors.value(index)?)).collect();
            let factors: Option<Vec<(u64, u64)>> = factors;
            let wrong = || self.wrong("rope_freqs.weight holds what is no factor".to_owned());
            return Ok(Scaling::Each(factors.ok_or_else(wrong)?));
        }
        match self.values.get(&format!("{family}.rope.scaling.type")) {
            None => Ok(Scaling::None),
            Some(Value::Text(kind)) if kind == "none" => Ok(Scaling::None),
            Some(Value::Text(kind)) if kind == "linear" => {
                let factor = self.real(&format!("{family}.rope.scaling.factor"))?;
                let factor = factor.and_then(|factor| factor.fixed(0, i32::MAX));
                let factor = factor.and_then(|factor| u32::try_from(factor).ok());
                let wrong = || self.wrong("rope.scaling.factor is no whole number".to_owned());
                Ok(Scaling::Linear { factor: factor.filter(|f| *f > 0).ok_or_else(wrong)? })
            }
            Some(other) => {
                let want = "none and linear are supported";
                Err(unsupported("rope.scaling.type", &format!("{other:?}"), want))
            }
        }
    }

    fn wrong(&self, what: String) -> ImportError {
        ImportError::Format { path: self.path.to_path_buf(), what }
    }

    fn size(&self, key: &str) -> Result<usize, ImportError> {
        let size = self.optional_size(key)?;
        size.ok_or_else(|| self.wrong(format!("it does not say `{key}`")))
    }

    fn optional_size(&self, key: &str) -> Result<Option<usize>, ImportError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::Whole(value)) => Ok(usize::try_from(*value).ok()),
            Some(other) => Err(self.wrong(format!("`{key}` is {other:?}, want one whole number"))),
        }
    }

    fn real(&self, key: &str) -> Result<Option<Real>, ImportError> {
        match self.values.get(key) {
            None => Ok(None),
            Some(Value::F32(bits)) => Ok(Format::F32.read(&bits.to_le_bytes())),
            Some(other) => Err(self.wrong(format!("`{key}` is {other:?}, want a binary32"))),
        }
    }

    /// What the file calls a tensor of a checkpoint.
    fn own(name: &str) -> String {
        let (stem, suffix) = name.rsplit_once('.').unwrap_or((name, ""));
        let whole = match stem {
            "model.embed_tokens" => Some("token_embd"),
            "model.norm" => Some("output_norm"),
            "lm_head" => Some("output"),
            _ => None,
        };
        if let Some(whole) = whole {
            return format!("{whole}.{suffix}");
        }
        let layer = stem.strip_prefix("model.layers.").and_then(|rest| rest.split_once('.'));
        let Some((layer, part)) = layer else { return name.to_owned() };
        let own = PARTS.iter().find(|(theirs, _)| *theirs == part);
        own.map_or_else(|| name.to_owned(), |(_, own)| format!("blk.{layer}.{own}.{suffix}"))
    }

    /// Heads of a tensor whose rows are permuted.
    fn permuted_heads(&self, name: &str) -> Option<usize> {
        let [queries, keys] = self.permuted?;
        let is = |part: &str| name.contains(&format!(".self_attn.{part}."));
        if is("q_proj") {
            Some(queries)
        } else if is("k_proj") {
            Some(keys)
        } else {
            None
        }
    }
}

impl Tensors for Gguf<'_> {
    fn shape(&self, name: &str) -> Option<&[usize]> {
        self.tensors.get(&Self::own(name)).map(|info| info.shape.as_slice())
    }

    fn read(&self, name: &str) -> Result<SourceTensor, ImportError> {
        let own = Self::own(name);
        let missing = || ImportError::Missing { name: own.clone() };
        let info = self.tensors.get(&own).ok_or_else(missing)?;
        let bytes = read_at(self.path, &self.file, info.offset, info.bytes)?;
        let bytes = match self.permuted_heads(name) {
            Some(heads) => by_halves(&bytes, info.shape[0], heads),
            None => bytes,
        };
        Ok(SourceTensor { name: own, encoding: info.encoding, bytes })
    }

    fn own_name(&self, name: &str) -> String {
        Self::own(name)
    }
}

/// Rows of adjacent pairs as rows of halves: of each head first all the first ones, then all the second ones.
fn by_halves(bytes: &[u8], rows: usize, heads: usize) -> Vec<u8> {
    let (head, row_bytes) = (rows / heads, bytes.len() / rows);
    let mut ordered = Vec::with_capacity(bytes.len());
    for row in 0..rows {
        let (place, half) = (row % head % (head / 2), row % head / (head / 2));
        let from = row / head * head + 2 * place + half;
        ordered.extend_from_slice(&bytes[from * row_bytes..][..row_bytes]);
    }
    ordered
}

/// A positive value as a ratio.
fn as_ratio(value: Real) -> Option<(u64, u64)> {
    if value.is_negative || value.mantissa == 0 {
        return None;
    }
    let zeros = value.mantissa.trailing_zeros();
    let mantissa = u64::try_from(value.mantissa >> zeros).ok()?;
    let exponent = value.exponent + i32::try_from(zeros).ok()?;
    let scale = 1_u64.checked_shl(exponent.unsigned_abs())?;
    if exponent < 0 { Some((mantissa, scale)) } else { Some((mantissa.checked_mul(scale)?, 1)) }
}

impl Encoding {
    /// The encoding that GGUF numbers so; `None` for one that is not supported.
    fn from_code(code: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Plain(Format::F32)),
            1 => Some(Self::Plain(Format::F16)),
            2 => Some(Self::Q4_0),
            8 => Some(Self::Q8_0),
            12 => Some(Self::Q4K),
            14 => Some(Self::Q6K),
            30 => Some(Self::Plain(Format::Bf16)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_file() {
        for (theirs, own) in [
            ("model.embed_tokens.weight", "token_embd.weight"),
            ("lm_head.weight", "output.weight"),
            ("model.layers.11.self_attn.q_proj.bias", "blk.11.attn_q.bias"),
            ("model.layers.0.post_attention_layernorm.weight", "blk.0.ffn_norm.weight"),
            ("rope_freqs.weight", "rope_freqs.weight"),
        ] {
            assert_eq!(Gguf::own(theirs), own);
        }
    }

    #[test]
    fn adjacent_pairs_become_halves() {
        // Two heads of four rows, a byte each: pairs (0, 2) and (1, 3) of a head stand side by side.
        assert_eq!(by_halves(&[0, 2, 1, 3, 4, 6, 5, 7], 8, 2), [0, 1, 2, 3, 4, 5, 6, 7]);
    }

    #[test]
    fn a_ratio_is_exact() {
        let real = |value: f32| Format::F32.read(&value.to_le_bytes()).unwrap();
        assert_eq!(as_ratio(real(500_000.0)), Some((500_000, 1)));
        assert_eq!(as_ratio(real(1.5)), Some((3, 2)));
        assert_eq!(as_ratio(real(-1.0)), None);
        assert_eq!(as_ratio(real(0.0)), None);
    }
}
