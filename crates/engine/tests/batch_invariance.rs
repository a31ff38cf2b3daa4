//! A batch gives each request the bits that it would get alone.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::sync::Arc;

use common::{Setup, config, device::scripted, model};
use hyperion_engine::EngineConfig;
use hyperion_model::{Model, Prepared, Tensor};
use hyperion_ops::{Backend, Reference};

/// Each input alone, over the scalar definitions and without an engine.
fn alone(model: &Model, inputs: &[Vec<u8>]) -> Vec<Tensor> {
    let mut reference = Reference::default();
    let prepared = Prepared::load(model, &mut reference, 40).unwrap();
    let run = |input: &Vec<u8>| prepared.run(&mut reference, &[input]).unwrap().remove(0);
    inputs.iter().map(run).collect()
}

/// Holds the device until `inputs` wait, so that they leave in batches of at most `jobs`, and compares.
fn in_batches(model: &Arc<Model>, inputs: &[Vec<u8>], jobs: u32) {
    let want = alone(model, inputs);
    let config =
        EngineConfig { batch_jobs_max: jobs, batch_rows_max: 2_000, memo_bytes_max: 0, ..config() };
    let (device, script) = scripted(u64::MAX);
    let setup =
        Setup::new(config, vec![Arc::clone(model)], vec![Box::new(device) as Box<dyn Backend>]);
    script.close();
    let held = setup.submit(setup.job(&inputs[0]));
    script.wait_at_gate(1);
    let waiting: Vec<_> = inputs.iter().map(|input| setup.submit(setup.job(input))).collect();
    script.open();
    assert_eq!(*held.1.recv().unwrap().unwrap().output, want[0]);
    for ((_ticket, outcome), want) in waiting.iter().zip(&want) {
        let answer = outcome.recv().unwrap().unwrap();
        assert_eq!(*answer.output, *want);
        assert_eq!(answer.claim.claim.output_hash, want.output_hash());
    }
    let batches = setup.engine.stats().models[0].batches;
    assert_eq!(batches, 1 + inputs.len().div_ceil(jobs as usize) as u64, "they ran together");
}

#[test]
fn a_classifier_says_the_same_alone_and_in_batches_of_1_2_7_and_32() {
    let model = model::classifier(3);
    let inputs: Vec<_> = (0..64).map(|seed| model::pixels(seed, 1 + (seed % 3) as u32)).collect();
    for jobs in [1, 2, 7, 32] {
        in_batches(&model, &inputs, jobs);
    }
}

#[test]
fn an_encoder_says_the_same_alone_and_in_batches_of_1_2_7_and_32() {
    let model = model::encoder(5);
    let inputs: Vec<_> =
        (0..64).map(|seed| model::tokens(seed, 1 + (seed * 7 % 40) as u32)).collect();
    for jobs in [1, 2, 7, 32] {
        in_batches(&model, &inputs, jobs);
    }
}
