//! From ONNX nodes to a chain of layers.
//!
//! The nodes are walked once, in their order, and each value is given a meaning: a constant, the rows that
//! the chain has reached, a piece of GELU spelled with Erf, or what a classifier does to its logits at the
//! end. Only the newest rows may be changed, so a graph that branches has no meaning here and is refused at
//! the node where that shows.

use std::{collections::BTreeMap, rc::Rc};

use super::{
    super::mlp::{Curve, LAYERS_MAX},
    OnnxError,
    attribute::Attributes,
    constant::{Constant, Factor},
    proto::{self, data_type},
};

/// One linear layer: `curve(rows · weightᵀ + bias)`.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    /// The node that it was read from.
    pub(crate) name: String,
    /// `[outputs, inputs]`.
    pub(crate) weight: Rc<Constant>,
    /// One per output.
    pub(crate) bias: Option<Rc<Constant>>,
    pub(crate) curve: Curve,
}

/// A classifier as a chain.
#[derive(Clone, Debug)]
pub(crate) struct Lowered {
    /// Elements of an input row.
    pub(crate) width: u64,
    pub(crate) layers: Vec<Layer>,
    /// Whether the output is the index of the largest logit.
    pub(crate) class: bool,
}

/// What a value is. `at` counts the changes that led to it.
#[derive(Clone, Debug)]
enum Meaning {
    Constant(Rc<Constant>),
    /// Rows of the chain; `flat` when they have two dimensions.
    Rows {
        at: usize,
        flat: bool,
    },
    /// A piece of `x/2 · (1 + erf(x/√2))`, where `x` is the rows after `at` changes.
    Gelu {
        at: usize,
        part: Part,
    },
    /// Softmax of the logits: the same order, other numbers.
    Probabilities {
        at: usize,
    },
    /// Index of the largest logit.
    Class {
        at: usize,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    /// `x/√2`
    Scaled,
    /// `erf(x/√2)`
    Erf,
    /// `1 + erf(x/√2)`
    OnePlus,
    /// `(1 + erf(x/√2)) / 2`
    HalfOnePlus,
    /// `x/2`
    Half,
    /// `x · (1 + erf(x/√2))`
    Twice,
}

/// Reads a graph as a chain.
///
/// # Errors
///
/// When a tensor is malformed, when the graph has not exactly one input and one output, or at the first
/// node that a chain cannot hold.
pub(crate) fn lower(graph: &proto::Graph) -> Result<Lowered, OnnxError> {
    if !graph.sparse_initializers.is_empty() {
        return Err(OnnxError::Graph("sparse initialisers are not supported".into()));
    }
    let mut values = BTreeMap::new();
    for tensor in &graph.initializers {
        define(&mut values, &tensor.name, Meaning::Constant(Rc::new(Constant::read(tensor)?)))?;
    }
    // Before IR version 4 an initialiser was listed among the inputs too.
    let inputs: Vec<_> =
        graph.inputs.iter().filter(|input| !values.contains_key(&input.name)).collect();
    let ([input], [output]) = (inputs.as_slice(), graph.outputs.as_slice()) else {
        return Err(OnnxError::Graph(format!(
            "it has {} inputs and {} outputs; one of each is supported",
            inputs.len(),
            graph.outputs.len()
        )));
    };
    let (width, flat) = row_width(input)?;
    define(&mut values, &input.name, Meaning::Rows { at: 0, flat })?;

    let mut walk = Walk { values, layers: Vec::new(), width, at: 0, name: String::new() };
    for (index, node) in graph.nodes.iter().enumerate() {
        walk.name = if node.name.is_empty() { format!("#{index}") } else { node.name.clone() };
        let meaning = walk.meaning(node).map_err(|stop| match stop {
            Stop::Refused(reason) => {
                OnnxError::Node { op: node.op_type.clone(), name: walk.name.clone(), reason }
            }
            Stop::Error(error) => error,
        })?;
        let result = node.outputs.first().map_or("", String::as_str);
        define(&mut walk.values, result, meaning)?;
    }
    let (at, class) = match walk.values.get(&output.name) {
        Some(&(Meaning::Rows { at, .. } | Meaning::Probabilities { at })) => (at, false),
        Some(&Meaning::Class { at }) => (at, true),
        _ => {
            return Err(OnnxError::Graph(format!("nothing computes its output `{}`", output.name)));
        }
    };
    if at != walk.at || walk.layers.is_empty() {
        return Err(OnnxError::Graph(format!(
            "its output `{}` is not the end of a chain of layers",
            output.name
        )));
    }
    Ok(Lowered { width, layers: walk.layers, class })
}

/// Every value has one definition, so an order of evaluation cannot matter.
fn define(
    values: &mut BTreeMap<String, Meaning>,
    name: &str,
    meaning: Meaning,
) -> Result<(), OnnxError> {
    match values.insert(name.to_owned(), meaning) {
        None if !name.is_empty() => Ok(()),
        _ => Err(OnnxError::Graph(format!("the value `{name}` is defined twice or has no name"))),
    }
}

/// Elements of one row, and whether they lie in one dimension.
fn row_width(input: &proto::ValueInfo) -> Result<(u64, bool), OnnxError> {
    let refuse =
        |reason: &str| Err(OnnxError::Graph(format!("its input `{}` {reason}", input.name)));
    let Some(tensor) = input.kind.as_ref().and_then(|kind| kind.tensor.as_ref()) else {
        return refuse("is not a tensor");
    };
    if !FLOATS.contains(&tensor.elem_type) {
        return refuse("is not of floats");
    }
    let dims = tensor.shape.as_ref().map_or(&[][..], |shape| &shape.dims);
    let Some((_batch, row)) = dims.split_first().filter(|(_, row)| !row.is_empty()) else {
        return refuse("has no shape [batch, width]");
    };
    let width = row.iter().try_fold(1u64, |product, dim| {
        let dim =
            dim.value.and_then(|value| u64::try_from(value).ok()).filter(|&value| value > 0)?;
        product.checked_mul(dim)
    });
    match width {
        Some(width) => Ok((width, row.len() == 1)),
        None => refuse("has a row of unknown size"),
    }
}

/// Why a node has no meaning: itself, or a tensor that it carries.
pub(crate) enum Stop {
    Refused(String),
    Error(OnnxError),
}

impl From<String> for Stop {
    fn from(reason: String) -> Self {
        Self::Refused(reason)
    }
}

impl From<&str> for Stop {
    fn from(reason: &str) -> Self {
        Self::Refused(reason.to_owned())
    }
}

struct Walk {
    values: BTreeMap<String, Meaning>,
    layers: Vec<Layer>,
    /// Elements of a row now.
    width: u64,
    /// Changes made so far.
    at: usize,
    /// The node that is looked at.
    name: String,
}

impl Walk {
    fn meaning(&mut self, node: &proto::Node) -> Result<Meaning, Stop> {
        if !node.domain.is_empty() && node.domain != "ai.onnx" {
            return Err(format!("operators of domain `{}` are not supported", node.domain).into());
        }
        let attributes = Attributes::new(&node.attributes);
        let inputs = self.inputs(node)?;
        match (node.op_type.as_str(), inputs.as_slice()) {
            ("Constant", []) => Ok(Meaning::Constant(Rc::new(attributes.constant()?))),
            ("Gemm", [Meaning::Rows { at, flat: true }, Meaning::Constant(weight), bias @ ..]) => {
                self.gemm(*at, weight, bias, &attributes)
            }
            ("MatMul", [Meaning::Rows { at, flat: true }, Meaning::Constant(weight)]) => {
                attributes.only(&[])?;
                let weight = weight.transposed().ok_or("its weight is not a matrix")?;
                self.linear(*at, Rc::new(weight), None)
            }
            ("Transpose", [Meaning::Constant(matrix)]) => {
                attributes.only(&["perm"])?;
                match attributes.ints("perm") {
                    None | Some([1, 0]) => {}
                    Some(other) => return Err(format!("perm {other:?} is not [1, 0]").into()),
                }
                let matrix = matrix.transposed().ok_or("its constant is not a matrix")?;
                Ok(Meaning::Constant(Rc::new(matrix)))
            }
            ("Add", [Meaning::Rows { at, flat: true }, Meaning::Constant(bias)])
            | ("Add", [Meaning::Constant(bias), Meaning::Rows { at, flat: true }]) => {
                self.bias(*at, bias)
            }
            ("Relu", [Meaning::Rows { at, .. }]) => self.curve(*at, Curve::Relu),
            ("Gelu", [Meaning::Rows { at, .. }]) => {
                attributes.only(&["approximate"])?;
                match attributes.string("approximate") {
                    None | Some(b"none") => self.curve(*at, Curve::Gelu),
                    Some(b"tanh") => self.curve(*at, Curve::GeluTanh),
                    Some(_) => Err("approximate is neither `none` nor `tanh`".into()),
                }
            }
            ("Erf", [Meaning::Gelu { at, part: Part::Scaled }]) => {
                Ok(Meaning::Gelu { at: *at, part: Part::Erf })
            }
            ("Div" | "Mul" | "Add", [lhs, rhs]) => self.gelu(&node.op_type, lhs, rhs),
            ("Identity", [same]) => Ok(same.clone()),
            ("Cast", [same]) => cast(same, &attributes),
            // At inference it passes its input on, unless a third input says that this is training.
            ("Dropout", [same] | [same, Meaning::Constant(_)]) => Ok(same.clone()),
            ("Flatten", [Meaning::Rows { at, .. }]) => {
                attributes.only(&["axis"])?;
                match attributes.int("axis") {
                    None | Some(1) => Ok(Meaning::Rows { at: *at, flat: true }),
                    Some(axis) => {
                        Err(format!("axis {axis} would cut a row; only 1 is supported").into())
                    }
                }
            }
            ("Reshape", [Meaning::Rows { at, .. }, Meaning::Constant(shape)]) => {
                attributes.only(&["allowzero"])?;
                self.reshape(*at, shape, attributes.int("allowzero").unwrap_or(0) == 0)
            }
            ("Softmax" | "LogSoftmax", [Meaning::Rows { at, flat: true }]) => {
                attributes.only(&["axis"])?;
                last_axis(&attributes, -1)?;
                Ok(Meaning::Probabilities { at: *at })
            }
            ("ArgMax", [Meaning::Rows { at, flat: true } | Meaning::Probabilities { at }]) => {
                attributes.only(&["axis", "keepdims", "select_last_index"])?;
                last_axis(&attributes, 0)?;
                if attributes.int("select_last_index").unwrap_or(0) != 0 {
                    return Err("select_last_index is set; here the lowest index wins a tie".into());
                }
                Ok(Meaning::Class { at: *at })
            }
            (
                "Gemm" | "MatMul" | "Relu" | "Gelu" | "Erf" | "Flatten" | "Reshape" | "Softmax"
                | "LogSoftmax" | "ArgMax" | "Transpose" | "Identity" | "Cast" | "Dropout"
                | "Constant",
                _,
            ) => Err("its inputs are not what a classifier's chain gives it".into()),
            _ => Err("this operator is not supported".into()),
        }
    }

