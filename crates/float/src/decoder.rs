//! Families that generate text, each candle-transformers' own; one trait over them.

use std::collections::HashMap;

use candle_core::{DType, Device, Result, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::{
    gemma, gemma2, gemma3, glm4_new, granite, helium, llama, mistral, mixtral, olmo, olmo2, phi,
    phi3, qwen2, qwen2_moe, qwen3, qwen3_moe, smol::smollm3, starcoder2,
};

use crate::{FloatError, folder::Folder};

/// `model_type` of every family that generates.
pub const FAMILIES: &[&str] = &[
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm4",
    "granite",
    "helium",
    "llama",
    "mistral",
    "mixtral",
    "olmo",
    "olmo2",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "smollm3",
    "starcoder2",
];

/// Families whose configuration has a scaling of positions that candle reads.
const SCALED: &[&str] = &["granite", "llama", "phi3"];
/// Families that read `attention_bias`.
const BIASED: &[&str] =
    &["gemma", "gemma2", "glm4", "helium", "olmo", "olmo2", "qwen3", "qwen3_moe", "smollm3"];

/// A model that goes on where its input ends, one sequence at a time.
pub(crate) trait Decoder: Send {
    /// Logits behind the last of `ids` (`[1, n]`), of which `past` others are in the cache; of any rank, the last
    /// `vocabulary` elements are meant.
    fn forward(&mut self, ids: &Tensor, past: usize) -> Result<Tensor>;

    /// Forgets the sequence.
    fn clear(&mut self);
}

/// Families whose models keep their cache themselves.
macro_rules! keeps_its_cache {
    ($($model:ty),* $(,)?) => {
        $(impl Decoder for $model {
            fn forward(&mut self, ids: &Tensor, past: usize) -> Result<Tensor> {
                <$model>::forward(self, ids, past)
            }

            fn clear(&mut self) {
                self.clear_kv_cache();
            }
        })*
    };
}

keeps_its_cache!(
    gemma::Model,
    gemma2::Model,
    gemma3::Model,
    glm4_new::ModelForCausalLM,
    helium::Model,
    mistral::Model,
    olmo::Model,
    olmo2::Model,
    phi3::Model,
    qwen2::ModelForCausalLM,
    qwen2_moe::Model,
    qwen3::ModelForCausalLM,
    qwen3_moe::ModelForCausalLM,
    smollm3::ModelForCausalLM,
    starcoder2::Model,
);

impl Decoder for phi::Model {
    fn forward(&mut self, ids: &Tensor, _past: usize) -> Result<Tensor> {
        Self::forward(self, ids)
    }

    fn clear(&mut self) {
        self.clear_kv_cache();
    }
}

/// A model with a cache that cannot be emptied: a sequence begins with a copy, which shares the weights.
struct Mixtral {
    fresh: mixtral::Model,
    model: mixtral::Model,
}

impl Decoder for Mixtral {
    fn forward(&mut self, ids: &Tensor, past: usize) -> Result<Tensor> {
        self.model.forward(ids, past)
    }

    fn clear(&mut self) {
        self.model = self.fresh.clone();
    }
}

/// Families whose cache lies beside the model.
macro_rules! beside {
    ($name:ident, $family:ident::$model:ident) => {
        struct $name {
            model: $family::$model,
            fresh: $family::Cache,
            cache: $family::Cache,
        }

        impl $name {
            fn load(
                config: &$family::Config,
                weights: VarBuilder<'_>,
                dtype: DType,
                device: &Device,
            ) -> Result<Self> {
                let fresh = $family::Cache::new(true, dtype, config, device)?;
                let model = $family::$model::load(weights, config)?;
                Ok(Self { model, cache: fresh.clone(), fresh })
            }
        }

        impl Decoder for $name {
            fn forward(&mut self, ids: &Tensor, past: usize) -> Result<Tensor> {
                self.model.forward(ids, past, &mut self.cache)
            }

            fn clear(&mut self) {
                self.cache = self.fresh.clone();
            }
        }
    };
}

beside!(Llama, llama::Llama);
beside!(Granite, granite::Granite);

/// Refuses what candle would leave out without a word, and says what it wants to hear where the published file is
/// silent.
pub(crate) fn prepare(folder: &mut Folder) -> std::result::Result<(), FloatError> {
    let family = folder.text("model_type").to_owned();
    let is_of = |families: &[&str]| families.contains(&family.as_str());
    if folder.has("rope_scaling") && !is_of(SCALED) {
        return Err(folder.unsupported(format!("rope_scaling of a {family} is not computed")));
    }
    if folder.says("attention_bias") && !is_of(BIASED) || folder.says("mlp_bias") {
        return Err(folder.unsupported(format!("a {family} with these biases is not computed")));
    }
    let heads = folder.number("num_attention_heads").unwrap_or(0);
    let width = folder.number("hidden_size").unwrap_or(0);
    if heads == 0 || !width.is_multiple_of(heads) {
        let what = format!("hidden_size {width} in {heads} heads");
        return Err(folder.unsupported(what));
    }
    let plain = width / heads;
    if is_of(&["llama", "granite"]) && folder.number("head_dim").is_some_and(|dim| dim != plain) {
        let what = format!("a {family} whose heads do not fill its width is not computed");
        return Err(folder.unsupported(what));
    }
    if family == "gemma3_text" && folder.number("num_key_value_heads") != Some(1) {
        // Candle 0.11.1 hands values of several heads to its cache in an order that the cache does not take.
        return Err(
            folder.unsupported("a gemma3_text with more than one head of keys is not computed")
        );
    }
    if family == "gemma" && folder.has("hidden_activation") {
        // The older name, which candle wants to hear only where the newer one says nothing.
        folder.config.remove("hidden_act");
    }
    let positions = folder.number("max_position_embeddings").unwrap_or(0);
    let mut default = |key: &str, value: serde_json::Value| {
        let slot = folder.config.entry(key).or_insert(serde_json::Value::Null);
        if slot.is_null() {
            *slot = value;
        }
    };
    for key in ["attention_bias", "use_sliding_window"] {
        default(key, false.into());
    }
    default("max_window_layers", 0.into());
    if matches!(family.as_str(), "qwen2" | "qwen2_moe" | "mixtral") {
        default("sliding_window", positions.into());
    }
    Ok(())
}

/// Tokens of a sequence at most. Beyond a window candle's caches keep what the model must not see, so a sequence ends
/// with the window; Gemma 3's cache turns.
pub(crate) fn context(folder: &Folder) -> usize {
    let positions = folder.number("max_position_embeddings").unwrap_or(0);
    let is_windowed = match folder.text("model_type") {
        "gemma3_text" => false,
        "qwen2" | "qwen2_moe" | "qwen3" | "qwen3_moe" | "smollm3" => {
            folder.says("use_sliding_window")
        }
        _ => true,
    };
    let window = folder.number("sliding_window").filter(|_| is_windowed);
    positions.min(window.unwrap_or(positions))
}

/// Builds the family that `config.json` names.
pub(crate) fn load(
    folder: &Folder,
    weights: VarBuilder<'_>,
    dtype: DType,
    device: &Device,
) -> std::result::Result<Box<dyn Decoder>, FloatError> {
    Ok(match folder.text("model_type") {
        "gemma" => Box::new(gemma::Model::new(false, &folder.config_as()?, weights)?),
        "gemma2" => Box::new(gemma2::Model::new(false, &folder.config_as()?, weights)?),
        "gemma3_text" => Box::new(gemma3::Model::new(false, &folder.config_as()?, weights)?),
        "glm4" => Box::new(glm4_new::ModelForCausalLM::new(&folder.config_as()?, weights)?),
        "granite" => {
            let config = folder.config_as::<granite::GraniteConfig>()?.into_config(false);
            Box::new(Granite::load(&config, weights, dtype, device)?)
        }
        "helium" => Box::new(helium::Model::new(&folder.config_as()?, weights)?),
        "llama" => {
            let config = folder.config_as::<llama::LlamaConfig>()?.into_config(false);
            Box::new(Llama::load(&config, weights, dtype, device)?)
        }
        "mistral" => Box::new(mistral::Model::new(&folder.config_as()?, weights)?),
        "mixtral" => {
            let fresh = mixtral::Model::new(&folder.config_as()?, weights)?;
            Box::new(Mixtral { model: fresh.clone(), fresh })
        }
        "olmo" => Box::new(olmo::Model::new(&folder.config_as()?, weights)?),
        "olmo2" => Box::new(olmo2::Model::new(&folder.config_as()?, weights)?),
        "phi" => Box::new(phi::Model::new(&folder.config_as()?, weights)?),
        "phi3" => Box::new(phi3::Model::new(&folder.config_as()?, weights)?),
        "qwen2" => Box::new(qwen2::ModelForCausalLM::new(&folder.config_as()?, weights)?),
        "qwen2_moe" => Box::new(qwen2_moe::Model::new(&folder.config_as()?, weights)?),
        "qwen3" => Box::new(qwen3::ModelForCausalLM::new(&folder.config_as()?, weights)?),
        "qwen3_moe" => Box::new(qwen3_moe::ModelForCausalLM::new(&folder.config_as()?, weights)?),
        "smollm3" => Box::new(smollm3::ModelForCausalLM::new(&folder.config_as()?, weights)?),
        "starcoder2" => Box::new(starcoder2::Model::new(&folder.config_as()?, weights)?),
        family => return Err(folder.unsupported(format!("model_type `{family}` is not known"))),
    })
}

/// Gives a model that shares its head with its embedding the head under the name where families look for it.
pub(crate) fn tie(folder: &mut Folder, weights: &mut HashMap<String, Tensor>) {
    let head = "lm_head.weight";
    let is_tied = folder.config.get("tie_word_embeddings").and_then(serde_json::Value::as_bool);
    let is_tied = is_tied.unwrap_or(!weights.contains_key(head));
    folder.config.insert("tie_word_embeddings".to_owned(), is_tied.into());
    if is_tied && let Some(embedding) = weights.get("model.embed_tokens.weight").cloned() {
        weights.insert(head.to_owned(), embedding);
    }
}
