//! Where the tensors of a decoder's operators come from, and how they are made of it, one operator at a time.

use std::{cell::RefCell, sync::Arc};

use hyperion_ops::{AttentionShape, NormShape};

use super::{
    ImportError, balance,
    builder::{
        Slot, Values, linear_tensors, matrix_tensors, narrow_linear_tensors, norm_tensors,
        table_tensors, wide_linear_tensors,
    },
    decoder::Residual,
    mixing::{Mixed, Mixing},
    source::{SourceTensor, Tensors},
};
use crate::{
    program::Codes,
    quantized::Matrix,
    real::{COLUMN_ONE, ROW_ONE, Real},
};

/// Where the tensors of an operator come from.
pub(super) enum Fill {
    /// It has none.
    Nothing,
    /// A table from a matrix of its own shape, times a factor.
    Table(Table),
    /// γ, or 1 + γ, and β, times a multiplier.
    Norm { shape: NormShape, gamma: Gamma, beta: Option<String>, factor: Factor },
    /// Matrices one below the other. Where they are queries, keys and values of rotary attention, `pairs` says of which: columns of
    /// queries and keys are balanced.
    Linear { parts: Vec<Part>, depth: usize, weights: Weights, pairs: Option<AttentionShape> },
    /// A scale of one.
    Ones(u32),
    /// The matrix that mixes channels, or its transpose.
    Mixing { mixing: Arc<Mixing>, is_transposed: bool },
    /// Turns per position.
    Frequencies(Vec<u64>),
    /// Those of another operator, whose output channels are this one's.
    Shared(u32),
    /// The rows of a table as the first of two linear steps.
    Rows(Table),
    /// The second of two linear steps, whose first is the operator before.
    Finer,
}

/// How the weights of a linear step are held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Weights {
    /// A code of eight bits each.
    Eight,
    /// A code of four bits each, in groups.
    Four,
    /// Two codes of eight bits each, in two steps of which this is the first.
    Wide,
}

/// A table of a decoder.
#[derive(Clone)]
pub(super) struct Table {
    pub(super) weight: String,
    pub(super) rows: usize,
    pub(super) width: usize,
    pub(super) codes: Codes,
    pub(super) factor: Factor,
    pub(super) mixing: Option<Arc<Mixing>>,
}

/// What a norm's constants are multiplied by, in the words of [`Real::scaled`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Factor {
    q30: u32,
    q14: u32,
}

impl Factor {
    /// Nothing changes.
    pub(super) const ONE: Self = Self::new(ROW_ONE);
    /// A factor below two.
    pub(super) const fn new(q30: u32) -> Self {
        Self { q30, q14: COLUMN_ONE }
    }

    /// A factor of `q30 / 2^30 · 2^shift`.
    pub(super) const fn shifted(q30: u32, shift: u32) -> Self {
        Self { q30, q14: COLUMN_ONE << shift }
    }

    fn times(self, value: Real) -> Real {
        value.scaled(self.q30, self.q14)
    }
}

/// The scale of a norm in the source.
#[derive(Clone, Debug)]
pub(super) struct Gamma {
    name: String,
    /// Whether the scale is one more than what the source holds.
    is_less_one: bool,
}

impl Gamma {
    /// A scale that is held as it is.
    pub(super) const fn new(name: String) -> Self {
        Self { name, is_less_one: false }
    }

    /// A scale of which the source holds what it has beyond one.
    pub(super) const fn beyond_one(name: String) -> Self {
        Self { name, is_less_one: true }
    }

    fn of(&self, value: Real) -> Real {
        if self.is_less_one { value.plus(Real::ONE) } else { value }
    }
}

/// Rows of a linear step that come from one matrix of the source.
#[derive(Clone, Debug)]
pub(super) struct Part {
    /// Name of the matrix.
    pub(super) weight: String,
    /// Name of its bias.
    pub(super) bias: Option<String>,
    /// Output channels.
    pub(super) rows: usize,
    /// Of them, the first so many are multiplied.
    pub(super) scaled: usize,
    /// By this, Q30.
    pub(super) factor_q30: u32,
    /// Whether the source holds inputs by outputs.
    pub(super) is_transposed: bool,
    /// How its inputs are held, and what of a norm before it is part of it.
    inputs: Option<Inputs>,
    /// How its outputs are to be held.
    outputs: Option<Arc<Mixing>>,
}

/// Mixed inputs of a matrix.
#[derive(Clone, Debug)]
struct Inputs {
    /// The scale of the norm that they come from.
    scale: Option<Gamma>,
    mixing: Arc<Mixing>,
}

