//! Generators whose configuration candle does not read, and those that answer a text instead of continuing it.

use candle_core::{D, Tensor};
use candle_transformers::models::{
    based, bigcode, chatglm, codegeex4_9b, glm4, marian, mixformer, mpt, t5,
};
use serde_json::json;

use super::Family;
use crate::{FloatError, Net, Source};

pub(super) const FAMILIES: &[Family] = &[
    Family { names: &["based"], module: "based", load: based },
    Family { names: &["gpt_bigcode"], module: "bigcode", load: bigcode },
    Family { names: &["chatglm"], module: "chatglm", load: chatglm },
    Family { names: &["codegeex4"], module: "codegeex4_9b", load: codegeex4 },
    Family { names: &["glm4_chat"], module: "glm4", load: glm4 },
    Family { names: &["marian"], module: "marian", load: marian },
    Family { names: &["mixformer-sequential", "phi-msft"], module: "mixformer", load: mixformer },
    Family { names: &["mpt"], module: "mpt", load: mpt },
    Family { names: &["t5", "mt5"], module: "t5", load: t5 },
];

fn based(source: &Source<'_>) -> Result<Net, FloatError> {
    let model = based::Model::new(&source.config()?, source.weights())?;
    // A step of candle's adds one number of a key to the state of linear attention, where the key belongs.
    Ok(Net::uncached(move |ids| model.clone().forward(ids, 0)))
}

fn bigcode(source: &Source<'_>) -> Result<Net, FloatError> {
    let number = |keys: &[&str]| source.want(keys);
    let (vocab_size, positions) = (number(&["vocab_size"])?, number(&["n_positions"])?);
    let (layers, width, heads) =
        (number(&["n_layer"])?, number(&["n_embd"])?, number(&["n_head"])?);
    let (inner, multi_query) = (source.number("n_inner"), source.says("multi_query"));
    let epsilon = source.real("layer_norm_epsilon").unwrap_or(1e-5);
    let weights = source.weights();
    let config = move || bigcode::Config {
        vocab_size,
        max_position_embeddings: positions,
        num_hidden_layers: layers,
        hidden_size: width,
        layer_norm_epsilon: epsilon,
        n_inner: inner,
        num_attention_heads: heads,
        multi_query,
        use_cache: true,
    };
    let fresh = move || bigcode::GPTBigCode::load(weights.clone(), config());
    Ok(Net::stateful(fresh, bigcode::GPTBigCode::forward)?)
}

/// The three families share their fields, and one of them can read them.
fn chatglm(source: &Source<'_>) -> Result<Net, FloatError> {
    let read: codegeex4_9b::Config = source.config()?;
    let config = chatglm::Config {
        num_layers: read.num_layers,
        padded_vocab_size: read.padded_vocab_size,
        hidden_size: read.hidden_size,
        ffn_hidden_size: read.ffn_hidden_size,
        kv_channels: read.kv_channels,
        num_attention_heads: read.num_attention_heads,
        seq_length: read.seq_length,
        layernorm_epsilon: read.layernorm_epsilon,
        rmsnorm: read.rmsnorm,
        apply_residual_connection_post_layernorm: read.apply_residual_connection_post_layernorm,
        post_layer_norm: read.post_layer_norm,
        add_bias_linear: read.add_bias_linear,
        add_qkv_bias: read.add_qkv_bias,
        bias_dropout_fusion: read.bias_dropout_fusion,
        multi_query_attention: read.multi_query_attention,
        multi_query_group_num: read.multi_query_group_num,
        apply_query_key_layer_scaling: read.apply_query_key_layer_scaling,
        attention_softmax_in_fp32: read.attention_softmax_in_fp32,
        fp32_residual_connection: read.fp32_residual_connection,
    };
    // GLM-4's first files call themselves so too, and turn their positions by another base.
    if source.number("rope_ratio").is_some() {
        return glm4(source);
    }
    let model = chatglm::Model::new(&config, source.weights())?;
    let next = |model: &mut chatglm::Model, ids: &Tensor, _| model.forward(ids);
    Ok(Net::cached(model, next, chatglm::Model::reset_kv_cache))
}

fn codegeex4(source: &Source<'_>) -> Result<Net, FloatError> {
    let model = codegeex4_9b::Model::new(&source.config()?, source.weights())?;
    let next = |model: &mut codegeex4_9b::Model, ids: &Tensor, _| model.forward(ids);
    Ok(Net::cached(model, next, codegeex4_9b::Model::reset_kv_cache))
}

