//! Families that turn a text into rows of numbers.

use candle_core::{DType, Module as _, Tensor};
use candle_transformers::models::{
    bert, debertav2, distilbert, jina_bert, modernbert, nomic_bert, xlm_roberta,
};

use super::Family;
use crate::{FloatError, Net, Source};

pub(super) const FAMILIES: &[Family] = &[
    Family { names: &["bert"], module: "bert", load: bert },
    Family { names: &["deberta-v2"], module: "debertav2", load: deberta },
    Family { names: &["distilbert"], module: "distilbert", load: distilbert },
    Family { names: &["jina_bert"], module: "jina_bert", load: jina },
    Family { names: &["modernbert"], module: "modernbert", load: modernbert },
    Family { names: &["nomic_bert"], module: "nomic_bert", load: nomic },
    Family { names: &["roberta", "xlm-roberta"], module: "xlm_roberta", load: roberta },
];

fn bert(source: &Source<'_>) -> Result<Net, FloatError> {
    // Jina's second models call themselves so.
    if source.text("position_embedding_type") == "alibi" {
        return jina(source);
    }
    let model = bert::BertModel::load(source.weights_of("bert"), &source.config()?)?;
    let rows = move |ids: &Tensor| model.forward(ids, &ids.zeros_like()?, None);
    Ok(Net::embeds(source.want(&["hidden_size"])?, rows))
}

fn deberta(source: &Source<'_>) -> Result<Net, FloatError> {
    let model = debertav2::DebertaV2Model::load(source.weights_of("deberta"), &source.config()?)?;
    Ok(Net::embeds(source.want(&["hidden_size"])?, move |ids| model.forward(ids, None, None)))
}

fn distilbert(source: &Source<'_>) -> Result<Net, FloatError> {
    let weights = source.weights_of("distilbert");
    let model = distilbert::DistilBertModel::load(weights, &source.config()?)?;
    // Here a mask says what is hidden.
    let rows = move |ids: &Tensor| {
        let (_, len) = ids.dims2()?;
        model.forward(ids, &Tensor::zeros((1, 1, 1, len), DType::U8, ids.device())?)
    };
    Ok(Net::embeds(source.want(&["dim"])?, rows))
}

fn jina(source: &Source<'_>) -> Result<Net, FloatError> {
    let model = jina_bert::BertModel::new(source.weights_of("bert"), &source.config()?)?;
    Ok(Net::embeds(source.want(&["hidden_size"])?, move |ids| model.forward(ids)))
}

fn modernbert(source: &Source<'_>) -> Result<Net, FloatError> {
    // Looked for with a prefix that not every file has.
    let has_it = source.has_tensor("model.embeddings.tok_embeddings.weight");
    let is_bare = source.has_tensor("embeddings.tok_embeddings.weight") && !has_it;
    let weights = source.weights().rename_f(move |name| {
        let bare = name.strip_prefix("model.").filter(|_| is_bare);
        bare.unwrap_or(name).to_owned()
    });
    let model = modernbert::ModernBert::load(weights, &source.config()?)?;
    let rows = move |ids: &Tensor| model.forward(ids, &ids.ones_like()?);
    Ok(Net::embeds(source.want(&["hidden_size"])?, rows))
}

fn nomic(source: &Source<'_>) -> Result<Net, FloatError> {
    let config: nomic_bert::Config = source.config()?;
    if config.prenorm || config.activation_function != "swiglu" {
        return Err(source.unsupported("a nomic_bert with these layers is not computed"));
    }
    let (width, model) =
        (config.n_embd, nomic_bert::NomicBertModel::load(source.weights(), &config)?);
    Ok(Net::embeds(width, move |ids| model.forward(ids, None, None)))
}

fn roberta(source: &Source<'_>) -> Result<Net, FloatError> {
    let weights = source.weights_of("roberta");
    let model = xlm_roberta::XLMRobertaModel::new(&source.config()?, weights)?;
    let rows = move |ids: &Tensor| {
        model.forward(ids, &ids.ones_like()?, &ids.zeros_like()?, None, None, None)
    };
    Ok(Net::embeds(source.want(&["hidden_size"])?, rows))
}