    fn inputs(&self, node: &proto::Node) -> Result<Vec<Meaning>, Stop> {
        let known = node.inputs.iter().filter(|name| !name.is_empty());
        known
            .map(|name| {
                let meaning = self.values.get(name).cloned();
                meaning
                    .ok_or_else(|| format!("nothing before it computes its input `{name}`").into())
            })
            .collect()
    }

    /// A leading 0 keeps the batch and -1 infers a side: both leave rows as they are.
    fn reshape(&self, at: usize, shape: &Constant, zero_keeps: bool) -> Result<Meaning, Stop> {
        let Constant::Ints(shape) = shape else {
            return Err("its shape is not of integers".into());
        };
        let keeps = match *shape.as_slice() {
            [0, -1] => zero_keeps,
            [1, -1] => true,
            [batch, row] => (batch != 0 || zero_keeps) && u64::try_from(row) == Ok(self.width),
            _ => false,
        };
        if !keeps {
            return Err(format!("to {shape:?} does not keep rows of {}", self.width).into());
        }
        Ok(Meaning::Rows { at, flat: true })
    }

    fn gemm(
        &mut self,
        at: usize,
        weight: &Rc<Constant>,
        bias: &[Meaning],
        attributes: &Attributes<'_>,
    ) -> Result<Meaning, Stop> {
        attributes.only(&["alpha", "beta", "transA", "transB"])?;
        let bias = match bias {
            [] => None,
            [Meaning::Constant(bias)] => Some(bias),
            _ => return Err("its third input is not a constant".into()),
        };
        for factor in ["alpha", "beta"] {
            if attributes.float(factor).is_some_and(|bits| bits != ONE) {
                return Err(format!("{factor} is not 1").into());
            }
        }
        if attributes.int("transA").unwrap_or(0) != 0 {
            return Err("transA is set".into());
        }
        let weight = match attributes.int("transB").unwrap_or(0) {
            0 => Rc::new(weight.transposed().ok_or("its weight is not a matrix")?),
            _ => Rc::clone(weight),
        };
        self.linear(at, weight, bias)
    }

