//! The two consumers, deployed and called through signed transactions.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use alloy_primitives::{Address, B256, TxKind, U256, keccak256};
use alloy_sol_types::{SolCall as _, SolError as _, SolEvent as _};
use common::{
    Chain, Key, Table, WEALTH,
    artifact::{self, DigitGate, SemanticBounty},
    double::{DIGITS, ENCODER, image, text},
    reverted, succeeded,
};

const fn to(address: Address) -> TxKind {
    TxKind::Call(address)
}

#[test]
fn the_gate_opens_for_the_digit_and_each_image_once() {
    let mut chain = Chain::new();
    let [mut owner, mut visitor, mut copier] = [1, 2, 3].map(Key::new);
    let gate = chain.deploy(&mut owner, artifact::digit_gate(DIGITS.0, 7));
    let enter = |pixels: Vec<u8>| DigitGate::enterCall { pixels: pixels.into() }.abi_encode();

    let seven = image(7, 1);
    let entered = chain.one(visitor.send(to(gate), 0, enter(seven.clone())));
    assert_eq!(U256::from_be_slice(&succeeded(&entered)), U256::from(1));
    let logs = entered.result().unwrap().logs();
    let event = DigitGate::Entered::decode_log(&logs[0]).unwrap();
    assert_eq!(event.visitor, visitor.address());
    assert_eq!(event.imageHash, keccak256(&seven));

    let cases = [
        (
            "the image again, by another",
            seven.clone(),
            DigitGate::ImageShown { imageHash: keccak256(&seven), by: visitor.address() }
                .abi_encode(),
        ),
        (
            "a three",
            image(3, 0),
            DigitGate::WrongDigit { got: U256::from(3), want: U256::from(7) }.abi_encode(),
        ),
        (
            "a pixel beyond white",
            image(7, (1 << 16) + 1),
            DigitGate::NotAPixel { index: U256::from(63), got: (1 << 16) + 1, max: 1 << 16 }
                .abi_encode(),
        ),
        (
            "a pixel below black",
            image(7, -1),
            DigitGate::NotAPixel { index: U256::from(63), got: -1, max: 1 << 16 }.abi_encode(),
        ),
        (
            "two images at once",
            [image(7, 2), image(7, 3)].concat(),
            DigitGate::NotAnImage { gotBytes: U256::from(512), wantBytes: U256::from(256) }
                .abi_encode(),
        ),
    ];
    for (name, pixels, want) in cases {
        let refused = chain.one(copier.send(to(gate), 0, enter(pixels)));
        assert_eq!(reverted(&refused), want, "{name}");
    }
    // Another image of a seven opens for another visitor.
    let entered = chain.one(copier.send(to(gate), 0, enter(image(7, 9))));
    assert_eq!(U256::from_be_slice(&succeeded(&entered)), U256::from(2));
}

/// A bounty contract with one bounty on a question of six words, open for texts between 0.4 and 0.95.
struct Bounty {
    chain: Chain,
    contract: Address,
    asker: Key,
    embedding: Vec<u8>,
    deadline: u64,
}

const QUESTION: [u32; 6] = [2_000, 2_001, 2_002, 2_003, 2_004, 2_005];
const REWARD: u128 = 5 * 10_u128.pow(18);

impl Bounty {
    fn new() -> Self {
        let mut chain = Chain::new();
        let mut asker = Key::new(1);
        let contract = chain.deploy(&mut asker, artifact::semantic_bounty(ENCODER.0));
        let deadline = chain.env().block.timestamp.to::<u64>() + 10;
        let ask = SemanticBounty::askCall {
            tokens: text(&QUESTION).into(),
            floorQ15: 13_107,
            ceilingQ15: 31_130,
            deadline,
        };
        let asked = chain.one(asker.send(to(contract), REWARD, ask.abi_encode()));
        succeeded(&asked);
        let event = SemanticBounty::Asked::decode_log(&asked.result().unwrap().logs()[0]).unwrap();
        let embedding = event.embedding.to_vec();
        Self { chain, contract, asker, embedding, deadline }
    }

    fn call(&mut self, key: &mut Key, data: Vec<u8>) -> common::TxResult {
        let tx = key.send(to(self.contract), 0, data);
        self.chain.one(tx)
    }

