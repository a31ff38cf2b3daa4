//! A contract has the committed text model write: the same bytes in a block, call after call, as a call, and from the decoder
//! alone; and all of a block's texts in one batch of steps.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::{io::Cursor, path::Path, sync::Arc};

use alloy_primitives::{Address, B256, Bytes, TxKind, U256};
use alloy_sol_types::{SolCall as _, SolError as _, SolEvent as _};
use common::{
    Chain, Key, apply,
    artifact::{self, Teller},
    output, reverted, succeeded,
};
use hyperion_engine::{
    Answer, ClaimSink, Drawing, Engine, EngineConfig, KernelPool, ManualClock, Pushback, Registry,
    SignError, Signer,
};
use hyperion_executor::{
    Candidate, Executor, ExecutorConfig, Mode, Tx, TxOutcome,
    precompile::{
        Domain,
        abi::{
            IInference::{self, inferCall},
            InferenceErrors::{SamplingInvalid, TooMuchWork},
            Sampling,
        },
        address,
    },
};
use hyperion_model::{Decoder, Limits, Model, Replay, Tokenizer, Trust, import, replay};
use hyperion_ops::{Cpu, KernelSet, Serial};
use hyperion_verify::Request;

/// `<|end|>`.
const END: u32 = 1;

fn folder() -> &'static Path {
    Path::new("../../fixtures/pydoc")
}

fn model() -> Arc<Model> {
    let mut file = Cursor::new(Vec::new());
    import::write(folder(), &mut file, &mut |_, _| {}).unwrap();
    Arc::new(Model::from_bytes(file.into_inner(), Trust::Nothing).unwrap())
}

/// What a chat says to the model after this message.
fn prompt(message: &str) -> Vec<u8> {
    let tokenizer = Tokenizer::whole(&folder().join("tokenizer.json")).unwrap();
    let text = format!("<|user|>{message}<|end|><|assistant|>");
    bytes(&tokenizer.encode_bare(&text).unwrap())
}

fn bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

