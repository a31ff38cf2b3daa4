//! Two tensors that share bytes are both held to what their own slot allows.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

use std::sync::Arc;

use hyperion_model::{
    Model, ModelError, Program, Trust,
    file::{FileError, Parts, TensorPart},
    program::{Codes, Input, Node, Op},
};
use hyperion_ops::{LinearShape, NormKind, NormShape};
use hyperion_primitives::B256;

type Bytes = Arc<[u8]>;

/// Writes a model and says why it is not read back.
fn refusal(input: Input, ops: &[Op], tensors: &[(u32, u16, &Bytes)]) -> Option<String> {
    let nodes = (0..).zip(ops).map(|(value, op)| Node { op: *op, inputs: vec![value] });
    let program = Program::new(input, 4, nodes.collect()).unwrap();
    let part = |(op, slot, data): &(u32, u16, &Bytes)| TensorPart {
        op: *op,
        slot: *slot,
        data: Arc::clone(data),
    };
    let parts =
        Parts { program, tokenizer_hash: B256::ZERO, tensors: tensors.iter().map(part).collect() };
    let mut file = Vec::new();
    parts.write(&mut file).unwrap();
    match Model::from_bytes(file, Trust::Nothing) {
        Ok(_) => None,
        Err(ModelError::File(FileError::Element { op, slot, what, .. })) => {
            Some(format!("{op}.{slot}: {what}"))
        }
        Err(other) => panic!("{other}"),
    }
}

/// Codes of four rows of four, padded to 32.
fn codes(beyond: u8) -> Bytes {
    let mut row = [beyond; 32];
    row[28..].copy_from_slice(&[1, 128, 255, 129]);
    row.repeat(4).into()
}

#[test]
fn a_wide_exponent_is_none_of_a_linear_step() {
    // The embedding was checked first, with its range of 2..=40, and the linear step not at all.
    let ops = [
        Op::Embed { vocab: 4, width: 4, codes: Codes::I16 },
        Op::Linear(LinearShape::new(4, 4).unwrap()),
    ];
    let (table, weights): (Bytes, Bytes) = (vec![1; 32].into(), codes(128));
    let mantissas: Bytes = vec![200; 4].into();
    for (exponent, want) in [(25, None), (26, Some("1.2: a row exponent outside its range"))] {
        let exponents: Bytes = vec![exponent; 4].into();
        let tensors = [
            (0, 0, &table),
            (0, 1, &mantissas),
            (0, 2, &exponents),
            (1, 0, &weights),
            (1, 1, &mantissas),
            (1, 2, &exponents),
        ];
        let got = refusal(Input::Tokens, &ops, &tensors);
        assert_eq!(got.is_some(), want.is_some(), "{got:?}");
        assert!(want.is_none_or(|want| got.unwrap().starts_with(want)));
    }
}

#[test]
fn a_bias_may_be_larger_than_the_scale_it_shares_bytes_with() {
    let ops = [
        Op::Linear(LinearShape::new(4, 4).unwrap().with_bias()),
        Op::Norm(NormShape::new(NormKind::Rms, 0, 4).unwrap()),
    ];
    let (weights, mantissas, exponents): (Bytes, Bytes, Bytes) =
        (codes(128), vec![200; 4].into(), vec![10; 4].into());
    for (constant, is_read) in [((1 << 22) - 1, true), (1 << 22, false)] {
        let constants: Bytes = i32::to_le_bytes(constant).repeat(4).into();
        let tensors = [
            (0, 0, &weights),
            (0, 1, &mantissas),
            (0, 2, &exponents),
            (0, 3, &constants),
            (1, 0, &constants),
        ];
        let got = refusal(Input::Rows(4), &ops, &tensors);
        assert_eq!(
            got,
            (!is_read).then(|| "1.0: a constant outside its range".to_owned()),
            "{constant}"
        );
    }
}

#[test]
fn what_fills_a_row_up_is_code_zero() {
    let ops = [Op::Linear(LinearShape::new(4, 4).unwrap())];
    let (mantissas, exponents): (Bytes, Bytes) = (vec![200; 4].into(), vec![10; 4].into());
    for (beyond, want) in
        [(128, None), (129, Some("0.0: a code beyond the row's end that is not 0"))]
    {
        let weights = codes(beyond);
        let tensors = [(0, 0, &weights), (0, 1, &mantissas), (0, 2, &exponents)];
        assert_eq!(refusal(Input::Rows(4), &ops, &tensors).as_deref(), want, "{beyond}");
    }
}