impl Part {
    /// A matrix of outputs by inputs.
    pub(super) fn new(weight: String, rows: usize) -> Self {
        Self {
            weight,
            bias: None,
            rows,
            scaled: 0,
            factor_q30: ROW_ONE,
            is_transposed: false,
            inputs: None,
            outputs: None,
        }
    }

    /// The same with a bias, if there is one.
    pub(super) fn with_bias(self, bias: Option<String>) -> Self {
        Self { bias, ..self }
    }

    /// The same; the first `scaled` output channels are multiplied.
    pub(super) fn with_factor(self, scaled: usize, factor_q30: u32) -> Self {
        Self { scaled, factor_q30, ..self }
    }

    /// The same, added to what flows from layer to layer.
    pub(super) fn for_residual(self, residual: Residual) -> Self {
        Self { scaled: self.rows, factor_q30: residual.q30(), ..self }
    }

    /// The same, reading mixed inputs that come from a norm of this scale.
    pub(super) fn reads(self, mixing: Option<&Arc<Mixing>>, scale: Option<&Gamma>) -> Self {
        let inputs = mixing.map(|mixing| Inputs { scale: scale.cloned(), mixing: mixing.clone() });
        Self { inputs, ..self }
    }

    /// The same, writing mixed outputs.
    pub(super) fn writes(self, mixing: Option<&Arc<Mixing>>) -> Self {
        Self { outputs: mixing.cloned(), ..self }
    }

    /// The same, held by inputs.
    pub(super) fn transposed(self) -> Self {
        Self { is_transposed: true, ..self }
    }

    fn row_q30(&self, row: usize) -> u32 {
        if row < self.scaled { self.factor_q30 } else { ROW_ONE }
    }
}

impl Fill {
    /// Compares the source with what is needed of it.
    pub(super) fn check(&self, source: &dyn Tensors) -> Result<(), ImportError> {
        match self {
            Self::Nothing
            | Self::Frequencies(_)
            | Self::Shared(_)
            | Self::Finer
            | Self::Ones(_)
            | Self::Mixing { .. } => Ok(()),
            Self::Table(table) | Self::Rows(table) => {
                source.expect(&table.weight, &[table.rows, table.width])
            }
            Self::Norm { shape, gamma, beta, .. } => {
                let len = [shape.group as usize];
                source.expect(&gamma.name, &len)?;
                beta.iter().try_for_each(|beta| source.expect(beta, &len))
            }
            Self::Linear { parts, depth, .. } => parts.iter().try_for_each(|part| {
                source.expect(&part.weight, &part.shape(*depth))?;
                let scale = part.inputs.as_ref().and_then(|inputs| inputs.scale.as_ref());
                scale.map_or(Ok(()), |gamma| source.expect(&gamma.name, &[*depth]))?;
                part.bias.iter().try_for_each(|bias| source.expect(bias, &[part.rows]))
            }),
        }
    }

    /// Bytes that making its tensors takes, about; `None` where nothing is made.
    pub(super) fn bytes(&self) -> Option<u64> {
        // Of a number: the source's own, and codes; mixed along columns it is held whole besides.
        const NUMBER: usize = 4 + 2;
        const MIXED: usize = 8;
        let bytes = match self {
            Self::Nothing | Self::Shared(_) | Self::Finer => return None,
            Self::Frequencies(_) | Self::Ones(_) | Self::Norm { .. } | Self::Mixing { .. } => 0,
            Self::Table(table) | Self::Rows(table) => table.rows * table.width * NUMBER,
            Self::Linear { parts, depth, .. } => {
                let of = |part: &Part| {
                    part.rows * depth * (NUMBER + part.outputs.as_ref().map_or(0, |_| MIXED))
                };
                parts.iter().map(of).sum()
            }
        };
        Some(bytes as u64)
    }

