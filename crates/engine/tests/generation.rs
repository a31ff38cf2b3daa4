//! Answers that are generated: whatever runs beside them, and however their rows are cut, they are the tokens that a run of one
//! alone gives; they come as they are drawn; and what nobody wants is gone after a step.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::sync::{Arc, mpsc::channel};

use common::{
    Setup, config,
    device::{Fault, scripted},
    model,
};
use hyperion_engine::{
    ALTERNATIVES_MAX, Drawing, Engine, EngineConfig, Failure, Invalid, Job, Logprobs, OnTokens,
    RequestStatus,
};
use hyperion_model::{Decoder, Limits, Model, Replay, TokenBytes, replay};
use hyperion_ops::logprob::logprobs;
use hyperion_ops::{Backend, Cpu, KernelSet, Reference, Serial};
use hyperion_primitives::{B256, Mix, U256};
use hyperion_verify::{Request, Sampling};
use parking_lot::Mutex;

const CONTEXT: u32 = 200;

fn drawing(temperature_q16: u32, tokens_max: u32, stop_ids: &[u32]) -> Drawing {
    let sampling =
        Sampling { temperature_q16, top_p_q16: 65_536, tokens_max, ..Sampling::default() };
    Drawing::new(sampling, stop_ids.to_vec()).unwrap()
}

/// The same, ended by texts: a token `n` writes `n!`, of which 9 writes nothing.
fn texted(drawing: Drawing, texts: &[&str]) -> Drawing {
    let words = (0..50).map(|id| if id == 9 { String::new() } else { format!("{id}!") });
    let texts = texts.iter().map(|text| (*text).to_owned()).collect();
    drawing.with_stop_texts(texts).unwrap().with_token_bytes(Arc::new(TokenBytes::new(words)))
}

fn bytes(tokens: &[u32]) -> Vec<u8> {
    tokens.iter().flat_map(|token| token.to_le_bytes()).collect()
}

