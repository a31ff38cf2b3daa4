//! The calls of a block: one batch, equal calls once, no claims.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::sync::{Arc, mpsc::channel};

use common::{
    Setup, config,
    device::scripted,
    model::{classifier, encoder, pixels, tokens},
};
use hyperion_engine::{BlockCall, EngineConfig, InferError, Invalid};
use hyperion_model::Tensor;
use hyperion_primitives::{B256, Dtype, ModelId, input_hash, tensor_root};

fn run(setup: &Setup, calls: Vec<BlockCall>) -> Vec<Result<Arc<Tensor>, InferError>> {
    let (tell, told) = channel();
    setup.engine.run_batch(calls, Box::new(move |outputs| tell.send(outputs).unwrap()));
    told.recv().unwrap()
}

#[test]
fn outputs_come_in_the_order_of_the_calls_and_equal_calls_run_once() {
    let (device, script) = scripted(u64::MAX);
    let models = vec![classifier(1), encoder(2)];
    let setup = Setup::new(config(), models.clone(), vec![Box::new(device)]);
    let [images, texts] = [models[0].id(), models[1].id()];
    let calls: Vec<BlockCall> = vec![
        BlockCall::plain(texts, tokens(1, 7)),
        BlockCall::plain(images, pixels(1, 2)),
        BlockCall::plain(texts, tokens(1, 7)),
        BlockCall::plain(images, pixels(2, 1)),
    ];
    let before = script.runs();
    let outputs: Vec<_> = run(&setup, calls.clone()).into_iter().map(Result::unwrap).collect();
    assert_eq!(script.runs(), before + 2, "one batch per model");
    assert_eq!(outputs[0], outputs[2]);
    for (call, output) in calls.iter().zip(&outputs) {
        assert_eq!(setup.engine.infer_now(call.model, &call.input).unwrap(), *output);
    }
    assert_eq!(run(&setup, calls).into_iter().map(Result::unwrap).collect::<Vec<_>>(), outputs);
    assert_eq!(script.runs(), before + 2, "what is remembered needs no device");
    assert!(setup.sink.claims.lock().is_empty());
    let root = tensor_root(Dtype::U32, &[7, 1], &tokens(1, 7)).unwrap();
    assert_eq!(setup.engine.remembered(texts, input_hash(&[root])), Some(outputs[0].clone()));
    assert_eq!(setup.engine.remembered(texts, B256::ZERO), None);
}

#[test]
fn one_bad_call_spoils_no_other() {
    let setup = Setup::classifier(config(), scripted(u64::MAX).0);
    let model = setup.models[0].id();
    let nobody = ModelId(B256::repeat_byte(1));
    let calls: Vec<BlockCall> = vec![
        BlockCall::plain(nobody, pixels(1, 1)),
        BlockCall::plain(model, pixels(1, 1)),
        BlockCall::plain(model, &pixels(1, 1)[1..]),
    ];
    let outputs = run(&setup, calls);
    assert_eq!(outputs[0], Err(Invalid::ModelNotFound(nobody.to_string()).into()));
    assert!(outputs[1].is_ok());
    assert!(matches!(outputs[2], Err(InferError::Invalid(Invalid::Input(_)))));
    assert!(run(&setup, Vec::new()).is_empty(), "no calls, no outputs, and nobody waits");
}

#[test]
fn a_block_larger_than_a_batch_runs_in_several() {
    let setup =
        Setup::classifier(EngineConfig { batch_jobs_max: 8, ..config() }, scripted(u64::MAX).0);
    let model = setup.models[0].id();
    let calls = (0..20).map(|seed| BlockCall::plain(model, pixels(seed, 1))).collect();
    assert!(run(&setup, calls).iter().all(Result::is_ok));
    let stats = &setup.engine.stats().models[0];
    assert!(stats.batches >= 3, "{}", stats.batches);
    assert_eq!(stats.rows, 20);
}

#[test]
fn a_block_is_still_served_while_the_engine_drains() {
    let setup = Setup::classifier(config(), scripted(u64::MAX).0);
    setup.engine.drain(u64::MAX);
    let call = BlockCall::plain(setup.models[0].id(), pixels(1, 1));
    assert!(run(&setup, vec![call])[0].is_ok());
}
