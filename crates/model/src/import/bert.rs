//! Hugging Face encoders of the BERT family.
//!
//! `config.json` says the sizes, the safetensors bring the weights, `tokenizer.json` is hashed into the model. With a
//! sentence-transformers folder (`modules.json`, `1_Pooling/config.json`) the output is the pooled sentence vector,
//! normalised if the modules say so; without one it is the last hidden state of every token.
//!
//! What the operator set states differently is folded here, exactly: the token type row into the position table, and
//! `log2(e)/√head_dim` into the queries' rows, weights and bias.
//!
//! Channels are stored in an [`Order`] that puts the massive ones first, so that the linear steps which read a norm's or an
//! activation's output can take those apart with 15 bits; a last step brings the source's order back.

use std::path::Path;

use hyperion_ops::{
    ActivationTable, AttentionShape, NormKind, NormShape, PoolMode, constant::attention_multiplier,
};
use serde::Deserialize;
use serde_json::Number;

use super::{
    Builder, ImportError, Progress,
    json::{eps_q32, optional, required},
    order::{Order, Parts as Division},
    source::{Source, SourceTensor, Tensors as _},
    tokenizer_hash,
};
use crate::{
    file::Parts,
    program::{Codes, Input, Op, ValueId},
    quantized::Matrix,
    real::{ROW_ONE, Real},
};

#[derive(Debug, Deserialize)]
struct Config {
    model_type: String,
    hidden_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    intermediate_size: usize,
    hidden_act: String,
    layer_norm_eps: Number,
    vocab_size: usize,
    max_position_embeddings: usize,
    #[serde(default)]
    position_embedding_type: Option<String>,
    #[serde(default)]
    is_decoder: bool,
}

/// `1_Pooling/config.json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Pooling {
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: bool,
    pooling_mode_max_tokens: bool,
    pooling_mode_mean_sqrt_len_tokens: bool,
    pooling_mode_lasttoken: bool,
}

#[derive(Debug, Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
    path: String,
}

#[derive(Debug, Deserialize)]
struct SentenceConfig {
    max_seq_length: Option<usize>,
}

/// Imports an encoder's folder.
///
/// # Errors
///
/// When a file cannot be read, the configuration asks for what the operator set does not have, or a tensor is missing,
/// of another shape or not finite.
pub fn bert(folder: &Path, progress: Progress<'_>) -> Result<Parts, ImportError> {
    let config: Config = required(&folder.join("config.json"))?;
    let sizes = Sizes::new(&config)?;
    let head = Head::of(folder)?;
    let sentence = optional::<SentenceConfig>(&folder.join("sentence_bert_config.json"))?;
    let positions = config.max_position_embeddings;
    let context = sentence
        .and_then(|sentence| sentence.max_seq_length)
        .map_or(positions, |max| max.min(positions));
    let tokenizer_hash = tokenizer_hash(folder)?;

    let source = Source::open(folder)?;
    let prefix = if source.has("bert.embeddings.word_embeddings.weight") { "bert." } else { "" };
    let context = u32::try_from(context).unwrap_or(u32::MAX);
    let mut import = Import {
        builder: Builder::new(Input::Tokens, context),
        source: &source,
        prefix,
        sizes: &sizes,
        order: Order::natural(sizes.hidden),
    };
    import.order = import.hidden_order(config.num_hidden_layers)?;
    let steps = config.num_hidden_layers.saturating_add(1);
    let mut value = import.embeddings(&config)?;
    progress(1, steps);
    for layer in 0..config.num_hidden_layers {
        value = import.layer(layer, value)?;
        progress(layer + 2, steps);
    }
    if !import.order.is_natural() {
        value = import.builder.restore(&import.order, sizes.hidden, value);
    }
    if let Some((mode, unit)) = head.pool {
        import.builder.push(Op::Pool { mode, unit }, &[value]);
    }
    import.builder.finish(tokenizer_hash)
}

/// What the configuration says, checked against the operator set.
struct Sizes {
    hidden: usize,
    inner: usize,
    attention: AttentionShape,
    /// `log2(e)/√head_dim`, the multiplier of the queries' rows.
    query_q30: u32,
    norm: NormShape,
    activation: ActivationTable,
}

