//! Pairs of a model of texts and one of images that give vectors of one space. Each half is a model.

use candle_core::{Module as _, Tensor};
use candle_nn::{Linear, VarBuilder};
use candle_transformers::models::{
    clip::{
        text_model::{Activation, ClipTextConfig, ClipTextTransformer},
        vision_model::{ClipVisionConfig, ClipVisionTransformer},
    },
    siglip,
};
use serde::Deserialize;

use super::Family;
use crate::{FloatError, Net, Source};

pub(super) const FAMILIES: &[Family] = &[
    Family { names: &["clip_text_model"], module: "clip", load: clip_text },
    Family { names: &["clip_vision_model", "clip"], module: "clip", load: clip_vision },
    Family { names: &["siglip_text_model"], module: "siglip", load: siglip_text },
    Family { names: &["siglip_vision_model", "siglip"], module: "siglip", load: siglip_vision },
];

/// The fields of both halves of CLIP; where a file leaves one out, OpenAI's values.
#[derive(Deserialize)]
#[serde(default)]
struct Clip {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_channels: usize,
    image_size: usize,
    patch_size: usize,
    projection_dim: usize,
    hidden_act: String,
}

impl Default for Clip {
    fn default() -> Self {
        Self {
            vocab_size: 49_408,
            hidden_size: 512,
            intermediate_size: 2048,
            max_position_embeddings: 77,
            num_hidden_layers: 12,
            num_attention_heads: 8,
            num_channels: 3,
            image_size: 224,
            patch_size: 32,
            projection_dim: 512,
            hidden_act: "quick_gelu".to_owned(),
        }
    }
}

impl Clip {
    fn activation(&self, source: &Source<'_>) -> Result<Activation, FloatError> {
        match self.hidden_act.as_str() {
            "quick_gelu" => Ok(Activation::QuickGelu),
            other => Err(source.unsupported(format!("hidden_act `{other}` is not computed"))),
        }
    }
}

/// The projection behind a half, where the folder has one.
fn projection(
    source: &Source<'_>,
    (name, width, out): (&str, usize, usize),
) -> Result<Option<Linear>, FloatError> {
    let has_it = source.has_tensor(&format!("{name}.weight"));
    let weights: VarBuilder<'_> = source.weights().pp(name);
    Ok(has_it.then(|| candle_nn::linear_no_bias(width, out, weights)).transpose()?)
}

fn clip_text(source: &Source<'_>) -> Result<Net, FloatError> {
    let read: Clip = source.config()?;
    let config = ClipTextConfig {
        vocab_size: read.vocab_size,
        embed_dim: read.hidden_size,
        activation: read.activation(source)?,
        intermediate_size: read.intermediate_size,
        max_position_embeddings: read.max_position_embeddings,
        pad_with: None,
        num_hidden_layers: read.num_hidden_layers,
        num_attention_heads: read.num_attention_heads,
        projection_dim: read.projection_dim,
    };
    let model = ClipTextTransformer::new(source.weights_of("text_model"), &config)?;
    let head = projection(source, ("text_projection", read.hidden_size, read.projection_dim))?;
    let width = head.as_ref().map_or(read.hidden_size, |_| read.projection_dim);
    Ok(Net::embeds(width, move |ids| {
        let row = model.forward(ids)?;
        head.as_ref().map_or_else(|| Ok(row.clone()), |head| head.forward(&row))
    }))
}

fn clip_vision(source: &Source<'_>) -> Result<Net, FloatError> {
    let is_whole = source.text("model_type") == "clip";
    let read: Clip = if is_whole { source.part("vision_config")? } else { source.config()? };
    let config = ClipVisionConfig {
        embed_dim: read.hidden_size,
        activation: read.activation(source)?,
        intermediate_size: read.intermediate_size,
        num_hidden_layers: read.num_hidden_layers,
        num_attention_heads: read.num_attention_heads,
        projection_dim: read.projection_dim,
        num_channels: read.num_channels,
        image_size: read.image_size,
        patch_size: read.patch_size,
    };
    let model = ClipVisionTransformer::new(source.weights_of("vision_model"), &config)?;
    let out = source.number("projection_dim").unwrap_or(read.projection_dim);
    let head = projection(source, ("visual_projection", read.hidden_size, out))?;
    Ok(Net::maps([read.num_channels, read.image_size, read.image_size], move |images| {
        let rows = model.forward(images)?;
        head.as_ref().map_or_else(|| Ok(rows.clone()), |head| head.forward(&rows))
    }))
}

fn siglip_text(source: &Source<'_>) -> Result<Net, FloatError> {
    let config: siglip::TextConfig = source.config()?;
    let model = siglip::TextModel::new(&config, source.weights_of("text_model"))?;
    // Texts were padded to the full length in training, and the last position is what counts.
    Ok(Net::embeds(config.hidden_size, move |ids| {
        let missing = config.max_position_embeddings.saturating_sub(ids.dim(1)?);
        let padding = Tensor::full(config.pad_token_id, (1, missing), ids.device())?;
        model.forward(&Tensor::cat(&[ids, &padding], 1)?)
    }))
}

fn siglip_vision(source: &Source<'_>) -> Result<Net, FloatError> {
    let is_whole = source.text("model_type") == "siglip";
    let config: siglip::VisionConfig =
        if is_whole { source.part("vision_config")? } else { source.config()? };
    let model = siglip::VisionModel::new(&config, true, source.weights_of("vision_model"))?;
    let row = [config.num_channels, config.image_size, config.image_size];
    Ok(Net::maps(row, move |images| model.forward(images)))
}
