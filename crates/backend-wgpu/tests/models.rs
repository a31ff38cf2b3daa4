//! Whole models: every adapter gives the bits of the CPU, for any batch.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use hyperion_backend_wgpu::{Form, Wgpu, adapters};
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

/// Batches of these many inputs, each with so many rows, on every adapter and on the CPU.
fn equal(
    form: Form,
    model: &Model,
    batches: &[usize],
    rows_of: impl Fn(&mut Mix) -> u32,
    row: impl Fn(&mut Mix) -> Vec<u8>,
) {
    let mut mix = Mix::new(7);
    if adapters().is_empty() {
        println!("skipped: no Vulkan, Metal or DX12 adapter");
    }
    for adapter in adapters() {
        let mut gpu = Wgpu::open_as(adapter.index, 1 << 30, form).unwrap();
        let mut cpu = Cpu::new(KernelSet::best(), Arc::new(Serial));
        for batch in batches {
            let mut all = 0;
            let inputs: Vec<Vec<u8>> = (0..*batch)
                .map(|_| {
                    let rows = rows_of(&mut mix);
                    all += rows;
                    (0..rows).flat_map(|_| row(&mut mix)).collect()
                })
                .collect();
            let want = answers(model, &mut cpu, &inputs, all);
            let got = answers(model, &mut gpu, &inputs, all);
            assert!(want == got, "{}: a batch of {batch} gives other bits", adapter.name);
        }
    }
}

#[test]
fn digits_gives_the_bits_of_the_cpu() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/digits");
    let model = model(&mlp(&folder).unwrap());
    let pixel = |mix: &mut Mix| mix.i32(17).to_le_bytes();
    let row = |mix: &mut Mix| (0..64).flat_map(|_| pixel(mix)).collect();
    equal(Form::default(), &model, &[1, 2, 7, 32, 256], |_| 1, row);
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
    let rows = |mix: &mut Mix| u32::try_from(3 + mix.below(60)).unwrap();
    equal(Form::default(), &model, &[1, 2, 7, 16], rows, token);
    // The table of words is cut into 23 parts, the wide layers into two.
    let narrow = Form { binding_bytes_max: Some(512 << 10), ..Form::default() };
    equal(narrow, &model, &[3], rows, token);
}
