//! `hyperion demo`: the main job from end to end, in one process and on embedded defaults.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{Address, Bytes, TxKind, U256, hex, keccak256};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use alloy_sol_types::{SolCall as _, SolError as _, SolValue as _, sol};
use anyhow::{Context as _, Result, bail, ensure};
use hyperion_executor::{TxOutcome, revm::context::result::ExecutionResult};
use hyperion_model::{Tokenizer, import::Precision};
use hyperion_primitives::B256;
use hyperion_rpc::{receipt_json::Envelope, serve::Shutdown, writing::TextDecoder as _};

use super::{infer, model, out::say, verify};
use crate::{
    chain::{Mined, Transactions},
    config::{ChainSpec, NodeConfig},
    metrics::Metrics,
    served::{self, embedded},
    wire::{self, Node, domain},
};

/// Import a real model, serve it, keep and check receipts, have a contract write text, and let one pay for an answer.
///
/// One process does it all in a temporary folder: nothing has to be running, and nothing is kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Folder of all-MiniLM-L6-v2: config.json, model.safetensors, tokenizer.json. `scripts/setup.sh` fetches it.
    #[arg(long, value_name = "DIR")]
    minilm: PathBuf,
}

/// What agents ask for: meanings of real sentences.
const SENTENCES: [&str; 3] = [
    "The same bytes come out on every machine.",
    "Integer arithmetic gives identical results everywhere.",
    "The cat sleeps on the warm windowsill.",
];
/// What the language model is asked; it was trained on Python's documentation.
const MESSAGE: &str = "Explain str.join";
const ANSWER_TOKENS: u32 = 64;
const QUESTION: &str = "How can I keep bread from going stale?";
const RIGHT: &str =
    "Bread stays fresh for longer when you keep it in a paper bag inside a bread box.";
const WRONG: &str = "The stock market closed higher on Friday after strong earnings.";
/// Cosines in Q15 that the bounty pays for: 0.55 to 0.97.
const BOUNDS: [i32; 2] = [18_022, 31_785];
const COIN: u128 = 1_000_000_000_000_000_000;
const REWARD: u128 = 5 * COIN;

/// Keys of the first three accounts of the public test mnemonic. Everybody has them.
const KEYS: [[u8; 32]; 3] = [
    hex!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"),
    hex!("59c6995e998f97a5a0044966f0945389dc9e86dae88c7a8412f4603b6b78690d"),
    hex!("5de4111afa1a4b94908f83103eb1f1706367c2e68ca870fc3fb9a804cdab365a"),
];

const TELLER: &str = include_str!("../../../../contracts/artifacts/Teller.json");
const BOUNTY: &str = include_str!("../../../../contracts/artifacts/SemanticBounty.json");

