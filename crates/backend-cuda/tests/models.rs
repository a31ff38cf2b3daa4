//! Whole models: the kernels give the bits of the CPU, for any batch.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use common::{Traits, emulated};
use hyperion_backend_cuda::Kernel;
use hyperion_model::{
    Model, Prepared, Tensor, Trust,
    file::Parts,
    import::{bert, mlp},
};
use hyperion_ops::{Backend, Cpu, KernelSet, Serial};
use hyperion_primitives::Mix;

fn model(parts: &Parts) -> Model {
    let mut file = Vec::new();
    parts.write(&mut file).unwrap();
    Model::from_bytes(file, Trust::Roots).unwrap()
}

fn answers(model: &Model, device: &mut dyn Backend, inputs: &[Vec<u8>], rows: u32) -> Vec<Tensor> {
    let prepared = Prepared::load(model, device, rows).unwrap();
    let inputs: Vec<&[u8]> = inputs.iter().map(Vec::as_slice).collect();
    let answers = prepared.run(device, &inputs).unwrap();
    prepared.unload(device);
    device.reset();
    answers
}

/// Batches of inputs of these many rows on the emulator and on the CPU.
fn equal(traits: Traits, model: &Model, batches: &[&[u32]], row: impl Fn(&mut Mix) -> Vec<u8>) {
    let Some(mut device) = emulated(traits) else { return };
    let mut cpu = Cpu::new(KernelSet::best(), Arc::new(Serial));
    let mut mix = Mix::new(7);
    for batch in batches {
        let inputs: Vec<Vec<u8>> =
            batch.iter().map(|rows| (0..*rows).flat_map(|_| row(&mut mix)).collect()).collect();
        let all = batch.iter().sum();
        let want = answers(model, &mut cpu, &inputs, all);
        let got = answers(model, &mut device, &inputs, all);
        assert!(want == got, "{traits:?}: a batch of {batch:?} gives other bits");
    }
}

#[test]
fn digits_gives_the_bits_of_the_cpu() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/digits");
    let model = model(&mlp(&folder).unwrap());
    let pixel = |mix: &mut Mix| mix.i32(17).to_le_bytes();
    let row = |mix: &mut Mix| (0..64).flat_map(|_| pixel(mix)).collect();
    // Few rows, a whole tile and more.
    let batches: [&[u32]; 4] = [&[1], &[1; 7], &[1; 65], &[1; 200]];
    equal(Traits::default(), &model, &batches, row);
    let library = Traits { order: 1, products: Some(true), ..Traits::default() };
    equal(library, &model, &batches, row);
    let hopper = Traits { order: 3, fast: Some(Kernel::GemmGroup), ..Traits::default() };
    equal(hopper, &model, &batches, row);
}

#[test]
fn minilm_gives_the_bits_of_the_cpu() {
    let home =
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/hyperion");
    let folder =
        std::env::var_os("HYPERION_FIXTURES").map_or_else(home, PathBuf::from).join("minilm");
    if !folder.join("model.safetensors").is_file() {
        println!("skipped: MiniLM is not in {} (scripts/setup.sh fetches it)", folder.display());
        return;
    }
    let model = model(&bert(&folder, &mut |_, _| {}).unwrap());
    let token = |mix: &mut Mix| u32::try_from(mix.below(30_000)).unwrap().to_le_bytes().to_vec();
    equal(Traits::default(), &model, &[&[5], &[3, 17, 64]], token);
}
