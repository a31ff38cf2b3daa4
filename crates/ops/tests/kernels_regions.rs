//! Lists of steps, cut and fused as the backend likes, against the definitions one by one: memory is reused
//! wherever a value is dead, and columns of one matrix are read while others are written.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod kernels;

use std::sync::Arc;

use hyperion_ops::{
    ActivationTable, Backend, BackendError, Cpu, KernelSet, LinearShape, NormKind, NormShape,
    Serial, Step, View, WeightId, Weights,
};
use hyperion_primitives::Mix;
use kernels::{Layer, equal, input, matrix, read, view, write};

const WIDTH: usize = 48;

fn draw(mix: &mut Mix, bound: usize) -> usize {
    usize::try_from(mix.below(bound as u64)).unwrap()
}

fn random_layer(mix: &mut Mix, k: usize, n: usize) -> Layer {
    let [k32, n32] = [k, n].map(|size| u32::try_from(size).unwrap());
    Layer {
        shape: LinearShape::new(k32, n32).unwrap().with_bias(),
        codes: (0..k * n).map(|_| i8::try_from(mix.i32(6)).unwrap()).collect(),
        mantissas: vec![180; n],
        exponents: vec![16; n],
        bias: (0..n).map(|_| mix.i32(14)).collect(),
    }
}

/// A random program over one buffer with few slots, so that a slot is soon written again.
fn program(device: &mut dyn Backend, seed: u64) -> Vec<i32> {
    let mut mix = Mix::new(seed);
    let rows = 1 + draw(&mut mix, 150);
    let slots = 3 + draw(&mut mix, 3);
    let buffer = device.alloc(4 * (slots * rows * WIDTH) as u64).unwrap();
    let slot = |index: usize| view(buffer, index * rows * WIDTH, rows, WIDTH);
    for index in 0..slots {
        let x: Vec<i32> = (0..rows * WIDTH).map(|_| mix.i32(17)).collect();
        write(device, slot(index), &x);
    }
    let mut steps = Vec::new();
    for _ in 0..12 {
        let out = draw(&mut mix, slots);
        let mut other = || {
            let index = draw(&mut mix, slots - 1);
            slot(if index >= out { index + 1 } else { index })
        };
        let (first, second, out) = (other(), other(), slot(out));
        steps.push(match mix.below(5) {
            0 => Step::Add { lhs: first, rhs: second, out },
            1 => Step::Activation { table: ActivationTable::Gelu, input: first, out },
            2 => Step::Gate { gate: first, up: second, out },
            3 => {
                let gamma: Vec<i32> = (0..WIDTH).map(|_| 16_384 + mix.i32(12)).collect();
                let weights = device.pack(&Weights::Norm { gamma: &gamma, beta: None }).unwrap();
                let shape = NormShape::new(NormKind::Rms, 43, 48).unwrap();
                Step::Norm { weights, shape, input: first, out }
            }
            _ => {
                let layer = random_layer(&mut mix, WIDTH, WIDTH);
                let weights = layer.pack(device);
                Step::Linear { weights, shape: layer.shape, input: first, out }
            }
        });
    }
    device.run(&steps).unwrap();
    let Some(
        Step::Add { out, .. }
        | Step::Activation { out, .. }
        | Step::Gate { out, .. }
        | Step::Norm { out, .. }
        | Step::Linear { out, .. },
    ) = steps.last()
    else {
        unreachable!("programs have steps of these kinds")
    };
    read(device, *out)
}

#[test]
fn programs_that_reuse_memory_give_the_same_result() {
    for seed in 0..60 {
        equal(&[1, 3], |device| program(device, seed));
    }
}

/// Parts of a divided row: two layers whose results are added and then activated, with or without a reader of the first
/// result, a first input that is overwritten, and steps so coarse that only the definition can requantize.
#[test]
fn parts_of_a_divided_row_are_summed_as_if_one_by_one() {
    for case in 0..48_u64 {
        equal(&[1, 2], |device| {
            let mut mix = Mix::new(case);
            let rows = 1 + draw(&mut mix, 80);
            let n = [8, 48, 50, 100, 144][draw(&mut mix, 5)];
            let bits = [8, 17, 30][draw(&mut mix, 3)];
            let x: Vec<i32> = (0..rows * 96).map(|_| mix.i32(bits)).collect();
            let whole = input(device, 96, &x);
            let [mut first, mut second] =
                [(32, mix.below(2) == 0), (64, mix.below(4) == 0)].map(|(k, fine)| {
                    let mut layer = random_layer(&mut mix, k, n);
                    layer.shape.a15 = fine;
                    layer
                });
            if mix.below(4) == 0 {
                first.exponents.fill(2);
            }
            if mix.below(4) == 0 {
                second.exponents.fill(2);
            }
            let weights = [&first, &second].map(|layer| layer.pack(device));
            let [between, other, sum, out] = [(); 4].map(|()| matrix(device, rows, n));
            let mut steps = vec![
                Step::Linear {
                    weights: weights[0],
                    shape: first.shape,
                    input: whole.columns(0, 32),
                    out: between,
                },
                Step::Linear {
                    weights: weights[1],
                    shape: second.shape,
                    input: whole.columns(32, 64),
                    out: other,
                },
                Step::Add { lhs: other, rhs: between, out: sum },
            ];
            let activation = Step::Activation { table: ActivationTable::Gelu, input: sum, out };
            let last = match case % 4 {
                0 => sum,
                1 => {
                    steps.push(activation);
                    out
                }
                2 => {
                    steps.extend([activation, Step::Add { lhs: sum, rhs: out, out: other }]);
                    other
                }
                _ => {
                    steps.extend([activation, Step::Add { lhs: between, rhs: out, out: other }]);
                    other
                }
            };
            device.run(&steps).unwrap();
            read(device, last)
        });
    }
}