sol! {
    interface Teller {
        event Told(address indexed asker, uint256 indexed number, bytes prompt, bytes text);
        function tell(bytes calldata prompt, uint32 tokens) external returns (uint256 number);
    }

    interface SemanticBounty {
        event Asked(uint256 indexed id, address indexed asker, uint256 reward, bytes tokens, bytes embedding);
        event Answered(uint256 indexed id, address indexed answerer, int256 cosineQ15, bytes tokens);
        error TooFar(int256 cosineQ15, int256 floorQ15);
        function ask(bytes calldata tokens, int32 floorQ15, int32 ceilingQ15, uint64 deadline) external payable returns (uint256 id);
        function commit(bytes32 commitment) external;
        function answer(uint256 id, bytes calldata tokens, bytes32 salt, bytes calldata embedding) external;
        function withdraw() external;
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let folder = tempfile::tempdir().context("a temporary folder")?;
    let file = folder.path().join("minilm.hyp");
    say!("== 1. A published model becomes an exact one")?;
    model::import_model(&arguments.minilm, &file, Precision::EightBits)?;

    let mut config = NodeConfig::dev(folder.path().join("node"));
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    (config.grpc.listen, config.http.listen) = (any, any);
    config.models.entry("minilm".to_owned()).or_default().path.clone_from(&file);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(config.grpc.serving_threads())
        .enable_all()
        .build()
        .context("the threads that serve sockets")?;
    let demo = Demo { config, file, receipts: folder.path().to_owned() };
    let key = runtime.block_on(demo.serve())?;

    say!(
        "\n== 6. The node is gone; each receipt is checked offline, and its result computed again"
    )?;
    for (index, sentence) in SENTENCES.iter().chain([&MESSAGE]).enumerate() {
        say!("-- {sentence}")?;
        verify::run(&verify::Arguments {
            receipt: demo.receipt(index),
            log_key: vec![key.clone()],
            recompute: true,
            models: vec![demo.file.clone()],
            threads: 0,
        })?;
    }
    say!("\nEverything held.")?;
    Ok(())
}

struct Demo {
    config: NodeConfig,
    file: PathBuf,
    receipts: PathBuf,
}

impl Demo {
    fn receipt(&self, index: usize) -> PathBuf {
        self.receipts.join(format!("receipt-{index}.json"))
    }

    /// Steps that need a running node; returns the public key of its log.
    async fn serve(&self) -> Result<String> {
        let mut served = served::models(&self.config)?;
        served.extend(embedded::all()?);
        let listeners = wire::listen(&self.config).await?;
        let node = Node::start(&self.config, &served, |error| {
            tracing::error!(%error, "the store refuses blocks");
        })?;
        let backend = node.engine.stats().devices.first().map(|device| device.info.kernels.clone());
        let backend = backend.context("an engine has a device")?.to_string();
        let metrics =
            Arc::new(Metrics::new(node.engine.clone(), Arc::clone(&node.ledger), backend.clone()));
        let shutdown = Shutdown::default();
        let door = node.door(&self.config, &served, &metrics, shutdown.clone())?;
        let address = format!("http://{}", listeners.grpc_address());
        let serving = tokio::spawn(listeners.serve(door, axum::Router::new()));

        say!("\n== 2. Real sentences over gRPC to {address}, run on {backend}")?;
        for (index, sentence) in SENTENCES.iter().enumerate() {
            say!("-- {sentence}")?;
            let ask = infer::Arguments::text("minilm", sentence, &address, self.receipt(index));
            infer::ask(&ask, domain(&node.chain)).await?;
        }

        say!("\n== 3. A small language model answers, token by token in exact integers")?;
        say!("-- {MESSAGE}")?;
        let receipt = self.receipt(SENTENCES.len());
        let ask = infer::Arguments::text("pydoc", MESSAGE, &address, receipt);
        infer::ask(&ask.in_chat(ANSWER_TOKENS), domain(&node.chain)).await?;

        let (spec, txs) = (node.chain.clone(), node.transactions.clone());
        let (file, key) = (self.file.clone(), node.ledger.key().to_string());
        let answered = self.receipt(SENTENCES.len());
        tokio::task::spawn_blocking(move || contracts(&spec, &txs, &file, &answered)).await??;

        shutdown.drain.cancel();
        shutdown.stop.cancel();
        serving.await??;
        drop(metrics);
        tokio::task::spawn_blocking(move || node.stop()).await.context("stopping")??;
        Ok(key)
    }
}

/// A funded account and the nonce of its next transaction.
struct Account<'t> {
    key: PrivateKeySigner,
    nonce: u64,
    spec: &'t ChainSpec,
    txs: &'t Transactions,
}

