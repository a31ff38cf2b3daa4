//! Generators that carry a state from token to token.

use candle_core::Tensor;
use candle_transformers::models::{mamba, mamba2, recurrent_gemma, rwkv_v5, rwkv_v6, rwkv_v7};

use super::Family;
use crate::{FloatError, Net, Source};

pub(super) const FAMILIES: &[Family] = &[
    Family { names: &["mamba"], module: "mamba", load: mamba },
    Family { names: &["mamba2"], module: "mamba2", load: mamba2 },
    Family { names: &["recurrent_gemma"], module: "recurrent_gemma", load: recurrent_gemma },
    Family { names: &["rwkv5"], module: "rwkv_v5", load: rwkv5 },
    Family { names: &["rwkv6"], module: "rwkv_v6", load: rwkv6 },
    Family { names: &["rwkv7"], module: "rwkv_v7", load: rwkv7 },
];

fn mamba(source: &Source<'_>) -> Result<Net, FloatError> {
    // What candle takes for granted.
    let fixed = [("state_size", 16), ("conv_kernel", 4), ("expand", 2)];
    if let Some((key, _)) =
        fixed.iter().find(|(key, is)| source.number(key).is_some_and(|n| n != *is))
    {
        return Err(source.unsupported(format!("a mamba with this {key} is not computed")));
    }
    let config = mamba::Config {
        d_model: source.want(&["d_model", "hidden_size"])?,
        n_layer: source.want(&["n_layer", "num_hidden_layers"])?,
        vocab_size: source.want(&["vocab_size"])?,
        pad_vocab_size_multiple: source.number("pad_vocab_size_multiple").unwrap_or(1),
    };
    let is_plural = source.has_tensor("backbone.embeddings.weight");
    let weights = source.weights().rename_f(move |name| {
        if is_plural {
            name.replace("backbone.embedding.", "backbone.embeddings.")
        } else {
            name.to_owned()
        }
    });
    let model = mamba::Model::new(&config, weights.pp("backbone"))?;
    let (dtype, device) = (source.dtype(), source.device());
    let fresh = move || mamba::State::new(1, &config, dtype, &device);
    let next =
        move |state: &mut mamba::State, id: &Tensor, _| model.forward(&id.squeeze(0)?, state);
    Ok(Net::one_by_one(fresh, next)?)
}

fn mamba2(source: &Source<'_>) -> Result<Net, FloatError> {
    let config: mamba2::Config = source.config()?;
    let model = mamba2::Model::new(&config, source.weights().pp("backbone"))?;
    let (dtype, device) = (source.dtype(), source.device());
    let fresh = move || mamba2::State::new(1, &config, dtype, &device);
    let next =
        move |state: &mut mamba2::State, id: &Tensor, _| model.forward(&id.squeeze(0)?, state);
    Ok(Net::one_by_one(fresh, next)?)
}

fn recurrent_gemma(source: &Source<'_>) -> Result<Net, FloatError> {
    let model = recurrent_gemma::Model::new(&source.config()?, source.weights_of("model"))?;
    Ok(Net::stateful(move || Ok(model.clone()), recurrent_gemma::Model::forward)?)
}

fn rwkv5(source: &Source<'_>) -> Result<Net, FloatError> {
    let config: rwkv_v5::Config = source.config()?;
    let model = rwkv_v5::Model::new(&config, source.weights())?;
    let device = source.device();
    let fresh = move || rwkv_v5::State::new(1, &config, &device);
    Ok(Net::one_by_one(fresh, move |state, id, _| model.forward(id, state))?)
}

fn rwkv6(source: &Source<'_>) -> Result<Net, FloatError> {
    let config: rwkv_v6::Config = source.config()?;
    let model = rwkv_v6::Model::new(&config, source.weights())?;
    let device = source.device();
    let fresh = move || rwkv_v6::State::new(1, &config, &device);
    Ok(Net::one_by_one(fresh, move |state, id, _| model.forward(id, state))?)
}

fn rwkv7(source: &Source<'_>) -> Result<Net, FloatError> {
    let config: rwkv_v7::Config = source.config()?;
    let model = rwkv_v7::Model::new(&config, source.weights())?;
    let (dtype, device) = (source.dtype(), source.device());
    let fresh = move || rwkv_v7::State::new_with_dtype(&config, &device, dtype);
    let next = move |state: &mut rwkv_v7::State, ids: &Tensor, _| {
        model.forward_seq(&ids.squeeze(0)?.to_vec1::<u32>()?, state)
    };
    Ok(Net::stateful(fresh, next)?)
}
