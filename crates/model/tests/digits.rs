//! The digits classifier: imported the same to the bit every time, and as good as its float.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

use std::path::{Path, PathBuf};

use hyperion_model::{Model, Prepared, Trust, import::import};
use hyperion_ops::Reference;

fn fixture(name: &str) -> PathBuf {
    Path::new("../../fixtures/digits").join(name)
}

fn digits() -> Vec<u8> {
    let mut bytes = Vec::new();
    let parts = import(&fixture(""), &mut |_, _| {}).unwrap();
    parts.write(&mut bytes).unwrap();
    bytes
}

/// Label and input of every held-out image.
fn images() -> Vec<(i64, Vec<u8>)> {
    let text = std::fs::read_to_string(fixture("test.csv")).unwrap();
    let row = |line: &str| {
        let mut numbers = line.split(',').map(|number| number.parse::<i32>().unwrap());
        let label = numbers.next().unwrap();
        // Sixteenths, so a pixel of 16 is one: 65,536 in Q16.
        (i64::from(label), numbers.flat_map(|pixel| (pixel * 4096).to_le_bytes()).collect())
    };
    text.lines().map(row).collect()
}

fn argmax(logits: &[i64]) -> i64 {
    let best = logits.iter().enumerate().max_by_key(|(index, logit)| (**logit, usize::MAX - index));
    i64::try_from(best.unwrap().0).unwrap()
}

#[test]
fn importing_twice_gives_the_same_file() {
    assert_eq!(digits(), digits());
}

#[test]
fn the_classifier_reads_held_out_digits_alone_and_in_batches_alike() {
    let model = Model::from_bytes(digits(), Trust::Nothing).unwrap();
    assert_eq!(model.manifest().macs(1, 0), Some(64 * 64 + 64 * 32 + 32 * 10));
    let mut backend = Reference::default();
    let prepared = Prepared::load(&model, &mut backend, 32).unwrap();
    let images = images();
    let mut right = 0;
    for batch in images.chunks(32) {
        let inputs: Vec<&[u8]> = batch.iter().map(|(_, input)| input.as_slice()).collect();
        let together = prepared.run(&mut backend, &inputs).unwrap();
        for ((label, input), output) in batch.iter().zip(together) {
            assert_eq!(output.dims, [1, 10]);
            assert_eq!(
                prepared.run_unfused(&mut backend, &[input]).unwrap(),
                std::slice::from_ref(&output)
            );
            right += usize::from(argmax(&output.elements()) == *label);
        }
    }
    // The float model reads 529 of the 540.
    assert!(right >= 526, "{right} of {} digits read", images.len());
}
