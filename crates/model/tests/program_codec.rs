//! A program has one encoding, and one reason for each thing that it is not.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

use hyperion_model::program::{Codes, DecodeError, Input, Node, Op, Program, ProgramError, Reason};
use hyperion_ops::{
    ActivationTable, AttentionShape, LinearShape, NormKind, NormShape, Pairing, PoolMode, RopeShape,
};
use hyperion_primitives::limits::{CONTEXT_MAX, VOCABULARY_MAX, WIDTH_MAX};
use proptest::prelude::*;

fn node(op: Op, inputs: &[u32]) -> Node {
    Node { op, inputs: inputs.to_vec() }
}

fn linear(k: u32, n: u32) -> LinearShape {
    LinearShape::new(k, n).unwrap()
}

const EMBED: Op = Op::Embed { vocab: 100, width: 16, codes: Codes::W8r };

/// Every operator and every attribute, once.
fn everything() -> Program {
    let attention = AttentionShape::new(2, 1, 8).unwrap().with_causal(7).with_p15();
    let nodes = [
        node(EMBED, &[0]),
        node(Op::Position { context: 64, width: 16, codes: Codes::I16 }, &[1]),
        node(Op::Norm(NormShape::new(NormKind::Rms, 42_950, 8).unwrap()), &[2]),
        node(Op::Linear(linear(16, 32).with_bias().with_a15().with_smooth()), &[3]),
        node(Op::Columns { start: 0, len: 16 }, &[4]),
        node(Op::Columns { start: 16, len: 8 }, &[4]),
        node(Op::Columns { start: 24, len: 8 }, &[4]),
        node(Op::Rope(RopeShape::new(2, 8, 6, Pairing::Adjacent).unwrap()), &[5]),
        node(Op::Attention(attention), &[8, 6, 7]),
        node(Op::Activation(ActivationTable::GeluTanh), &[9]),
        node(Op::Gate, &[10, 2]),
        node(Op::Add, &[11, 11]),
        node(Op::LastRow, &[12]),
        node(Op::Linear(linear(16, 100)), &[13]),
        node(Op::Sample, &[14]),
    ];
    Program::new(Input::Tokens, 64, nodes.to_vec()).unwrap()
}

fn pooled() -> Program {
    let nodes = [
        node(Op::Norm(NormShape::new(NormKind::Layer, 0, 5).unwrap()), &[0]),
        node(Op::Pool { mode: PoolMode::First, unit: true }, &[1]),
    ];
    Program::new(Input::Rows(5), 9, nodes.to_vec()).unwrap()
}

fn classified() -> Program {
    let nodes = [node(Op::Linear(linear(5, 3)), &[0]), node(Op::Argmax, &[1])];
    Program::new(Input::Rows(5), 9, nodes.to_vec()).unwrap()
}