/// The residual of a layer that lies beside its result, in columns of one matrix.
#[test]
fn columns_of_one_matrix_are_read_beside_those_written() {
    equal(&[1, 2], |device| {
        let mut mix = Mix::new(5);
        let x: Vec<i32> = (0..70 * 3 * WIDTH).map(|_| mix.i32(17)).collect();
        let whole = input(device, 3 * WIDTH, &x);
        let width = u32::try_from(WIDTH).unwrap();
        let [left, middle, right] = [0, 1, 2].map(|part| whole.columns(part * width, width));
        let layer = random_layer(&mut mix, WIDTH, WIDTH);
        let weights = layer.pack(device);
        let between = matrix(device, 70, WIDTH);
        device
            .run(&[
                Step::Linear { weights, shape: layer.shape, input: left, out: between },
                Step::Add { lhs: between, rhs: left, out: middle },
                Step::Gate { gate: left, up: middle, out: right },
                Step::Add { lhs: right, rhs: middle, out: left },
            ])
            .unwrap();
        read(device, whole)
    });
}

/// Few rows and many weights: threads share the channels of a layer, whose result may lie between columns that are read.
#[test]
fn channels_that_threads_share_are_those_of_the_definition() {
    for case in 0..24_u64 {
        equal(&[1, 2, 5], |device| {
            let mut mix = Mix::new(case);
            let rows = 1 + draw(&mut mix, 17);
            let (k, n) = (512, [700, 1_104, 1_203][draw(&mut mix, 3)]);
            let x: Vec<i32> = (0..rows * (k + 2 * n)).map(|_| mix.i32(17)).collect();
            let whole = input(device, k + 2 * n, &x);
            let [k32, n32] = [k, n].map(|size| u32::try_from(size).unwrap());
            let (read_from, beside) = (whole.columns(0, k32), whole.columns(k32, n32));
            let out = whole.columns(k32 + n32, n32);
            let mut layer = random_layer(&mut mix, k, n);
            layer.shape.a15 = mix.below(2) == 0;
            if mix.below(4) == 0 {
                layer.exponents.fill(2);
            }
            let weights = layer.pack(device);
            let linear = |out| Step::Linear { weights, shape: layer.shape, input: read_from, out };
            let between = matrix(device, rows, n);
            let steps = match case % 3 {
                0 => vec![linear(out)],
                1 => vec![linear(between), Step::Add { lhs: between, rhs: beside, out }],
                _ => {
                    let table = ActivationTable::Gelu;
                    vec![linear(between), Step::Activation { table, input: between, out }]
                }
            };
            device.run(&steps).unwrap();
            read(device, whole)
        });
    }
}

/// Two inputs that read the same elements with different strides fit no common matrix.
#[test]
fn inputs_that_lie_across_each_other_are_copied_first() {
    equal(&[1, 2], |device| {
        let x: Vec<i32> = (0..400).map(|i| i * 1000 - 200_000).collect();
        let all = input(device, 400, &x);
        let lhs = View { rows: 20, width: 10, stride: 20, ..all };
        let rhs = View { rows: 20, width: 10, stride: 12, offset: 5, ..all };
        let out = matrix(device, 20, 10);
        device.run(&[Step::Add { lhs, rhs, out }]).unwrap();
        read(device, out)
    });
}

#[test]
fn an_empty_list_and_empty_matrices_are_no_work() {
    equal(&[1, 2], |device| {
        let out = matrix(device, 1, 8);
        let none = View { rows: 0, ..out };
        device.run(&[]).unwrap();
        device.run(&[Step::Add { lhs: none, rhs: none, out: none }]).unwrap();
        read(device, out).len()
    });
}

fn linear(device: &mut Cpu) -> Result<(WeightId, Layer), BackendError> {
    let layer = random_layer(&mut Mix::new(1), 64, 64);
    Ok((layer.pack(device), layer))
}

#[test]
fn memory_is_counted_and_refused_before_anything_is_lost() {
    let mut device = Cpu::with_memory(KernelSet::best(), Arc::new(Serial), 400_000);
    let refused = device.alloc(1 << 40).unwrap_err();
    assert!(
        matches!(refused, BackendError::OutOfMemory { wanted_bytes, free_bytes: 400_000 } if wanted_bytes > 1 << 40)
    );
    assert!(matches!(device.alloc(u64::MAX), Err(BackendError::OutOfMemory { .. })));
    let (weights, layer) = linear(&mut device).unwrap();
    let x = input(&mut device, 64, &[1000; 128]);
    let out = matrix(&mut device, 2, 64);
    let step = [Step::Linear { weights, shape: layer.shape, input: x, out }];
    device.run(&step).unwrap();
    let want = read(&mut device, out);

    // Room that threads need is memory too.
    let mut small = Cpu::with_memory(KernelSet::best(), Arc::new(Serial), 12_000);
    let (weights, layer) = linear(&mut small).unwrap();
    let x = input(&mut small, 64, &[1000; 128]);
    let out = matrix(&mut small, 2, 64);
    let step = [Step::Linear { weights, shape: layer.shape, input: x, out }];
    assert!(matches!(small.run(&step), Err(BackendError::OutOfMemory { .. })));

    // What is given back can be had again, any number of times.
    for _ in 0..50 {
        device.reset();
        let id = linear(&mut device).unwrap().0;
        device.alloc(200_000).unwrap();
        device.unpack(id);
    }
    assert!(want.iter().any(|y| *y != 0));
}
