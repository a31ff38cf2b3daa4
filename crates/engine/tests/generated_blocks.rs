//! A block's calls of a model that generates: one batch of steps, the tokens of a run alone, before everybody else.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::sync::{
    Arc,
    mpsc::{Receiver, channel},
};

use common::{
    Setup, config,
    device::{Fault, scripted},
    model,
};
use hyperion_engine::{BlockCall, Drawing, EngineConfig, InferError, Invalid, Job, Pushback};
use hyperion_model::{Decoder, Limits, Model, Tensor};
use hyperion_ops::{Backend, Cpu, KernelSet, Reference, Serial};
use hyperion_primitives::{B256, ModelId, U256};
use hyperion_verify::{Request, Sampling};

const CONTEXT: u32 = 200;

fn bytes(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

fn sampling(temperature_q16: u32, tokens_max: u32) -> Sampling {
    Sampling { temperature_q16, top_p_q16: 65_536, tokens_max, ..Sampling::default() }
}

fn call(model: ModelId, prompt: &[u32], sampling: Sampling, seed: u8) -> BlockCall {
    BlockCall { sampling, seed: B256::repeat_byte(seed), ..BlockCall::plain(model, bytes(prompt)) }
}

/// A caller's own job: a prompt and how many tokens of it, always the largest logit.
fn job(setup: &Setup, nonce: u64, prompt: &[u32], tokens: u32) -> Job {
    let request = Request { nonce: U256::from(nonce), deadline: u64::MAX, ..Request::default() };
    let drawing = Drawing::new(sampling(0, tokens), Vec::new()).unwrap();
    let model = setup.models[0].id();
    setup.engine.complete_drawn(model, request, bytes(prompt).into(), drawing).unwrap()
}

/// The answer alone: one token after another, over the scalar definitions and without an engine.
fn alone(model: &Model, call: &BlockCall) -> Vec<u8> {
    let mut reference = Reference::default();
    let limits = Limits { rows_max: CONTEXT, outputs_max: 1, pages: CONTEXT.div_ceil(32) };
    let mut decoder = Decoder::load(model, &mut reference, limits).unwrap();
    let drawing = Drawing::new(call.sampling, Vec::new()).unwrap();
    let words = call.input.as_chunks::<4>().0;
    let prompt: Vec<u32> = words.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let (mut context, mut sampler) = (decoder.begin(), drawing.sampler(call.seed, &prompt));
    let mut logits = decoder.prefill(&mut reference, &mut context, &prompt).unwrap();
    let mut answer = Vec::new();
    while answer.len() < call.sampling.tokens_max as usize {
        let token = sampler.next(&logits);
        answer.push(token);
        logits = decoder.step(&mut reference, &mut [(&mut context, token)]).unwrap().remove(0);
    }
    bytes(&answer)
}

type Outputs = Vec<Result<Arc<Tensor>, InferError>>;

fn begin(setup: &Setup, calls: &[BlockCall]) -> Receiver<Outputs> {
    let (tell, told) = channel();
    setup.engine.run_batch(calls.to_vec(), Box::new(move |outputs| drop(tell.send(outputs))));
    told
}

fn data(outputs: Outputs) -> Vec<Vec<u8>> {
    outputs.into_iter().map(|output| output.unwrap().data.clone()).collect()
}

fn fast() -> Box<dyn Backend> {
    Box::new(Cpu::new(KernelSet::best(), Arc::new(Serial)))
}

#[test]
fn all_calls_join_one_batch_of_steps_and_give_what_each_gives_alone() {
    let model = model::generator(1, CONTEXT);
    let setup = Setup::new(config(), vec![Arc::clone(&model)], vec![fast()]);
    let id = model.id();
    let mut calls: Vec<BlockCall> = (0..12)
        .map(|nth| {
            let prompt: Vec<u32> = (0..5 + nth).map(|at| (7 * at + nth) % 50).collect();
            let warm = nth % 3;
            call(id, &prompt, sampling(warm << 16, 20), if warm > 0 { nth as u8 } else { 0 })
        })
        .collect();
    // Another seed is another call, an equal one is none.
    calls.push(BlockCall { seed: B256::repeat_byte(99), ..calls[1].clone() });
    calls.push(calls[1].clone());
    let outputs = data(begin(&setup, &calls).recv().unwrap());
    for (call, output) in calls.iter().zip(&outputs) {
        assert_eq!(*output, alone(&model, call), "{call:?}");
    }
    assert_eq!(outputs[1], outputs[13]);
    assert_ne!(outputs[1], outputs[12]);
    let stats = setup.engine.stats();
    let [model_stats] = &stats.models[..] else { panic!("one model") };
    assert_eq!(model_stats.batches, 20, "a step a token, for all together");
    assert_eq!(model_stats.tokens, 13 * 20, "equal calls draw once");
    assert!(setup.sink.claims.lock().is_empty(), "nothing is signed");

    assert_eq!(data(begin(&setup, &calls).recv().unwrap()), outputs);
    assert_eq!(setup.engine.stats().models[0].batches, 20, "what is remembered needs no step");
    // A caller who asks the same is told what the block computed.
    let (prompt, tokens) = ((0..5).map(|at| 7 * at % 50).collect::<Vec<u32>>(), 20);
    let (_ticket, answer) = setup.submit(job(&setup, 1, &prompt, tokens));
    assert_eq!(answer.recv().unwrap().unwrap().output.data, outputs[0]);
    assert_eq!(setup.engine.stats().models[0].batches, 20);
}

#[test]
fn a_call_finds_place_rows_and_pages_whatever_else_is_generated() {
    let model = model::generator(1, CONTEXT);
    let page = Decoder::page_bytes(model.program());
    // One place, one row a step beside the answers' own, and pages for the longest sequence alone.
    let tight = EngineConfig {
        answers_max: 1,
        step_rows_max: 2,
        prompt_rows_max: 1,
        cache_bytes_max: page,
        prefix_reuse: false,
        ..config()
    };
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::new(tight, vec![Arc::clone(&model)], vec![Box::new(device)]);
    let before = script.runs();
    let (_first, running) = setup.submit(job(&setup, 1, &[3; 20], 180));
    let waiting: Vec<_> =
        (2..6).map(|nonce| setup.submit(job(&setup, nonce, &[4; 9], 150))).collect();
    // Half-way through the first answer.
    while script.runs() < before + 100 {
        std::thread::yield_now();
    }
    script.close();
    let calls: Vec<BlockCall> =
        (0..3).map(|nth| call(model.id(), &[nth; 150], sampling(0, 40), 0)).collect();
    let told = begin(&setup, &calls);
    let since = script.runs();
    script.open();
    let outputs = data(told.recv().unwrap());
    // Each reads 150 tokens in steps of 2 at least, and writes 40.
    let steps = script.runs() - since;
    assert!(steps <= 3 * (150 + 40) + 3, "{steps} steps");
    assert!(running.try_recv().is_err(), "the answer that ran before is not done");
    for (call, output) in calls.iter().zip(&outputs) {
        assert_eq!(*output, alone(&model, call));
    }
    let answer = running.recv().unwrap().unwrap();
    let want = call(model.id(), &[3; 20], sampling(0, 180), 0);
    assert_eq!(answer.output.data, alone(&model, &want), "it went on, or began anew");
    drop(waiting);
}

#[test]
fn a_call_that_lost_its_device_has_it_alone_and_others_begin_anew() {
    let model = model::generator(1, CONTEXT);
    let (device, script) = scripted(u64::MAX);
    let config = EngineConfig { prefix_reuse: false, ..config() };
    let setup = Setup::new(config, vec![Arc::clone(&model)], vec![Box::new(device)]);
    let calls = [call(model.id(), &[9; 30], sampling(1 << 16, 30), 5)];
    let want = alone(&model, &calls[0]);
    // Broken in the middle of the answer: when its tenth token is read.
    script.poison(&want[36..40], Fault::Lost, 1);
    let told = begin(&setup, &calls);
    // Nobody is let in while the device is gone, so whoever comes just then asks again.
    let submit = |nonce| loop {
        match setup.try_submit(job(&setup, nonce, &[4; 9], 150)) {
            Err(Pushback::NoWorker { .. }) => std::thread::yield_now(),
            submitted => break submitted.unwrap(),
        }
    };
    let others: Vec<_> = (1..20).map(submit).collect();
    assert_eq!(data(told.recv().unwrap()), [want]);
    for (_ticket, answer) in others {
        assert_eq!(answer.recv().unwrap().unwrap().output.dims, [150, 1]);
    }
}

#[test]
fn what_no_contract_may_ask_spoils_no_other_call() {
    let model = model::generator(1, CONTEXT);
    let setup = Setup::new(config(), vec![Arc::clone(&model), model::classifier(1)], vec![fast()]);
    let (id, classifier) = (model.id(), setup.models[1].id());
    let greedy = sampling(0, 3);
    let ends = Sampling { stop_hash: B256::repeat_byte(1), ..greedy };
    let calls = [
        call(id, &[1], greedy, 0),
        BlockCall::plain(id, bytes(&[1])),
        call(id, &[1], greedy, 1),
        call(id, &[1], ends, 0),
        call(id, &[1; 199], greedy, 0),
        call(classifier, &[1; 16], greedy, 0),
        BlockCall { seed: B256::repeat_byte(1), ..BlockCall::plain(classifier, bytes(&[1; 16])) },
        call(id, &[1], Sampling { text_stop_hash: B256::repeat_byte(1), ..greedy }, 0),
    ];
    let outputs = begin(&setup, &calls).recv().unwrap();
    let why = |at: usize| match &outputs[at] {
        Err(InferError::Invalid(invalid)) => invalid.clone(),
        other => panic!("call {at}: {other:?}"),
    };
    assert!(outputs[0].is_ok());
    assert_eq!(why(1), Invalid::Undrawn);
    assert!(matches!(why(2), Invalid::Drawing(_)) && matches!(why(3), Invalid::Drawing(_)));
    assert_eq!(why(4), Invalid::Context { in_tokens: 199, tokens_max: 3, rows_max: CONTEXT });
    assert_eq!((why(5), why(6)), (Invalid::Sampling, Invalid::Sampling));
    assert!(matches!(why(7), Invalid::Drawing(_)));
}
