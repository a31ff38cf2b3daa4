//! Signed transactions and claims share the node's blocks, and what a block did is there after a restart.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{path::Path, time::Duration};

use alloy_primitives::{Address, TxKind, U256, hex};
use alloy_sol_types::{SolCall as _, SolValue as _, sol};
use common::tx::{mined, signed};
use hyperion_engine::Drawing;
use hyperion_executor::{SkipReason, TxOutcome};
use hyperion_model::Tokenizer;
use hyperion_node::{
    chain::TxRefused,
    config::{DEV_ACCOUNTS, NodeConfig},
    served::embedded,
    wire::Node,
};
use hyperion_store::StoreError;
use hyperion_verify::{
    Request, Sampling,
    state::{AccountWord, StatePath},
};

sol! {
    interface Teller {
        function tell(bytes calldata prompt, uint32 tokens) external returns (uint256 number);
        function textOf(uint256 number) external view returns (bytes memory);
    }

    interface DigitReader {
        function read(bytes calldata pixels) external view returns (uint256);
    }
}

const READER: &str = include_str!("../../../contracts/artifacts/DigitReader.json");

const TELLER: &str = include_str!("../../../contracts/artifacts/Teller.json");

fn start(config: &NodeConfig) -> Node {
    Node::start(config, &[embedded::digits().unwrap()], |error| panic!("{error}")).unwrap()
}

fn balance(node: &Node, account: &Address) -> u128 {
    let snapshot = node.ledger.store().snapshot();
    let word = snapshot.pin().unwrap().get(&StatePath::account(account));
    word.map_or(0, |word| AccountWord::from_word(&word).unwrap().balance)
}

/// Deploys the contract that reads digits, as its sender's first transaction; its address, and the block's height.
fn deploy_reader(node: &Node) -> (Address, u64) {
    let model = embedded::digits().unwrap().model.id();
    let artifact: serde_json::Value = serde_json::from_str(READER).unwrap();
    let code = hex::decode(artifact["bytecode"].as_str().unwrap()).unwrap();
    let deploy = [code, model.0.abi_encode()].concat();
    let deployed = mined(node, signed(0, 5_000_000, TxKind::Create, 0, deploy));
    (deployed.outcome.result().unwrap().created_address().unwrap(), deployed.height)
}

#[test]
fn a_contract_reads_a_digit_in_a_block_and_the_chain_goes_on_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let config = NodeConfig::dev(folder.path().join("node"));
    let node = start(&config);

    let (contract, deployed) = deploy_reader(&node);
    let call = DigitReader::readCall { pixels: embedded::SEVEN.into() }.abi_encode();
    let read = mined(&node, signed(1, 5_000_000, TxKind::Call(contract), 0, call.clone()));
    let seven = read.outcome.result().unwrap().output().unwrap().clone();
    assert_eq!(U256::from_be_slice(&seven), U256::from(7));
    assert!(read.height > deployed);
    let friend = Address::repeat_byte(0x77);
    mined(&node, signed(2, 21_000, TxKind::Call(friend), 5, Vec::new()));
    let (left, head) = (balance(&node, &DEV_ACCOUNTS[0]), node.ledger.store().head());
    assert_eq!(balance(&node, &friend), 5);
    node.stop().unwrap();

    let node = start(&config);
    assert_eq!(node.ledger.store().head(), head);
    assert_eq!(balance(&node, &DEV_ACCOUNTS[0]), left);
    let read = mined(&node, signed(3, 5_000_000, TxKind::Call(contract), 0, call));
    assert_eq!(read.outcome.result().unwrap().output().unwrap(), &seven);
    assert_eq!(read.height, head.height + 1, "the model is registered once");
    node.stop().unwrap();
}