fn glm4(source: &Source<'_>) -> Result<Net, FloatError> {
    let model = glm4::Model::new(&source.config()?, source.weights())?;
    let next = |model: &mut glm4::Model, ids: &Tensor, _| model.forward(ids);
    Ok(Net::cached(model, next, glm4::Model::reset_kv_cache))
}

fn mixformer(source: &Source<'_>) -> Result<Net, FloatError> {
    use mixformer::MixFormerSequentialForCausalLM as Model;
    let (config, weights) = (source.config()?, source.weights());
    // Both layouts were published under these names.
    let is_second = source.has_tensor("transformer.embd.wte.weight");
    let model =
        if is_second { Model::new_v2(&config, weights) } else { Model::new(&config, weights) }?;
    let next = |model: &mut Model, ids: &Tensor, _| model.forward(ids);
    Ok(Net::cached(model, next, Model::clear_kv_cache))
}

/// Candle knows the sizes of one MPT, and its configuration cannot be made from outside.
fn mpt(source: &Source<'_>) -> Result<Net, FloatError> {
    let sizes = ["d_model", "n_heads", "n_layers", "max_seq_len", "vocab_size"];
    if sizes.map(|size| source.number(size)) != [3072, 24, 32, 4096, 32768].map(Some) {
        return Err(source.unsupported("an mpt other than replit-code-v1_5-3b is not computed"));
    }
    let model =
        mpt::Model::new(&mpt::Config::replit_code_v1_5_3b(), source.weights_of("transformer"))?;
    let next = |model: &mut mpt::Model, ids: &Tensor, _| model.forward(ids);
    Ok(Net::stateful(move || Ok(model.clone()), next)?)
}

/// What a model that answers a text has read and said so far.
struct Answering<M> {
    model: M,
    read: Option<Tensor>,
    said: usize,
}

impl<M> Answering<M> {
    /// The text as the encoder read it, and the decoder's next input: the start token behind the text, what was said
    /// after that.
    fn input(
        &mut self,
        ids: &Tensor,
        start: u32,
        read: impl FnOnce(&mut M, &Tensor) -> candle_core::Result<Tensor>,
    ) -> candle_core::Result<(Tensor, Tensor)> {
        match &self.read {
            Some(encoded) => Ok((encoded.clone(), ids.clone())),
            None => {
                let encoded = read(&mut self.model, ids)?;
                self.read = Some(encoded.clone());
                Ok((encoded, Tensor::new(&[[start]], ids.device())?))
            }
        }
    }
}

fn marian(source: &Source<'_>) -> Result<Net, FloatError> {
    let config: marian::Config = source.config()?;
    let start = config.decoder_start_token_id;
    let model = marian::MTModel::new(&config, source.weights())?;
    let fresh = move || Ok(Answering { model: model.clone(), read: None, said: 0 });
    let next = move |state: &mut Answering<marian::MTModel>, ids: &Tensor, _| {
        let (read, ids) = state.input(ids, start, |model, ids| model.encoder().forward(ids, 0))?;
        let logits = state.model.decode(&ids, &read, state.said)?;
        state.said += ids.dim(D::Minus1)?;
        Ok(logits)
    };
    Ok(Net::stateful(fresh, next)?)
}

fn t5(source: &Source<'_>) -> Result<Net, FloatError> {
    let mut config: t5::Config = source.config()?;
    if source.is_class("T5EncoderModel") {
        let (width, mut model) =
            (config.d_model, t5::T5EncoderModel::load(source.weights(), &config)?);
        return Ok(Net::embeds(width, move |ids| model.forward(ids)));
    }
    if !config.is_encoder_decoder {
        return Err(source.unsupported("a t5 that is neither whole nor an encoder is not computed"));
    }
    config.use_cache = true;
    let start = config.decoder_start_token_id.unwrap_or(config.pad_token_id);
    let start = u32::try_from(start).map_err(|_| source.unsupported(json!(start).to_string()))?;
    let model = t5::T5ForConditionalGeneration::load(source.weights(), &config)?;
    let fresh = move || Ok(Answering { model: model.clone(), read: None, said: 0 });
    let next = move |state: &mut Answering<t5::T5ForConditionalGeneration>, ids: &Tensor, _| {
        let (read, ids) = state.input(ids, start, t5::T5ForConditionalGeneration::encode)?;
        state.model.decode(&ids, &read)
    };
    Ok(Net::stateful(fresh, next)?)
}
