//! Each reason why a transaction of a block has no effect, between two that are executed all the same.

mod common;

use alloy_consensus::{TxEip1559, TxEip7702, TxLegacy};
use alloy_eips::{eip2718::Encodable2718 as _, eip7702::Authorization};
use alloy_primitives::{Address, Signature, TxKind, U256};
use common::{CHAIN_ID, Chain, Key, Table, WEALTH, plain};
use hyperion_executor::{
    SkipReason, TxOutcome,
    revm::{bytecode::Bytecode, primitives::Bytes, state::AccountInfo},
};

const SOMEBODY: TxKind = TxKind::Call(Address::repeat_byte(0x11));

fn small(value: u128) -> TxEip1559 {
    TxEip1559 { gas_limit: 21_000, ..plain(SOMEBODY, value, vec![]) }
}

/// Executes the bytes between two transfers of another key; gives what became of them.
fn between(chain: &mut Chain, bytes: Vec<u8>) -> TxOutcome {
    let mut other = Key::new(9);
    let txs = [
        other.send_with_gas(SOMEBODY, 1, vec![], 21_000),
        bytes,
        other.send_with_gas(SOMEBODY, 2, vec![], 21_000),
    ];
    let mut outcome = chain.block(&txs, &Table::default());
    let executed = |outcome: &TxOutcome| outcome.result().is_some_and(|r| r.is_success());
    assert!(executed(&outcome.outcomes[0]) && executed(&outcome.outcomes[2]), "{outcome:?}");
    if outcome.outcomes[1].result().is_none() {
        assert_eq!(outcome.gas_used, 42_000, "a skipped transaction uses no gas");
    }
    outcome.outcomes.remove(1)
}

#[test]
fn every_reason() {
    let key = Key::new(2);
    let signed = |tx: TxEip1559| key.sign(tx);
    let with_nonce = |nonce| signed(TxEip1559 { nonce, ..small(1) });
    let legacy = TxLegacy {
        chain_id: None,
        nonce: 0,
        gas_price: 10,
        gas_limit: 21_000,
        to: SOMEBODY,
        value: U256::ZERO,
        input: Bytes::new(),
    };
    let forged = {
        use alloy_consensus::SignableTransaction as _;
        let nobody = Signature::new(U256::ZERO, U256::from(1), false);
        alloy_consensus::TxEnvelope::from(small(1).into_signed(nobody)).encoded_2718()
    };
    let upper = {
        use alloy_consensus::SignableTransaction as _;
        let signature = key.signature(&small(1).signature_hash());
        let order: U256 =
            "0xfffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141".parse().unwrap();
        let mirrored = Signature::new(signature.r(), order - signature.s(), !signature.v());
        alloy_consensus::TxEnvelope::from(small(1).into_signed(mirrored)).encoded_2718()
    };
    let nobody_authorized = TxEip7702 {
        chain_id: CHAIN_ID,
        nonce: 0,
        gas_limit: 100_000,
        max_fee_per_gas: 10,
        max_priority_fee_per_gas: 1,
        to: Address::repeat_byte(0x11),
        value: U256::ZERO,
        access_list: Default::default(),
        authorization_list: vec![],
        input: Bytes::new(),
    };
    let creation = |bytes: usize| TxEip1559 {
        to: TxKind::Create,
        input: vec![0; bytes].into(),
        ..plain(TxKind::Create, 0, vec![])
    };
    let mut trailing = with_nonce(0);
    trailing.push(0);
    use SkipReason as Reason;
    let cases: Vec<(&str, Vec<u8>, SkipReason)> = vec![
        ("nothing", vec![], Reason::Decode),
        ("noise", vec![2, 0xff, 1], Reason::Decode),
        ("a byte behind it", trailing, Reason::Decode),
        ("nobody's signature", forged, Reason::Signature),
        ("the mirror image of a signature", upper, Reason::Signature),
        ("no chain id", key.sign(legacy), Reason::ChainId),
        ("another chain", signed(TxEip1559 { chain_id: 1, ..small(1) }), Reason::ChainId),
        ("a nonce ahead", with_nonce(1), Reason::NonceTooHigh),
        ("more than there is", signed(small(WEALTH)), Reason::InsufficientFunds),
        (
            "too little gas for its bytes",
            signed(TxEip1559 { input: vec![1].into(), ..small(0) }),
            Reason::IntrinsicGas,
        ),
        (
            "more gas than one transaction may",
            signed(TxEip1559 { gas_limit: (1 << 24) + 1, ..small(0) }),
            Reason::GasLimitCap,
        ),
        (
            "less than the block burns",
            signed(TxEip1559 { max_fee_per_gas: 6, ..small(0) }),
            Reason::FeeBelowBase,
        ),
        (
            "a tip above the fee",
            signed(TxEip1559 { max_priority_fee_per_gas: 11, ..small(0) }),
            Reason::TipAboveFee,
        ),
        ("blobs", vec![3, 0xc0], Reason::UnsupportedType),
        ("a type that does not exist", vec![5, 0xc0], Reason::UnsupportedType),
        ("too much initcode", signed(creation(49_153)), Reason::InitcodeSize),
        ("no authorization", key.sign(nobody_authorized), Reason::AuthorizationList),
        (
            "a cost beyond 256 bits",
            signed(TxEip1559 { value: U256::MAX, ..small(0) }),
            Reason::FeeOverflow,
        ),
    ];
    for (name, bytes, want) in cases {
        let got = between(&mut Chain::new(), bytes);
        assert_eq!(got, TxOutcome::Skipped(want), "{name}");
    }
}

