//! What stops a block here, and that no more than this does.

mod common;

use alloy_primitives::{Address, B256, TxKind};
use common::{
    Chain, Key, Table,
    double::{DIGITS, image},
    infer,
};
use hyperion_executor::{
    Candidate, Executor, ExecutorConfig, ExecutorError, Mode, SkipReason, Tx, TxOutcome,
    precompile::{Run, Sampling, address},
    revm::{
        bytecode::Bytecode,
        primitives::{Bytes, hardfork::SpecId},
        state::AccountInfo,
    },
};

fn run(variant: i32) -> Run {
    Run {
        model: DIGITS,
        input: image(3, variant).into(),
        sampling: Sampling::default(),
        seed: B256::ZERO,
    }
}

fn call(seed: u8, nonce: u64, variant: i32) -> Candidate {
    let mut key = Key::new(seed);
    key.nonce = nonce;
    Tx::decode(&key.send_with_gas(
        TxKind::Call(address::INFERENCE),
        0,
        infer(DIGITS.0, image(3, variant)),
        1_000_000,
    ))
}

fn modes() -> [Executor; 2] {
    [Mode::Auto, Mode::Sequential]
        .map(|mode| Executor::new(ExecutorConfig { mode, ..ExecutorConfig::default() }))
}

#[test]
fn an_answer_that_does_not_come_stops_a_block_that_is_agreed_on() {
    let chain = Chain::new();
    let answers = Table::default();
    answers.lost.lock().push(run(2));
    for executor in modes() {
        let txs = [call(1, 0, 1), call(2, 0, 2)];
        let error = executor.execute(&chain.env(), &txs, &chain.state, &chain.facts, &answers);
        assert!(matches!(error, Err(ExecutorError::AnswersLost(_))), "{error:?}");
    }
}

/// A registered model that this node does not serve took the whole block along, and anybody could ask for it.
#[test]
fn who_proposes_a_block_sets_aside_what_gets_no_answer() {
    let mut chain = Chain::new();
    // Writes a slot, then hands its calldata to the precompile: given up, it leaves two frames and a journal behind.
    let at = Address::repeat_byte(0xaa);
    let call_it = [0x36, 0x5f, 0x5f, 0x37, 0x5f, 0x5f, 0x36, 0x5f, 0x5f, 0x73];
    let return_it = [0x5a, 0xf1, 0x3d, 0x5f, 0x5f, 0x3e, 0x3d, 0x5f, 0xf3];
    let code = [&[0x43, 0x5f, 0x55][..], &call_it, address::INFERENCE.as_slice(), &return_it];
    let code = Bytecode::new_raw(Bytes::from(code.concat()));
    chain.state.insert_account_info(at, AccountInfo::from_bytecode(code));
    let through = |seed, variant| {
        let data = infer(DIGITS.0, image(3, variant));
        Tx::decode(&Key::new(seed).send_with_gas(TxKind::Call(at), 0, data, 2_000_000))
    };
    let answers = Table::default();
    answers.lost.lock().extend([run(2), run(4)]);
    let txs = [call(1, 0, 1), through(2, 2), call(3, 0, 4), through(4, 3), call(5, 0, 5)];
    let (env, state, facts) = (chain.env(), &chain.state, &chain.facts);
    for executor in modes() {
        let proposed = executor.propose(&env, &txs, state, facts, &answers).unwrap();
        let (aside, kept): (Vec<_>, Vec<_>) = proposed
            .outcomes
            .into_iter()
            .partition(|outcome| matches!(outcome, TxOutcome::SetAside { .. }));
        assert_eq!(aside.len(), 2);
        let named = |outcome: &TxOutcome| matches!(outcome, TxOutcome::SetAside { model, .. } if *model == DIGITS);
        assert!(aside.iter().all(named), "{aside:?}");
        kept.iter().for_each(|outcome| drop(common::succeeded(outcome)));

        let left = [txs[0].clone(), txs[3].clone(), txs[4].clone()];
        let without = executor.execute(&env, &left, state, facts, &Table::default()).unwrap();
        assert_eq!(kept, without.outcomes);
        assert_eq!(proposed.diff, without.diff);
        assert_eq!(proposed.gas_used, without.gas_used);
    }
}

