//! `hyperion infer`: one inference, and its receipt.

use std::{
    fs,
    io::{Read as _, stdin},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use hyperion_primitives::Dtype;
use hyperion_rpc::{
    client::{self, Client, ClientConfig},
    r#gen::v1,
    receipt_json::TensorData,
};
use hyperion_verify::{
    Domain,
    claim::{STOP_TEXT_BYTES_MAX, STOP_TEXTS_MAX},
};
use rand::{TryRngCore as _, rngs::OsRng};

use super::{Exit, out::say};
use crate::config::ChainSpec;

/// Ask a node for one inference and keep the receipt.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model's alias, or its id.
    model: String,
    /// File with the input's elements, little-endian: i32 Q16 rows, or u32 token ids; `-` reads standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "text", required_unless_present = "text")]
    input: Option<PathBuf>,
    /// Text, for a model that reads text.
    #[arg(long)]
    text: Option<String>,
    /// Send the text as the message of a chat, by the model's own template.
    #[arg(long, requires = "text")]
    chat: bool,
    /// Tokens of the answer at most, for a model that generates; 0: as many as it has room for.
    #[arg(long, default_value_t = 0)]
    tokens: u32,
    #[command(flatten)]
    draws: Draws,
    /// How far to wait: until the claim is signed, or until it is in the log.
    #[arg(long, value_enum, default_value_t = Wait::Signed)]
    wait: Wait,
    /// File to write the receipt to; waits until the claim is in the log.
    #[arg(long, value_name = "FILE")]
    receipt: Option<PathBuf>,
    /// The node's gRPC address.
    #[arg(long, default_value = "http://127.0.0.1:8001")]
    node: String,
    /// API key.
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// The chain's spec, for its chain id and contract; without it the devnet's.
    #[arg(long, value_name = "FILE")]
    chain_file: Option<PathBuf>,
}

/// How a model that generates draws its tokens.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Draws {
    /// Temperature of the draws; 0 takes the likeliest token.
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Leave out tokens less likely than this share of the likeliest one's odds, 0 to 1.
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    min_p: f64,
    /// Divide positive logits of tokens that prompt or answer hold by this, multiply others, 1/8 to 8; 1 changes nothing.
    #[arg(long, value_name = "R", default_value_t = 1.0)]
    repetition_penalty: f64,
    /// End the answer at this text, which is not shown; may be repeated, up to 4 times.
    #[arg(long, value_name = "TEXT")]
    stop: Vec<String>,
}

/// How far to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Wait {
    /// The claim exists.
    Signed,
    /// A checkpoint covers it.
    Logged,
}

impl Arguments {
    /// A text for a model of a node, and where its receipt goes.
    pub(super) fn text(model: &str, text: &str, node: &str, receipt: PathBuf) -> Self {
        Self {
            model: model.to_owned(),
            input: None,
            text: Some(text.to_owned()),
            chat: false,
            tokens: 0,
            draws: Draws::none(),
            wait: Wait::Logged,
            receipt: Some(receipt),
            node: node.to_owned(),
            token: None,
            chain_file: None,
        }
    }
}