    fn commitment(&self, key: &Key, tokens: &[u8], salt: B256) -> B256 {
        use alloy_sol_types::SolValue as _;
        keccak256((U256::from(1), key.address(), keccak256(tokens), salt).abi_encode())
    }

    fn commit(&mut self, key: &mut Key, tokens: &[u8], salt: B256) {
        let commitment = self.commitment(key, tokens, salt);
        let committed = self.call(key, SemanticBounty::commitCall { commitment }.abi_encode());
        succeeded(&committed);
    }

    fn answer(&self, tokens: &[u8], salt: B256) -> Vec<u8> {
        let (tokens, embedding) = (tokens.to_vec().into(), self.embedding.clone().into());
        SemanticBounty::answerCall { id: U256::from(1), tokens, salt, embedding }.abi_encode()
    }

    fn committed_answer(&mut self, key: &mut Key, tokens: &[u8]) -> common::TxResult {
        let salt = B256::repeat_byte(key.nonce as u8);
        self.commit(key, tokens, salt);
        let answer = self.answer(tokens, salt);
        self.call(key, answer)
    }
}

#[test]
fn the_bounty_pays_the_near_answer_and_refuses_the_others() {
    let mut bounty = Bounty::new();
    let [mut good, mut bad] = [2, 3].map(Key::new);
    // Shares four of six words with the question.
    let near = text(&[2_000, 2_001, 2_002, 2_003, 3_000, 3_001]);
    let far = text(&[4_000, 4_001, 4_002, 4_003]);

    let refused = bounty.committed_answer(&mut bad, &far);
    let error = SemanticBounty::TooFar::abi_decode(&reverted(&refused)).unwrap();
    assert!(error.cosineQ15 < error.floorQ15);
    let refused = bounty.committed_answer(&mut bad, &text(&QUESTION));
    let error = SemanticBounty::TooNear::abi_decode(&reverted(&refused)).unwrap();
    assert!(error.cosineQ15 > error.ceilingQ15, "the question itself is no answer");

    let answered = bounty.committed_answer(&mut good, &near);
    succeeded(&answered);
    let log = &answered.result().unwrap().logs()[0];
    let event = SemanticBounty::Answered::decode_log(log).unwrap();
    assert_eq!((event.id, event.answerer), (U256::from(1), good.address()));

    let withdraw = SemanticBounty::withdrawCall {}.abi_encode();
    let before = balance(&bounty.chain, &good);
    let outcome = bounty.call(&mut good, withdraw.clone());
    succeeded(&outcome);
    let fee = u128::from(outcome.result().unwrap().tx_gas_used()) * 8;
    assert_eq!(balance(&bounty.chain, &good), before + REWARD - fee);
    let again = bounty.call(&mut good, withdraw);
    let want = SemanticBounty::NothingOwed { account: good.address() }.abi_encode();
    assert_eq!(reverted(&again), want);
    let closed = bounty.committed_answer(&mut bad, &near);
    assert_eq!(reverted(&closed), SemanticBounty::NotOpen { id: U256::from(1) }.abi_encode());
}

fn balance(chain: &Chain, key: &Key) -> u128 {
    use hyperion_executor::revm::database_interface::DatabaseRef as _;
    chain.state.basic_ref(key.address()).unwrap().unwrap().balance.to()
}

/// An answer seen in a pending transaction earns whoever copies it nothing.
#[test]
fn an_answer_is_bound_to_whoever_committed_to_it_and_needs_a_block_between() {
    let mut bounty = Bounty::new();
    let [mut good, mut copier] = [2, 3].map(Key::new);
    let near = text(&[2_000, 2_001, 2_002, 2_003, 3_000, 3_001]);
    let salt = B256::repeat_byte(9);
    bounty.commit(&mut good, &near, salt);
    let copied = bounty.answer(&near, salt);
    let refused = bounty.call(&mut copier, copied.clone());
    SemanticBounty::NotCommitted::abi_decode(&reverted(&refused)).unwrap();

    // Commit and answer in one block, in front of the one who was first.
    let commitment = bounty.commitment(&copier, &near, salt);
    let contract = to(bounty.contract);
    let txs = [
        copier.send(contract, 0, SemanticBounty::commitCall { commitment }.abi_encode()),
        copier.send(contract, 0, copied.clone()),
        good.send(contract, 0, copied),
    ];
    let outcomes = bounty.chain.block(&txs, &Table::default()).outcomes;
    succeeded(&outcomes[0]);
    let want = SemanticBounty::CommittedInThisBlock { commitment }.abi_encode();
    assert_eq!(reverted(&outcomes[1]), want);
    succeeded(&outcomes[2]);
}

