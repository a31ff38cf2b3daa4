//! Quantized generators of GGUF files, by what the file calls its architecture.

use std::io::Cursor;

use candle_core::{
    DType, Device, Tensor,
    quantized::gguf_file::{Content, Value},
};
use candle_transformers::models::{
    quantized_gemma3, quantized_glm4, quantized_lfm2, quantized_llama, quantized_phi,
    quantized_phi3, quantized_qwen2, quantized_qwen3,
};

use crate::{FloatError, Net};

/// A quantized model, and what GGUF files call it.
pub struct Quantized {
    /// Values of `general.architecture`.
    pub names: &'static [&'static str],
    /// The module of `candle_transformers::models` that computes it.
    pub module: &'static str,
    /// Tokens that candle has positions for, where it does not ask the file.
    pub context_max: Option<usize>,
    /// Builds it.
    pub load: LoadQuantized,
}

/// Builds a quantized model of a file's head, its bytes and a device.
pub type LoadQuantized = fn(Content, &mut Cursor<Vec<u8>>, &Device) -> Result<Net, FloatError>;

impl std::fmt::Debug for Quantized {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quantized")
            .field("names", &self.names)
            .field("module", &self.module)
            .finish_non_exhaustive()
    }
}

/// A sequence begins with a copy of the model, which shares the weights: not all of them can empty their cache.
macro_rules! copied {
    ([$($name:literal),+], $module:ident::$model:ident, $context_max:expr $(, $dtype:expr)?) => {
        Quantized {
            names: &[$($name),+],
            module: stringify!($module),
            context_max: $context_max,
            load: |content, file, device| {
                let model = $module::$model::from_gguf(content, file, device $(, $dtype)?)?;
                let next = |model: &mut $module::$model, ids: &Tensor, past| model.forward(ids, past);
                Ok(Net::stateful(move || Ok(model.clone()), next)?)
            },
        }
    };
}

/// A model that can empty its cache, or does so when a sequence begins.
macro_rules! emptied {
    ([$($name:literal),+], $module:ident::$model:ident, $clear:expr) => {
        Quantized {
            names: &[$($name),+],
            module: stringify!($module),
            context_max: None,
            load: |content, file, device| {
                let model = $module::$model::from_gguf(content, file, device)?;
                Ok(Net::cached(model, $module::$model::forward, $clear))
            },
        }
    };
}

/// Refuses scalings of positions, which candle does not read of these files.
pub(crate) fn check(content: &Content) -> Result<(), String> {
    let tensors = ["rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"];
    if let Some(tensor) = tensors.iter().find(|name| content.tensor_infos.contains_key(**name)) {
        return Err(format!("positions scaled by {tensor} are not computed"));
    }
    let is_scaling = |(key, value): (&String, &Value)| {
        let is_named = value.to_string().is_ok_and(|name| name != "none");
        key.ends_with(".rope.scaling.type") && is_named
    };
    match content.metadata.iter().any(is_scaling) {
        true => Err("scaled positions are not computed".to_owned()),
        false => Ok(()),
    }
}

/// Every architecture of a GGUF file.
pub const QUANTIZED: &[Quantized] = &[
    copied!(["gemma3"], quantized_gemma3::ModelWeights, None),
    copied!(["glm4"], quantized_glm4::ModelWeights, None, DType::F32),
    Quantized {
        names: &["lfm2"],
        module: "quantized_lfm2",
        context_max: None,
        load: |content, file, device| {
            use quantized_lfm2::ModelWeights as Model;
            let next = |model: &mut Model, ids: &Tensor, past| {
                // Two tokens overwrite what the last sequence left behind, one would go on from it.
                if past == 0 && ids.elem_count() == 1 {
                    candle_core::bail!("a prompt of this model has two tokens at least");
                }
                model.forward(ids, past)
            };
            Ok(Net::cached(Model::from_gguf(content, file, device)?, next, |_| {}))
        },
    },
    copied!(["llama"], quantized_llama::ModelWeights, Some(quantized_llama::MAX_SEQ_LEN)),
    copied!(["phi2"], quantized_phi::ModelWeights, Some(quantized_phi::MAX_SEQ_LEN)),
    Quantized {
        names: &["phi3"],
        module: "quantized_phi3",
        context_max: None,
        load: |content, file, device| {
            let model = quantized_phi3::ModelWeights::from_gguf(false, content, file, device)?;
            let next = quantized_phi3::ModelWeights::forward;
            Ok(Net::stateful(move || Ok(model.clone()), next)?)
        },
    },
    emptied!(
        ["qwen2"],
        quantized_qwen2::ModelWeights,
        quantized_qwen2::ModelWeights::clear_kv_cache
    ),
    emptied!(
        ["qwen3"],
        quantized_qwen3::ModelWeights,
        quantized_qwen3::ModelWeights::clear_kv_cache
    ),
];
