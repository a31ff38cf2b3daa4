//! Decoders, whatever their family: a program that the configuration alone implies, and for each operator where its tensors
//! come from.
//!
//! So everything is known before a weight is read: sizes are checked against the operator set, and names and shapes
//! against the source. Then tensors are made one operator after another and handed to a [`Sink`], a file or memory;
//! nothing larger than the source of one operator is ever held.

use std::{cell::RefCell, io, sync::Arc};

use hyperion_ops::{AttentionShape, LinearShape, NormShape, constant::attention_multiplier};
use hyperion_primitives::{B256, limits::CONTEXT_MAX};

use super::{
    ImportError, Progress, balance,
    builder::{
        Slot, Values, linear_tensors, matrix_tensors, narrow_linear_tensors, norm_tensors,
        table_tensors, wide_linear_tensors,
    },
    makers::{Make, Makers},
    mixing::{Mixed, Mixing},
    source::{SourceTensor, Tensors},
};
use crate::{
    file::{Kept, Parts, TensorPart, Writer},
    program::{Codes, Input, Node, Op, Program, ValueId},
    quantized::Matrix,
    real::{COLUMN_ONE, ROW_ONE, Real},
};

/// Layers of a decoder at most; the deepest published ones have some 130.
const LAYERS_MAX: usize = 1024;

/// What flows from layer to layer is `2^-shift` of the source's, so that massive activations keep inside ±16,384. A norm takes
/// the factor out again, so nothing else changes but its ε.
#[derive(Clone, Copy, Debug)]
pub(super) struct Residual {
    pub(super) shift: u32,
}

impl Residual {
    /// Real models of most families reach 21,000.
    pub(super) const USUAL: Self = Self { shift: 2 };

    /// The factor of what is added.
    pub(super) const fn q30(self) -> u32 {
        ROW_ONE >> self.shift
    }

    /// Back from the factor.
    const fn undone(self) -> Factor {
        Factor { q30: ROW_ONE, q14: COLUMN_ONE << self.shift }
    }

    /// The ε of a norm over what flows from layer to layer, from the source's: it is added to squares.
    pub(super) fn eps(self, eps_q32: u32) -> u32 {
        let shift = 2 * self.shift;
        let eps = (u64::from(eps_q32) + (1 << (shift - 1))) >> shift;
        u32::try_from(eps).expect("less than it was")
    }
}

/// Where the tensors of an operator come from.
enum Fill {
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
enum Weights {
    /// A code of eight bits each.
    Eight,
    /// A code of four bits each, in groups.
    Four,
    /// Two codes of eight bits each, in two steps of which this is the first.
    Wide,
}

/// A table of a decoder.
#[derive(Clone)]
struct Table {
    weight: String,
    rows: usize,
    width: usize,
    codes: Codes,
    factor: Factor,
    mixing: Option<Arc<Mixing>>,
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

/// A decoder's program and the sources of its tensors.
pub(super) struct Template {
    context: u32,
    residual: Residual,
    nodes: Vec<Node>,
    fills: Vec<Fill>,
}

impl Template {
    /// Begins with token ids, value 0.
    pub(super) fn new(context: u32, residual: Residual) -> Self {
        Self { context, residual, nodes: Vec::new(), fills: Vec::new() }
    }

    /// Appends an operator without tensors; returns its value.
    pub(super) fn push(&mut self, op: Op, inputs: &[ValueId]) -> ValueId {
        self.fill(op, inputs, Fill::Nothing)
    }

    fn fill(&mut self, op: Op, inputs: &[ValueId], fill: Fill) -> ValueId {
        self.nodes.push(Node { op, inputs: inputs.to_vec() });
        self.fills.push(fill);
        u32::try_from(self.nodes.len()).expect("an import makes few nodes")
    }

