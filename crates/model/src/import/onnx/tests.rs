//! Graphs made here, node by node: what is read as a chain, and what is refused and why.

use super::{
    super::mlp::Curve,
    OnnxError,
    constant::Constant,
    layers,
    lower::Lowered,
    proto::{self, data_type},
};
use crate::real::Format;
use prost::Message;

const ONE: u32 = 0x3f80_0000;
const HALF: u32 = 0x3f00_0000;
const ROOT_TWO: u32 = 0x3fb5_04f3;
const ROOT_HALF: u32 = 0x3f35_04f3;

/// A graph in the making: input `x` of `[batch, 2]`, output the last node's.
struct Maker(proto::Graph);

impl Maker {
    fn new() -> Self {
        let mut graph = proto::Graph::default();
        graph.inputs.push(input("x", data_type::FLOAT, &[None, Some(2)]));
        // The bits are the numbers 1..=6 and 7..=9: nothing here computes with them.
        graph.initializers.push(floats("w", &[3, 2], &[1, 2, 3, 4, 5, 6]));
        graph.initializers.push(floats("wt", &[2, 3], &[1, 3, 5, 2, 4, 6]));
        graph.initializers.push(floats("b", &[3], &[7, 8, 9]));
        for (name, bits) in
            [("one", ONE), ("half", HALF), ("root2", ROOT_TWO), ("root1/2", ROOT_HALF)]
        {
            graph.initializers.push(floats(name, &[], &[bits]));
        }
        Self(graph)
    }

    fn node(mut self, op: &str, inputs: &[&str], result: &str) -> Self {
        self.0.nodes.push(proto::Node {
            op_type: op.into(),
            name: format!("the {op}"),
            inputs: inputs.iter().map(|&name| name.into()).collect(),
            outputs: vec![result.into()],
            ..Default::default()
        });
        self
    }

    fn attribute(mut self, name: &str, change: impl FnOnce(&mut proto::Attribute)) -> Self {
        let mut attribute = proto::Attribute { name: name.into(), ..Default::default() };
        change(&mut attribute);
        self.0.nodes.last_mut().unwrap().attributes.push(attribute);
        self
    }

    fn int(self, name: &str, value: i64) -> Self {
        self.attribute(name, |attribute| attribute.int = value)
    }

    fn tensor(mut self, tensor: proto::Tensor) -> Self {
        self.0.initializers.push(tensor);
        self
    }

    fn bytes(mut self) -> Vec<u8> {
        if self.0.outputs.is_empty() {
            let name = self.0.nodes.last().map(|node| node.outputs[0].clone()).unwrap_or_default();
            self.0.outputs.push(proto::ValueInfo { name, kind: None });
        }
        let opset = proto::Opset { domain: String::new(), version: 17 };
        let model = proto::Model { graph: Some(self.0), opsets: vec![opset], ..Default::default() };
        model.encode_to_vec()
    }

    fn lower(self) -> Result<Lowered, OnnxError> {
        layers(&self.bytes())
    }

    /// The usual first layer, as `y`.
    fn gemm() -> Self {
        Self::new().node("Gemm", &["x", "w", "b"], "y").int("transB", 1)
    }
}

fn input(name: &str, elem_type: i32, dims: &[Option<i64>]) -> proto::ValueInfo {
    let dims = dims.iter().map(|&value| proto::Dimension { value }).collect();
    let tensor = proto::TensorType { elem_type, shape: Some(proto::Shape { dims }) };
    proto::ValueInfo { name: name.into(), kind: Some(proto::Type { tensor: Some(tensor) }) }
}

fn floats(name: &str, dims: &[i64], bits: &[u32]) -> proto::Tensor {
    proto::Tensor {
        name: name.into(),
        dims: dims.into(),
        data_type: data_type::FLOAT,
        float_data: bits.into(),
        ..Default::default()
    }
}

fn shape(name: &str, dims: &[i64]) -> proto::Tensor {
    proto::Tensor {
        name: name.into(),
        dims: vec![i64::try_from(dims.len()).unwrap()],
        data_type: data_type::INT64,
        int64_data: dims.into(),
        ..Default::default()
    }
}

fn words(constant: &Constant) -> Vec<u32> {
    let Constant::Floats { format: Format::F32, bits, .. } = constant else {
        panic!("{constant:?}")
    };
    bits.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().unwrap())).collect()
}

