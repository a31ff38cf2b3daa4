//! Decoders whose configuration candle reads itself, and what it would leave out of one without a word.

use std::collections::HashMap;

use candle_core::Tensor;
use candle_transformers::models::{
    deepseek2, falcon, gemma, gemma2, gemma3, gemma4, glm4_new, granite, granitemoehybrid, helium,
    lfm2, llama, mistral, mixtral, olmo, olmo2, phi, phi3, qwen2, qwen2_moe, qwen3, qwen3_moe,
    smol::smollm3, stable_lm, starcoder2,
};

use super::Family;
use crate::{FloatError, Net, folder::Folder};

/// A family whose model keeps its cache and can empty it.
macro_rules! cached {
    ($($names:literal)|+, $module:literal, $model:ty, |$source:ident| $new:expr) => {
        Family {
            names: &[$($names),+],
            module: $module,
            load: |$source| {
                let model: $model = $new?;
                Ok(Net::cached(model, <$model>::forward, <$model>::clear_kv_cache))
            },
        }
    };
}

/// A family whose cache lies beside the model.
macro_rules! beside {
    ($name:literal, $module:ident::$model:ident, $config:ty, $cache:ty) => {
        Family {
            names: &[$name],
            module: stringify!($module),
            load: |source| {
                let config = source.config::<$config>()?.into_config(false);
                let model = $module::$model::load(source.weights(), &config)?;
                let fresh = <$cache>::new(true, source.dtype(), &config, &source.device())?;
                let next =
                    move |cache: &mut $cache, ids: &Tensor, past| model.forward(ids, past, cache);
                Ok(Net::stateful(move || Ok(fresh.clone()), next)?)
            },
        }
    };
}

pub(super) const FAMILIES: &[Family] = &[
    cached!("deepseek_v2", "deepseek2", deepseek2::DeepSeekV2, |source| {
        deepseek2::DeepSeekV2::new(&source.config()?, source.weights())
    }),
    cached!("gemma", "gemma", gemma::Model, |source| {
        gemma::Model::new(false, &source.config()?, source.weights())
    }),
    cached!("gemma2", "gemma2", gemma2::Model, |source| {
        gemma2::Model::new(false, &source.config()?, source.weights())
    }),
    cached!("gemma3_text", "gemma3", gemma3::Model, |source| {
        gemma3::Model::new(false, &source.config()?, source.weights())
    }),
    cached!("gemma4_text", "gemma4", gemma4::text::TextModel, |source| {
        gemma4::text::TextModel::new(&source.config()?, source.weights())
    }),
    cached!("glm4", "glm4_new", glm4_new::ModelForCausalLM, |source| {
        glm4_new::ModelForCausalLM::new(&source.config()?, source.weights())
    }),
    beside!("granite", granite::Granite, granite::GraniteConfig, granite::Cache),
    beside!(
        "granitemoehybrid",
        granitemoehybrid::GraniteMoeHybrid,
        granitemoehybrid::GraniteMoeHybridConfig,
        granitemoehybrid::GraniteMoeHybridCache
    ),
    cached!("helium", "helium", helium::Model, |source| {
        helium::Model::new(&source.config()?, source.weights())
    }),
    Family {
        names: &["lfm2"],
        module: "lfm2",
        load: |source| {
            let config = source.config::<lfm2::Lfm2Config>()?.into_config(false);
            let model = lfm2::Model::new(&config, source.weights())?;
            let fresh = lfm2::Cache::new(true, source.dtype(), &config, &source.device())?;
            let next =
                move |cache: &mut lfm2::Cache, ids: &Tensor, past| model.forward(ids, past, cache);
            Ok(Net::stateful(move || Ok(fresh.clone()), next)?)
        },
    },
    beside!("llama", llama::Llama, llama::LlamaConfig, llama::Cache),
    cached!("mistral", "mistral", mistral::Model, |source| {
        mistral::Model::new(&source.config()?, source.weights())
    }),
    Family {
        names: &["mixtral"],
        module: "mixtral",
        load: |source| {
            let model = mixtral::Model::new(&source.config()?, source.weights())?;
            Ok(Net::stateful(move || Ok(model.clone()), mixtral::Model::forward)?)
        },
    },
    cached!("olmo", "olmo", olmo::Model, |source| {
        olmo::Model::new(&source.config()?, source.weights())
    }),
    cached!("olmo2", "olmo2", olmo2::Model, |source| {
        olmo2::Model::new(&source.config()?, source.weights())
    }),
    Family {
        names: &["phi"],
        module: "phi",
        load: |source| {
            let model = phi::Model::new(&source.config()?, source.weights())?;
            let next = |model: &mut phi::Model, ids: &Tensor, _| model.forward(ids);
            Ok(Net::cached(model, next, phi::Model::clear_kv_cache))
        },
    },
    Family {
        names: &["falcon", "RefinedWebModel"],
        module: "falcon",
        load: |source| {
            let config: falcon::Config = source.config()?;
            config.validate()?;
            let model = falcon::Falcon::load(source.weights(), config)?;
            let next = |model: &mut falcon::Falcon, ids: &Tensor, _| model.forward(ids);
            Ok(Net::cached(model, next, falcon::Falcon::clear_kv_cache))
        },
    },
    cached!("phi3", "phi3", phi3::Model, |source| {
        phi3::Model::new(&source.config()?, source.weights())
    }),
    cached!("qwen2", "qwen2", qwen2::ModelForCausalLM, |source| {
        qwen2::ModelForCausalLM::new(&source.config()?, source.weights())
    }),
    cached!("qwen2_moe", "qwen2_moe", qwen2_moe::Model, |source| {
        qwen2_moe::Model::new(&source.config()?, source.weights())
    }),
    cached!("qwen3", "qwen3", qwen3::ModelForCausalLM, |source| {
        qwen3::ModelForCausalLM::new(&source.config()?, source.weights())
    }),
    cached!("qwen3_moe", "qwen3_moe", qwen3_moe::ModelForCausalLM, |source| {
        qwen3_moe::ModelForCausalLM::new(&source.config()?, source.weights())
    }),
    cached!("smollm3", "smol", smollm3::ModelForCausalLM, |source| {
        smollm3::ModelForCausalLM::new(&source.config()?, source.weights())
    }),
    Family {
        names: &["stablelm"],
        module: "stable_lm",
        load: |source| {
            if ["qk_layernorm", "use_parallel_residual"].iter().any(|key| source.says(key)) {
                return Err(source.unsupported("a stablelm with these layers is not computed"));
            }
            let (config, weights) = (source.config::<stable_lm::Config>()?, source.weights());
            // The cache cannot be emptied; a model made anew shares the weights.
            let fresh = move || stable_lm::Model::new(&config, weights.clone());
            Ok(Net::stateful(fresh, stable_lm::Model::forward)?)
        },
    },
    cached!("starcoder2", "starcoder2", starcoder2::Model, |source| {
        starcoder2::Model::new(&source.config()?, source.weights())
    }),
];

