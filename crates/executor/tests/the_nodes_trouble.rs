//! What stops a block here, and that no more than this does.

mod common;

use alloy_primitives::{Address, B256, TxKind};
use common::{
    Chain, Key, Table,
    double::{DIGITS, image},
    infer,
};
use hyperion_executor::{
    Candidate, Executor, ExecutorConfig, ExecutorError, Mode, Tx,
    precompile::{Run, Sampling, address},
    revm::primitives::hardfork::SpecId,
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
fn an_answer_that_does_not_come_stops_the_block() {
    let chain = Chain::new();
    let answers = Table::default();
    answers.lost.lock().push(run(2));
    for executor in modes() {
        let txs = [call(1, 0, 1), call(2, 0, 2)];
        let error = executor.execute(&chain.env(), &txs, &chain.state, &chain.facts, &answers);
        assert!(matches!(error, Err(ExecutorError::AnswersLost(_))), "{error:?}");
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
    use hyperion_executor::revm::{
        bytecode::Bytecode,
        primitives::{Bytes, U256},
        state::AccountInfo,
    };
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