    /// Appends the embedding of token ids, times the residual's factor.
    pub(super) fn embed(
        &mut self,
        weight: &str,
        (vocab, width): (usize, usize),
        mixing: Option<&Arc<Mixing>>,
    ) -> ValueId {
        let factor = Factor::new(self.residual.q30());
        self.embed_times(factor, weight, (vocab, width), mixing.cloned())
    }

    /// Appends the embedding of token ids, times a factor that includes the residual's.
    pub(super) fn embed_times(
        &mut self,
        factor: Factor,
        weight: &str,
        (rows, width): (usize, usize),
        mixing: Option<Arc<Mixing>>,
    ) -> ValueId {
        let codes = Codes::W8r;
        let op = Op::Embed { vocab: small(rows), width: small(width), codes };
        let weight = weight.to_owned();
        self.fill(op, &[0], Fill::Table(Table { weight, rows, width, codes, factor, mixing }))
    }

    /// Appends a table of learned positions.
    pub(super) fn positions(
        &mut self,
        weight: &str,
        rows: usize,
        width: usize,
        input: ValueId,
    ) -> ValueId {
        let codes = Codes::I16;
        let op = Op::Position { context: small(rows), width: small(width), codes };
        let (weight, factor) = (weight.to_owned(), Factor::new(self.residual.q30()));
        let mixing = None;
        self.fill(op, &[input], Fill::Table(Table { weight, rows, width, codes, factor, mixing }))
    }

    /// Appends a norm.
    pub(super) fn norm(
        &mut self,
        shape: NormShape,
        gamma: Gamma,
        beta: Option<String>,
        factor: Factor,
        input: ValueId,
    ) -> ValueId {
        self.fill(Op::Norm(shape), &[input], Fill::Norm { shape, gamma, beta, factor })
    }

    /// Appends a norm with a scale of one: what reads it has the scale.
    pub(super) fn plain_norm(&mut self, shape: NormShape, input: ValueId) -> ValueId {
        self.fill(Op::Norm(shape), &[input], Fill::Ones(shape.group))
    }

    /// Appends the step that mixes channels, or turns them back: exact weights, 15-bit inputs.
    pub(super) fn mix(
        &mut self,
        mixing: &Arc<Mixing>,
        width: usize,
        is_transposed: bool,
        input: ValueId,
    ) -> ValueId {
        let shape = LinearShape::new(small(width), small(width)).expect("a width of a model");
        let fill = Fill::Mixing { mixing: mixing.clone(), is_transposed };
        self.fill(Op::Linear(shape.with_a15()), &[input], fill)
    }

    /// Appends a linear step of `depth` inputs; `fine` inputs have 15 bits.
    pub(super) fn linear(
        &mut self,
        parts: Vec<Part>,
        depth: usize,
        fine: bool,
        input: ValueId,
    ) -> Result<ValueId, ImportError> {
        let rows = parts.iter().map(|part| part.rows).sum();
        let shape = LinearShape::new(small(depth), small(rows)).ok_or_else(|| {
            let name = names(&parts);
            let max = hyperion_primitives::limits::DEPTH_MAX as usize;
            ImportError::Shape {
                name,
                got: vec![rows, depth],
                want: vec![rows.max(1), depth.clamp(1, max)],
            }
        })?;
        let has_bias = parts.iter().any(|part| part.bias.is_some());
        let shape = if has_bias { shape.with_bias() } else { shape };
        let shape = if fine { shape.with_a15() } else { shape };
        let fill = Fill::Linear { parts, depth, weights: Weights::Eight, pairs: None };
        Ok(self.fill(Op::Linear(shape), &[input], fill))
    }

    /// The same for queries, keys and values, of which queries and keys are turned as they are.
    pub(super) fn rotary_linear(
        &mut self,
        parts: [Part; 3],
        shape: AttentionShape,
        depth: usize,
        input: ValueId,
    ) -> Result<ValueId, ImportError> {
        let value = self.linear(parts.into(), depth, false, input)?;
        if let Some(Fill::Linear { pairs, .. }) = self.fills.last_mut() {
            *pairs = Some(shape);
        }
        Ok(value)
    }