#[test]
fn reasons_that_lie_in_the_state() {
    let key = Key::new(2);
    let once = key.sign(small(1));
    let mut chain = Chain::new();
    assert!(between(&mut chain, once.clone()).result().is_some());
    let mut other = Key::new(9);
    other.nonce = 2;
    let outcome = chain.block(&[once], &Table::default());
    assert_eq!(outcome.outcomes[0], TxOutcome::Skipped(SkipReason::NonceTooLow));

    let mut chain = Chain::new();
    let info = chain.state.load_account(key.address()).unwrap();
    info.info.nonce = u64::MAX;
    let last = key.sign(TxEip1559 { nonce: u64::MAX, ..small(1) });
    assert_eq!(between(&mut chain, last), TxOutcome::Skipped(SkipReason::NonceOverflow));

    let mut chain = Chain::new();
    let code = Bytecode::new_raw(Bytes::from_static(&[0x5b]));
    let contract = AccountInfo { balance: U256::from(WEALTH), ..AccountInfo::from_bytecode(code) };
    let nonce = contract.nonce;
    chain.state.insert_account_info(key.address(), contract);
    let sent = key.sign(TxEip1559 { nonce, ..small(1) });
    assert_eq!(between(&mut chain, sent), TxOutcome::Skipped(SkipReason::SenderHasCode));
}

/// What was used counts once, and what may be used has to fit: the third transfer asks for more than is left.
#[test]
fn block_gas_is_what_is_left_after_what_was_used() {
    let mut chain = Chain::new();
    chain.block_gas = 100_000;
    let mut key = Key::new(2);
    let gas = [50_000, 79_000, 58_001, 58_000];
    let mut txs: Vec<_> =
        gas.iter().map(|gas| key.send_with_gas(SOMEBODY, 1, vec![], *gas)).collect();
    // The one that does not fit uses no nonce, so the last one is sent with its nonce.
    key.nonce = 2;
    txs[3] = key.send_with_gas(SOMEBODY, 1, vec![], gas[3]);
    let outcome = chain.block(&txs, &Table::default());
    let used: Vec<_> = outcome
        .outcomes
        .iter()
        .map(|outcome| match outcome {
            TxOutcome::Executed { cumulative_gas_used, .. } => Ok(*cumulative_gas_used),
            TxOutcome::Skipped(reason) => Err(*reason),
            TxOutcome::SetAside { .. } => panic!("{outcome:?}"),
        })
        .collect();
    assert_eq!(used, [Ok(21_000), Ok(42_000), Err(SkipReason::BlockGas), Ok(63_000)]);
}

/// A sender that is its own authority spends two nonces.
#[test]
fn a_self_sponsored_delegation_spends_two_nonces() {
    let mut chain = Chain::new();
    let key = Key::new(2);
    let authorization = Authorization {
        chain_id: U256::from(CHAIN_ID),
        address: Address::repeat_byte(0x77),
        nonce: 1,
    };
    let signature = key.signature(&authorization.signature_hash());
    let tx = TxEip7702 {
        chain_id: CHAIN_ID,
        nonce: 0,
        gas_limit: 100_000,
        max_fee_per_gas: 10,
        max_priority_fee_per_gas: 1,
        to: key.address(),
        value: U256::ZERO,
        access_list: Default::default(),
        authorization_list: vec![authorization.into_signed(signature)],
        input: Bytes::new(),
    };
    let outcome = chain.one(key.sign(tx));
    assert!(outcome.result().unwrap().is_success());
    use hyperion_executor::revm::database_interface::DatabaseRef as _;
    let info = chain.state.basic_ref(key.address()).unwrap().unwrap();
    assert_eq!(info.nonce, 2);
    assert!(chain.state.code_by_hash_ref(info.code_hash).unwrap().is_eip7702());
    let next = key.sign(TxEip1559 { nonce: 1, ..small(1) });
    let outcome = chain.one(next);
    assert_eq!(outcome, TxOutcome::Skipped(SkipReason::NonceTooLow));
}

#[test]
fn numbers_are_stable() {
    let all = [
        (SkipReason::Decode, 1),
        (SkipReason::Signature, 2),
        (SkipReason::ChainId, 3),
        (SkipReason::NonceTooLow, 4),
        (SkipReason::NonceTooHigh, 5),
        (SkipReason::InsufficientFunds, 6),
        (SkipReason::IntrinsicGas, 7),
        (SkipReason::GasLimitCap, 8),
        (SkipReason::FeeBelowBase, 9),
        (SkipReason::TipAboveFee, 10),
        (SkipReason::BlockGas, 11),
        (SkipReason::SenderHasCode, 12),
        (SkipReason::UnsupportedType, 13),
        (SkipReason::InitcodeSize, 14),
        (SkipReason::AuthorizationList, 15),
        (SkipReason::FeeOverflow, 16),
        (SkipReason::NonceOverflow, 17),
        (SkipReason::Other, 99),
    ];
    assert!(all.iter().all(|(reason, code)| reason.code() == *code));
}
