//! All that a block asks goes into one batch where it can be foreseen, and the result is that of asking one by one.

mod common;

use alloy_consensus::TxEip1559;
use alloy_primitives::{Address, TxKind};
use alloy_sol_types::SolCall as _;
use common::{
    Chain, Key, Table,
    artifact::{self, DigitGate, Probe},
    double::{DIGITS, ENCODER, image, text},
    infer, plain,
};
use hyperion_executor::{
    Candidate, Executor, ExecutorConfig, Tx,
    precompile::address,
    revm::{bytecode::Bytecode, primitives::Bytes, state::AccountInfo},
};
use hyperion_primitives::Mix;
use proptest::prelude::*;

const PROBE: Address = Address::repeat_byte(0xbb);

fn chain() -> Chain {
    let mut chain = Chain::new();
    let code = Bytecode::new_raw(Bytes::from(artifact::probe_runtime()));
    chain.state.insert_account_info(PROBE, AccountInfo::from_bytecode(code));
    chain
}

fn keep(data: Vec<u8>) -> Vec<u8> {
    let kind = alloy_primitives::U256::ZERO;
    Probe::keepCall { kind, target: address::INFERENCE, data: data.into() }.abi_encode()
}

#[test]
fn direct_calls_and_calls_of_contracts_share_one_batch() {
    let mut chain = chain();
    let mut owner = Key::new(1);
    let gate = chain.deploy(&mut owner, artifact::digit_gate(DIGITS.0, 7));
    let (direct, probe) = (TxKind::Call(address::INFERENCE), TxKind::Call(PROBE));
    let mut txs = Vec::new();
    for seed in 2..8 {
        let mut key = Key::new(seed);
        let own = i32::from(seed);
        txs.push(key.send_with_gas(
            direct,
            0,
            infer(ENCODER.0, text(&[u32::from(seed)])),
            5_000_000,
        ));
        txs.push(key.send_with_gas(probe, 0, keep(infer(DIGITS.0, image(3, own))), 1_000_000));
        let enter = DigitGate::enterCall { pixels: image(7, own).into() }.abi_encode();
        txs.push(key.send_with_gas(TxKind::Call(gate), 0, enter, 1_000_000));
        txs.push(key.send_with_gas(TxKind::Call(Address::repeat_byte(seed)), 5, vec![], 21_000));
    }
    let answers = Table::default();
    let outcome = chain.block(&txs, &answers);
    assert!(outcome.outcomes.iter().all(|o| o.result().is_some_and(|r| r.is_success())));
    assert_eq!(answers.sizes(), [18]);
    assert_eq!(outcome.stats.unforeseen, 0);
}

#[test]
fn equal_calls_are_asked_once() {
    let mut chain = chain();
    let mut key = Key::new(2);
    let call = infer(DIGITS.0, image(3, 1));
    let txs: Vec<_> = (0..5)
        .map(|_| key.send_with_gas(TxKind::Call(PROBE), 0, keep(call.clone()), 1_000_000))
        .collect();
    let answers = Table::default();
    chain.block(&txs, &answers);
    assert_eq!(answers.sizes(), [1]);
}

/// A call whose input is made of the answer before it: as many batches as the chain is long, whatever the number of
/// transactions.
#[test]
fn dependent_calls_take_a_batch_for_each_link() {
    let mut chain = chain();
    let txs: Vec<_> = (2..9)
        .map(|seed| {
            let data = infer(DIGITS.0, image(1, i32::from(seed)));
            let call = Probe::chainCall {
                target: address::INFERENCE,
                head: data[..356].to_vec().into(),
                // The second pixel from the end, which the image leaves black.
                place: alloy_primitives::U256::from(62 * 4),
                data: data[356..].to_vec().into(),
            };
            let mut key = Key::new(seed);
            key.send_with_gas(TxKind::Call(PROBE), 0, call.abi_encode(), 1_000_000)
        })
        .collect();
    let answers = Table::default();
    let outcome = chain.block(&txs, &answers);
    assert!(outcome.outcomes.iter().all(|o| o.result().is_some_and(|r| r.is_success())));
    // The first transaction's last call depends on nothing; all others on their own first answer only.
    assert_eq!(answers.sizes().len(), 2, "{:?}", answers.sizes());
    assert_eq!(answers.sizes()[0], 7);
}

