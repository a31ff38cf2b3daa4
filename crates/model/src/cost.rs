//! What a run costs, read off the program before anything runs.
//!
//! With `T` rows of the trunk, `P` visible pairs and `O` tokens generated, work is
//! `base + per_row · T + per_pair · P + per_out · O`. A linear step adds `k · n` (twice with wide codes), attention adds
//! `2 · heads · head_dim` a pair (three times with wide weights), nothing else multiplies. A step after the rows were
//! chosen that produce output counts once a token for a generator, and once in all otherwise.

use hyperion_verify::manifest::{Formula, Manifest, NATIVE_MACS_MAX, OutputRows};

use crate::{
    decoder,
    plan::Plan,
    program::{Op, Program, Rows},
};

/// What a chain knows of a model, computed from its program.
pub(crate) fn manifest(program: &Program) -> Manifest {
    let nodes = program.nodes();
    let is_generator = matches!(nodes.last().map(|node| node.op), Some(Op::Sample));
    // One attention that sees every pair makes every pair count.
    let mut attentions = nodes.iter().filter_map(|node| match node.op {
        Op::Attention(shape) => Some(shape.causal),
        _ => None,
    });
    let is_causal = attentions.next().is_some_and(|first| first && attentions.all(|causal| causal));
    let mut macs = Formula::default();
    let mut elements = Formula::default();
    for (value, node) in (1..).zip(nodes) {
        let shape = program.shape(value);
        let add = |formula: &mut Formula, count: u64| {
            let term = match shape.rows {
                Rows::All => &mut formula.per_row,
                Rows::Out if is_generator => &mut formula.per_out,
                Rows::Out => &mut formula.base,
            };
            // Widths are below 2^18, depths below 2^17 and nodes at most 2^16, so sums stay below 2^52.
            *term += count;
        };
        match node.op {
            Op::Linear(linear) => {
                let products = u64::from(linear.k) * u64::from(linear.n);
                add(&mut macs, if linear.a15 { 2 * products } else { products });
            }
            Op::Attention(attention) => {
                let products = u64::from(attention.heads) * u64::from(attention.head_dim);
                macs.per_pair += if attention.p15 { 3 * products } else { 2 * products };
                elements.per_pair += u64::from(attention.heads);
            }
            _ => {}
        }
        // Columns and chosen rows are views: they write nothing.
        if !matches!(node.op, Op::Columns { .. } | Op::LastRow) {
            add(&mut elements, shape.width.into());
        }
    }
    let output = program.output();
    let context = program.context();
    let peak_bytes = if is_generator {
        Plan::with_outputs(program, context, 1).bytes() + decoder::cache_bytes(program, context)
    } else {
        Plan::new(program, context).bytes()
    };
    let mut manifest = Manifest {
        program_id: program.id(),
        active: true,
        native: false,
        causal: is_causal,
        generator: is_generator,
        input_dtype: program.input().dtype(),
        input_width: program.input().width(),
        vocabulary: program.vocabulary().unwrap_or(0),
        output_dtype: output.dtype,
        output_width: output.width,
        output_rows: match output.rows {
            Rows::All => OutputRows::Rows,
            Rows::Out if is_generator => OutputRows::Tokens,
            Rows::Out => OutputRows::One,
        },
        rows_max: program.context(),
        macs,
        elements,
        peak_bytes,
    };
    let smallest = manifest.macs(1, is_generator.into());
    manifest.native = smallest.is_some_and(|macs| macs <= NATIVE_MACS_MAX);
    manifest
}