impl Arguments {
    /// The same as a message of a chat, with an answer of so many tokens at most.
    pub(super) fn in_chat(self, tokens: u32) -> Self {
        Self { chat: true, tokens, ..self }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let chain = ChainSpec::load(arguments.chain_file.as_deref().unwrap_or(Path::new("")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(arguments, crate::wire::domain(&chain)))
}

/// Asks, writes the receipt where one is wanted, and prints the answer's lines.
pub(super) async fn ask(arguments: &Arguments, domain: Domain) -> Result<()> {
    let config = ClientConfig { token: arguments.token.clone(), ..ClientConfig::default() };
    let mut node = Client::connect(&arguments.node, &config)
        .await
        .map_err(|error| anyhow::Error::from(error).context(Exit::Unreachable))?;
    let wanted = arguments.receipt.is_some() || arguments.wait == Wait::Logged;
    let mut nonce = [0; 32];
    OsRng.try_fill_bytes(&mut nonce).context("the system's random source")?;
    let mut request = v1::InferRequest {
        model: arguments.model.clone(),
        // A nonce of our own: asking again after a lost answer finds the stored one.
        request: Some(v1::Request { nonce: nonce.to_vec().into(), ..v1::Request::default() }),
        sampling: arguments.draws.sampling(arguments.tokens)?,
        wait_for: if wanted { v1::WaitFor::Logged } else { v1::WaitFor::Signed }.into(),
        ..v1::InferRequest::default()
    };
    let input = match &arguments.text {
        Some(text) => {
            request.input = Some(if arguments.chat {
                let turn = v1::ChatTurn { role: "user".to_owned(), content: text.clone() };
                v1::infer_request::Input::Chat(v1::ChatInput { turns: vec![turn] })
            } else {
                v1::infer_request::Input::Text(text.clone())
            });
            None
        }
        None => {
            let tensor = tensor(arguments, &mut node).await?;
            request.input = Some(v1::infer_request::Input::Tensors(v1::TensorInput {
                tensors: vec![v1::Tensor {
                    name: String::new(),
                    dtype: tensor.dtype.code().into(),
                    dims: tensor.dims.clone(),
                    body: Some(v1::tensor::Body::Data(tensor.data.clone().into())),
                }],
            }));
            Some(vec![tensor])
        }
    };
    let answer = node.inference.infer(request).await;
    let answer = answer
        .map_err(|status| anyhow::anyhow!("{}: {}", status.code(), status.message()))?
        .into_inner();
    let digest = client::claim_digest(&domain, &answer)?;
    let mut lines = Vec::new();
    if !answer.tokens.is_empty() {
        lines.push(format!("answer   {}", answer.text));
        lines.push(format!("tokens   {}  {}", answer.tokens.len(), answer.finish_reason));
    }
    for output in &answer.outputs {
        let output = client::tensor_data(output.clone())?;
        let dims: Vec<_> = output.dims.iter().map(u64::to_string).collect();
        lines.push(format!("output   {}[{}]{}", output.dtype, dims.join(","), best(&output)));
    }
    let claim = answer
        .claim
        .as_ref()
        .and_then(|signed| signed.claim.as_ref())
        .context("the answer has no claim")?;
    let worker = hex::encode(&claim.worker);
    lines.push(format!("claim    {digest}  macs {}  worker 0x{worker}", claim.macs));
    let reached = answer.reached;
    if wanted {
        // What a text became is what the claim is about, and what whoever recomputes it needs.
        let of_text = || {
            let data: Vec<u8> =
                answer.input_tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
            vec![TensorData { dtype: Dtype::U32, dims: vec![data.len() as u64 / 4, 1], data }]
        };
        let input = input.unwrap_or_else(of_text);
        let envelope = client::envelope(domain, answer, Some(input))?;
        let receipt = envelope.receipt()?;
        let checkpoint = &receipt.note.checkpoint;
        lines.push(format!(
            "log      entry {} of {}  checkpoint {}",
            receipt.index, checkpoint.size, checkpoint.origin
        ));
        lines.push(tier(reached));
        if let Some(path) = &arguments.receipt {
            fs::write(path, envelope.to_json())
                .with_context(|| format!("writing {}", path.display()))?;
        }
    }
    // Printed last, so that the receipt is kept also when nobody reads to the end.
    lines.iter().try_for_each(|line| say!("{line}"))
}

impl Draws {
    /// The likeliest token each time.
    const fn none() -> Self {
        Self { temperature: 0.0, min_p: 0.0, repetition_penalty: 1.0, stop: Vec::new() }
    }

    /// Settings of an answer of so many tokens at most; `None` where nothing is asked for.
    ///
    /// # Errors
    ///
    /// When a number is out of range.
    pub(super) fn sampling(&self, tokens_max: u32) -> Result<Option<v1::Sampling>> {
        let q16 = |name: &str, value: f64, (least, most): (f64, f64), want: &str| {
            let scaled = (value * 65_536.0 + 0.5).floor();
            if (least * 65_536.0..=most * 65_536.0).contains(&scaled) {
                return Ok(scaled as u32);
            }
            bail!("--{name} {value}: want {want}")
        };
        let Self { temperature, min_p, repetition_penalty, ref stop } = *self;
        let fits = |text: &String| (1..=STOP_TEXT_BYTES_MAX).contains(&text.len());
        if stop.len() > STOP_TEXTS_MAX || !stop.iter().all(fits) {
            bail!(
                "--stop: want {STOP_TEXTS_MAX} texts at most, of 1 to {STOP_TEXT_BYTES_MAX} bytes"
            );
        }
        let want = "0, or above 0.01 and at most 100";
        let repetition_q16 =
            q16("repetition-penalty", repetition_penalty, (0.125, 8.0), "1/8 to 8")?;
        let sampling = v1::Sampling {
            temperature_q16: q16("temperature", temperature, (0.0, 100.0), want)?,
            tokens_max,
            min_p_q16: q16("min-p", min_p, (0.0, 1.0), "0 to 1")?,
            repetition_q16: if repetition_q16 == 65_536 { 0 } else { repetition_q16 },
            stop_texts: stop.clone(),
            ..v1::Sampling::default()
        };
        Ok((sampling != v1::Sampling::default()).then_some(sampling))
    }
}

/// What the answer's tier means.
fn tier(reached: u32) -> String {
    match reached {
        0 => "tier     attested only: a worker's word, which nobody can recompute".to_owned(),
        tier => format!("tier     T{tier} reached"),
    }
}

/// The largest element's index, for outputs that look like a classifier's.
fn best(output: &TensorData) -> String {
    if output.dtype != Dtype::I32 || output.dims.first() != Some(&1) || output.data.len() > 4096 {
        return String::new();
    }
    let (words, _) = output.data.as_chunks::<4>();
    let best = words
        .iter()
        .enumerate()
        .max_by_key(|(index, word)| (i32::from_le_bytes(**word), usize::MAX - index));
    best.map_or_else(String::new, |(index, _)| format!("  argmax {index}"))
}

/// The input file as a tensor of the shape that the node's model wants.
async fn tensor(arguments: &Arguments, node: &mut Client) -> Result<TensorData> {
    let path = arguments.input.as_ref().context("an input is required")?;
    let mut data = Vec::new();
    if path.as_os_str() == "-" {
        stdin().read_to_end(&mut data).context("reading standard input")?;
    } else {
        data = fs::read(path).with_context(|| format!("reading {}", path.display()))?;
    }
    let models =
        node.inference.list_models(v1::ListModelsRequest::default()).await?.into_inner().models;
    let named = |model: &&v1::Model| {
        model.alias == arguments.model
            || format!("0x{}", hex::encode(&model.model_id)) == arguments.model
    };
    let model = models
        .iter()
        .find(named)
        .with_context(|| format!("the node has no model `{}`", arguments.model))?;
    let spec = model.inputs.first().context("the model has an input")?;
    let dtype = u8::try_from(spec.dtype)
        .ok()
        .and_then(Dtype::from_code)
        .context("an element type we know")?;
    let width = spec.dims.last().and_then(|dim| u64::try_from(*dim).ok()).unwrap_or(1).max(1);
    let row_bytes = width * dtype.bytes() as u64;
    if data.is_empty() || !(data.len() as u64).is_multiple_of(row_bytes) {
        bail!(
            "{} has {} bytes; `{}` wants rows of {row_bytes}",
            path.display(),
            data.len(),
            arguments.model
        );
    }
    Ok(TensorData { dtype, dims: vec![data.len() as u64 / row_bytes, width], data })
}