#[test]
fn every_spelling_of_a_linear_layer_is_the_same_layer() {
    let spellings = [
        ("Gemm, transposed", Maker::gemm()),
        ("Gemm", Maker::new().node("Gemm", &["x", "wt", "b"], "y")),
        (
            "Gemm with its factors written out",
            Maker::gemm()
                .attribute("alpha", |a| a.float = ONE)
                .attribute("beta", |a| a.float = ONE),
        ),
        (
            "MatMul, Add",
            Maker::new().node("MatMul", &["x", "wt"], "m").node("Add", &["m", "b"], "y"),
        ),
        (
            "bias first",
            Maker::new().node("MatMul", &["x", "wt"], "m").node("Add", &["b", "m"], "y"),
        ),
        (
            "Transpose, MatMul, Add",
            Maker::new().node("Transpose", &["w"], "t").node("MatMul", &["x", "t"], "m").node(
                "Add",
                &["m", "b"],
                "y",
            ),
        ),
        (
            "Gemm without a bias, Add",
            Maker::new().node("Gemm", &["x", "wt"], "m").node("Add", &["m", "b"], "y"),
        ),
        (
            "bias from a Constant node, of shape [1, 3]",
            Maker::new()
                .node("Constant", &[], "c")
                .attribute("value", |a| a.tensor = Some(floats("", &[1, 3], &[7, 8, 9])))
                .node("Gemm", &["x", "wt", "c"], "y"),
        ),
    ];
    for (name, graph) in spellings {
        let lowered = graph.lower().unwrap_or_else(|error| panic!("{name}: {error}"));
        let [layer] = lowered.layers.as_slice() else { panic!("{name}: {lowered:?}") };
        assert_eq!(words(&layer.weight), [1, 2, 3, 4, 5, 6], "{name}");
        assert_eq!(words(layer.bias.as_ref().unwrap()), [7, 8, 9], "{name}");
        assert_eq!(
            (layer.curve, lowered.class, lowered.width),
            (Curve::Identity, false, 2),
            "{name}"
        );
    }
}

#[test]
fn every_spelling_of_gelu_is_gelu() {
    let scaled = || Maker::gemm().node("Div", &["y", "root2"], "s").node("Erf", &["s"], "e");
    let spellings = [
        ("Gelu", Maker::gemm().node("Gelu", &["y"], "g"), Curve::Gelu),
        (
            "Gelu, exact",
            Maker::gemm()
                .node("Gelu", &["y"], "g")
                .attribute("approximate", |a| a.string = b"none".to_vec()),
            Curve::Gelu,
        ),
        (
            "Gelu by tanh",
            Maker::gemm()
                .node("Gelu", &["y"], "g")
                .attribute("approximate", |a| a.string = b"tanh".to_vec()),
            Curve::GeluTanh,
        ),
        (
            "x * (erf + 1) * 1/2",
            scaled().node("Add", &["e", "one"], "o").node("Mul", &["y", "o"], "p").node(
                "Mul",
                &["p", "half"],
                "g",
            ),
            Curve::Gelu,
        ),
        (
            "x * (1/2 * (1 + erf))",
            scaled().node("Add", &["one", "e"], "o").node("Mul", &["half", "o"], "p").node(
                "Mul",
                &["p", "y"],
                "g",
            ),
            Curve::Gelu,
        ),
        (
            "(x * 1/2) * (erf + 1), scaled by a product",
            Maker::gemm()
                .node("Mul", &["y", "half"], "h")
                .node("Mul", &["y", "root1/2"], "s")
                .node("Erf", &["s"], "e")
                .node("Add", &["e", "one"], "o")
                .node("Mul", &["h", "o"], "g"),
            Curve::Gelu,
        ),
    ];
    for (name, graph, curve) in spellings {
        let lowered = graph.lower().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(lowered.layers[0].curve, curve, "{name}");
    }
}

