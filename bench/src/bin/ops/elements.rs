//! Every other operator: nanoseconds per element of its result.

use hyperion_ops::{
    ActivationTable, AttentionShape, Backend, Pairing, PoolMode, RopeShape, Sequence, Step,
    TableCodes, View, Weights,
};
use hyperion_primitives::{Dtype, Mix, w8r};
use serde_json::{Map, Value, json};

use crate::{Options, rig};

const ROWS: usize = 128;
const WIDTH: usize = 384;
const HEADS: u32 = 12;
const VOCABULARY: u32 = 512;

static SEQUENCE: [Sequence; 1] = [Sequence { row: 0, rows: ROWS as u32, position: 0 }];

pub(crate) fn run(options: &Options) -> Vec<(&'static str, Value)> {
    let names = [
        "embed",
        "position",
        "norm",
        "rope",
        "attention",
        "attention_causal_p15",
        "relu",
        "gelu",
        "silu",
        "gate",
        "add",
        "pool_unit",
        "argmax",
    ];
    let times = names.map(|name| (name.to_owned(), json!(nanoseconds(options, name))));
    vec![("ns_per_element", Value::Object(Map::from_iter(times)))]
}

fn nanoseconds(options: &Options, name: &str) -> f64 {
    let mut device = options.device(1);
    let built = rig::compared(
        &mut device,
        |device| step(name, device),
        |device, (step, out)| {
            rig::run(device, std::slice::from_ref(step));
            read(device, *out)
        },
    );
    let (best, _) = options.time(0.1, || rig::run(&mut device, std::slice::from_ref(&built.0)));
    best * 1e9 / (ROWS * WIDTH) as f64
}

fn step(name: &str, device: &mut dyn Backend) -> (Step<'static>, View) {
    let mut mix = Mix::new(2);
    let mut input = |device: &mut dyn Backend| {
        let view = rig::matrix(device, ROWS, WIDTH);
        rig::write(device, view, &rig::rows(&mut mix, ROWS, WIDTH));
        view
    };
    let (x, y, z) = (input(device), input(device), input(device));
    let out = rig::matrix(device, ROWS, WIDTH);
    let sequences = &SEQUENCE[..];
    let step = match name {
        "embed" | "position" => {
            let table = table(device);
            let tokens: Vec<i32> = (0..ROWS as i32).map(|i| i * 37 % VOCABULARY as i32).collect();
            let ids = rig::matrix(device, ROWS, 1);
            rig::write(device, ids, &tokens);
            let tokens = View { dtype: Dtype::U32, ..ids };
            match name {
                "embed" => Step::Embed { table, tokens, out },
                _ => Step::Position { table, sequences, input: x, out },
            }
        }
        "norm" => {
            let (weights, shape) = rig::pack_norm(&mut Mix::new(3), WIDTH as u32, device);
            Step::Norm { weights, shape, input: x, out }
        }
        "rope" => {
            let turns: Vec<u64> = (0..16).map(|j| (u64::MAX / 7) >> (2 * j)).collect();
            let frequencies = device.pack(&Weights::Frequencies(&turns)).expect("memory");
            let shape = RopeShape::new(HEADS, 32, 32, Pairing::Half).expect("within the limits");
            Step::Rope { frequencies, shape, sequences, input: x, out }
        }
        "attention" | "attention_causal_p15" => {
            let shape = AttentionShape::new(HEADS, HEADS, 32).expect("within the limits");
            let shape = if name == "attention" { shape } else { shape.with_causal(0).with_p15() };
            Step::Attention { shape, sequences, q: x, k: y, v: z, out }
        }
        "relu" => Step::Activation { table: ActivationTable::Relu, input: x, out },
        "gelu" => Step::Activation { table: ActivationTable::Gelu, input: x, out },
        "silu" => Step::Activation { table: ActivationTable::Silu, input: x, out },
        "gate" => Step::Gate { gate: x, up: y, out },
        "add" => Step::Add { lhs: x, rhs: y, out },
        "pool_unit" => {
            let out = View { dtype: Dtype::I16, rows: 1, ..out };
            let step = Step::Pool { mode: PoolMode::Mean, unit: true, sequences, input: x, out };
            return (step, out);
        }
        _ => {
            let out = View { dtype: Dtype::U32, width: 1, stride: 1, ..out };
            return (Step::Argmax { input: x, out }, out);
        }
    };
    (step, out)
}

fn table(device: &mut dyn Backend) -> hyperion_ops::WeightId {
    let mut mix = Mix::new(4);
    let mut codes = vec![0; VOCABULARY as usize * WIDTH];
    for row in codes.chunks_exact_mut(WIDTH) {
        let plain: Vec<i8> =
            (0..WIDTH).map(|_| mix.below(255) as i8).map(|c| c.max(-127)).collect();
        w8r::encode(&plain, row);
    }
    let (mantissas, exponents) = (vec![200; VOCABULARY as usize], vec![14; VOCABULARY as usize]);
    let weights = Weights::Table {
        rows: VOCABULARY,
        width: WIDTH as u32,
        codes: TableCodes::W8r(&codes),
        mantissas: &mantissas,
        exponents: &exponents,
    };
    device.pack(&weights).expect("memory")
}

fn read(device: &mut dyn Backend, view: View) -> Vec<u8> {
    let mut bytes = vec![0; view.dtype.bytes() * (view.rows * view.width) as usize];
    device.read(view.buffer, 0, &mut bytes).expect("in memory");
    bytes
}