impl Account<'_> {
    /// Sends a transaction and waits until its block is durable.
    fn send(&mut self, to: TxKind, value: u128, data: Vec<u8>) -> Result<ExecutionResult> {
        let tx = TxEip1559 {
            chain_id: self.spec.chain_id,
            nonce: self.nonce,
            gas_limit: 10_000_000,
            max_fee_per_gas: u128::from(self.spec.base_fee) + 1,
            max_priority_fee_per_gas: 1,
            to,
            value: U256::from(value),
            input: data.into(),
            ..TxEip1559::default()
        };
        self.nonce += 1;
        let signature = self.key.sign_hash_sync(&tx.signature_hash())?;
        let bytes = TxEnvelope::from(tx.into_signed(signature)).encoded_2718();
        let told = self.txs.send(bytes)?;
        let Mined { outcome, .. } =
            told.recv_timeout(Duration::from_secs(60)).context("waiting for the block")??;
        match outcome {
            TxOutcome::Executed { result, .. } => Ok(result),
            TxOutcome::Skipped(reason) => bail!("the transaction was skipped: {reason:?}"),
            TxOutcome::SetAside { model, lost } => bail!("model {model}: {lost}"),
        }
    }

    fn address(&self) -> Address {
        self.key.address()
    }
}

/// Has contracts use the models. `file` is the encoder's, `answered` the receipt of what the language model said to [`MESSAGE`].
fn contracts(spec: &ChainSpec, txs: &Transactions, file: &Path, answered: &Path) -> Result<()> {
    let mut accounts = KEYS.map(|key| Account {
        key: PrivateKeySigner::from_slice(&key).expect("a key of the test mnemonic"),
        nonce: 0,
        spec,
        txs,
    });
    say!("\n== 4. A contract has the same model write the same answer, inside a transaction")?;
    tell(&mut accounts[0], answered)?;
    say!("\n== 5. A contract pays for the answer whose meaning is near")?;
    bounty(&mut accounts, file)
}

/// Deploys the contract that has a model write, and compares what it writes with the answer over gRPC.
fn tell(asker: &mut Account<'_>, answered: &Path) -> Result<()> {
    let pydoc = embedded::pydoc()?;
    let words = pydoc.text.as_ref().zip(pydoc.advice.as_ref());
    let (text, advice) = words.context("the language model has words")?;
    let message = serde_json::json!({ "role": "user", "content": MESSAGE });
    let prompt = text.chat(&[message], None).map_err(anyhow::Error::msg)?;
    let prompt: Vec<u8> = prompt.into_iter().flat_map(u32::to_le_bytes).collect();
    let end = *advice.end_ids.first().context("the language model says when it has ended")?;

    let arguments = (pydoc.model.id().0, end).abi_encode_params();
    let contract = deploy(asker, TELLER, arguments)?;
    let call = Teller::tellCall { prompt: prompt.into(), tokens: ANSWER_TOKENS };
    let told = asker.send(TxKind::Call(contract), 0, call.abi_encode())?;
    let said = event::<Teller::Told>(&told)?.text;
    let tokens = ids(&said);
    say!("tell      \"{MESSAGE}\": {} tokens  gas {}", tokens.len(), told.tx_gas_used())?;
    say!("text      {}", text.decode(&tokens).map_err(anyhow::Error::msg)?)?;
    let envelope = Envelope::parse(&std::fs::read_to_string(answered)?)?;
    let output = envelope.output.and_then(|outputs| outputs.into_iter().next());
    let mut over_grpc = ids(&output.context("the receipt holds the answer")?.data);
    over_grpc.retain(|id| *id != end);
    ensure!(over_grpc == tokens, "over gRPC the answer was {over_grpc:?}, here {tokens:?}");
    say!("equal     to the answer over gRPC, token by token")?;
    Ok(())
}