    /// Appends two linear steps on inputs of 15 bits, and their sum.
    fn two_steps(&mut self, shape: LinearShape, inputs: &[ValueId], fill: Fill) -> ValueId {
        let coarse = self.fill(Op::Linear(shape.with_a15()), inputs, fill);
        let mut finer = shape.with_a15();
        finer.bias = false;
        let finer = self.fill(Op::Linear(finer), inputs, Fill::Finer);
        self.push(Op::Add, &[coarse, finer])
    }

    /// Appends rotary positions.
    pub(super) fn rope(
        &mut self,
        shape: hyperion_ops::RopeShape,
        frequencies: &[u64],
        input: ValueId,
    ) -> ValueId {
        self.fill(Op::Rope(shape), &[input], Fill::Frequencies(frequencies.to_vec()))
    }

    /// Appends what every decoder ends in: the rows that produce output, a norm, logits, a draw. Without a matrix of its
    /// own the head is the embedding, which is the first operator.
    pub(super) fn head(
        &mut self,
        (norm, gamma, beta): (NormShape, String, Option<String>),
        weight: Option<String>,
        size: (usize, usize),
        mixing: Option<&Arc<Mixing>>,
        input: ValueId,
    ) -> Result<ValueId, ImportError> {
        let gamma = Gamma::new(gamma);
        // An embedding that is the head as well carries the residual's factor there, too.
        let factor = if weight.is_some() { Factor::ONE } else { self.residual.undone() };
        let head = (norm, gamma, beta, factor);
        let logits = self.logits(head, weight, size, mixing, input)?;
        Ok(self.push(Op::Sample, &[logits]))
    }

    /// Appends the rows that produce output, a norm, and logits.
    pub(super) fn logits(
        &mut self,
        (norm, gamma, beta, factor): (NormShape, Gamma, Option<String>, Factor),
        weight: Option<String>,
        (vocab, width): (usize, usize),
        mixing: Option<&Arc<Mixing>>,
        input: ValueId,
    ) -> Result<ValueId, ImportError> {
        let x = self.push(Op::LastRow, &[input]);
        Ok(match (weight, mixing) {
            (Some(weight), Some(_)) => {
                let x = self.plain_norm(norm, x);
                let part = Part::new(weight, vocab).reads(mixing, Some(&gamma));
                self.linear(vec![part], width, false, x)?
            }
            (Some(weight), None) => {
                let x = self.norm(norm, gamma, beta, factor, x);
                self.linear(vec![Part::new(weight, vocab)], width, false, x)?
            }
            (None, _) => {
                // The embedding's codes have no room for the scale, so the norm is over the source's own channels.
                let x = mixing.map_or(x, |mixing| self.mix(mixing, width, true, x));
                let x = self.norm(norm, gamma, beta, factor, x);
                let x = mixing.map_or(x, |mixing| self.mix(mixing, width, false, x));
                let name = || "the embedding as head".to_owned();
                let shape = LinearShape::new(small(width), small(vocab)).ok_or_else(|| {
                    ImportError::Shape { name: name(), got: vec![vocab, width], want: vec![1, 1] }
                })?;
                self.fill(Op::Linear(shape), &[x], Fill::Shared(0))
            }
        })
    }

    /// The program, with every source tensor found and of the right shape.
    pub(super) fn checked(
        self,
        source: &dyn Tensors,
        tokenizer_hash: B256,
    ) -> Result<Decoder<'_>, ImportError> {
        for fill in &self.fills {
            fill.check(source)?;
        }
        let program = Program::new(Input::Tokens, self.context, self.nodes)?;
        Ok(Decoder { program, fills: self.fills, source, tokenizer_hash })
    }
}

/// A decoder that is ready to be made.
pub(super) struct Decoder<'s> {
    program: Program,
    fills: Vec<Fill>,
    source: &'s dyn Tensors,
    tokenizer_hash: B256,
}

