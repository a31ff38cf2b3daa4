//! Signed transactions, and what became of them.

use std::time::Duration;

use alloy_consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy_eips::eip2718::Encodable2718 as _;
use alloy_primitives::{TxKind, U256, hex};
use alloy_signer::SignerSync as _;
use alloy_signer_local::PrivateKeySigner;
use hyperion_node::{chain::Mined, wire::Node};

/// Key of the first account of the public test mnemonic.
const KEY: [u8; 32] = hex!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80");

pub(crate) fn signed(nonce: u64, gas_limit: u64, to: TxKind, value: u64, data: Vec<u8>) -> Vec<u8> {
    let tx = TxEip1559 {
        chain_id: 31_337,
        nonce,
        gas_limit,
        max_fee_per_gas: 2_000_000_000,
        max_priority_fee_per_gas: 0,
        to,
        value: U256::from(value),
        input: data.into(),
        ..TxEip1559::default()
    };
    let key = PrivateKeySigner::from_slice(&KEY).unwrap();
    let signature = key.sign_hash_sync(&tx.signature_hash()).unwrap();
    TxEnvelope::from(tx.into_signed(signature)).encoded_2718()
}

pub(crate) fn mined(node: &Node, bytes: Vec<u8>) -> Mined {
    node.transactions.send(bytes).unwrap().recv_timeout(Duration::from_secs(60)).unwrap().unwrap()
}