impl Sizes {
    fn new(config: &Config) -> Result<Self, ImportError> {
        let unsupported = |key, got: &dyn ToString, want| ImportError::Unsupported {
            key,
            got: got.to_string(),
            want,
        };
        if config.model_type != "bert" {
            return Err(unsupported("model_type", &config.model_type, "`bert` is supported"));
        }
        if config.position_embedding_type.as_deref().is_some_and(|kind| kind != "absolute") {
            let got = config.position_embedding_type.clone().unwrap_or_default();
            return Err(unsupported("position_embedding_type", &got, "`absolute` is supported"));
        }
        if config.is_decoder {
            return Err(unsupported("is_decoder", &true, "encoders are supported"));
        }
        let activation = match config.hidden_act.as_str() {
            "gelu" => ActivationTable::Gelu,
            "gelu_new" | "gelu_pytorch_tanh" | "gelu_fast" => ActivationTable::GeluTanh,
            "relu" => ActivationTable::Relu,
            "silu" | "swish" => ActivationTable::Silu,
            _ => {
                return Err(unsupported(
                    "hidden_act",
                    &config.hidden_act,
                    "gelu, gelu_new, relu, silu are supported",
                ));
            }
        };
        let (hidden, heads) = (config.hidden_size, config.num_attention_heads);
        let head_dim = if heads > 0 && hidden % heads == 0 { hidden / heads } else { 0 };
        let small = |size: usize| u32::try_from(size).unwrap_or(u32::MAX);
        let attention = AttentionShape::new(small(heads), small(heads), small(head_dim))
            .ok_or_else(|| {
                unsupported(
                    "num_attention_heads",
                    &heads,
                    "it divides hidden_size into heads of at most 256",
                )
            })?;
        let query_q30 = attention_multiplier(attention.head_dim)
            .and_then(|multiplier| u32::try_from(multiplier).ok());
        let query_q30 = query_q30.ok_or_else(|| {
            unsupported("num_attention_heads", &heads, "heads of at least 2 columns")
        })?;
        let eps = eps_q32(&config.layer_norm_eps);
        let eps = eps.ok_or_else(|| {
            unsupported("layer_norm_eps", &config.layer_norm_eps, "a number from 0 to below 1")
        })?;
        let norm = NormShape::new(NormKind::Layer, eps, small(hidden));
        let norm =
            norm.ok_or_else(|| unsupported("hidden_size", &hidden, "1 to 16,384 is supported"))?;
        Ok(Self { hidden, inner: config.intermediate_size, attention, query_q30, norm, activation })
    }
}

/// What follows the last layer.
struct Head {
    pool: Option<(PoolMode, bool)>,
}

impl Head {
    fn of(folder: &Path) -> Result<Self, ImportError> {
        let Some(modules) = optional::<Vec<Module>>(&folder.join("modules.json"))? else {
            return Ok(Self { pool: None });
        };
        let mut head = Self { pool: None };
        for module in &modules {
            let kind = module.kind.rsplit('.').next().unwrap_or_default();
            match kind {
                "Transformer" => {}
                "Pooling" => {
                    head.pool = Some((
                        mode(&required(&folder.join(&module.path).join("config.json"))?)?,
                        false,
                    ));
                }
                "Normalize" => {
                    if let Some((_, unit)) = &mut head.pool {
                        *unit = true;
                    }
                }
                _ => {
                    let (got, want) =
                        (module.kind.clone(), "Transformer, Pooling, Normalize are supported");
                    return Err(ImportError::Unsupported { key: "modules.json type", got, want });
                }
            }
        }
        Ok(head)
    }
}

fn mode(pooling: &Pooling) -> Result<PoolMode, ImportError> {
    let Pooling {
        pooling_mode_cls_token: first,
        pooling_mode_mean_tokens: mean,
        pooling_mode_lasttoken: last,
        pooling_mode_max_tokens: max,
        pooling_mode_mean_sqrt_len_tokens: sqrt,
    } = pooling;
    match (first, mean, last, max | sqrt) {
        (true, false, false, false) => Ok(PoolMode::First),
        (false, true, false, false) => Ok(PoolMode::Mean),
        (false, false, true, false) => Ok(PoolMode::Last),
        _ => Err(ImportError::Unsupported {
            key: "1_Pooling/config.json",
            got: format!("{pooling:?}"),
            want: "exactly one of cls, mean, lasttoken is supported",
        }),
    }
}