fn ids(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// Signs, and keeps nothing: the calls of a block need no claims.
struct Nobody;

impl Signer for Nobody {
    fn address(&self) -> Address {
        Address::ZERO
    }

    fn sign(&self, _: B256) -> Result<[u8; 65], SignError> {
        Ok([27; 65])
    }
}

impl ClaimSink for Nobody {
    fn offer(&self, _: Arc<Answer>) -> Result<(), Pushback> {
        Ok(())
    }
}

/// An engine that remembers nothing yet.
fn engine(model: &Arc<Model>) -> Engine {
    let mut registry = Registry::new();
    registry.add("pydoc", Arc::clone(model)).unwrap();
    let device = Box::new(Cpu::new(KernelSet::best(), Arc::new(KernelPool::new(1).unwrap())));
    let config = EngineConfig { suite: false, cache_bytes_max: 1 << 26, ..EngineConfig::default() };
    let domain = Domain { chain_id: common::CHAIN_ID, verifying_contract: address::REQUESTS };
    let clock = Arc::new(ManualClock::default());
    Engine::new(config, registry, vec![device], Arc::new(Nobody), domain, clock, Box::new(Nobody))
        .unwrap()
}

/// A chain that knows the model, and a contract that has it write.
fn chain(model: &Model) -> (Chain, Address) {
    let mut chain = Chain::new();
    let teller = chain.deploy(&mut Key::new(9), artifact::teller(model.id().0, END));
    chain.facts.models.insert(model.id(), *model.manifest());
    (chain, teller)
}

fn drawn(temperature_q16: u32, tokens_max: u32) -> Sampling {
    Sampling {
        temperatureQ16: temperature_q16,
        topPQ16: 1 << 16,
        tokensMax: tokens_max,
        ..common::DRAWS_NOTHING
    }
}

fn infer(model: &Model, prompt: &[u8], sampling: Sampling, seed: B256) -> inferCall {
    inferCall { modelId: model.id().0, input: prompt.to_vec().into(), sampling, seed }
}

/// The answer alone: prompt and draws over a decoder, without an engine; and checked by one prefill.
fn alone(model: &Model, call: &inferCall) -> Vec<u8> {
    let sampling = hyperion_verify::Sampling {
        temperature_q16: call.sampling.temperatureQ16,
        top_p_q16: call.sampling.topPQ16,
        tokens_max: call.sampling.tokensMax,
        ..hyperion_verify::Sampling::default()
    };
    let drawing = Drawing::new(sampling, Vec::new()).unwrap();
    let mut device = Cpu::new(KernelSet::best(), Arc::new(Serial));
    let mut decoder =
        Decoder::load(model, &mut device, Limits { rows_max: 64, outputs_max: 16, pages: 32 })
            .unwrap();
    let prompt = ids(&call.input);
    let (mut context, mut sampler) = (decoder.begin(), drawing.sampler(call.seed, &prompt));
    let mut logits = decoder.prefill(&mut device, &mut context, &prompt).unwrap();
    let mut answer = Vec::new();
    while answer.len() < sampling.tokens_max as usize {
        let token = sampler.next(&logits);
        answer.push(token);
        logits = decoder.step(&mut device, &mut [(&mut context, token)]).unwrap().remove(0);
    }
    decoder.release(context);
    let draws = drawing.sampler(call.seed, &prompt);
    let checked = replay(&mut decoder, &mut device, &prompt, &answer, draws).unwrap();
    assert_eq!(checked, Replay::Equal);
    bytes(&answer)
}

/// What the contract keeps of an answer.
fn until_end(answer: &[u8]) -> Vec<u8> {
    let all = ids(answer);
    bytes(&all[..all.iter().position(|id| *id == END).unwrap_or(all.len())])
}

fn returned(outcome: &TxOutcome) -> Vec<u8> {
    inferCall::abi_decode_returns(&succeeded(outcome)).unwrap().output.to_vec()
}

/// Texts through the contract and directly, likeliest and drawn, one of them twice: one batch, a step a token, and the bytes
/// of a block executed call after call, of calls alone, of a decoder, and of a caller's request.
#[test]
fn the_texts_of_a_block_are_written_together_and_are_those_of_each_alone() {
    const TOKENS: u32 = 24;
    let model = model();
    let (mut chain, teller) = chain(&model);
    let questions = ["Explain str.join", "What is the with statement?", "What is a list?"];
    let prompts = questions.map(prompt);
    let tell = |prompt: &[u8]| {
        Teller::tellCall { prompt: prompt.to_vec().into(), tokens: TOKENS }.abi_encode()
    };
    // A request's own seed, as it is given to whoever asks over the network.
    let engines: [Engine; 4] = std::array::from_fn(|_| engine(&model));
    let warm = hyperion_verify::Sampling {
        temperature_q16: 1 << 16,
        top_p_q16: 1 << 16,
        tokens_max: TOKENS,
        ..hyperion_verify::Sampling::default()
    };
    let request =
        Request { entropy: B256::repeat_byte(8), nonce: U256::from(1), ..Request::default() };
    let drawing = Drawing::new(warm, Vec::new()).unwrap();
    let asked: Arc<[u8]> = prompts[0].clone().into();
    let job = engines[3].complete_drawn(model.id(), request, asked, drawing).unwrap();

    let direct = [
        infer(&model, &prompts[0], drawn(1 << 16, TOKENS), job.seed()),
        infer(&model, &prompts[0], drawn(1 << 16, TOKENS), B256::repeat_byte(7)),
        infer(&model, &prompts[2], drawn(0, TOKENS), B256::ZERO),
    ];
    let mut calls: Vec<(Address, Vec<u8>)> =
        prompts.iter().map(|prompt| (teller, tell(prompt))).collect();
    calls.extend(direct.iter().map(|call| (address::INFERENCE, call.abi_encode())));
    let txs: Vec<Candidate> = (1..)
        .zip(&calls)
        .map(|(seed, (to, data))| {
            Tx::decode(&Key::new(seed).send(TxKind::Call(*to), 0, data.clone()))
        })
        .collect();

    let (env, state, facts) = (chain.env(), &chain.state, &chain.facts);
    let block = chain.executor.execute(&env, &txs, state, facts, &engines[0]).unwrap();
    // The third question is asked twice, which is one run.
    assert_eq!((block.stats.batches, block.stats.runs), (1, 5));
    let stats = &engines[0].stats().models[0];
    assert_eq!((stats.batches, stats.tokens), (u64::from(TOKENS), 5 * u64::from(TOKENS)));

    let config = ExecutorConfig { mode: Mode::Sequential, ..ExecutorConfig::default() };
    let definition = Executor::new(config).execute(&env, &txs, state, facts, &engines[1]).unwrap();
    assert_eq!((&block.outcomes, block.gas_used), (&definition.outcomes, definition.gas_used));
    assert_eq!(block.diff, definition.diff);
    // The first is told number 1, as a call on the parent's state is; the others' numbers follow.
    for at in [0, 3, 4, 5] {
        let called = txs[at].as_ref().unwrap().env.clone();
        let called = chain.executor.call(&env, called, state, facts, &engines[2]).unwrap();
        assert_eq!(called.result(), block.outcomes[at].result(), "call {at}");
    }

    for (call, outcome) in direct.iter().zip(&block.outcomes[3..]) {
        assert_eq!(returned(outcome), alone(&model, call));
    }
    assert_ne!(output(&block.outcomes[3]), output(&block.outcomes[4]), "another seed");
    let (tell_answer, told) = std::sync::mpsc::channel();
    let done = Box::new(move |answer| drop(tell_answer.send(answer)));
    let _ticket = engines[3].submit(job, done).unwrap();
    let answer = told.recv().unwrap().unwrap();
    assert_eq!(answer.output.data, returned(&block.outcomes[3]), "what a caller is told");

    // What the contract said and what it keeps.
    apply(&mut chain.state, &block.diff);
    for (number, prompt) in (1_u8..).zip(&prompts) {
        let want = until_end(&alone(&model, &infer(&model, prompt, drawn(0, TOKENS), B256::ZERO)));
        let outcome = &block.outcomes[usize::from(number) - 1];
        let event = Teller::Told::decode_log(&outcome.result().unwrap().logs()[0]).unwrap();
        assert_eq!((&event.text, event.number), (&Bytes::from(want.clone()), U256::from(number)));
        let get = Teller::textOfCall { number: U256::from(number) }.abi_encode();
        let kept = chain.one(Key::new(8).send(TxKind::Call(teller), 0, get));
        assert_eq!(Teller::textOfCall::abi_decode_returns(&succeeded(&kept)).unwrap(), want);
        // The key's nonce stays that of the state.
        chain.state.load_account(Key::new(8).address()).unwrap().info.nonce = 0;
    }
}

/// What a text costs is known before it is written, and a contract can ask.
#[test]
fn a_text_costs_what_the_quote_says_and_what_cannot_be_written_is_refused() {
    let model = model();
    let (chain, teller) = chain(&model);
    let engine = engine(&model);
    assert!(model.manifest().native && model.manifest().generator);
    let prompt = prompt("What is a list?");
    let run = |to: Address, data: Vec<u8>, gas: u64| {
        let tx = Key::new(1).send_with_gas(TxKind::Call(to), 0, data, gas);
        let env = Tx::decode(&tx).unwrap().env;
        chain.executor.call(&chain.env(), env, &chain.state, &chain.facts, &engine).unwrap()
    };
    let quote = |tokens| {
        let (model, bytes) = (model.id().0, prompt.len() as u64);
        let call = IInference::quoteCall { modelId: model, inputBytes: bytes, tokensMax: tokens };
        let quoted = run(address::INFERENCE, call.abi_encode(), 100_000);
        IInference::quoteCall::abi_decode_returns(&succeeded(&quoted)).unwrap()
    };
    let (ten, all) = (quote(10), quote(1_024 + 1 - prompt.len() as u32 / 4));
    assert!(ten.fits && !all.fits, "{ten:?} {all:?}");
    let rows = prompt.len() as u64 / 4 + 9;
    let manifest = model.manifest();
    let macs = manifest.macs;
    let want = macs.base + macs.per_row * rows + macs.per_pair * rows * (rows + 1) / 2;
    assert_eq!(ten.macs, want + 10 * macs.per_out);

    let call = infer(&model, &prompt, drawn(0, 10), B256::ZERO).abi_encode();
    let nonzero = call.iter().filter(|byte| **byte != 0).count() as u64;
    let before = 21_000 + 4 * (call.len() as u64 - nonzero) + 16 * nonzero;
    let written = run(address::INFERENCE, call.clone(), before + ten.gasCost);
    assert_eq!(returned(&written).len(), 40);
    let short = run(address::INFERENCE, call, before + ten.gasCost - 1);
    assert!(short.result().unwrap().is_halt(), "{short:?}");

    let go_on = |tokens, temperature, seed| {
        let prompt = prompt.clone().into();
        Teller::goOnCall { prompt, tokens, temperatureQ16: temperature, seed }.abi_encode()
    };
    let invalid = |field| SamplingInvalid { field }.abi_encode();
    let refused = [
        ("no token", go_on(0, 0, B256::ZERO), invalid(5)),
        ("beyond the context", go_on(1_024, 0, B256::ZERO), invalid(5)),
        ("hardly any warmth", go_on(3, 1, B256::ZERO), invalid(0)),
        ("a seed for nothing", go_on(3, 0, B256::repeat_byte(1)), invalid(7)),
        (
            "more work than a call may be",
            go_on(1_024 + 1 - prompt.len() as u32 / 4, 0, B256::ZERO),
            TooMuchWork { got: all.macs, max: 2_000_000_000 }.abi_encode(),
        ),
    ];
    for (name, data, want) in refused {
        assert_eq!(reverted(&run(teller, data, 16_000_000)), Bytes::from(want), "{name}");
    }
}