#[test]
fn what_changes_no_row_is_dropped() {
    let mut image = Maker::new();
    image.0.inputs[0] = input("x", data_type::FLOAT16, &[Some(1), Some(1), Some(2)]);
    let cases = [
        (
            "Flatten",
            image.node("Flatten", &["x"], "f").int("axis", 1).node("Gemm", &["f", "wt"], "y"),
            false,
        ),
        (
            "Reshape to [-1, 2]",
            Maker::new().tensor(shape("to", &[-1, 2])).node("Reshape", &["x", "to"], "f").node(
                "Gemm",
                &["f", "wt"],
                "y",
            ),
            false,
        ),
        (
            "Reshape to [0, -1]",
            Maker::new().tensor(shape("to", &[0, -1])).node("Reshape", &["x", "to"], "f").node(
                "Gemm",
                &["f", "wt"],
                "y",
            ),
            false,
        ),
        (
            "Identity, Dropout, Cast",
            Maker::gemm()
                .node("Identity", &["y"], "i")
                .node("Dropout", &["i"], "d")
                .node("Cast", &["d"], "z")
                .int("to", 10),
            false,
        ),
        ("Softmax", Maker::gemm().node("Softmax", &["y"], "p"), false),
        ("LogSoftmax", Maker::gemm().node("LogSoftmax", &["y"], "p").int("axis", 1), false),
        (
            "ArgMax",
            Maker::gemm().node("ArgMax", &["y"], "c").int("axis", 1).int("keepdims", 0),
            true,
        ),
        (
            "ArgMax of Softmax as int32",
            Maker::gemm()
                .node("Softmax", &["y"], "p")
                .node("ArgMax", &["p"], "c")
                .int("axis", -1)
                .node("Cast", &["c"], "i")
                .int("to", 6),
            true,
        ),
    ];
    for (name, graph, class) in cases {
        let lowered = graph.lower().unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!((lowered.layers.len(), lowered.class), (1, class), "{name}");
    }
}

#[test]
fn weights_keep_their_bits_in_every_field_and_type() {
    let raw = |data_type, bytes: &[u8]| proto::Tensor {
        name: "v".into(),
        dims: vec![1, 2],
        data_type,
        raw_data: bytes.into(),
        ..Default::default()
    };
    let typed = |data_type, halves: &[i32]| proto::Tensor {
        name: "v".into(),
        dims: vec![1, 2],
        data_type,
        int32_data: halves.into(),
        ..Default::default()
    };
    // A NaN's bits survive: it is the quantizer that refuses them, not a float conversion that changes them.
    let cases = [
        (
            raw(data_type::FLOAT, &[1, 0, 0xa0, 0x7f, 2, 0, 0, 0]),
            Format::F32,
            vec![1, 0, 0xa0, 0x7f, 2, 0, 0, 0],
        ),
        (floats("v", &[1, 2], &[0x7fa0_0001, 2]), Format::F32, vec![1, 0, 0xa0, 0x7f, 2, 0, 0, 0]),
        (raw(data_type::FLOAT16, &[1, 2, 3, 4]), Format::F16, vec![1, 2, 3, 4]),
        (typed(data_type::FLOAT16, &[0x0201, 0x0403]), Format::F16, vec![1, 2, 3, 4]),
        (raw(data_type::BFLOAT16, &[1, 2, 3, 4]), Format::Bf16, vec![1, 2, 3, 4]),
        (typed(data_type::BFLOAT16, &[0x0201, 0xff03]), Format::Bf16, vec![1, 2, 3, 0xff]),
    ];
    for (tensor, format, bits) in cases {
        let want = Constant::Floats { format, dims: vec![1, 2], bits };
        assert_eq!(Constant::read(&tensor).unwrap(), want, "{tensor:?}");
    }
}