    /// The operator's tensors, and of the first of two linear steps the second's.
    pub(super) fn tensors(
        &self,
        source: &dyn Tensors,
    ) -> Result<(Vec<Slot>, Vec<Slot>), ImportError> {
        let tensors = match self {
            Self::Nothing | Self::Shared(_) | Self::Finer => Vec::new(),
            Self::Frequencies(turns) => {
                vec![(0, turns.iter().flat_map(|turn| turn.to_le_bytes()).collect())]
            }
            Self::Table(table) => table
                .with_matrix(source, |name, matrix| table_tensors(name, matrix, table.codes))?,
            Self::Rows(table) => {
                let [coarse, finer] = table
                    .with_matrix(source, |name, matrix| wide_linear_tensors(name, matrix, None))?;
                return Ok((coarse, finer));
            }
            Self::Ones(len) => {
                let one = (1_i32 << 14).to_le_bytes();
                vec![(0, one.repeat(*len as usize))]
            }
            Self::Mixing { mixing, is_transposed } => matrix_tensors(mixing.matrix(*is_transposed)),
            Self::Norm { shape, gamma, beta, factor } => {
                let len = [shape.group as usize];
                let tensor = source.get(&gamma.name, &len)?;
                let beta = beta.as_ref().map(|beta| source.get(beta, &len)).transpose()?;
                let beta =
                    beta.as_ref().map(|beta| |index: usize| Some(factor.times(beta.value(index)?)));
                let gamma_at = |index: usize| Some(factor.times(gamma.of(tensor.value(index)?)));
                let beta = beta.as_ref().map(|beta| beta as Values<'_>);
                norm_tensors(&tensor.name, *shape, &gamma_at, beta)?
            }
            Self::Linear { parts, depth, weights, pairs } => {
                return linear(parts, (*depth, *weights), *pairs, source);
            }
        };
        Ok((tensors, Vec::new()))
    }
}

impl Table {
    /// What `make` makes of the table's numbers, and of its name.
    fn with_matrix<T>(
        &self,
        source: &dyn Tensors,
        make: impl FnOnce(&str, &Matrix<'_>) -> Result<T, ImportError>,
    ) -> Result<T, ImportError> {
        let Self { weight, rows, width, factor, mixing, .. } = self;
        let tensor = source.get(weight, &[*rows, *width])?;
        let name = tensor.name.clone();
        let numbers = match mixing {
            Some(mixing) => Numbers::Rows(MixedRows::new(tensor, mixing, None, *width)),
            None => Numbers::Plain(tensor),
        };
        let value =
            |row: usize, column: usize| Some(factor.times(numbers.value(row * width + column)?));
        make(&name, &Matrix::new(*rows, *width, &value))
    }
}

impl Part {
    fn shape(&self, depth: usize) -> [usize; 2] {
        if self.is_transposed { [depth, self.rows] } else { [self.rows, depth] }
    }

    fn read(&self, depth: usize, source: &dyn Tensors) -> Result<Loaded<'_>, ImportError> {
        let weight = source.get(&self.weight, &self.shape(depth))?;
        let name = weight.name.clone();
        let bias = self.bias.as_ref().map(|bias| source.get(bias, &[self.rows])).transpose()?;
        let bias = bias.map(|bias| match &self.outputs {
            None => Numbers::Plain(bias),
            Some(mixing) => {
                let plain = Mixed::new((0..self.rows).map(|row| bias.value(row)));
                Numbers::Whole(plain.rows(mixing, 1))
            }
        });
        let scale = self.inputs.as_ref().and_then(|inputs| inputs.scale.as_ref());
        let scale = scale
            .map(|gamma| Ok::<_, ImportError>((gamma, source.get(&gamma.name, &[depth])?)))
            .transpose()?;
        let columns = self.inputs.as_ref().map(|inputs| (inputs.mixing.as_ref(), scale));
        let weight = match (columns, &self.outputs) {
            (None, None) => Numbers::Plain(weight),
            (Some((mixing, scale)), None) => {
                Numbers::Rows(MixedRows::new(weight, mixing, scale, depth))
            }
            (columns, Some(outputs)) => {
                let number = |index| {
                    let value = weight.value(index)?;
                    match &columns {
                        Some((_, Some((gamma, scale)))) => {
                            Some(value.product(gamma.of(scale.value(index % depth)?)))
                        }
                        _ => Some(value),
                    }
                };
                let whole = Mixed::new((0..self.rows * depth).map(number));
                let whole = match &columns {
                    Some((mixing, _)) => whole.columns(mixing),
                    None => whole,
                };
                Numbers::Whole(whole.rows(outputs, depth))
            }
        };
        Ok(Loaded { part: self, name, weight, bias })
    }
}

/// The source of one part, read.
struct Loaded<'p> {
    part: &'p Part,
    name: String,
    weight: Numbers<'p>,
    bias: Option<Numbers<'p>>,
}

/// Numbers of a source, by their index.
enum Numbers<'p> {
    /// As they are.
    Plain(SourceTensor),
    /// Mixed along rows, which are made as they are asked for.
    Rows(MixedRows<'p>),
    /// Mixed along columns too.
    Whole(Mixed),
}