#[test]
fn what_is_set_aside_takes_no_more_work_than_a_block() {
    let mut chain = Chain::new();
    chain.block_gas = 2_500_000;
    let answers = Table::default();
    answers.lost.lock().extend([run(1), run(2)]);
    let txs = [call(1, 0, 1), call(2, 0, 2), call(3, 0, 3)];
    for executor in modes() {
        let (env, state, facts) = (chain.env(), &chain.state, &chain.facts);
        let outcomes = executor.propose(&env, &txs, state, facts, &answers).unwrap().outcomes;
        assert!(matches!(outcomes[0], TxOutcome::SetAside { .. }), "{outcomes:?}");
        assert!(matches!(outcomes[1], TxOutcome::SetAside { .. }), "{outcomes:?}");
        assert_eq!(outcomes[2], TxOutcome::Skipped(SkipReason::BlockGas));
    }
}

/// Tried ahead, the second transfer of a poor sender has the funds for its call; in order it has not. What only the try
/// wanted may be lost.
#[test]
fn an_answer_that_only_a_wrong_guess_wanted_may_be_lost() {
    let chain = Chain::new();
    let answers = Table::default();
    answers.lost.lock().push(run(2));
    let mut poor = Key::new(2);
    let everything = common::WEALTH - 21_000 * 10;
    let txs = [
        Tx::decode(&poor.send_with_gas(
            TxKind::Call(Address::repeat_byte(1)),
            everything,
            vec![],
            21_000,
        )),
        call(2, 1, 2),
        call(1, 0, 1),
    ];
    for executor in modes() {
        let outcome =
            executor.execute(&chain.env(), &txs, &chain.state, &chain.facts, &answers).unwrap();
        let executed: Vec<_> = outcome.outcomes.iter().map(|o| o.result().is_some()).collect();
        assert_eq!(executed, [true, false, true]);
    }
}

#[test]
fn a_view_that_cannot_be_read_stops_the_block() {
    let mut chain = Chain::new();
    chain.facts.failure = Some("the disk is gone".to_owned());
    for executor in modes() {
        let txs = [call(1, 0, 1)];
        let error =
            executor.execute(&chain.env(), &txs, &chain.state, &chain.facts, &Table::default());
        match error {
            Err(ExecutorError::Fatal { tx: 0, text }) => assert_eq!(text, "the disk is gone"),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn an_unfit_environment_is_refused_before_the_first_transaction() {
    let chain = Chain::new();
    type Edit = fn(&mut hyperion_executor::ExecEnv);
    let edits: [(&str, Edit); 4] = [
        ("an old fork", |env| env.cfg.set_spec_and_mainnet_gas_params(SpecId::SHANGHAI)),
        ("no prevrandao", |env| env.block.prevrandao = None),
        ("no excess blob gas", |env| env.block.blob_excess_gas_and_price = None),
        ("another chain than signatures name", |env| env.cfg.chain_id = 1),
    ];
    for (name, edit) in edits {
        let mut env = chain.env();
        edit(&mut env);
        let refused =
            Executor::default().execute(&env, &[], &chain.state, &chain.facts, &Table::default());
        assert!(matches!(refused, Err(ExecutorError::Header { .. })), "{name}");
    }
}

/// Every field of the environment reaches the contracts, whatever the virtual machine's defaults are.
#[test]
fn the_chains_environment_reaches_the_contracts() {
    use hyperion_executor::revm::primitives::U256;
    let mut chain = Chain::new();
    // Returns one word: what the opcode pushes.
    let fields = [
        ("CHAINID", 0x46, U256::from(common::CHAIN_ID)),
        ("NUMBER", 0x43, U256::from(1)),
        ("TIMESTAMP", 0x42, U256::from(1_700_000_000_u64)),
        ("GASLIMIT", 0x45, U256::from(chain.block_gas)),
        ("BASEFEE", 0x48, U256::from(7)),
        ("PREVRANDAO", 0x44, U256::from_be_bytes([3; 32])),
    ];
    for (name, opcode, want) in fields {
        let at = Address::repeat_byte(0xaa);
        let code = vec![opcode, 0x5f, 0x52, 0x60, 0x20, 0x5f, 0xf3];
        let code = Bytecode::new_raw(Bytes::from(code));
        chain.state.insert_account_info(at, AccountInfo::from_bytecode(code));
        let mut key = Key::new(1);
        let tx = Tx::decode(&key.send(TxKind::Call(at), 0, vec![]));
        for executor in modes() {
            let (state, facts) = (&chain.state, &chain.facts);
            let env = chain.env();
            let outcome = executor
                .execute(&env, std::slice::from_ref(&tx), state, facts, &Table::default())
                .unwrap();
            let output = common::output(&outcome.outcomes[0]);
            assert_eq!(U256::from_be_slice(&output), want, "{name}");
        }
    }
}