    fn linear(
        &mut self,
        at: usize,
        weight: Rc<Constant>,
        bias: Option<&Rc<Constant>>,
    ) -> Result<Meaning, Stop> {
        self.newest(at)?;
        let Constant::Floats { dims, .. } = &*weight else {
            return Err("its weight is of integers".into());
        };
        let &[outputs, inputs] = dims.as_slice() else {
            return Err("its weight is not a matrix".into());
        };
        if inputs != self.width || outputs == 0 {
            let width = self.width;
            return Err(format!(
                "its weight is {outputs} by {inputs} and its rows are {width} wide"
            )
            .into());
        }
        self.width = outputs;
        if self.layers.len() == LAYERS_MAX {
            return Err(format!("there are more than {LAYERS_MAX} layers").into());
        }
        self.layers.push(Layer {
            name: self.name.clone(),
            weight,
            bias: None,
            curve: Curve::Identity,
        });
        self.at += 1;
        match bias {
            Some(bias) => self.bias(self.at, bias),
            None => Ok(self.rows()),
        }
    }

    fn bias(&mut self, at: usize, bias: &Rc<Constant>) -> Result<Meaning, Stop> {
        self.newest(at)?;
        let width = self.width;
        let fits = match &**bias {
            Constant::Floats { dims, .. } => [&[width][..], &[1, width]].contains(&dims.as_slice()),
            Constant::Ints(_) => false,
        };
        let layer = self
            .layers
            .last_mut()
            .filter(|layer| layer.bias.is_none() && layer.curve == Curve::Identity);
        let layer = layer.ok_or("a constant is added where no MatMul stands directly before")?;
        if !fits {
            return Err(format!("its bias is not one float for each of {width} outputs").into());
        }
        layer.bias = Some(Rc::clone(bias));
        self.at += 1;
        Ok(self.rows())
    }