impl Numbers<'_> {
    fn value(&self, index: usize) -> Option<Real> {
        match self {
            Self::Plain(tensor) => tensor.value(index),
            Self::Rows(rows) => Some(rows.value(index)),
            Self::Whole(mixed) => Some(mixed.value(index)),
        }
    }
}

/// A matrix whose rows are mixed. Whoever quantizes it goes row by row, so the last row is kept.
struct MixedRows<'p> {
    tensor: SourceTensor,
    mixing: &'p Mixing,
    scale: Option<(&'p Gamma, SourceTensor)>,
    width: usize,
    last: RefCell<(usize, Mixed)>,
}

impl<'p> MixedRows<'p> {
    fn new(
        tensor: SourceTensor,
        mixing: &'p Mixing,
        scale: Option<(&'p Gamma, SourceTensor)>,
        width: usize,
    ) -> Self {
        Self { tensor, mixing, scale, width, last: RefCell::new((usize::MAX, Mixed::default())) }
    }

    fn value(&self, index: usize) -> Real {
        let (row, column) = (index / self.width, index % self.width);
        let mut last = self.last.borrow_mut();
        if last.0 != row {
            let number = |column: usize| {
                let value = self.tensor.value(row * self.width + column)?;
                match &self.scale {
                    Some((gamma, scale)) => Some(value.product(gamma.of(scale.value(column)?))),
                    None => Some(value),
                }
            };
            // Read once, asked for twice.
            let numbers: Vec<Option<Real>> = (0..self.width).map(number).collect();
            *last = (row, Mixed::new(numbers.iter().copied()).columns(self.mixing));
        }
        last.1.value(column)
    }
}

fn linear(
    parts: &[Part],
    (depth, weights): (usize, Weights),
    pairs: Option<AttentionShape>,
    source: &dyn Tensors,
) -> Result<(Vec<Slot>, Vec<Slot>), ImportError> {
    let loaded: Vec<Loaded<'_>> =
        parts.iter().map(|part| part.read(depth, source)).collect::<Result<_, _>>()?;
    let find = |mut row: usize| {
        let part = loaded.iter().find(|loaded| {
            let is_here = row < loaded.part.rows;
            row -= if is_here { 0 } else { loaded.part.rows };
            is_here
        });
        (part.expect("a row of the step"), row)
    };
    let plain = |row: usize, column: usize| {
        let (Loaded { part, weight, .. }, row) = find(row);
        let index =
            if part.is_transposed { column * part.rows + row } else { row * depth + column };
        weight.value(index)
    };
    let row_q30 = |row: usize| {
        let (loaded, row) = find(row);
        loaded.part.row_q30(row)
    };
    let plain_bias = |row: usize| {
        let (loaded, row) = find(row);
        loaded.bias.as_ref().map_or(Some(Real::default()), |bias| bias.value(row))
    };
    let rows = parts.iter().map(|part| part.rows).sum();
    let mut energy = |row: usize| {
        let weights = (0..depth).filter_map(|column| plain(row, column));
        weights.chain(plain_bias(row)).map(balance::square).sum()
    };
    let shifts = pairs.map(|shape| balance::shifts(shape, rows, &mut energy));
    let shift = |row: usize| shifts.as_ref().map_or(0, |shifts| shifts[row]);
    let value = |row: usize, column: usize| Some(plain(row, column)?.shifted(shift(row)));
    let bias = |row: usize| Some(plain_bias(row)?.shifted(shift(row)));
    let is_plain = parts.iter().all(|part| part.scaled == 0);
    let row_q30 = (!is_plain).then_some(&row_q30 as &dyn Fn(usize) -> u32);
    let matrix = Matrix { row_q30, ..Matrix::new(rows, depth, &value) };
    let has_bias = loaded.iter().any(|loaded| loaded.bias.is_some());
    let names: Vec<&str> = loaded.iter().map(|loaded| loaded.name.as_str()).collect();
    let bias = has_bias.then_some(&bias as Values<'_>);
    let name = names.join(", ");
    Ok(match weights {
        Weights::Eight => (linear_tensors(&name, &matrix, bias)?, Vec::new()),
        Weights::Four => (narrow_linear_tensors(&name, &matrix, bias)?, Vec::new()),
        Weights::Wide => {
            let [coarse, finer] = wide_linear_tensors(&name, &matrix, bias)?;
            (coarse, finer)
        }
    })
}