impl Decoder<'_> {
    /// Token ids are below this.
    pub(super) fn vocabulary(&self) -> u32 {
        self.program.vocabulary().expect("a decoder begins with an embedding")
    }

    /// Positions of a sequence at most.
    pub(super) const fn context(&self) -> u32 {
        self.program.context()
    }

    /// The same with weights of four bits in every linear step but the head.
    pub(super) fn narrowed(mut self) -> Result<Self, ImportError> {
        let vocabulary = self.vocabulary();
        let mut nodes = self.program.nodes().to_vec();
        for (node, fill) in nodes.iter_mut().zip(&mut self.fills) {
            if let (Op::Linear(shape), Fill::Linear { weights, .. }) = (node.op, fill)
                && shape.n != vocabulary
            {
                *weights = Weights::Four;
                node.op = Op::Linear(shape.with_w4());
            }
        }
        self.program = Program::new(Input::Tokens, self.program.context(), nodes)?;
        Ok(self)
    }

    /// The same with weights and inputs of 15 bits in every linear step, the head's too, and an embedding of 16: two linear steps and
    /// their sum for one.
    pub(super) fn widened(self) -> Result<Self, ImportError> {
        let Self { program, fills, source, tokenizer_hash } = self;
        let mut wide = Template::new(program.context(), Residual::USUAL);
        // What stands for a value of the program that was.
        let mut values = vec![0];
        let mut embedding = None;
        for (node, fill) in program.nodes().iter().zip(fills) {
            let inputs: Vec<ValueId> =
                node.inputs.iter().map(|value| values[*value as usize]).collect();
            values.push(match (node.op, fill) {
                (Op::Embed { vocab, width, .. }, Fill::Table(table)) => {
                    let table = Table { codes: Codes::I16, ..table };
                    embedding = Some(table.clone());
                    let op = Op::Embed { vocab, width, codes: Codes::I16 };
                    wide.fill(op, &inputs, Fill::Table(table))
                }
                (Op::Linear(shape), Fill::Linear { parts, depth, pairs, .. }) => {
                    let fill = Fill::Linear { parts, depth, weights: Weights::Wide, pairs };
                    wide.two_steps(shape, &inputs, fill)
                }
                (Op::Linear(shape), Fill::Shared(_)) => {
                    let table = embedding.clone().expect("a decoder begins with an embedding");
                    wide.two_steps(shape, &inputs, Fill::Rows(table))
                }
                (op, fill) => wide.fill(op, &inputs, fill),
            });
        }
        let program = Program::new(Input::Tokens, wide.context, wide.nodes)?;
        Ok(Self { program, fills: wide.fills, source, tokenizer_hash })
    }

    /// Makes every tensor, and hands them over in the order of the program.
    fn write_to(&self, sink: &mut dyn Sink, progress: Progress<'_>) -> Result<(), ImportError> {
        let all = self.fills.len();
        let share = |sink: &mut dyn Sink, op: usize, from: u32| {
            (0..3).try_for_each(|slot| sink.share(number(op), slot, from))
        };
        // What an earlier try has left.
        let mut first = 0;
        while let Some(fill) = self.fills.get(first) {
            match fill {
                Fill::Shared(from) => share(sink, first, *from)?,
                _ if !sink.keeps(number(first))? => break,
                _ => {}
            }
            first += 1;
            progress(first, all);
        }
        Makers::run(self, first, |makers| {
            // Tensors of a second step, which are made with the first's.
            let mut finer = None;
            for (op, fill) in self.fills.iter().enumerate().skip(first) {
                let tensors = match fill {
                    Fill::Nothing => Vec::new(),
                    Fill::Shared(from) => {
                        share(sink, op, *from)?;
                        Vec::new()
                    }
                    Fill::Finer => match finer.take() {
                        Some(tensors) => tensors,
                        None => self.fills[op - 1].tensors(self.source)?.1,
                    },
                    _ => {
                        let (tensors, second) = makers.take(op)?;
                        finer = Some(second);
                        tensors
                    }
                };
                for (slot, data) in tensors {
                    sink.put(number(op), slot, data)?;
                }
                progress(op + 1, all);
            }
            Ok(())
        })
    }

    /// The whole model in memory.
    pub(super) fn parts(self, progress: Progress<'_>) -> Result<Parts, ImportError> {
        let mut tensors: Vec<TensorPart> = Vec::new();
        self.write_to(&mut tensors, progress)?;
        Ok(Parts { program: self.program, tokenizer_hash: self.tokenizer_hash, tensors })
    }

    /// Program and tokenizer, which with the tensors make the model's identity.
    pub(super) fn identity(&self) -> (B256, B256) {
        (self.program.id().0, self.tokenizer_hash)
    }

    /// Writes the model to a file, tensor by tensor, but for those that it keeps.
    pub(super) fn write(
        self,
        kept: Kept<'_>,
        out: &mut (impl io::Write + io::Seek),
        progress: Progress<'_>,
    ) -> Result<hyperion_primitives::ModelId, ImportError> {
        let mut writer = Writer::new(&self.program, self.tokenizer_hash, kept, out)?;
        self.write_to(&mut writer, progress)?;
        Ok(writer.finish()?)
    }
}

