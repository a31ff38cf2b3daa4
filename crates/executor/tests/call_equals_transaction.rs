//! What `call` says, the transaction does: output, status, gas, logs.

mod common;

use alloy_primitives::{B256, TxKind, U256};
use alloy_sol_types::SolCall as _;
use common::{
    Chain, Key, Table,
    artifact::{self, DigitGate},
    double::{DIGITS, ENCODER, FOREIGN, image, text},
    infer,
};
use hyperion_executor::{
    Tx,
    precompile::{abi::IVerify, address},
};

#[test]
fn a_call_gives_what_the_transaction_gives() {
    let mut chain = Chain::new();
    let [mut owner, mut sender] = [1, 2].map(Key::new);
    let gate = chain.deploy(&mut owner, artifact::digit_gate(DIGITS.0, 7));
    let enter = |pixels: Vec<u8>| DigitGate::enterCall { pixels: pixels.into() }.abi_encode();
    let root = IVerify::tensorRootCall { dtype: 2, dims: vec![3], data: vec![1, 2, 3].into() };
    let cases = [
        ("a classifier", address::INFERENCE, infer(DIGITS.0, image(4, 0)), 16_000_000),
        ("an encoder", address::INFERENCE, infer(ENCODER.0, text(&[5, 6])), 16_000_000),
        ("no model", address::INFERENCE, infer(B256::ZERO, image(4, 0)), 16_000_000),
        (
            "a model that no block runs",
            address::INFERENCE,
            infer(FOREIGN.0, image(4, 0)),
            1_000_000,
        ),
        ("too little gas", address::INFERENCE, infer(ENCODER.0, text(&[5, 6])), 40_000),
        ("a tensor root", address::VERIFY, root.abi_encode(), 100_000),
        ("a contract", gate, enter(image(7, 5)), 16_000_000),
        ("a contract that refuses", gate, enter(image(8, 5)), 16_000_000),
    ];
    for (name, target, data, gas) in cases {
        let signed = sender.send_with_gas(TxKind::Call(target), 0, data, gas);
        let env = Tx::decode(&signed).unwrap().env;
        let (state, facts) = (&chain.state, &chain.facts);
        let called =
            chain.executor.call(&chain.env(), env, state, facts, &Table::default()).unwrap();
        assert_eq!(called, chain.one(signed), "{name}");
    }
}

#[test]
fn a_call_needs_no_nonce_and_no_fee_and_changes_nothing() {
    let mut chain = Chain::new();
    let mut owner = Key::new(1);
    let gate = chain.deploy(&mut owner, artifact::digit_gate(DIGITS.0, 7));
    let signed = owner.send(TxKind::Call(gate), 0, {
        DigitGate::enterCall { pixels: image(7, 0).into() }.abi_encode()
    });
    let mut env = Tx::decode(&signed).unwrap().env;
    env.nonce = 77;
    env.gas_price = 0;
    env.gas_priority_fee = None;
    env.tx_type = 0;
    for _ in 0..2 {
        let (state, facts) = (&chain.state, &chain.facts);
        let called = chain
            .executor
            .call(&chain.env(), env.clone(), state, facts, &Table::default())
            .unwrap();
        assert_eq!(U256::from_be_slice(&common::succeeded(&called)), U256::from(1));
    }
}