#[test]
fn decoding_undoes_encoding() {
    for program in [everything(), pooled(), classified()] {
        let bytes = program.encode();
        assert_eq!(Program::decode(&bytes).unwrap(), program);
        for end in 0..bytes.len() {
            assert!(Program::decode(&bytes[..end]).is_err(), "cut at {end}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(
            Program::decode(&longer),
            Err(DecodeError::Length { at: bytes.len(), more: true })
        );
    }
}

#[test]
fn a_changed_byte_is_refused_or_is_another_program() {
    for program in [everything(), pooled(), classified()] {
        let bytes = program.encode();
        for at in 0..bytes.len() {
            for change in 1..=255 {
                let mut other = bytes.clone();
                other[at] ^= change;
                if let Ok(decoded) = Program::decode(&other) {
                    assert_eq!(decoded.encode(), other, "byte {at} changed by {change}");
                    assert_ne!(decoded.id(), program.id());
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn no_bytes_are_a_second_encoding(tail in proptest::collection::vec(any::<u8>(), 0..200), keep in 0..53_usize) {
        let bytes = [&everything().encode()[..keep], &tail].concat();
        if let Ok(program) = Program::decode(&bytes) {
            prop_assert_eq!(program.encode(), bytes);
        }
    }
}

#[test]
fn a_promise_of_four_billion_nodes_is_refused_before_it_is_believed() {
    let mut bytes = classified().encode();
    bytes[49..53].fill(0xff);
    assert!(matches!(Program::decode(&bytes), Err(DecodeError::Length { more: false, .. })));
}

#[test]
fn what_does_not_fit_is_named() {
    let add = |inputs: &[u32]| node(Op::Add, inputs);
    let pool = |inputs: &[u32]| node(Op::Pool { mode: PoolMode::Mean, unit: false }, inputs);
    let embed = |vocab, width| node(Op::Embed { vocab, width, codes: Codes::W8r }, &[0]);
    let cases = vec![
        ("no nodes", Input::Rows(5), 9, vec![], 0, "0 nodes"),
        ("no context", Input::Rows(5), 0, vec![add(&[0, 0])], 1, "context is 0"),
        (
            "a context beyond the limit",
            Input::Rows(5),
            CONTEXT_MAX + 1,
            vec![add(&[0, 0])],
            1,
            "context is 65537",
        ),
        (
            "rows beyond the limit",
            Input::Rows(WIDTH_MAX + 1),
            9,
            vec![add(&[0, 0])],
            1,
            "input width is 16385",
        ),
        ("one value for two", Input::Rows(5), 9, vec![add(&[0])], 0, "reads 1 values, want 2"),
        ("a value of its own", Input::Rows(5), 9, vec![add(&[0, 1])], 0, "value 1"),
        (
            "a value of the future",
            Input::Rows(5),
            9,
            vec![add(&[0, 2]), add(&[1, 1])],
            0,
            "value 2",
        ),
        (
            "a value that nobody reads",
            Input::Rows(5),
            9,
            vec![add(&[0, 0]), add(&[0, 0])],
            0,
            "value 1 is read by nobody",
        ),
        ("an input that nobody reads", Input::Tokens, 9, vec![add(&[1, 1])], 0, "value 1"),
        ("token ids as activations", Input::Tokens, 9, vec![add(&[0, 0])], 0, "want i32"),
        ("activations as token ids", Input::Rows(1), 9, vec![embed(9, 4)], 0, "token ids"),
        (
            "a vocabulary beyond the limit",
            Input::Tokens,
            9,
            vec![embed(VOCABULARY_MAX + 1, 4)],
            0,
            "vocabulary is 262145",
        ),
        (
            "a width beyond the limit",
            Input::Tokens,
            9,
            vec![embed(9, WIDTH_MAX + 1)],
            0,
            "width is 16385",
        ),
        (
            "another depth",
            Input::Rows(5),
            9,
            vec![node(Op::Linear(linear(6, 2)), &[0])],
            0,
            "want i32, 6 wide",
        ),
        (
            "groups that do not divide",
            Input::Rows(5),
            9,
            vec![node(Op::Norm(NormShape::new(NormKind::Rms, 0, 2).unwrap()), &[0])],
            0,
            "a multiple of 2 wide",
        ),
        (
            "too few positions",
            Input::Rows(5),
            9,
            vec![node(Op::Position { context: 8, width: 5, codes: Codes::I16 }, &[0])],
            0,
            "fewer positions",
        ),
        (
            "columns beyond the row",
            Input::Rows(5),
            9,
            vec![node(Op::Columns { start: 3, len: 3 }, &[0])],
            0,
            "3 to 6",
        ),
        (
            "columns beyond every row",
            Input::Rows(5),
            9,
            vec![node(Op::Columns { start: u32::MAX, len: u32::MAX }, &[0])],
            0,
            "columns",
        ),
        (
            "no columns",
            Input::Rows(5),
            9,
            vec![node(Op::Columns { start: 3, len: 0 }, &[0])],
            0,
            "3 to 3",
        ),
        (
            "two widths added",
            Input::Rows(5),
            9,
            vec![node(Op::Columns { start: 0, len: 4 }, &[0]), add(&[0, 1])],
            1,
            "value 1",
        ),
        (
            "pooled twice",
            Input::Rows(5),
            9,
            vec![pool(&[0]), pool(&[1])],
            1,
            "before last_row or pool",
        ),
        (
            "a row and all rows added",
            Input::Rows(5),
            9,
            vec![pool(&[0]), add(&[0, 1])],
            1,
            "value 1",
        ),
        (
            "attention after pooling",
            Input::Rows(4),
            9,
            vec![
                pool(&[0]),
                node(Op::Attention(AttentionShape::new(1, 1, 4).unwrap()), &[1, 1, 1]),
            ],
            1,
            "every row",
        ),
        (
            "a class pooled",
            Input::Rows(5),
            9,
            vec![node(Op::Argmax, &[0]), pool(&[1])],
            1,
            "want i32",
        ),
        ("a draw from every row", Input::Rows(5), 9, vec![node(Op::Sample, &[0])], 0, "sample"),
        (
            "a draw that goes on",
            Input::Rows(5),
            9,
            vec![node(Op::LastRow, &[0]), node(Op::Sample, &[1]), node(Op::Argmax, &[2])],
            1,
            "sample",
        ),
    ];
    for (name, input, context, nodes, at, want) in cases {
        let error = Program::new(input, context, nodes).expect_err(name);
        let text = error.to_string();
        assert!(error.node == at && text.contains(want), "{name}: {text}");
    }
}

#[test]
fn the_smallest_vocabulary_bounds_the_ids() {
    // Two tables read the same ids; the larger one alone would let an id through that the other does not have.
    let embed = |vocab| node(Op::Embed { vocab, width: 4, codes: Codes::W8r }, &[0]);
    for vocabularies in [[9, 5], [5, 9]] {
        let nodes = [embed(vocabularies[0]), embed(vocabularies[1]), node(Op::Add, &[1, 2])];
        let program = Program::new(Input::Tokens, 9, nodes.to_vec()).unwrap();
        assert_eq!(program.vocabulary(), Some(5));
    }
}

#[test]
fn a_window_without_causality_is_refused() {
    let shape = AttentionShape::new(1, 1, 5).unwrap();
    let of = |shape| {
        Program::new(Input::Rows(5), 9, vec![node(Op::Attention(shape), &[0, 0, 0])])
            .unwrap()
            .encode()
    };
    let (free, windowed) = (of(shape), of(shape.with_causal(3)));
    let mut mixed = windowed.clone();
    let flags = mixed.len() - 5;
    assert_eq!((free[flags], windowed[flags]), (0, 1));
    mixed[flags] = 0;
    let error = Program::decode(&mixed).unwrap_err();
    assert!(error.to_string().contains("window"), "{error}");
}

#[test]
fn the_error_of_an_operator_is_the_programs() {
    let error = Program::new(Input::Rows(5), 9, vec![node(Op::Add, &[0])]).unwrap_err();
    assert_eq!(error, ProgramError { node: 0, reason: Reason::Inputs { got: 1, want: 2 } });
    assert_eq!(DecodeError::from(error.clone()), DecodeError::Program(error));
}
