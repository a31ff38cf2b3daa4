//! A program and its tensors under construction, one operator at a time.

use hyperion_ops::{LinearShape, NormShape};
use hyperion_primitives::{B256, limits::SAT};

use super::{
    ImportError,
    order::{Order, Parts as Division, bounds},
};
use crate::{
    file::{Parts, TensorPart},
    program::{Codes, Input, Node, Op, Program, ValueId},
    quantized::{
        Matrix, Narrow, Quantized, WeightError, fixed, quantize, quantize_narrow, quantize_planes,
    },
    real::{COLUMN_ONE, ROW_ONE, Real},
    slots::GAMMA_MAX,
};

/// A program and its tensors under construction.
#[derive(Debug)]
pub(crate) struct Builder {
    input: Input,
    context: u32,
    nodes: Vec<Node>,
    tensors: Vec<TensorPart>,
}

/// Constants of a source, by index.
pub(crate) type Values<'a> = &'a dyn Fn(usize) -> Option<Real>;

impl Builder {
    /// Begins with the input, value 0.
    pub(crate) const fn new(input: Input, context: u32) -> Self {
        Self { input, context, nodes: Vec::new(), tensors: Vec::new() }
    }

    /// Appends an operator without tensors; returns its value.
    pub(crate) fn push(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        self.nodes.push(Node { op, inputs: inputs.to_vec() });
        self.next()
    }

    /// Appends an embedding, or a position table, from a source matrix called `name`.
    pub(crate) fn table(
        &mut self,
        name: &str,
        op: impl Fn(u32, u32, Codes) -> Op,
        codes: Codes,
        matrix: &Matrix<'_>,
        input: ValueId,
    ) -> Result<ValueId, ImportError> {
        let tensors = table_tensors(name, matrix, codes)?;
        let [rows, width] =
            [matrix.rows, matrix.columns].map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        let value = self.push(op(rows, width, codes), &[input]);
        self.tensors(tensors);
        Ok(value)
    }

    /// Appends a linear step from a source matrix called `name`.
    ///
    /// A row's multiplier applies to its bias as well; an element of the bias is `None` where it is not finite.
    pub(crate) fn linear(
        &mut self,
        name: &str,
        matrix: &Matrix<'_>,
        bias: Option<Values<'_>>,
        input: ValueId,
    ) -> Result<ValueId, ImportError> {
        self.step(name, matrix, bias, input, false)
    }

    /// Appends a linear step whose row is divided: the first part of its columns, the massive ones, has 15-bit inputs, and
    /// each part its own scale of inputs and of weights. The parts' results are added to `other`, if there is one.
    pub(crate) fn divided_linear(
        &mut self,
        name: &str,
        matrix: &Matrix<'_>,
        bias: Values<'_>,
        (input, division): (ValueId, Division),
        other: Option<ValueId>,
    ) -> Result<ValueId, ImportError> {
        let bounds = bounds(matrix.columns, division);
        let is_divided = bounds.len() > 2;
        let mut sum = other;
        for (index, ends) in bounds.windows(2).enumerate() {
            let (start, columns) = (ends[0], ends[1] - ends[0]);
            let value = |row: usize, column: usize| (matrix.value)(row, start + column);
            let column_q14 = matrix.column_q14.map(|factors| &factors[start..start + columns]);
            let part = Matrix { columns, value: &value, column_q14, ..*matrix };
            let view = if is_divided {
                let [start, len] = [start, columns].map(|at| u32::try_from(at).unwrap_or(u32::MAX));
                self.push(Op::Columns { start, len }, &[input])
            } else {
                input
            };
            let bias = (index == 0).then_some(bias);
            let y = self.step(name, &part, bias, view, is_divided && index == 0)?;
            sum = Some(sum.map_or(y, |sum| self.push(Op::Add, &[y, sum])));
        }
        Ok(sum.expect("a row has a part"))
    }

    /// Appends the step that brings channels back into the source's order: weights of exactly one, 15-bit inputs.
    pub(crate) fn restore(&mut self, order: &Order, channels: usize, input: ValueId) -> ValueId {
        let width = u32::try_from(channels).expect("a norm of this width was built");
        let mut places = vec![0; channels];
        (0..channels).for_each(|place| places[order.at(place)] = place);
        let shape = LinearShape::new(width, width).expect("a norm of this width was built");
        let value = self.push(Op::Linear(shape.with_a15()), &[input]);
        self.tensors(quantized(Quantized::choice(&places)));
        value
    }

    fn step(
        &mut self,
        name: &str,
        matrix: &Matrix<'_>,
        bias: Option<Values<'_>>,
        input: ValueId,
        fine: bool,
    ) -> Result<ValueId, ImportError> {
        let [n, k] =
            [matrix.rows, matrix.columns].map(|size| u32::try_from(size).unwrap_or(u32::MAX));
        let shape = LinearShape::new(k, n).ok_or_else(|| ImportError::Shape {
            name: name.to_owned(),
            got: vec![matrix.rows, matrix.columns],
            want: vec![
                matrix.rows.max(1),
                (hyperion_primitives::limits::DEPTH_MAX as usize).min(matrix.columns.max(1)),
            ],
        })?;
        let shape = if bias.is_some() { shape.with_bias() } else { shape };
        let shape = if fine { shape.with_a15() } else { shape };
        let tensors = linear_tensors(name, matrix, bias)?;
        let value = self.push(Op::Linear(shape), &[input]);
        self.tensors(tensors);
        Ok(value)
    }