/// The text model is native: a contract has it write, and what it wrote is in the state, also after a restart.
#[test]
fn a_contract_has_text_written_in_a_block() {
    let folder = tempfile::tempdir().unwrap();
    let config = NodeConfig::dev(folder.path().join("node"));
    let served = [embedded::digits().unwrap(), embedded::pydoc().unwrap()];
    let start = || Node::start(&config, &served, |error| panic!("{error}")).unwrap();
    let node = start();
    let model = served[1].model.id();
    let tokenizer = Tokenizer::whole(Path::new("../../fixtures/pydoc/tokenizer.json")).unwrap();
    let prompt = tokenizer.encode_bare("<|user|>Explain str.join<|end|><|assistant|>").unwrap();
    let prompt: Vec<u8> = prompt.into_iter().flat_map(u32::to_le_bytes).collect();

    let artifact: serde_json::Value = serde_json::from_str(TELLER).unwrap();
    let code = hex::decode(artifact["bytecode"].as_str().unwrap()).unwrap();
    let deploy = [code, (model.0, 1_u32).abi_encode_params()].concat();
    let deployed = mined(&node, signed(0, 5_000_000, TxKind::Create, 0, deploy));
    let contract = deployed.outcome.result().unwrap().created_address().unwrap();
    let tell = Teller::tellCall { prompt: prompt.clone().into(), tokens: 40 }.abi_encode();
    let told = mined(&node, signed(1, 5_000_000, TxKind::Call(contract), 0, tell));
    assert!(told.outcome.result().unwrap().is_success(), "{:?}", told.outcome);
    node.stop().unwrap();

    let node = start();
    let get = Teller::textOfCall { number: U256::from(1) }.abi_encode();
    let kept = mined(&node, signed(2, 5_000_000, TxKind::Call(contract), 0, get));
    let kept = kept.outcome.result().unwrap().output().unwrap().clone();
    let kept = Teller::textOfCall::abi_decode_returns(&kept).unwrap();
    // What a caller is told who asks the node that was started anew.
    let sampling = Sampling { top_p_q16: 1 << 16, tokens_max: 40, ..Sampling::default() };
    let drawing = Drawing::new(sampling, vec![1]).unwrap();
    let job =
        node.engine.complete_drawn(model, Request::default(), prompt.into(), drawing).unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    let done = Box::new(move |answer| drop(tell.send(answer)));
    let _ticket = node.engine.submit(job, done).unwrap();
    let answer = told.recv().unwrap().unwrap();
    let end = 1_u32.to_le_bytes();
    let data = &answer.output.data;
    assert_eq!(&kept[..], data.strip_suffix(&end).unwrap_or(data));
    let words = kept.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    let text = tokenizer.decode(&words.collect::<Vec<_>>()).unwrap();
    assert!(text.contains("str"), "{text}");
    node.stop().unwrap();
}

#[test]
fn what_does_not_fit_a_block_waits_for_the_next() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(&NodeConfig::dev(folder.path().join("node")));
    let to = TxKind::Call(Address::repeat_byte(0x77));
    let gas = node.chain.block_gas_max;
    // EIP-7825 caps a transaction, so several are needed to fill a block.
    let each = 16_000_000;
    let fit = gas / each;
    let told: Vec<_> = (0..=fit)
        .map(|nonce| node.transactions.send(signed(nonce, each, to, 1, Vec::new())).unwrap())
        .collect();
    let heights: Vec<_> = told
        .into_iter()
        .map(|told| {
            let mined = told.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
            assert!(matches!(mined.outcome, TxOutcome::Executed { .. }), "{:?}", mined.outcome);
            mined.height
        })
        .collect();
    assert!(heights.is_sorted(), "in the order of arrival: {heights:?}");
    node.stop().unwrap();
}

#[test]
fn bytes_that_no_block_could_hold_are_refused_at_the_door() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(&NodeConfig::dev(folder.path().join("node")));
    let to = TxKind::Call(Address::repeat_byte(0x77));
    let send = |bytes| node.transactions.send(bytes).unwrap_err();
    assert_eq!(send(vec![0; (128 << 10) + 1]), TxRefused::Length { got: (128 << 10) + 1 });
    assert_eq!(send(b"text".to_vec()), TxRefused::Unfit(SkipReason::UnsupportedType));
    let max = node.chain.block_gas_max;
    assert_eq!(send(signed(0, max + 1, to, 0, Vec::new())), TxRefused::Gas { got: max + 1, max });
    // A nonce that is not next is known only when the block runs: it is skipped, and nothing is paid.
    let before = balance(&node, &DEV_ACCOUNTS[0]);
    let skipped = mined(&node, signed(9, 21_000, to, 1, Vec::new()));
    assert!(matches!(skipped.outcome, TxOutcome::Skipped(_)), "{:?}", skipped.outcome);
    assert_eq!(balance(&node, &DEV_ACCOUNTS[0]), before);
    node.stop().unwrap();
}

