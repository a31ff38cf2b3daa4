//! `hyperion chat`: a conversation in the terminal, every answer claimed.

use std::{
    fs,
    io::{BufRead as _, IsTerminal as _, stdin},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use hyperion_primitives::Dtype;
use hyperion_rpc::{
    client::{self, Client, ClientConfig},
    r#gen::v1::{self, infer_stream_response::Event},
    receipt_json::TensorData,
};
use hyperion_verify::Domain;
use rand::{TryRngCore as _, rngs::OsRng};

use super::{
    Exit, infer,
    out::{say, write},
};
use crate::config::ChainSpec;

/// Talk to a model of a node; every answer is claimed, and can be kept as a receipt.
///
/// A line is a message. `/receipt FILE` keeps the last answer's receipt, `/new` begins anew, `/quit` or the end of the input
/// ends.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The model's alias, or its id.
    model: String,
    /// What the model is told before the conversation.
    #[arg(long)]
    system: Option<String>,
    /// Tokens of an answer at most; 0: as many as the model has room for.
    #[arg(long, default_value_t = 256)]
    tokens: u32,
    #[command(flatten)]
    draws: infer::Draws,
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

/// How often a receipt is asked for that the log does not hold yet, and how long between.
const RECEIPT_TRIES: u32 = 20;
const RECEIPT_PAUSE: Duration = Duration::from_millis(250);

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let chain = ChainSpec::load(arguments.chain_file.as_deref().unwrap_or(Path::new("")))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(talk(arguments, crate::wire::domain(&chain)))
}

/// A conversation, as it is sent anew with every message.
struct Conversation<'a> {
    arguments: &'a Arguments,
    domain: Domain,
    node: Client,
    sampling: Option<v1::Sampling>,
    turns: Vec<v1::ChatTurn>,
    last: Option<v1::InferResponse>,
}

async fn talk(arguments: &Arguments, domain: Domain) -> Result<()> {
    let sampling = arguments.draws.sampling(arguments.tokens)?;
    let config = ClientConfig { token: arguments.token.clone(), ..ClientConfig::default() };
    let node = Client::connect(&arguments.node, &config)
        .await
        .map_err(|error| anyhow::Error::from(error).context(Exit::Unreachable))?;
    let mut conversation =
        Conversation { arguments, domain, node, sampling, turns: Vec::new(), last: None };
    conversation.begin();
    let asks = stdin().is_terminal();
    let mut line = String::new();
    loop {
        if asks {
            write(format_args!("> "))?;
        }
        line.clear();
        if stdin().lock().read_line(&mut line).context("reading standard input")? == 0 {
            return Ok(());
        }
        match line.trim() {
            "" => {}
            "/quit" => return Ok(()),
            "/new" => conversation.begin(),
            command if command.starts_with("/receipt") => {
                let file = command.trim_start_matches("/receipt").trim();
                conversation.keep_receipt(file).await?;
            }
            message => conversation.say(message).await?,
        }
    }
}

impl Conversation<'_> {
    fn begin(&mut self) {
        let system = self.arguments.system.iter();
        let turn =
            |content: &String| v1::ChatTurn { role: "system".into(), content: content.clone() };
        self.turns = system.map(turn).collect();
        self.last = None;
    }

    /// Sends a message and prints the answer as it comes.
    async fn say(&mut self, message: &str) -> Result<()> {
        self.turns.push(v1::ChatTurn { role: "user".into(), content: message.to_owned() });
        let mut nonce = [0; 32];
        OsRng.try_fill_bytes(&mut nonce).context("the system's random source")?;
        let request = v1::InferRequest {
            model: self.arguments.model.clone(),
            input: Some(v1::infer_request::Input::Chat(v1::ChatInput {
                turns: self.turns.clone(),
            })),
            sampling: self.sampling.clone(),
            // The least tier that the model's claims have.
            request: Some(v1::Request { nonce: nonce.to_vec().into(), ..v1::Request::default() }),
            ..v1::InferRequest::default()
        };
        let stream = v1::InferStreamRequest { request: Some(request), resume_at: 0 };
        let mut events = match self.node.inference.infer_stream(stream).await {
            Ok(events) => events.into_inner(),
            Err(status) => bail!("{}: {}", status.code(), status.message()),
        };
        let done = loop {
            match events.message().await {
                Ok(Some(event)) => match event.event {
                    Some(Event::Delta(delta)) => {
                        write(format_args!("{}", String::from_utf8_lossy(&delta.text)))?;
                    }
                    Some(Event::Done(done)) => break done,
                    Some(Event::Accepted(_)) | None => {}
                },
                Ok(None) => bail!("the node ended the answer before its claim"),
                Err(status) => bail!("{}: {}", status.code(), status.message()),
            }
        };
        let digest = client::claim_digest(&self.domain, &done)?;
        let worth = if done.reached == 0 { ", attested only" } else { "" };
        say!("\n[{} tokens, {}, claim {digest}{worth}]", done.tokens.len(), done.finish_reason)?;
        self.turns.push(v1::ChatTurn { role: "assistant".into(), content: done.text.clone() });
        self.last = Some(done);
        Ok(())
    }

    /// Writes the last answer's receipt once the log holds its claim.
    async fn keep_receipt(&mut self, file: &str) -> Result<()> {
        let Some(mut answer) = self.last.clone() else { return say!("there is no answer yet") };
        if file.is_empty() {
            return say!("/receipt FILE: which file?");
        }
        let digest = client::claim_digest(&self.domain, &answer)?;
        let claim_digest: Vec<u8> = digest.0.to_vec();
        let asked = v1::GetReceiptRequest { claim_digest: claim_digest.into(), size: 0 };
        let mut tries = 0..RECEIPT_TRIES;
        let found = loop {
            match self.node.inference.get_receipt(asked.clone()).await {
                Ok(found) => break found.into_inner(),
                // The log is a block behind the answer.
                Err(_) if tries.next().is_some() => tokio::time::sleep(RECEIPT_PAUSE).await,
                Err(status) => return say!("no receipt yet: {}; try again", status.message()),
            }
        };
        answer.receipt = found.receipt;
        let data: Vec<u8> = answer.input_tokens.iter().flat_map(|id| id.to_le_bytes()).collect();
        let input = TensorData { dtype: Dtype::U32, dims: vec![data.len() as u64 / 4, 1], data };
        let envelope = client::envelope(self.domain, answer, Some(vec![input]))?;
        fs::write(file, envelope.to_json()).with_context(|| format!("writing {file}"))?;
        say!("{file}")
    }
}