    /// Appends a norm from source constants called `name`.
    pub(crate) fn norm(
        &mut self,
        name: &str,
        shape: NormShape,
        gamma: Values<'_>,
        beta: Option<Values<'_>>,
        input: ValueId,
    ) -> Result<ValueId, ImportError> {
        let tensors = norm_tensors(name, shape, gamma, beta)?;
        let value = self.push(Op::Norm(shape), &[input]);
        self.tensors(tensors);
        Ok(value)
    }

    /// The finished model; its output is the last value.
    pub(crate) fn finish(self, tokenizer_hash: B256) -> Result<Parts, ImportError> {
        let program = Program::new(self.input, self.context, self.nodes)?;
        Ok(Parts { program, tokenizer_hash, tensors: self.tensors })
    }

    fn next(&self) -> ValueId {
        u32::try_from(self.nodes.len()).expect("an import makes few nodes")
    }

    /// The tensors of the newest operator.
    fn tensors(&mut self, tensors: Vec<Slot>) {
        let op = self.next() - 1;
        let parts =
            tensors.into_iter().map(|(slot, data)| TensorPart { op, slot, data: data.into() });
        self.tensors.extend(parts);
    }
}

/// One tensor of an operator: its slot and its bytes.
pub(super) type Slot = (u16, Vec<u8>);

/// Tensors of a table, from a source matrix called `name`.
pub(super) fn table_tensors(
    name: &str,
    matrix: &Matrix<'_>,
    codes: Codes,
) -> Result<Vec<Slot>, ImportError> {
    quantize(matrix, codes).map(quantized).map_err(weight(name))
}

/// Tensors of a linear step, from a source matrix called `name`; a row's multiplier applies to its bias as well.
pub(super) fn linear_tensors(
    name: &str,
    matrix: &Matrix<'_>,
    bias: Option<Values<'_>>,
) -> Result<Vec<Slot>, ImportError> {
    let mut tensors = table_tensors(name, matrix, Codes::W8r)?;
    tensors.extend(bias_tensor(name, matrix, bias)?);
    Ok(tensors)
}

/// As [`linear_tensors`], with weights of four bits.
pub(super) fn narrow_linear_tensors(
    name: &str,
    matrix: &Matrix<'_>,
    bias: Option<Values<'_>>,
) -> Result<Vec<Slot>, ImportError> {
    let narrow = quantize_narrow(matrix).map_err(weight(name))?;
    let Narrow { halves, groups, mantissas, exponents } = narrow;
    let exponents = exponents.into_iter().map(i8::cast_unsigned).collect();
    let mut tensors = vec![(0, halves), (1, mantissas), (2, exponents)];
    tensors.extend(bias_tensor(name, matrix, bias)?);
    tensors.push((5, groups));
    Ok(tensors)
}

/// As [`linear_tensors`], of the two steps whose sum is the step: the bias goes with the first.
pub(super) fn wide_linear_tensors(
    name: &str,
    matrix: &Matrix<'_>,
    bias: Option<Values<'_>>,
) -> Result<[Vec<Slot>; 2], ImportError> {
    let [mut coarse, fine] = quantize_planes(matrix).map_err(weight(name))?.map(quantized);
    coarse.extend(bias_tensor(name, matrix, bias)?);
    Ok([coarse, fine])
}

/// A bias, if there is one; a row's multiplier applies to it as well.
fn bias_tensor(
    name: &str,
    matrix: &Matrix<'_>,
    bias: Option<Values<'_>>,
) -> Result<Option<Slot>, ImportError> {
    if let Some(bias) = bias {
        let scale = |row: usize| {
            let multiplier = matrix.row_q30.map_or(ROW_ONE, |of| of(row));
            bias(row).map(|value| value.scaled(multiplier, COLUMN_ONE))
        };
        let bias = fixed((0..matrix.rows).map(scale), 16, SAT)
            .map_err(weight(&format!("{name}, its bias")))?;
        return Ok(Some((3, bytes_of(&bias))));
    }
    Ok(None)
}

/// Tensors of a norm, from source constants called `name`.
pub(super) fn norm_tensors(
    name: &str,
    shape: NormShape,
    gamma: Values<'_>,
    beta: Option<Values<'_>>,
) -> Result<Vec<Slot>, ImportError> {
    let len = 0..shape.group as usize;
    let gamma = fixed(len.clone().map(gamma), 14, GAMMA_MAX).map_err(weight(name))?;
    let beta = beta.map(|beta| fixed(len.map(beta), 16, SAT)).transpose().map_err(weight(name))?;
    let beta = beta.map(|beta| (1, bytes_of(&beta)));
    Ok([(0, bytes_of(&gamma))].into_iter().chain(beta).collect())
}

/// Tensors of a matrix that is codes already.
pub(super) fn matrix_tensors(matrix: Quantized) -> Vec<Slot> {
    quantized(matrix)
}

fn quantized(quantized: Quantized) -> Vec<Slot> {
    let Quantized { codes, mantissas, exponents } = quantized;
    let exponents = exponents.into_iter().map(i8::cast_unsigned).collect();
    vec![(0, codes), (1, mantissas), (2, exponents)]
}

fn bytes_of(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn weight(name: &str) -> impl FnOnce(WeightError) -> ImportError {
    let name = name.to_owned();
    move |cause| ImportError::Weight { name, cause }
}