#[test]
fn everything_else_is_refused_by_name() {
    let external = proto::Tensor { data_location: 1, ..floats("v", &[1], &[1]) };
    let f64s = proto::Tensor { data_type: 11, ..floats("v", &[1], &[]) };
    let mut two_outputs = Maker::gemm();
    two_outputs.0.outputs = vec![input("y", 1, &[]), input("x", 1, &[])];
    let mut dynamic = Maker::gemm();
    dynamic.0.inputs[0] = input("x", data_type::FLOAT, &[None, None]);
    let mut tokens = Maker::gemm();
    tokens.0.inputs[0] = input("x", data_type::INT64, &[None, Some(2)]);
    let mut custom = Maker::gemm();
    custom.0.nodes[0].domain = "com.example".into();
    let cases = [
        (
            "another operator",
            Maker::gemm().node("Conv", &["y"], "z"),
            "node `the Conv` (Conv): this operator is not",
        ),
        ("another domain", custom, "domain `com.example`"),
        ("a residual", Maker::gemm().node("Add", &["y", "y"], "z"), "the Add"),
        (
            "two layers of one value",
            Maker::gemm().node("Gemm", &["x", "wt"], "z"),
            "branches are not supported",
        ),
        (
            "an output in the middle",
            {
                let mut graph = Maker::gemm().node("Relu", &["y"], "z");
                graph.0.outputs = vec![input("y", 1, &[])];
                graph
            },
            "not the end of a chain",
        ),
        ("no layer", Maker::new().node("Identity", &["x"], "y"), "not the end of a chain"),
        ("alpha", Maker::gemm().attribute("alpha", |a| a.float = HALF), "alpha is not 1"),
        ("transA", Maker::gemm().int("transA", 1), "transA"),
        ("an unknown attribute", Maker::gemm().int("relu", 1), "`relu` is not supported"),
        ("an attribute twice", Maker::gemm().int("transB", 0), "stands twice"),
        (
            "a curve twice",
            Maker::gemm().node("Relu", &["y"], "r").node("Relu", &["r"], "z"),
            "the Relu",
        ),
        ("a curve of the input", Maker::new().node("Relu", &["x"], "y"), "no linear layer"),
        (
            "a scaled input",
            Maker::new().node("Mul", &["x", "half"], "h").node("Gemm", &["h", "wt"], "y"),
            "the Gemm",
        ),
        (
            "a bias after a curve",
            Maker::gemm().node("Relu", &["y"], "r").node("Add", &["r", "b"], "z"),
            "no MatMul",
        ),
        (
            "a bias of another width",
            Maker::new().node("Gemm", &["x", "wt", "one"], "y"),
            "one float for each of 3",
        ),
        ("a weight of another width", Maker::new().node("Gemm", &["x", "w"], "y"), "2 by 3"),
        ("erf of something else", Maker::gemm().node("Erf", &["y"], "e"), "the Erf"),
        (
            "softmax over the batch",
            Maker::gemm().node("Softmax", &["y"], "p").int("axis", 0),
            "over the batch",
        ),
        (
            "a layer after softmax",
            Maker::gemm().node("Softmax", &["y"], "p").node("Relu", &["p"], "z"),
            "the Relu",
        ),
        ("argmax over the batch", Maker::gemm().node("ArgMax", &["y"], "c"), "over the batch"),
        ("rounding", Maker::gemm().node("Cast", &["y"], "c").int("to", 6), "element type 6"),
        ("a cut row", Maker::new().node("Flatten", &["x"], "f").int("axis", 0), "axis 0"),
        (
            "other rows",
            Maker::new().tensor(shape("to", &[-1, 4])).node("Reshape", &["x", "to"], "f"),
            "does not keep rows of 2",
        ),
        ("an unknown value", Maker::new().node("Gemm", &["nowhere", "w"], "y"), "`nowhere`"),
        ("a value twice", Maker::gemm().node("Relu", &["y"], "y"), "defined twice"),
        ("two outputs", two_outputs, "1 inputs and 2 outputs"),
        ("a row of unknown size", dynamic, "unknown size"),
        ("token ids", tokens, "not of floats"),
        ("data elsewhere", Maker::gemm().tensor(external), "another file"),
        ("f64", Maker::gemm().tensor(f64s), "element type 11"),
        (
            "too few elements",
            Maker::gemm().tensor(floats("v", &[2, 2], &[1, 2, 3])),
            "12 bytes do not fill [2, 2]",
        ),
        ("a negative side", Maker::gemm().tensor(floats("v", &[-1], &[1])), "a dimension is -1"),
        (
            "sides that overflow",
            Maker::gemm().tensor(floats("v", &[i64::MAX, 4], &[1])),
            "do not fill",
        ),
        (
            "half a float too wide",
            Maker::gemm().tensor(proto::Tensor {
                data_type: data_type::FLOAT16,
                int32_data: vec![0x1_0000],
                ..floats("v", &[1], &[])
            }),
            "not the bits of a 16-bit float",
        ),
    ];
    for (name, graph, want) in cases {
        let error = graph.lower().err().unwrap_or_else(|| panic!("{name}: was read")).to_string();
        assert!(error.contains(want), "{name}: {error}");
    }
}

#[test]
fn a_model_without_graph_or_operator_set_is_refused() {
    let with = |change: fn(&mut proto::Model)| {
        let mut model = proto::Model::decode(Maker::gemm().bytes().as_slice()).unwrap();
        change(&mut model);
        layers(&model.encode_to_vec()).unwrap_err().to_string()
    };
    type Change = fn(&mut proto::Model);
    let cases: [(&str, Change, &str); 5] = [
        ("no graph", |model| model.graph = None, "no graph"),
        ("no operator set", |model| model.opsets.clear(), "names no operator set"),
        ("an old operator set", |model| model.opsets[0].version = 6, "6 is older than 7"),
        ("functions", |model| model.functions.push(vec![]), "functions"),
        ("training", |model| model.training.push(vec![]), "training"),
    ];
    for (name, change, want) in cases {
        let error = with(change);
        assert!(error.contains(want), "{name}: {error}");
    }
}
