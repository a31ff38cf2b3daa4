//! Where the values of a run lie: known before anything runs.
//!
//! A value lives from the node that defines it to the last that reads it. Values whose lives do not overlap share a
//! slot, columns are views of their value, and the output's slot is nobody else's. The plan's size is the memory a
//! model takes beside its weights, so a model that does not fit is refused when it is registered.

use crate::program::{Op, Program, Rows, ValueId};

/// Memory of a run with a certain number of rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    rows_max: u32,
    slots: Vec<u64>,
    places: Vec<Place>,
}

/// Where one value lies: a slot, and the first of its columns there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) slot: usize,
    pub(crate) column: u32,
    /// Elements from one row to the next.
    pub(crate) stride: u32,
}

impl Plan {
    /// Plans runs of at most `rows_max` rows, over all sequences of a batch.
    pub fn new(program: &Program, rows_max: u32) -> Self {
        Self::with_outputs(program, rows_max, rows_max)
    }

    /// Plans runs of at most `rows_max` rows of which at most `outputs_max` produce output.
    pub fn with_outputs(program: &Program, rows_max: u32, outputs_max: u32) -> Self {
        let last_read = last_reads(program);
        let mut slots: Vec<Slot> = Vec::new();
        let mut places: Vec<Place> = Vec::new();
        for value in 0..=count(program) {
            let shape = program.shape(value);
            let view = value.checked_sub(1).and_then(|node| {
                let node = &program.nodes()[node as usize];
                match node.op {
                    Op::Columns { start, .. } => Some((places[node.inputs[0] as usize], start)),
                    _ => None,
                }
            });
            let place = if let Some((whole, start)) = view {
                Place { column: whole.column + start, ..whole }
            } else {
                let rows = match shape.rows {
                    Rows::All => rows_max,
                    Rows::Out => outputs_max,
                };
                let bytes = u64::from(rows) * u64::from(shape.width) * shape.dtype.bytes() as u64;
                let slot = take(&mut slots, value, bytes);
                Place { slot, column: 0, stride: shape.width }
            };
            let slot = &mut slots[place.slot];
            slot.busy_until = slot.busy_until.max(last_read[value as usize]);
            places.push(place);
        }
        Self { rows_max, slots: slots.into_iter().map(|slot| slot.bytes).collect(), places }
    }

    /// Rows that fit.
    pub const fn rows_max(&self) -> u32 {
        self.rows_max
    }

    /// Bytes of all slots.
    pub fn bytes(&self) -> u64 {
        self.slots.iter().sum()
    }

    /// Bytes of each slot.
    pub(crate) fn slots(&self) -> &[u64] {
        &self.slots
    }

    pub(crate) fn place(&self, value: ValueId) -> Place {
        self.places[value as usize]
    }
}

struct Slot {
    bytes: u64,
    /// The last node that reads what lies here.
    busy_until: u32,
}

fn count(program: &Program) -> u32 {
    u32::try_from(program.nodes().len()).expect("a program has few nodes")
}

/// The last node that reads each value; for the output, and for what is a view of another, beyond the last node.
fn last_reads(program: &Program) -> Vec<u32> {
    let nodes = count(program);
    let mut last = vec![0; nodes as usize + 1];
    last[nodes as usize] = u32::MAX;
    for (index, node) in (0..).zip(program.nodes()) {
        for value in &node.inputs {
            last[*value as usize] = last[*value as usize].max(index);
        }
    }
    // What reads a view reads the whole value.
    for (index, node) in program.nodes().iter().enumerate().rev() {
        if matches!(node.op, Op::Columns { .. }) {
            let whole = node.inputs[0] as usize;
            last[whole] = last[whole].max(last[index + 1]);
        }
    }
    last
}

/// The smallest free slot that holds `bytes`, else the largest free one made larger, else a new one.
///
/// Value `v` is written by node `v - 1`; a slot is free for it if everything there was last read before that node.
fn take(slots: &mut Vec<Slot>, value: ValueId, bytes: u64) -> usize {
    let is_free = |slot: &Slot| slot.busy_until != u32::MAX && slot.busy_until + 1 < value;
    let free = || slots.iter().enumerate().filter(|(_, slot)| is_free(slot));
    let fitting = free().filter(|(_, slot)| slot.bytes >= bytes).min_by_key(|(_, slot)| slot.bytes);
    let chosen =
        fitting.or_else(|| free().max_by_key(|(_, slot)| slot.bytes)).map(|(index, _)| index);
    let index = chosen.unwrap_or_else(|| {
        slots.push(Slot { bytes: 0, busy_until: 0 });
        slots.len() - 1
    });
    let slot = &mut slots[index];
    slot.bytes = slot.bytes.max(bytes);
    slot.busy_until = value.saturating_sub(1);
    index
}