    fn curve(&mut self, at: usize, curve: Curve) -> Result<Meaning, Stop> {
        self.newest(at)?;
        let layer = self.layers.last_mut().filter(|layer| layer.curve == Curve::Identity);
        layer.ok_or("no linear layer stands directly before it")?.curve = curve;
        self.at += 1;
        Ok(self.rows())
    }

    /// The six multiplications and additions that GELU is spelled with, in any order.
    fn gelu(&mut self, op: &str, lhs: &Meaning, rhs: &Meaning) -> Result<Meaning, Stop> {
        use Meaning::{Constant, Gelu, Rows};
        let sides = match (lhs, rhs) {
            (Constant(_), other) if op != "Div" => [other, lhs],
            _ => [lhs, rhs],
        };
        let (at, part) = match (op, sides) {
            ("Div", [Rows { at, .. }, Constant(by)]) if by.factor() == Some(Factor::RootTwo) => {
                (*at, Part::Scaled)
            }
            ("Mul", [Rows { at, .. }, Constant(by)]) if by.factor() == Some(Factor::RootHalf) => {
                (*at, Part::Scaled)
            }
            ("Mul", [Rows { at, .. }, Constant(by)]) if by.factor() == Some(Factor::Half) => {
                (*at, Part::Half)
            }
            ("Add", [Gelu { at, part: Part::Erf }, Constant(one)])
                if one.factor() == Some(Factor::One) =>
            {
                (*at, Part::OnePlus)
            }
            ("Mul", [Gelu { at, part: Part::OnePlus }, Constant(by)])
                if by.factor() == Some(Factor::Half) =>
            {
                (*at, Part::HalfOnePlus)
            }
            ("Mul", [Gelu { at, part: Part::Twice }, Constant(by)])
                if by.factor() == Some(Factor::Half) =>
            {
                return self.curve(*at, Curve::Gelu);
            }
            ("Mul", [Rows { at: x, .. }, Gelu { at, part: Part::OnePlus }])
            | ("Mul", [Gelu { at, part: Part::OnePlus }, Rows { at: x, .. }])
                if x == at =>
            {
                (*at, Part::Twice)
            }
            ("Mul", [Rows { at: x, .. }, Gelu { at, part: Part::HalfOnePlus }])
            | ("Mul", [Gelu { at, part: Part::HalfOnePlus }, Rows { at: x, .. }])
            | ("Mul", [Gelu { at: x, part: Part::Half }, Gelu { at, part: Part::OnePlus }])
            | ("Mul", [Gelu { at, part: Part::OnePlus }, Gelu { at: x, part: Part::Half }])
                if x == at =>
            {
                return self.curve(*at, Curve::Gelu);
            }
            _ => return Err("it is neither a bias nor a piece of GELU spelled with Erf".into()),
        };
        Ok(Meaning::Gelu { at, part })
    }