/// A contract made in this block is not there when the block is tried ahead; its first call begins a second round.
#[test]
fn calls_of_a_contract_made_in_the_block_are_gathered_at_its_first_call() {
    let mut chain = chain();
    let mut owner = Key::new(1);
    let gate = owner.address().create(owner.nonce);
    let mut txs = vec![owner.send(TxKind::Create, 0, artifact::digit_gate(DIGITS.0, 7))];
    for seed in 2..8 {
        let enter = DigitGate::enterCall { pixels: image(7, i32::from(seed)).into() }.abi_encode();
        txs.push(Key::new(seed).send_with_gas(TxKind::Call(gate), 0, enter, 1_000_000));
    }
    let answers = Table::default();
    let outcome = chain.block(&txs, &answers);
    assert!(outcome.outcomes.iter().all(|o| o.result().is_some_and(|r| r.is_success())));
    assert_eq!(answers.sizes(), [6]);
    assert_eq!(outcome.stats.unforeseen, 1);
}

/// The pool bounds memory, not the batch.
#[test]
fn a_pool_of_one_still_makes_one_batch() {
    let mut chain = chain();
    chain.executor = Executor::new(ExecutorConfig { parked_max: 1, ..ExecutorConfig::default() });
    let txs: Vec<_> = (2..9)
        .map(|seed| {
            let call = keep(infer(DIGITS.0, image(3, i32::from(seed))));
            Key::new(seed).send_with_gas(TxKind::Call(PROBE), 0, call, 1_000_000)
        })
        .collect();
    let answers = Table::default();
    chain.block(&txs, &answers);
    assert_eq!(answers.sizes(), [7]);
}

/// A round asks for no more gas than the block has: here for two of six calls.
#[test]
fn what_is_asked_ahead_stays_within_the_blocks_gas() {
    let mut chain = chain();
    chain.block_gas = 4_000_000;
    let txs: Vec<_> = (2..8)
        .map(|seed| {
            let call = infer(ENCODER.0, text(&[u32::from(seed); 126]));
            Key::new(seed).send_with_gas(TxKind::Call(address::INFERENCE), 0, call, 3_000_000)
        })
        .collect();
    let answers = Table::default();
    let outcome = chain.block(&txs, &answers);
    assert!(answers.sizes()[0] <= 2, "{:?}", answers.sizes());
    assert_eq!(outcome.outcomes.iter().filter(|o| o.result().is_some()).count(), 1);
}

#[test]
fn out_of_gas_calls_ask_nothing() {
    let mut chain = chain();
    let call = infer(ENCODER.0, text(&[5; 126]));
    let txs: Vec<_> = (2..6)
        .map(|seed| {
            let to = TxKind::Call(address::INFERENCE);
            Key::new(seed).send_with_gas(to, 0, call.clone(), 1_000_000)
        })
        .collect();
    let answers = Table::default();
    let outcome = chain.block(&txs, &answers);
    assert!(outcome.outcomes.iter().all(|o| o.result().is_some_and(|r| r.is_halt())));
    assert!(answers.sizes().is_empty());
}

/// Code that never asks stops being tried, and is tried again once it asks.
#[test]
fn quiet_code_is_left_alone() {
    let mut chain = chain();
    let quiet = |key: &mut Key| {
        let data = Probe::keepCall {
            kind: alloy_primitives::U256::ZERO,
            target: Address::repeat_byte(0x99),
            data: Bytes::new(),
        };
        key.send_with_gas(TxKind::Call(PROBE), 0, data.abi_encode(), 200_000)
    };
    let mut keys: Vec<Key> = (2..9).map(Key::new).collect();
    let mut tried = Vec::new();
    for _ in 0..2 {
        let txs: Vec<_> = keys.iter_mut().map(quiet).collect();
        tried.push(chain.block(&txs, &Table::default()).stats.tried);
    }
    assert_eq!(tried, [7, 0]);
    let loud = |(number, key): (usize, &mut Key)| {
        let call = keep(infer(DIGITS.0, image(number, 0)));
        key.send_with_gas(TxKind::Call(PROBE), 0, call, 1_000_000)
    };
    let txs: Vec<_> = keys.iter_mut().enumerate().map(loud).collect();
    let answers = Table::default();
    let outcome = chain.block(&txs, &answers);
    assert_eq!((outcome.stats.unforeseen, answers.sizes()), (1, vec![7]));
}