#[cfg(test)]
mod tests {
    use hyperion_ops::{ActivationTable, LinearShape};
    use hyperion_primitives::Mix;

    use super::*;
    use crate::program::{Input, Node};

    /// A program of random nodes over rows of 8, every value read.
    fn random(mix: &mut Mix) -> Program {
        let mut nodes: Vec<Node> = Vec::new();
        let mut widths = vec![8];
        let mut push = |op, inputs: &[ValueId], width, widths: &mut Vec<u32>| {
            nodes.push(Node { op, inputs: inputs.to_vec() });
            widths.push(width);
            widths.len() as ValueId - 1
        };
        let linear = |k, n| Op::Linear(LinearShape::new(k, n).unwrap());
        for _ in 0..2 + mix.below(12) {
            let value = mix.below(widths.len() as u64) as ValueId;
            let width = widths[value as usize];
            match mix.below(4) {
                0 => {
                    let other =
                        (0..widths.len()).rev().find(|other| widths[*other] == width).unwrap()
                            as ValueId;
                    push(Op::Add, &[value, other], width, &mut widths)
                }
                1 => {
                    let start = mix.below(width.into()) as u32;
                    let len = 1 + mix.below((width - start).into()) as u32;
                    push(Op::Columns { start, len }, &[value], len, &mut widths)
                }
                2 => push(Op::Activation(ActivationTable::Relu), &[value], width, &mut widths),
                _ => {
                    let n = 1 + mix.below(16) as u32;
                    push(linear(width, n), &[value], n, &mut widths)
                }
            };
        }
        // All of them flow into one sum.
        let count = widths.len() as ValueId;
        let mut sum = push(linear(8, 8), &[0], 8, &mut widths);
        for value in 1..count {
            let equal = push(linear(widths[value as usize], 8), &[value], 8, &mut widths);
            sum = push(Op::Add, &[sum, equal], 8, &mut widths);
        }
        Program::new(Input::Rows(8), 4, nodes).unwrap()
    }

    /// The value whose memory a value is.
    fn whole(program: &Program, mut value: ValueId) -> ValueId {
        while let Some(Node { op: Op::Columns { .. }, inputs }) =
            value.checked_sub(1).map(|node| &program.nodes()[node as usize])
        {
            value = inputs[0];
        }
        value
    }

    #[test]
    fn what_is_written_destroys_nothing_that_is_still_read() {
        let mut mix = Mix::new(9);
        for _ in 0..500 {
            let program = random(&mut mix);
            let plan = Plan::new(&program, 3);
            for (index, node) in program.nodes().iter().enumerate() {
                let written = index as ValueId + 1;
                if matches!(node.op, Op::Columns { .. }) {
                    continue;
                }
                // Whatever this node or a later one reads, other than what is written now or later.
                let read = program.nodes()[index..].iter().flat_map(|later| &later.inputs);
                for value in read.filter(|value| **value < written) {
                    let kept = whole(&program, *value);
                    assert_ne!(
                        plan.place(kept).slot,
                        plan.place(written).slot,
                        "node {index} writes value {written} over value {kept} of {program:?}"
                    );
                }
            }
        }
    }

    #[test]
    fn every_value_fits_its_slot_and_the_sum_of_slots_is_less_than_that_of_values() {
        let mut mix = Mix::new(10);
        let (mut slots, mut values) = (0, 0);
        for _ in 0..100 {
            let program = random(&mut mix);
            let plan = Plan::new(&program, 3);
            for value in 0..=count(&program) {
                let (place, shape) = (plan.place(value), program.shape(value));
                assert!(place.column + shape.width <= place.stride);
                let bytes = 3 * u64::from(place.stride) * shape.dtype.bytes() as u64;
                assert!(bytes <= plan.slots()[place.slot]);
                values += 3 * u64::from(shape.width) * shape.dtype.bytes() as u64;
            }
            slots += plan.bytes();
        }
        assert!(2 * slots < values, "{slots} bytes of {values}");
    }
}
