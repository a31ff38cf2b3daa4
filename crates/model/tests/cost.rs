//! What a run is said to cost, before it runs.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

use hyperion_model::{
    Model, Program, Trust,
    file::Parts,
    program::{Input, Node, Op},
};
use hyperion_ops::AttentionShape;
use hyperion_primitives::B256;

/// Multiply-adds over 100 rows of two attentions, one after the other.
fn macs(causal: [bool; 2]) -> u64 {
    let shape = AttentionShape::new(1, 1, 4).unwrap();
    let nodes = (0..).zip(causal).map(|(value, causal)| {
        let shape = if causal { shape.with_causal(0) } else { shape };
        Node { op: Op::Attention(shape), inputs: vec![value; 3] }
    });
    let program = Program::new(Input::Rows(4), 100, nodes.collect()).unwrap();
    let mut file = Vec::new();
    let parts = Parts { program, tokenizer_hash: B256::ZERO, tensors: Vec::new() };
    parts.write(&mut file).unwrap();
    Model::from_bytes(file, Trust::Nothing).unwrap().manifest().macs(100, 0).unwrap()
}

#[test]
fn one_causal_attention_does_not_halve_the_price_of_another() {
    // A program could add a cheap causal attention and have its dense ones counted at half.
    let (all, half) = (16 * 100 * 100, 16 * 100 * 101 / 2);
    let cases =
        [([false, false], all), ([true, false], all), ([false, true], all), ([true, true], half)];
    for (causal, want) in cases {
        assert_eq!(macs(causal), want, "{causal:?}");
    }
}