/// Kinds of transactions of a random block.
fn random_tx(mix: &mut Mix, keys: &mut [Key], gate: Address) -> Vec<u8> {
    let sender = mix.below(keys.len() as u64) as usize;
    let other = keys[mix.below(keys.len() as u64) as usize].address();
    let key = &mut keys[sender];
    let own = mix.below(3) as i32;
    let bright = 5 + mix.below(4) as usize;
    let direct = TxKind::Call(address::INFERENCE);
    let probe = TxKind::Call(PROBE);
    let beneficiary = Address::repeat_byte(0xfe);
    match mix.below(15) {
        0 => key.send_with_gas(TxKind::Call(other), u128::from(mix.below(1_000)), vec![], 21_000),
        1 => key.send_with_gas(TxKind::Call(beneficiary), 1, vec![], 21_000),
        // To somebody new, sometimes of nothing: touched and empty, so not there.
        2 => {
            let new = Address::repeat_byte(mix.below(256) as u8);
            key.send_with_gas(TxKind::Call(new), u128::from(mix.below(2)), vec![], 21_000)
        }
        3 => key.send_with_gas(direct, 0, infer(DIGITS.0, image(bright, own)), 1_000_000),
        4 => key.send_with_gas(direct, 0, infer(ENCODER.0, text(&[own as u32])), 3_000_000),
        5 => key.send_with_gas(direct, 1, infer(DIGITS.0, image(bright, own)), 1_000_000),
        6 => key.send_with_gas(direct, 0, infer(DIGITS.0, image(bright, own)), 30_000),
        7 | 8 => {
            let kind = alloy_primitives::U256::from(mix.below(4));
            let data = infer(DIGITS.0, image(bright, own)).into();
            let call = Probe::keepCall { kind, target: address::INFERENCE, data };
            key.send_with_gas(probe, 0, call.abi_encode(), 1_000_000)
        }
        9 => {
            let data = infer(DIGITS.0, image(bright, own));
            let call = Probe::chainCall {
                target: address::INFERENCE,
                head: data[..356].to_vec().into(),
                place: alloy_primitives::U256::from(62 * 4),
                data: data[356..].to_vec().into(),
            };
            key.send_with_gas(probe, 0, call.abi_encode(), 1_000_000)
        }
        10 => {
            let data = infer(DIGITS.0, image(bright, own)).into();
            let call = Probe::failCall { target: address::INFERENCE, data };
            key.send_with_gas(probe, 0, call.abi_encode(), 1_000_000)
        }
        11 | 12 => {
            let enter = DigitGate::enterCall { pixels: image(bright, own).into() }.abi_encode();
            key.send_with_gas(TxKind::Call(gate), 0, enter, 1_000_000)
        }
        13 => {
            let mut initcode = artifact::digit_gate(DIGITS.0, 7);
            // Every other constructor fails: a digit above nine.
            let last = initcode.len() - 1;
            initcode[last] += (mix.below(2) * 5) as u8;
            key.send_with_gas(TxKind::Create, 0, initcode, 3_000_000)
        }
        _ => {
            let nonce = key.nonce + mix.below(2);
            let gas_limit = 21_000 - mix.below(2);
            key.sign(TxEip1559 { nonce, gas_limit, ..plain(TxKind::Call(other), 1, vec![]) })
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// `Chain::block` compares outcomes, gas, logs and changes with the definition; three blocks, one on the other.
    #[test]
    fn random_blocks_come_to_what_the_definition_says(
        seed in any::<u64>(),
        length in 1..40_usize,
        parked_max in prop_oneof![Just(1_usize), Just(4), Just(512)],
    ) {
        let mut mix = Mix::new(seed);
        let mut chain = chain();
        let gate = chain.deploy(&mut Key::new(9), artifact::digit_gate(DIGITS.0, 7));
        chain.executor = Executor::new(ExecutorConfig { parked_max, ..ExecutorConfig::default() });
        chain.block_gas = 3_000_000 + mix.below(40_000_000);
        let mut keys: Vec<Key> = (1..6).map(Key::new).collect();
        for _ in 0..3 {
            let txs: Vec<_> = (0..length).map(|_| random_tx(&mut mix, &mut keys, gate)).collect();
            chain.block(&txs, &Table::default());
            for key in &mut keys {
                key.nonce = chain.state.load_account(key.address()).unwrap().info.nonce;
            }
        }
    }
}

/// The doubles are pure, so a block executed twice is the same block, whatever was learnt in between.
#[test]
fn executing_again_gives_the_same() {
    let mut mix = Mix::new(11);
    let mut chain = chain();
    let gate = chain.deploy(&mut Key::new(9), artifact::digit_gate(DIGITS.0, 7));
    let mut keys: Vec<Key> = (1..6).map(Key::new).collect();
    let candidates: Vec<Candidate> =
        (0..60).map(|_| Tx::decode(&random_tx(&mut mix, &mut keys, gate))).collect();
    let run = |chain: &Chain| {
        let outcome = chain
            .executor
            .execute(&chain.env(), &candidates, &chain.state, &chain.facts, &Table::default())
            .unwrap();
        (outcome.outcomes, outcome.diff, outcome.gas_used)
    };
    let first = run(&chain);
    for _ in 0..6 {
        assert_eq!(run(&chain), first);
    }
}