    const fn rows(&self) -> Meaning {
        Meaning::Rows { at: self.at, flat: true }
    }

    fn newest(&self, at: usize) -> Result<(), Stop> {
        if at == self.at {
            return Ok(());
        }
        Err("it reads a value that another layer reads too; branches are not supported".into())
    }
}

/// Bits of 1.0.
const ONE: u32 = 0x3f80_0000;

/// Element types that rows may have; the exact run has one type for all of them.
const FLOATS: [i32; 3] = [data_type::FLOAT, data_type::FLOAT16, data_type::BFLOAT16];

/// Rows stay rows under another float type; an index stays one under any type.
fn cast(value: &Meaning, attributes: &Attributes<'_>) -> Result<Meaning, Stop> {
    attributes.only(&["to", "saturate", "round_mode"])?;
    let to = attributes.int("to").and_then(|to| i32::try_from(to).ok()).unwrap_or(0);
    match value {
        Meaning::Constant(_) => Err("it casts a constant; fold it into the initialiser".into()),
        Meaning::Class { .. } => Ok(value.clone()),
        _ if FLOATS.contains(&to) => Ok(value.clone()),
        _ => Err(format!(
            "it casts rows to element type {to}, which is not FLOAT, FLOAT16 or BFLOAT16"
        )
        .into()),
    }
}

fn last_axis(attributes: &Attributes<'_>, default: i64) -> Result<(), Stop> {
    match attributes.int("axis").unwrap_or(default) {
        -1 | 1 => Ok(()),
        axis => Err(format!("axis {axis} runs over the batch").into()),
    }
}