/// Families whose configuration has a scaling of positions that candle reads.
const SCALED: &[&str] = &["deepseek_v2", "granite", "granitemoehybrid", "llama", "phi3"];
/// Families that read `attention_bias`.
const BIASED: &[&str] = &[
    "deepseek_v2",
    "gemma",
    "gemma2",
    "gemma4_text",
    "glm4",
    "helium",
    "olmo",
    "olmo2",
    "qwen3",
    "qwen3_moe",
    "recurrent_gemma",
    "smollm3",
];

/// Families whose head candle takes to be their embedding.
const TIED: &[&str] =
    &["gpt_bigcode", "granitemoehybrid", "mamba", "mamba2", "marian", "mpt", "recurrent_gemma"];

/// Refuses what candle would leave out without a word, and says what it wants to hear where the published file is
/// silent.
pub(crate) fn prepare(folder: &mut Folder) -> Result<(), FloatError> {
    let family = folder.family().to_owned();
    let is_of = |families: &[&str]| families.contains(&family.as_str());
    if folder.has("rope_scaling") && !is_of(SCALED) {
        return Err(folder.unsupported(format!("rope_scaling of a {family} is not computed")));
    }
    if folder.says("attention_bias") && !is_of(BIASED) || folder.says("mlp_bias") {
        return Err(folder.unsupported(format!("a {family} with these biases is not computed")));
    }
    let has_head = folder.config.get("tie_word_embeddings") == Some(&false.into());
    if has_head && is_of(TIED) {
        return Err(
            folder.unsupported(format!("a {family} with a head of its own is not computed"))
        );
    }
    if let (Some(heads), Some(width)) =
        (folder.number("num_attention_heads"), folder.number("hidden_size"))
    {
        if heads == 0 || !width.is_multiple_of(heads) {
            let what = format!("hidden_size {width} in {heads} heads");
            return Err(folder.unsupported(what));
        }
        let dim = folder.number("head_dim");
        if is_of(&["llama", "granite"]) && dim.is_some_and(|dim| dim != width / heads) {
            let what = format!("a {family} whose heads do not fill its width is not computed");
            return Err(folder.unsupported(what));
        }
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
    if family == "stablelm" {
        default("use_cache", true.into());
    }
    Ok(())
}

/// Gives a model that shares its head with its embedding the head under the name where families look for it.
pub(crate) fn tie(folder: &mut Folder, weights: &mut HashMap<String, Tensor>) {
    // Silent files of T5 mean yes, whether or not they have the tensor.
    if matches!(folder.family(), "t5" | "mt5") {
        return;
    }
    let head = "lm_head.weight";
    let is_tied = folder.config.get("tie_word_embeddings").and_then(serde_json::Value::as_bool);
    let is_tied = is_tied.unwrap_or(!weights.contains_key(head));
    folder.config.insert("tie_word_embeddings".to_owned(), is_tied.into());
    let embeddings = ["model.embed_tokens.weight", "transformer.word_embeddings.weight"];
    let embedding = embeddings.iter().find_map(|name| weights.get(*name).cloned());
    if is_tied && let Some(embedding) = embedding {
        weights.insert(head.to_owned(), embedding);
    }
}