#[test]
fn an_asker_gets_the_reward_back_after_the_deadline_only() {
    let mut bounty = Bounty::new();
    let mut asker = std::mem::replace(&mut bounty.asker, Key::new(9));
    let reclaim = SemanticBounty::reclaimCall { id: U256::from(1) }.abi_encode();
    let early = bounty.call(&mut asker, reclaim.clone());
    SemanticBounty::DeadlineNotPassed::abi_decode(&reverted(&early)).unwrap();
    let not_theirs = bounty.call(&mut Key::new(4), reclaim.clone());
    SemanticBounty::NotYours::abi_decode(&reverted(&not_theirs)).unwrap();

    let mut late = Key::new(2);
    let near = text(&[2_000, 2_001, 2_002, 2_003, 3_000, 3_001]);
    bounty.commit(&mut late, &near, B256::ZERO);
    bounty.chain.height += 10;
    assert!(bounty.chain.env().block.timestamp.to::<u64>() > bounty.deadline);
    let answer = bounty.answer(&near, B256::ZERO);
    let refused = bounty.call(&mut late, answer);
    SemanticBounty::DeadlinePassed::abi_decode(&reverted(&refused)).unwrap();
    let outcome = bounty.call(&mut asker, reclaim);
    succeeded(&outcome);
    let outcome = bounty.call(&mut asker, SemanticBounty::withdrawCall {}.abi_encode());
    succeeded(&outcome);
    assert!(balance(&bounty.chain, &asker) > WEALTH - 10_u128.pow(17));
}

#[test]
fn what_is_no_text_or_no_bounty_says_so() {
    let mut bounty = Bounty::new();
    let mut key = Key::new(2);
    let deadline = bounty.deadline;
    let ask = |tokens: Vec<u8>, floor, ceiling, deadline| {
        SemanticBounty::askCall {
            tokens: tokens.into(),
            floorQ15: floor,
            ceilingQ15: ceiling,
            deadline,
        }
        .abi_encode()
    };
    let framed = text(&QUESTION);
    let unframed: Vec<u8> = [7_u32, 8, 9].iter().flat_map(|id| id.to_le_bytes()).collect();
    let selector = |error: &[u8]| error[..4].to_vec();
    let cases = [
        ("no frame", ask(unframed, 1, 2, deadline), 1, SemanticBounty::NotAText::SELECTOR),
        (
            "a frame around nothing",
            ask(text(&[]), 1, 2, deadline),
            1,
            SemanticBounty::NotAText::SELECTOR,
        ),
        (
            "no floor",
            ask(framed.clone(), 0, 2, deadline),
            1,
            SemanticBounty::BoundsInvalid::SELECTOR,
        ),
        (
            "a ceiling of one",
            ask(framed.clone(), 1, 32_768, deadline),
            1,
            SemanticBounty::BoundsInvalid::SELECTOR,
        ),
        (
            "a ceiling below the floor",
            ask(framed.clone(), 3, 2, deadline),
            1,
            SemanticBounty::BoundsInvalid::SELECTOR,
        ),
        ("no reward", ask(framed.clone(), 1, 2, deadline), 0, SemanticBounty::NoReward::SELECTOR),
        (
            "a deadline in the past",
            ask(framed, 1, 2, 5),
            1,
            SemanticBounty::DeadlinePassed::SELECTOR,
        ),
    ];
    for (name, data, value, want) in cases {
        let tx = key.send(to(bounty.contract), value, data);
        let refused = bounty.chain.one(tx);
        assert_eq!(selector(&reverted(&refused)), want, "{name}");
    }
}
