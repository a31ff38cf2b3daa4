//! How much accuracy the integers cost: the exact models beside candle f32 (line M2).
//!
//! `accuracy --minilm DIR`: imports MiniLM from its source folder and the digits classifier from `fixtures/`, runs
//! every sentence of `fixtures/sentences.txt` and every held-out image through both, and prints one JSON object.
//! The sentences are cut at the model's own context; token counts include the special tokens.

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::Arc,
};

use hyperion_model::{
    Model, Tokenizer, Trust,
    import::import,
    oracle::{Agreement, Oracle, Report, check, read_inputs},
};
use hyperion_ops::{Backend, Cpu, KernelSet, Serial};
use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [flag, minilm] = arguments.as_slice() else {
        return Err("usage: accuracy --minilm DIR".into());
    };
    if flag != "--minilm" {
        return Err(format!("`{flag}` is not known; usage: accuracy --minilm DIR").into());
    }
    let kernels = KernelSet::best();
    let mut backend = Cpu::new(kernels, Arc::new(Serial));
    let digits = digits(&mut backend)?;
    let minilm = sentences(Path::new(minilm), &mut backend)?;
    println!("{}", json!({"kernels": kernels.name(), "minilm": minilm, "digits": digits}));
    Ok(())
}

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn imported(source: &Path) -> Result<Model, Box<dyn Error>> {
    let mut file = Vec::new();
    import(source, &mut |_, _| {})?.write(&mut file)?;
    Ok(Model::from_bytes(file, Trust::Roots)?)
}

fn sentences(source: &Path, backend: &mut dyn Backend) -> Result<Value, Box<dyn Error>> {
    let model = imported(source)?;
    let tokenizer = Tokenizer::open(&source.join("tokenizer.json"), model.program().context())?;
    let tokenizer = tokenizer.for_model(model.tokenizer_hash())?;
    let path = fixtures().join("sentences.txt");
    let inputs = read_inputs(&path, &model, Some(&tokenizer))?;
    let oracle = Oracle::open(source)?;
    let report = check(&model, &oracle, backend, &inputs, &mut |done| {
        eprint!("\r{done} of {} sentences", inputs.len());
    })?;
    eprintln!();
    for (agreement, line) in report.agreements.iter().zip(std::fs::read_to_string(&path)?.lines()) {
        let beginning: String = line.chars().take(48).collect();
        println!("{agreement}: {beginning}");
    }
    let tokens = inputs.iter().map(|input| input.len() / 4);
    Ok(json!({
        "model_id": model.id().to_string(),
        "sentences": inputs.len(),
        "tokens_min": tokens.clone().min(),
        "tokens_max": tokens.max(),
        "cosine_min": report.min(),
        "cosine_mean": report.mean(),
    }))
}

fn digits(backend: &mut dyn Backend) -> Result<Value, Box<dyn Error>> {
    let source = fixtures().join("digits");
    let model = imported(&source)?;
    let oracle = Oracle::open(&source)?;
    let (mut labels, mut inputs) = (Vec::new(), Vec::new());
    for line in std::fs::read_to_string(source.join("test.csv"))?.lines() {
        let numbers = line.split(',').map(str::parse).collect::<Result<Vec<i32>, _>>()?;
        let (label, pixels) = numbers.split_first().ok_or("an empty line in test.csv")?;
        labels.push(usize::try_from(*label)?);
        // A pixel is sixteenths: 16 is 1.0, which is 65,536 in Q16.
        inputs.push(
            pixels.iter().flat_map(|pixel| (pixel * 4096).to_le_bytes()).collect::<Vec<u8>>(),
        );
    }
    let report = check(&model, &oracle, backend, &inputs, &mut |_| {})?;
    let [exact, float] = right(&report, &labels);
    let share = |right: usize| right as f64 / labels.len() as f64;
    Ok(json!({
        "model_id": model.id().to_string(),
        "rows": labels.len(),
        "agreement": report.mean(),
        "accuracy_exact": share(exact),
        "accuracy_float": share(float),
    }))
}

/// Rows on which the exact model, and the float model, name the label.
fn right(report: &Report, labels: &[usize]) -> [usize; 2] {
    let mut right = [0, 0];
    for (agreement, label) in report.agreements.iter().zip(labels) {
        if let Agreement::Class { exact, float } = agreement {
            right[0] += usize::from(exact == label);
            right[1] += usize::from(float == label);
        }
    }
    right
}
