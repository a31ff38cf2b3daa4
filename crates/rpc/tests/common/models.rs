//! Two models: the committed classifier, and one that reads token ids.

use std::{
    path::Path,
    sync::{Arc, OnceLock},
};

use hyperion_model::{
    Model, Program, Trust,
    file::{Parts, TensorPart},
    import,
    program::{Codes, Input, Node, Op},
};
use hyperion_ops::{LinearShape, PoolMode};
use hyperion_primitives::{B256, Mix, limits::padded_depth, w8r};

/// The committed digits classifier.
pub(crate) fn digits() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    let folder = "../../fixtures/digits";
    Arc::clone(MODEL.get_or_init(|| built(&import::mlp(Path::new(folder)).unwrap())))
}

/// A model that reads up to 64 token ids below 16: a table of 32 columns, averaged and scaled to length one.
pub(crate) fn letters() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| {
        let embed = Op::Embed { vocab: 16, width: 32, codes: Codes::I16 };
        let pool = Op::Pool { mode: PoolMode::Mean, unit: true };
        let nodes = [(embed, 0), (pool, 1)].map(|(op, input)| Node { op, inputs: vec![input] });
        let codes = (0..16 * 32_u32).flat_map(|i| (i as i16 * 37 - 9000).to_le_bytes()).collect();
        let tensors = [codes, vec![200; 16], vec![20; 16]].into_iter().enumerate();
        let tensors =
            tensors.map(|(slot, data)| TensorPart { op: 0, slot: slot as u16, data: data.into() });
        built(&Parts {
            program: Program::new(Input::Tokens, 64, nodes.to_vec()).unwrap(),
            tokenizer_hash: B256::ZERO,
            tensors: tensors.collect(),
        })
    }))
}

/// A model that writes: up to 64 token ids below 64, the next drawn from the last one alone.
pub(crate) fn writer() -> Arc<Model> {
    static MODEL: OnceLock<Arc<Model>> = OnceLock::new();
    Arc::clone(MODEL.get_or_init(|| {
        let embed = Op::Embed { vocab: 64, width: 32, codes: Codes::I16 };
        let linear = Op::Linear(LinearShape::new(32, 64).unwrap());
        let nodes = [(embed, 0), (Op::LastRow, 1), (linear, 2), (Op::Sample, 3)];
        let nodes = nodes.map(|(op, input)| Node { op, inputs: vec![input] });
        let mut mix = Mix::new(11);
        let codes = (0..64 * 32).flat_map(|_| (mix.i32(14) as i16).to_le_bytes()).collect();
        let mut weights = vec![0; 64 * padded_depth(32) as usize];
        for row in weights.chunks_exact_mut(padded_depth(32) as usize) {
            let codes: Vec<i8> = (0..32).map(|_| (mix.below(255) as i16 - 127) as i8).collect();
            let mut padded = vec![0; row.len()];
            padded[..32].copy_from_slice(&codes);
            w8r::encode(&padded, row);
        }
        let tensors = [
            (0, [codes, vec![200; 64], vec![16; 64]]),
            (2, [weights, vec![200; 64], vec![14; 64]]),
        ];
        let tensors = tensors.into_iter().flat_map(|(op, slots)| {
            let slots = slots.into_iter().enumerate();
            slots.map(move |(slot, data)| TensorPart { op, slot: slot as u16, data: data.into() })
        });
        built(&Parts {
            program: Program::new(Input::Tokens, 64, nodes.to_vec()).unwrap(),
            tokenizer_hash: B256::ZERO,
            tensors: tensors.collect(),
        })
    }))
}

fn built(parts: &Parts) -> Arc<Model> {
    let mut bytes = Vec::new();
    parts.write(&mut bytes).unwrap();
    Arc::new(Model::from_bytes(bytes, Trust::Nothing).unwrap())
}