impl Make for Decoder<'_> {
    /// Tensors of the operator, and of the second of two steps.
    type Made = (Vec<Slot>, Vec<Slot>);

    fn operators(&self) -> usize {
        self.fills.len()
    }

    fn bytes(&self, operator: usize) -> Option<u64> {
        self.fills[operator].bytes()
    }

    fn make(&self, operator: usize) -> Result<Self::Made, ImportError> {
        self.fills[operator].tensors(self.source)
    }
}

/// The number of an operator in its program.
fn number(op: usize) -> u32 {
    u32::try_from(op).expect("an import makes few nodes")
}

/// Takes a model's tensors, in the order of the program.
trait Sink {
    fn put(&mut self, op: u32, slot: u16, data: Vec<u8>) -> Result<(), ImportError>;
    /// The same bytes as a tensor that was put before.
    fn share(&mut self, op: u32, slot: u16, from: u32) -> Result<(), ImportError>;

    /// Takes the tensors of an operator from an earlier try, if they are there.
    fn keeps(&mut self, _op: u32) -> Result<bool, ImportError> {
        Ok(false)
    }
}

impl Sink for Vec<TensorPart> {
    fn put(&mut self, op: u32, slot: u16, data: Vec<u8>) -> Result<(), ImportError> {
        self.push(TensorPart { op, slot, data: data.into() });
        Ok(())
    }

    fn share(&mut self, op: u32, slot: u16, from: u32) -> Result<(), ImportError> {
        let found = self.iter().find(|part| (part.op, part.slot) == (from, slot));
        let data = Arc::clone(&found.expect("the other operator was made before").data);
        self.push(TensorPart { op, slot, data });
        Ok(())
    }
}

impl<W: io::Write + io::Seek> Sink for Writer<'_, '_, W> {
    fn put(&mut self, op: u32, slot: u16, data: Vec<u8>) -> Result<(), ImportError> {
        Ok(Self::put(self, op, slot, &data)?)
    }

    fn share(&mut self, op: u32, slot: u16, from: u32) -> Result<(), ImportError> {
        Ok(Self::share(self, op, slot, from)?)
    }

    fn keeps(&mut self, op: u32) -> Result<bool, ImportError> {
        Ok(Self::keeps(self, op)?)
    }
}