struct Import<'a> {
    builder: Builder,
    source: &'a Source,
    prefix: &'a str,
    sizes: &'a Sizes,
    /// Of the hidden channels.
    order: Order,
}

impl Import<'_> {
    fn tensor(&self, name: &str, shape: &[usize]) -> Result<SourceTensor, ImportError> {
        self.source.get(&format!("{}{name}", self.prefix), shape)
    }

    /// Hidden channels by the norms whose outputs linear steps read: all but the last.
    fn hidden_order(&self, layers: usize) -> Result<Order, ImportError> {
        let hidden = self.sizes.hidden;
        // A count of layers that the tensors do not bear out ends at the first that is missing.
        let mut betas = vec![self.tensor("embeddings.LayerNorm.bias", &[hidden])?];
        for layer in 0..layers {
            for part in ["attention.output.LayerNorm", "output.LayerNorm"] {
                betas.push(self.tensor(&format!("encoder.layer.{layer}.{part}.bias"), &[hidden])?);
            }
        }
        betas.truncate((2 * layers).max(1));
        let values: Vec<_> = betas.iter().map(|beta| |channel| beta.value(channel)).collect();
        let values: Vec<&dyn Fn(usize) -> Option<Real>> =
            values.iter().map(|value| value as _).collect();
        Ok(Order::of_norms(hidden, &values))
    }

    fn embeddings(&mut self, config: &Config) -> Result<ValueId, ImportError> {
        let (hidden, order) = (self.sizes.hidden, &self.order);
        let words =
            self.tensor("embeddings.word_embeddings.weight", &[config.vocab_size, hidden])?;
        let value = |row: usize, column: usize| words.value(row * hidden + order.at(column));
        let matrix = Matrix::new(config.vocab_size, hidden, &value);
        let embed = |vocab, width, codes| Op::Embed { vocab, width, codes };
        let x = self.builder.table(&words.name, embed, Codes::W8r, &matrix, 0)?;

        let rows = config.max_position_embeddings;
        let positions = self.tensor("embeddings.position_embeddings.weight", &[rows, hidden])?;
        let types = "embeddings.token_type_embeddings.weight";
        let shape = self.source.shape(&format!("{}{types}", self.prefix));
        let kinds = shape.and_then(|shape| shape.first().copied()).unwrap_or(1).max(1);
        let types = self.tensor(types, &[kinds, hidden])?;
        // Every token of a request has type 0.
        let value = |row: usize, column: usize| {
            let column = order.at(column);
            Some(positions.value(row * hidden + column)?.plus(types.value(column)?))
        };
        let matrix = Matrix::new(rows, hidden, &value);
        let position = |context, width, codes| Op::Position { context, width, codes };
        let x = self.builder.table(&positions.name, position, Codes::I16, &matrix, x)?;
        self.norm("embeddings.LayerNorm", x)
    }

    fn layer(&mut self, layer: usize, x: ValueId) -> Result<ValueId, ImportError> {
        let name = |part: &str| format!("encoder.layer.{layer}.{part}");
        let hidden = self.sizes.hidden;
        let qkv = self.queries_keys_values(&name("attention.self"), x)?;
        let width = u32::try_from(hidden).expect("checked by the norm's shape");
        let [q, k, v] = [0, 1, 2]
            .map(|part| self.builder.push(Op::Columns { start: part * width, len: width }, &[qkv]));
        let context = self.builder.push(Op::Attention(self.sizes.attention), &[q, k, v]);
        let y = self.attention_output(&name("attention.output.dense"), context)?;
        let y = self.builder.push(Op::Add, &[y, x]);
        let x = self.norm(&name("attention.output.LayerNorm"), y)?;
        let y = self.feed_forward(&name("intermediate.dense"), &name("output.dense"), x)?;
        self.norm(&name("output.LayerNorm"), y)
    }

    /// One step for the three projections, so that a row is quantized once.
    fn queries_keys_values(&mut self, name: &str, x: ValueId) -> Result<ValueId, ImportError> {
        let (hidden, order) = (self.sizes.hidden, &self.order);
        let mut parts = Vec::new();
        for part in ["query", "key", "value"] {
            let weight = self.tensor(&format!("{name}.{part}.weight"), &[hidden, hidden])?;
            let bias = self.tensor(&format!("{name}.{part}.bias"), &[hidden])?;
            parts.push((weight, bias));
        }
        let value = |row: usize, column: usize| {
            parts[row / hidden].0.value(row % hidden * hidden + order.at(column))
        };
        let bias = |row: usize| parts[row / hidden].1.value(row % hidden);
        let multiplier = self.sizes.query_q30;
        let row_q30 = |row: usize| if row < hidden { multiplier } else { ROW_ONE };
        let matrix = Matrix { row_q30: Some(&row_q30), ..Matrix::new(3 * hidden, hidden, &value) };
        self.builder.divided_linear(
            &format!("{}{name}.{{query, key, value}}", self.prefix),
            &matrix,
            &bias,
            (x, Division::Two),
            None,
        )
    }

    /// The heads' outputs have no massive channels, so their row is not divided.
    fn attention_output(&mut self, name: &str, x: ValueId) -> Result<ValueId, ImportError> {
        let (hidden, order) = (self.sizes.hidden, &self.order);
        let weight = self.tensor(&format!("{name}.weight"), &[hidden, hidden])?;
        let bias = self.tensor(&format!("{name}.bias"), &[hidden])?;
        let value = |row: usize, column: usize| weight.value(order.at(row) * hidden + column);
        let bias = |row: usize| bias.value(order.at(row));
        let matrix = Matrix::new(hidden, hidden, &value);
        self.builder.linear(&weight.name, &matrix, Some(&bias), x)
    }

    /// Both linear steps around the activation, and the sum with their input; the channels between them have an order of
    /// their own.
    fn feed_forward(&mut self, up: &str, down: &str, x: ValueId) -> Result<ValueId, ImportError> {
        let (hidden, inner) = (self.sizes.hidden, self.sizes.inner);
        let order = &self.order;
        let down_weight = self.tensor(&format!("{down}.weight"), &[hidden, inner])?;
        let down_bias = self.tensor(&format!("{down}.bias"), &[hidden])?;
        let up_weight = self.tensor(&format!("{up}.weight"), &[inner, hidden])?;
        let up_bias = self.tensor(&format!("{up}.bias"), &[inner])?;
        let value = |row: usize, column: usize| down_weight.value(row * inner + column);
        let inner_order = Order::of_columns(&Matrix::new(hidden, inner, &value));

        let value = |row: usize, column: usize| {
            up_weight.value(inner_order.at(row) * hidden + order.at(column))
        };
        let bias = |row: usize| up_bias.value(inner_order.at(row));
        let y = self.builder.divided_linear(
            &up_weight.name,
            &Matrix::new(inner, hidden, &value),
            &bias,
            (x, Division::Two),
            None,
        )?;
        let y = self.builder.push(Op::Activation(self.sizes.activation), &[y]);
        let value = |row: usize, column: usize| {
            down_weight.value(order.at(row) * inner + inner_order.at(column))
        };
        let bias = |row: usize| down_bias.value(order.at(row));
        self.builder.divided_linear(
            &down_weight.name,
            &Matrix::new(hidden, inner, &value),
            &bias,
            (y, Division::Three),
            Some(x),
        )
    }

    fn norm(&mut self, name: &str, x: ValueId) -> Result<ValueId, ImportError> {
        let gamma = self.tensor(&format!("{name}.weight"), &[self.sizes.hidden])?;
        let beta = self.tensor(&format!("{name}.bias"), &[self.sizes.hidden])?;
        let order = &self.order;
        let gamma_at = |index: usize| gamma.value(order.at(index));
        let beta_at = |index: usize| beta.value(order.at(index));
        self.builder.norm(&gamma.name, self.sizes.norm, &gamma_at, Some(&beta_at), x)
    }
}