/// Anybody could ask for a model that was registered before a restart and is not served after it, and every transaction
/// of such a block was refused.
#[test]
fn a_call_of_a_model_that_is_served_no_more_is_set_aside_alone() {
    let folder = tempfile::tempdir().unwrap();
    let config = NodeConfig::dev(folder.path().join("node"));
    let node = start(&config);
    let model = embedded::digits().unwrap().model.id();
    let (contract, _) = deploy_reader(&node);
    node.stop().unwrap();

    // The transfer has the nonce that the call does not use up; sent within an interval, both are offered one block.
    let node = Node::start(&config, &[], |error| panic!("{error}")).unwrap();
    let call = DigitReader::readCall { pixels: embedded::SEVEN.into() }.abi_encode();
    let friend = Address::repeat_byte(0x77);
    for nonce in 1..4 {
        let read = signed(nonce, 5_000_000, TxKind::Call(contract), 0, call.clone());
        let read = node.transactions.send(read).unwrap();
        let sent = mined(&node, signed(nonce, 21_000, TxKind::Call(friend), 5, Vec::new()));
        assert!(matches!(sent.outcome, TxOutcome::Executed { .. }), "{:?}", sent.outcome);
        match read.recv_timeout(Duration::from_secs(60)).unwrap() {
            Err(TxRefused::Unanswered { model: named, .. }) => assert_eq!(named, model),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(balance(&node, &friend), 15);
    node.stop().unwrap();
}

/// A disk that was full for a moment ended the node, and what waited was gone.
#[test]
fn a_block_waits_while_the_disk_is_too_full() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(&NodeConfig::dev(folder.path().join("node")));
    let store = node.ledger.store();
    let head = store.head();
    store.set_disk_reserve(u64::MAX);
    let to = TxKind::Call(Address::repeat_byte(0x77));
    let sent = node.transactions.send(signed(0, 21_000, to, 5, Vec::new())).unwrap();
    while node.ledger.refusals() < 2 {
        std::thread::yield_now();
    }
    assert!(node.ledger.refusal().unwrap().contains("disk_reserve_bytes"));
    assert_eq!(store.head(), head);
    assert!(sent.try_recv().is_err(), "told before it is durable");
    store.set_disk_reserve(0);
    let mined = sent.recv_timeout(Duration::from_secs(60)).unwrap().unwrap();
    assert_eq!((mined.height, store.head().height), (head.height + 1, head.height + 1));
    node.stop().unwrap();
}

#[test]
fn asked_to_end_while_the_disk_is_too_full_it_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start(
        &NodeConfig::dev(folder.path().join("node")),
        &[embedded::digits().unwrap()],
        |error| assert!(matches!(error, StoreError::DiskLow { .. })),
    )
    .unwrap();
    node.ledger.store().set_disk_reserve(u64::MAX);
    let to = TxKind::Call(Address::repeat_byte(0x77));
    let sent = node.transactions.send(signed(0, 21_000, to, 5, Vec::new())).unwrap();
    let refused = node.stop().unwrap_err();
    assert!(format!("{refused:#}").contains("disk_reserve_bytes"), "{refused:#}");
    assert!(sent.recv().is_err(), "nobody is told that it is done");
}

/// The spec's digest was written at height 0 and never looked at again: a node with other prices went on with the chain.
#[test]
fn a_changed_chain_spec_needs_a_new_data_directory() {
    let folder = tempfile::tempdir().unwrap();
    let chain_file = folder.path().join("chain.toml");
    let config = NodeConfig {
        chain_file: chain_file.clone(),
        ..NodeConfig::dev(folder.path().join("node"))
    };
    std::fs::write(&chain_file, "chain_id = 7331\n").unwrap();
    start(&config).stop().unwrap();
    start(&config).stop().unwrap();
    std::fs::write(&chain_file, "chain_id = 7331\n[gas]\nmacs_per_gas = 2000\n").unwrap();
    let refused = Node::start(&config, &[], |error| panic!("{error}")).unwrap_err();
    let said = format!("{refused:#}");
    assert!(said.contains("chain.toml") && said.contains("new data directory"), "{said}");
    std::fs::write(&chain_file, "chain_id = 7331\n").unwrap();
    start(&config).stop().unwrap();
}