fn ids(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// A job with a nonce of its own.
fn job(engine: &Engine, model: &Model, nonce: u64, prompt: &[u32], drawing: &Drawing) -> Job {
    let request = Request { nonce: U256::from(nonce), deadline: u64::MAX, ..Request::default() };
    let prompt = bytes(prompt).into();
    engine.complete_drawn(model.id(), request, prompt, drawing.clone()).unwrap()
}

/// The answer alone: one token after another, over the scalar definitions and without an engine; and how likely each token was.
fn alone(
    model: &Model,
    prompt: &[u32],
    drawing: &Drawing,
    seed: B256,
) -> (Vec<u32>, Vec<Logprobs>) {
    let mut reference = Reference::default();
    let limits = Limits { rows_max: CONTEXT, outputs_max: 1, pages: CONTEXT.div_ceil(32) };
    let mut decoder = Decoder::load(model, &mut reference, limits).unwrap();
    let (mut context, mut sampler) = (decoder.begin(), drawing.sampler(seed, prompt));
    let (mut answer, mut told) = (Vec::new(), Vec::new());
    let mut logits = decoder.prefill(&mut reference, &mut context, prompt).unwrap();
    loop {
        let token = sampler.next(&logits);
        answer.push(token);
        told.push(logprobs(&logits, token, ALTERNATIVES_MAX));
        if drawing.ends(&answer) {
            return (answer, told);
        }
        logits = decoder.step(&mut reference, &mut [(&mut context, token)]).unwrap().remove(0);
    }
}

fn fast() -> Box<dyn Backend> {
    Box::new(Cpu::new(KernelSet::best(), Arc::new(Serial)))
}

struct Asked {
    prompt: Vec<u32>,
    drawing: Drawing,
    seed: B256,
    heard: Heard,
}

/// Tokens that came, and how likely they were.
type Heard = Arc<Mutex<(Vec<u32>, Vec<Logprobs>)>>;

/// Hears an answer's tokens.
fn hear() -> (Heard, OnTokens) {
    let heard = Heard::default();
    let telling = Arc::clone(&heard);
    let on_tokens = move |position: u32, new: &[u32], told: &[Logprobs]| {
        let (tokens, logprobs) = &mut *telling.lock();
        assert_eq!(position as usize, tokens.len(), "tokens come in order, each once");
        tokens.extend(new);
        logprobs.extend_from_slice(told);
    };
    (heard, Arc::new(on_tokens))
}

/// Puts `count` prompts, some of which begin alike, through an engine at once and compares each answer with one alone.
fn mixed(
    config: EngineConfig,
    draft: Option<&Arc<Model>>,
    devices: Vec<Box<dyn Backend>>,
) -> Setup {
    let model = model::generator(1, CONTEXT);
    let models = [Some(&model), draft].into_iter().flatten().map(Arc::clone).collect();
    let drafts: &[_] = if draft.is_some() { &[("m0", "m1")] } else { &[] };
    let setup = Setup::with_drafts(config, models, devices, drafts);
    let mut mix = Mix::new(5);
    let common: Vec<u32> = (0..70).map(|_| mix.below(50) as u32).collect();
    let mut by_text = 0;
    let mut asked = Vec::new();
    let mut tickets = Vec::new();
    let (tell, told) = channel();
    for nth in 0..40 {
        let shared = [0, 33, 64, 70][mix.below(4) as usize];
        let own = 1 + mix.below(60);
        let mut prompt = common[..shared].to_vec();
        prompt.extend((0..own).map(|_| mix.below(50) as u32));
        let temperature = [0, 1 << 16, 3 << 15][mix.below(3) as usize];
        let tokens_max = 1 + mix.below(60) as u32;
        // Every setting that looks at the tokens before, by itself and beside the others.
        let sampling = Sampling {
            frequency_q16: [0, 0, 20_000][mix.below(3) as usize],
            min_p_q16: [0, 0, 13_107, 52_429][mix.below(4) as usize],
            repetition_q16: [0, 65_536, 98_304, 45_000][mix.below(4) as usize],
            ..*drawing(temperature, tokens_max, &[]).sampling()
        };
        let drawing = Drawing::new(sampling, vec![7]).unwrap();
        // Texts of parts of a token, of one, and of several; a third of the answers have them.
        let texts = [&["!0", "z9z"][..], &["!1"], &["3!4"]];
        let drawing = match texts.get(mix.below(6) as usize) {
            Some(texts) => texted(drawing, texts),
            None => drawing,
        };
        let job = job(&setup.engine, &model, nth, &prompt, &drawing).logprobs(nth % 3 == 0);
        let (seed, (heard, on_tokens)) = (job.seed(), hear());
        let tell = tell.clone();
        let done = Box::new(move |outcome| drop(tell.send((nth as usize, outcome))));
        tickets.push(setup.engine.submit_stream(job, on_tokens, done).unwrap());
        asked.push(Asked { prompt, drawing, seed, heard });
    }
    for _ in 0..asked.len() {
        let (nth, outcome) = told.recv().unwrap();
        let answer: Arc<hyperion_engine::Answer> = outcome.unwrap();
        let Asked { prompt, drawing, seed, heard } = &asked[nth];
        let (want, told) = alone(&model, prompt, drawing, *seed);
        assert_eq!(ids(&answer.output.data), want, "answer {nth}");
        by_text += usize::from(drawing.ends_in_text(&want));
        let (tokens, logprobs) = &*heard.lock();
        assert!(tokens.is_empty() || *tokens == want, "answer {nth}: what was told as it came");
        let told = if nth % 3 == 0 { told } else { Vec::new() };
        assert_eq!(*logprobs, told, "answer {nth}: how likely its tokens were");
        let claim = &answer.claim.claim;
        assert_eq!(claim.output_hash, answer.output.output_hash());
        assert_eq!((claim.in_tokens, claim.out_tokens), (prompt.len() as u32, want.len() as u32));
        assert_eq!(claim.sampling_hash, drawing.sampling().hash());
        assert_eq!(Some(claim.macs), model.manifest().macs(claim.in_tokens, claim.out_tokens));
        let prompt = prompt.clone();
        check_by_prefill(&model, &prompt, &want, drawing, *seed);
    }
    assert!(by_text >= 2, "{by_text} answers ended in a text");
    drop(tickets);
    setup
}

fn check_by_prefill(model: &Model, prompt: &[u32], answer: &[u32], drawing: &Drawing, seed: B256) {
    let mut device = fast();
    let limits = Limits { rows_max: 50, outputs_max: 16, pages: CONTEXT.div_ceil(32) };
    let mut decoder = Decoder::load(model, device.as_mut(), limits).unwrap();
    let mut check = |answer: &[u32]| {
        replay(&mut decoder, device.as_mut(), prompt, answer, drawing.sampler(seed, prompt))
            .unwrap()
    };
    assert_eq!(check(answer), Replay::Equal);
    let mut other = answer.to_vec();
    let place = other.len() / 2;
    other[place] = (other[place] + 1) % 50;
    let (got, want) = (other[place], answer[place]);
    assert_eq!(check(&other), Replay::Differs { position: place as u32, got, want });
}

#[test]
fn answers_beside_others_are_those_of_a_run_alone() {
    let tight = EngineConfig {
        answers_max: 9,
        step_rows_max: 40,
        prompt_rows_max: 11,
        // Pages of the longest sequence and a few more: answers give way to each other.
        cache_bytes_max: 12 * Decoder::page_bytes(model::generator(1, CONTEXT).program()),
        ..config()
    };
    for prefix_reuse in [false, true] {
        let config = EngineConfig { prefix_reuse, ..tight };
        let setup = mixed(config, None, vec![fast()]);
        let stats = &setup.engine.stats().models[0];
        assert!(stats.tokens > 200 && stats.batches > 0);
    }
    let rows = |prefix_reuse| {
        let config = EngineConfig { prefix_reuse, memo_bytes_max: 0, ..config() };
        mixed(config, None, vec![fast(), fast()]).engine.stats().models[0].rows
    };
    let (anew, reused) = (rows(false), rows(true));
    assert!(reused < anew, "{reused} rows with texts that begin alike read once, {anew} without");
}

#[test]
fn answers_with_a_draft_model_are_those_without() {
    // A draft that is the model itself is always right, another one hardly ever.
    for (seed, draft_tokens) in [(2, 3), (1, 5)] {
        let draft = model::generator(seed, if seed == 1 { CONTEXT - 1 } else { CONTEXT });
        let config = EngineConfig { draft_tokens, answers_max: 3, ..config() };
        let setup = mixed(config, Some(&draft), vec![fast()]);
        let stats = &setup.engine.stats().models[0];
        assert!(stats.proposed > 100, "{} proposed", stats.proposed);
        if seed == 1 {
            let (right, all) = (stats.accepted, stats.proposed);
            assert!(right * 10 > all * 8, "{right} of {all} were right");
        }
    }
}

#[test]
fn a_device_that_is_lost_costs_time_and_no_token() {
    let model = model::generator(1, CONTEXT);
    let (device, script) = scripted(u64::MAX);
    let devices: Vec<Box<dyn Backend>> = vec![Box::new(device), fast()];
    let setup = Setup::new(config(), vec![Arc::clone(&model)], devices);
    let (prompt, drawing) = ((0..40).collect::<Vec<u32>>(), drawing(1 << 16, 90, &[]));
    // Broken in the middle of the answer: when its twentieth token is read.
    let first = job(&setup.engine, &model, 1, &prompt, &drawing);
    let (want, told) = alone(&model, &prompt, &drawing, first.seed());
    let first = first.logprobs(true);
    script.poison(&want[19].to_le_bytes(), Fault::Lost, 1);
    let (heard, on_tokens) = hear();
    let (tell, ended) = channel();
    let done = Box::new(move |outcome| drop(tell.send(outcome)));
    let _ticket = setup.engine.submit_stream(first, on_tokens, done).unwrap();
    let answer = ended.recv().unwrap().unwrap();
    assert_eq!(ids(&answer.output.data), want);
    assert_eq!(*heard.lock(), (want, told));
}

#[test]
fn how_likely_tokens_were_is_told_and_changes_nothing() {
    let model = model::generator(1, CONTEXT);
    let setup = Setup::new(config(), vec![Arc::clone(&model)], vec![fast()]);
    let drawing = drawing(1 << 16, 30, &[]);
    let asked = |wanted| job(&setup.engine, &model, 1, &[3, 4, 5], &drawing).logprobs(wanted);
    let (want, told) = alone(&model, &[3, 4, 5], &drawing, asked(false).seed());
    let stream = |job: Job| {
        let (heard, on_tokens) = hear();
        let (tell, ended) = channel();
        let done = Box::new(move |outcome| drop(tell.send(outcome)));
        let _ticket = setup.engine.submit_stream(job, on_tokens, done).unwrap();
        let answer: Arc<hyperion_engine::Answer> = ended.recv().unwrap().unwrap();
        let heard = heard.lock().clone();
        (answer, heard)
    };
    let (plain, heard) = stream(asked(false));
    assert_eq!(heard, (want.clone(), Vec::new()));
    // The same request again is the stored answer, which says nothing of them; a run without a claim does.
    let (again, heard) = stream(asked(true));
    assert!(again.replayed && again.digest == plain.digest && heard.0.is_empty());
    let (heard, on_tokens) = hear();
    let (tell, ended) = channel();
    let done = Box::new(move |outcome: Result<_, _>| drop(tell.send(outcome)));
    let _ticket = setup.engine.compute_stream(asked(true), on_tokens, done).unwrap();
    assert_eq!(*ended.recv().unwrap().unwrap(), *plain.output);
    assert_eq!(*heard.lock(), (want, told));
    // Greedy, so that other requests have the same content: what is remembered is drawn anew where it is wanted.
    let greedy = self::drawing(0, 30, &[]);
    let other =
        |nonce, wanted| job(&setup.engine, &model, nonce, &[3, 4, 5], &greedy).logprobs(wanted);
    let (first, _) = stream(other(2, false));
    let (second, (heard, _)) = stream(other(3, false));
    assert!(heard.is_empty() && setup.engine.stats().memo_hits == 1);
    let (third, heard) = stream(other(4, true));
    assert_eq!(heard, alone(&model, &[3, 4, 5], &greedy, B256::ZERO));
    let outputs = [&second, &third].map(|answer| answer.claim.claim.output_hash);
    assert_eq!(outputs, [first.claim.claim.output_hash; 2]);
    assert_eq!(third.claim.claim.sampling_hash, first.claim.claim.sampling_hash);
}

#[test]
fn an_answer_that_nobody_wants_is_gone_after_a_step() {
    let model = model::generator(1, CONTEXT);
    let (device, script) = scripted(u64::MAX);
    let config = EngineConfig { answers_max: 1, ..config() };
    let setup = Setup::new(config, vec![Arc::clone(&model)], vec![Box::new(device)]);
    script.close();
    let first = job(&setup.engine, &model, 1, &[3; 20], &drawing(0, 150, &[]));
    let second = job(&setup.engine, &model, 2, &[4; 20], &drawing(0, 3, &[]));
    let id = first.id();
    let (ticket, outcome) = setup.submit(first);
    script.wait_at_gate(1);
    // It waits for the one place that the first has.
    let (_ticket, answer) = setup.submit(second);
    drop(ticket);
    assert_eq!(outcome.recv().unwrap().unwrap_err(), Failure::Cancelled);
    let before = script.runs();
    script.open();
    assert_eq!(answer.recv().unwrap().unwrap().output.dims, [3, 1]);
    // The step that was under way, and the three of the second.
    assert!(script.runs() - before <= 4, "{} runs", script.runs() - before);
    let status = setup.engine.status(id);
    assert!(matches!(status, Some(RequestStatus::Failed(Failure::Cancelled))), "{status:?}");
    assert_eq!(setup.engine.stats().cancelled, 1);
}

#[test]
fn what_cannot_be_drawn_is_refused_with_the_numbers() {
    let model = model::generator(1, CONTEXT);
    let classifier = model::classifier(1);
    let setup =
        Setup::new(config(), vec![Arc::clone(&model), Arc::clone(&classifier)], vec![fast()]);
    let complete = |request: Request, prompt: &[u32], drawing: &Drawing| {
        let prompt = bytes(prompt).into();
        setup.engine.complete_drawn(model.id(), request, prompt, drawing.clone()).unwrap_err()
    };
    let greedy = drawing(0, 20, &[]);
    let request = Request::default;
    let want = Invalid::Context { in_tokens: 190, tokens_max: 20, rows_max: CONTEXT };
    assert_eq!(complete(request(), &[1; 190], &greedy), want);
    assert!(matches!(complete(request(), &[50], &greedy), Invalid::Input(_)));
    assert!(matches!(complete(request(), &[1], &drawing(0, 1, &[50])), Invalid::Drawing(_)));
    let seeded = Request { seed_mode: 1, ..request() };
    assert!(matches!(complete(seeded, &[1], &greedy), Invalid::Field { .. }));
    let beacon = Request { seed_mode: 2, ..request() };
    assert!(matches!(complete(beacon, &[1], &drawing(1 << 16, 1, &[])), Invalid::Field { .. }));
    let other = Request { sampling_hash: B256::repeat_byte(1), ..request() };
    assert!(matches!(complete(other, &[1], &greedy), Invalid::Field { .. }));

    let prompt = bytes(&[1]);
    let undrawn = setup.engine.complete(model.id(), request(), prompt.into());
    assert_eq!(undrawn.unwrap_err(), Invalid::Undrawn);
    let drawn =
        setup.engine.complete_drawn(classifier.id(), request(), vec![0; 64].into(), greedy.clone());
    assert_eq!(drawn.unwrap_err(), Invalid::Sampling);

    let refuse = |sampling: Sampling, stop_ids: Vec<u32>| {
        assert!(matches!(Drawing::new(sampling, stop_ids), Err(Invalid::Drawing(_))));
    };
    let base = *greedy.sampling();
    refuse(Sampling { tokens_max: 0, ..base }, Vec::new());
    refuse(Sampling { temperature_q16: 1, ..base }, Vec::new());
    refuse(Sampling { top_p_q16: 0, ..base }, Vec::new());
    refuse(Sampling { presence_q16: i32::MIN, ..base }, Vec::new());
    refuse(Sampling { presence_q16: 1, tokens_max: 5000, ..base }, Vec::new());
    refuse(Sampling { min_p_q16: 65_537, ..base }, Vec::new());
    refuse(Sampling { repetition_q16: 8_191, ..base }, Vec::new());
    refuse(Sampling { repetition_q16: 524_289, ..base }, Vec::new());
    refuse(Sampling { repetition_q16: 70_000, tokens_max: 4097, ..base }, Vec::new());
    refuse(base, (0..257).collect());
    // Off has two spellings and one hash.
    let off = Drawing::new(Sampling { repetition_q16: 65_536, ..base }, Vec::new()).unwrap();
    assert_eq!(off.sampling().hash(), base.hash());
}

#[test]
fn a_stop_tells_those_who_wait_for_an_answer() {
    let model = model::generator(1, CONTEXT);
    let (device, script) = scripted(u64::MAX);
    let setup = Setup::new(config(), vec![Arc::clone(&model)], vec![Box::new(device)]);
    script.close();
    let (_ticket, outcome) =
        setup.submit(job(&setup.engine, &model, 1, &[3; 20], &drawing(0, 150, &[])));
    script.wait_at_gate(1);
    let Setup { engine, .. } = setup;
    // The engine goes with its device in the middle of a step: who waits is told before that step ends.
    let told = std::thread::spawn(move || {
        let outcome = outcome.recv().unwrap();
        script.open();
        outcome
    });
    drop(engine);
    assert_eq!(told.join().unwrap().unwrap_err(), Failure::Draining);
}

fn finished(setup: &Setup, job: Job) -> Arc<hyperion_engine::Answer> {
    let (_ticket, outcome) = setup.submit(job);
    outcome.recv().unwrap().unwrap()
}

#[test]
fn an_answer_ends_at_the_token_that_completes_a_text() {
    let model = model::generator(1, CONTEXT);
    let setup = Setup::new(config(), vec![Arc::clone(&model)], vec![fast()]);
    let plain = drawing(0, 40, &[]);
    let (whole, _) = alone(&model, &[3, 4, 5], &plain, B256::ZERO);
    let said = |tokens: &[u32]| tokens.iter().map(|token| format!("{token}!")).collect::<String>();
    // From inside the sixth token over the seventh into the eighth.
    let text = format!("!{}!{}", whole[6], &whole[7].to_string()[..1]);
    let want = (1..=whole.len()).find(|n| said(&whole[..*n]).contains(&text)).unwrap();
    let stopping = texted(plain.clone(), &[&text, "never"]);
    let first = finished(&setup, job(&setup.engine, &model, 1, &[3, 4, 5], &stopping));
    assert_eq!(ids(&first.output.data), whole[..want]);
    let hash = stopping.sampling().hash();
    assert_eq!(first.claim.claim.sampling_hash, hash);
    assert_ne!(hash, plain.sampling().hash());
    // Remembered under its own settings, and the plain ones under theirs.
    let second = finished(&setup, job(&setup.engine, &model, 2, &[3, 4, 5], &stopping));
    assert_eq!(
        (second.output.as_ref(), setup.engine.stats().memo_hits),
        (first.output.as_ref(), 1)
    );
    let third = finished(&setup, job(&setup.engine, &model, 3, &[3, 4, 5], &plain));
    assert_eq!(ids(&third.output.data), whole);
    // The prompt holds it and ends nothing.
    let prompt: Vec<u32> = vec![whole[5], whole[6], whole[7]];
    let other = finished(&setup, job(&setup.engine, &model, 4, &prompt, &stopping));
    assert_eq!(ids(&other.output.data), alone(&model, &prompt, &stopping, B256::ZERO).0);

    let blind = plain.clone().with_stop_texts(vec!["a".to_owned()]).unwrap();
    let request = Request { nonce: U256::from(5), deadline: u64::MAX, ..Request::default() };
    let refused = setup.engine.complete_drawn(model.id(), request, bytes(&[1]).into(), blind);
    assert!(matches!(refused, Err(Invalid::Drawing(_))));
    for wrong in [
        vec![String::new()],
        vec!["a".repeat(257)],
        ["a", "b", "c", "d", "e"].map(String::from).to_vec(),
    ] {
        assert!(matches!(plain.clone().with_stop_texts(wrong), Err(Invalid::Drawing(_))));
    }
    let twice = ["b", "a", "b"].map(String::from).to_vec();
    assert_eq!(plain.with_stop_texts(twice).unwrap().stop_texts(), ["a", "b"]);
}
