//! Decoders, whatever their family: a program that the configuration alone implies, and for each operator where its tensors
//! come from.
//!
//! So everything is known before a weight is read: sizes are checked against the operator set, and names and shapes
//! against the source. Then tensors are made, as [`fill`](super::fill) says, some operators ahead of the [`Sink`] that takes them in
//! the program's order, a file or memory; [`makers`](super::makers) bounds what is held meanwhile.

use std::{io, sync::Arc};

use hyperion_ops::{AttentionShape, LinearShape, NormShape};
use hyperion_primitives::B256;

use super::{
    ImportError, Progress,
    builder::Slot,
    fill::{Factor, Fill, Gamma, Part, Table, Weights},
    makers::{Make, Makers},
    mixing::Mixing,
    sizes::small,
    source::Tensors,
};
use crate::{
    file::{Kept, Parts, TensorPart, Writer},
    program::{Codes, Input, Node, Op, Program, ValueId},
    real::ROW_ONE,
};

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
        Factor::shifted(ROW_ONE, self.shift)
    }

    /// The ε of a norm over what flows from layer to layer, from the source's: it is added to squares.
    pub(super) fn eps(self, eps_q32: u32) -> u32 {
        let shift = 2 * self.shift;
        let eps = (u64::from(eps_q32) + (1 << (shift - 1))) >> shift;
        u32::try_from(eps).expect("less than it was")
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

fn names(parts: &[Part]) -> String {
    let names: Vec<&str> = parts.iter().map(|part| part.weight.as_str()).collect();
    names.join(", ")
}