impl Fill {
    /// Compares the source with what is needed of it.
    fn check(&self, source: &dyn Tensors) -> Result<(), ImportError> {
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
    fn bytes(&self) -> Option<u64> {
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
    fn tensors(&self, source: &dyn Tensors) -> Result<(Vec<Slot>, Vec<Slot>), ImportError> {
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

fn names(parts: &[Part]) -> String {
    let names: Vec<&str> = parts.iter().map(|part| part.weight.as_str()).collect();
    names.join(", ")
}

/// A size as the operator set counts; too large a one stays too large.
pub(super) fn small(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

/// Says that a configuration asks for what there is not.
pub(super) fn unsupported(
    key: &'static str,
    got: &dyn ToString,
    want: &'static str,
) -> ImportError {
    ImportError::Unsupported { key, got: got.to_string(), want }
}

/// Sizes that every decoder has, checked against the operator set before anything is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) vocab: usize,
    /// Positions, [`CONTEXT_MAX`] at most.
    pub(super) context: u32,
    /// Causal, with 15-bit attention weights, seeing all that came before.
    pub(super) attention: AttentionShape,
    /// `log2(e)/√head_dim`.
    pub(super) query_q30: u32,
}

/// Sizes as a configuration states them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stated {
    pub(super) hidden: usize,
    pub(super) inner: usize,
    pub(super) layers: usize,
    pub(super) vocab: usize,
    pub(super) positions: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    /// Where it is not `hidden / heads`.
    pub(super) head_dim: Option<usize>,
}

impl Sizes {
    /// Checks what is stated.
    pub(super) fn new(stated: Stated) -> Result<Self, ImportError> {
        let Stated { hidden, inner, layers, vocab, positions, heads, kv_heads, head_dim } = stated;
        let within = |key, got: usize, max: u32, want| {
            let fits = (1..=max as usize).contains(&got);
            if fits { Ok(()) } else { Err(unsupported(key, &got, want)) }
        };
        use hyperion_primitives::limits::{DEPTH_MAX, VOCABULARY_MAX, WIDTH_MAX};
        within("hidden_size", hidden, WIDTH_MAX, "1 to 16,384 is supported")?;
        within("intermediate_size", inner, DEPTH_MAX, "1 to 131,071 is supported")?;
        within("num_hidden_layers", layers, small(LAYERS_MAX), "1 to 1,024 is supported")?;
        within("vocab_size", vocab, VOCABULARY_MAX, "1 to 262,144 is supported")?;
        within("max_position_embeddings", positions, u32::MAX, "1 to 4,294,967,295")?;
        let divides = heads > 0 && hidden.is_multiple_of(heads);
        let head_dim = head_dim.unwrap_or(if divides { hidden / heads } else { 0 });
        let attention = AttentionShape::new(small(heads), small(kv_heads), small(head_dim));
        let attention = attention.ok_or_else(|| {
            let got = format!("{heads}, num_key_value_heads {kv_heads}, head_dim {head_dim}");
            let want =
                "a multiple of num_key_value_heads, heads of 1 to 256 columns, 16,384 in all";
            unsupported("num_attention_heads", &got, want)
        })?;
        let query_q30 = attention_multiplier(attention.head_dim)
            .and_then(|multiplier| u32::try_from(multiplier).ok());
        let query_q30 = query_q30
            .ok_or_else(|| unsupported("head_dim", &head_dim, "heads of at least 2 columns"))?;
        Ok(Self {
            hidden,
            inner,
            layers,
            vocab,
            context: small(positions).min(CONTEXT_MAX),
            attention: attention.with_causal(0).with_p15(),
            query_q30,
        })
    }

    /// Columns of all query heads.
    pub(super) const fn query_width(&self) -> usize {
        self.attention.heads as usize * self.attention.head_dim as usize
    }

    /// Columns of all key heads, and of all value heads.
    pub(super) const fn kv_width(&self) -> usize {
        self.attention.kv_heads as usize * self.attention.head_dim as usize
    }
}