fn ids(tokens: &[u8]) -> Vec<u32> {
    tokens.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// Deploys a contract and says where.
fn deploy(owner: &mut Account<'_>, artifact: &str, arguments: Vec<u8>) -> Result<Address> {
    let artifact: serde_json::Value = serde_json::from_str(artifact)?;
    let code = artifact["bytecode"].as_str().context("the artifact has bytecode")?;
    let deployed = owner.send(TxKind::Create, 0, [hex::decode(code)?, arguments].concat())?;
    let contract = deployed.created_address().context("the contract was not deployed")?;
    say!("deploy    {contract}  gas {}", deployed.tx_gas_used())?;
    Ok(contract)
}

/// Deploys the bounty contract, asks a question, and lets a wrong and a right answer come.
fn bounty(accounts: &mut [Account<'_>; 3], file: &Path) -> Result<()> {
    let [asker, right, wrong] = accounts;
    let model = hyperion_model::Model::open(file, hyperion_model::Trust::Nothing)?;
    let tokenizer =
        Tokenizer::open(&file.with_extension("tokenizer.json"), model.program().context())?;
    let ids = |text: &str| tokenizer.encode(text);
    let bytes = |text: &str| -> Result<Bytes> {
        Ok(ids(text)?.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<_>>().into())
    };
    let framed = ids(QUESTION)?;
    let (first, last) = framed.first().zip(framed.last()).context("a text has tokens")?;
    let arguments = (model.id().0, *first, *last).abi_encode_params();
    let to = TxKind::Call(deploy(asker, BOUNTY, arguments)?);

    let ask = SemanticBounty::askCall {
        tokens: bytes(QUESTION)?,
        floorQ15: BOUNDS[0],
        ceilingQ15: BOUNDS[1],
        deadline: u64::MAX,
    };
    let asked = asker.send(to, REWARD, ask.abi_encode())?;
    let event = event::<SemanticBounty::Asked>(&asked)?;
    say!(
        "ask       {} coins for \"{QUESTION}\", cosine {:.2} to {:.2}  gas {}",
        REWARD / COIN,
        q15(BOUNDS[0]),
        q15(BOUNDS[1]),
        asked.tx_gas_used()
    )?;

    let answer = |account: &mut Account<'_>, text: &str| -> Result<ExecutionResult> {
        let tokens = bytes(text)?;
        let salt = B256::repeat_byte(7);
        let commitment =
            keccak256((event.id, account.address(), keccak256(&tokens), salt).abi_encode());
        let committed =
            account.send(to, 0, SemanticBounty::commitCall { commitment }.abi_encode())?;
        ensure!(committed.is_success(), "the commitment was refused: {committed:?}");
        let embedding = event.embedding.clone();
        let call = SemanticBounty::answerCall { id: event.id, tokens, salt, embedding };
        account.send(to, 0, call.abi_encode())
    };
    let refused = answer(wrong, WRONG)?;
    ensure!(!refused.is_success(), "the wrong answer was paid");
    let why = SemanticBounty::TooFar::abi_decode(refused.output().context("a revert has data")?)?;
    say!(
        "refused   \"{WRONG}\": TooFar, cosine {:.2} is below {:.2}  gas {}",
        q15(i32::try_from(why.cosineQ15)?),
        q15(i32::try_from(why.floorQ15)?),
        refused.tx_gas_used()
    )?;
    let paid = answer(right, RIGHT)?;
    ensure!(paid.is_success(), "the right answer was refused: {paid:?}");
    let cosine = self::event::<SemanticBounty::Answered>(&paid)?.cosineQ15;
    say!(
        "accepted  \"{RIGHT}\": cosine {:.2}  gas {}",
        q15(i32::try_from(cosine)?),
        paid.tx_gas_used()
    )?;
    let withdrawn = right.send(to, 0, SemanticBounty::withdrawCall {}.abi_encode())?;
    ensure!(withdrawn.is_success(), "the reward stays: {withdrawn:?}");
    say!(
        "paid      {} coins to {}  gas {}",
        REWARD / COIN,
        right.address(),
        withdrawn.tx_gas_used()
    )?;
    Ok(())
}

/// The one event of a kind that a transaction logged.
fn event<E: alloy_sol_types::SolEvent>(result: &ExecutionResult) -> Result<E> {
    ensure!(result.is_success(), "the transaction failed: {result:?}");
    let found = result.logs().iter().find_map(|log| E::decode_log(log).ok());
    Ok(found.context("the contract logged something else")?.data)
}

fn q15(value: i32) -> f64 {
    f64::from(value) / 32_768.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_the_first_accounts() {
        for (key, account) in KEYS.iter().zip(crate::config::DEV_ACCOUNTS) {
            assert_eq!(PrivateKeySigner::from_slice(key).unwrap().address(), account);
        }
    }
}
