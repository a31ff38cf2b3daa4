//! Output tensors of an answer, or of a part of one.

use bytes::Bytes;
use hyperion_engine::ModelInfo;
use hyperion_primitives::Dtype;

use super::{datatype, read::short};
use crate::{
    convert::output_form,
    door::Face,
    r#gen::inference::{
        ModelInferResponse, model_infer_request::InferRequestedOutputTensor,
        model_infer_response::InferOutputTensor, model_metadata_response::TensorMetadata,
    },
    lookup::output_rows,
    status::Error,
};

/// An output that a model declares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    /// What is claimed: of a generator, token ids.
    Claimed,
    /// The text that the ids are.
    Text,
    /// `stop` or `length`; empty while more is to come.
    FinishReason,
}

/// What an answer, or a part of one, holds.
pub(super) struct Part<'a> {
    pub(super) dtype: Dtype,
    pub(super) dims: [u64; 2],
    /// Elements, little-endian.
    pub(super) data: Bytes,
    pub(super) text: &'a str,
    pub(super) finish_reason: &'a str,
}

impl Output {
    /// Outputs of a model that writes text, and of one that does not.
    const fn declared(face: &Face) -> &'static [Self] {
        if face.writing.is_some() {
            &[Self::Text, Self::FinishReason, Self::Claimed]
        } else {
            &[Self::Claimed]
        }
    }

    fn name(self, face: &Face) -> &str {
        match self {
            Self::Claimed => &face.output,
            Self::Text => "text_output",
            Self::FinishReason => "finish_reason",
        }
    }

    /// The outputs that a request names; all of them where it names none.
    pub(super) fn wanted(
        face: &Face,
        asked: &[InferRequestedOutputTensor],
    ) -> Result<Vec<Self>, Error> {
        let declared = Self::declared(face);
        let named = |asked: &InferRequestedOutputTensor| {
            let found = declared.iter().find(|output| output.name(face) == asked.name);
            found.copied().ok_or_else(|| {
                let known: Vec<String> =
                    declared.iter().map(|output| format!("`{}`", output.name(face))).collect();
                let text = format!(
                    "the model has no output `{}`, only {}",
                    short(&asked.name),
                    known.join(", ")
                );
                Error::bad_field("outputs", text)
            })
        };
        if asked.is_empty() { Ok(declared.to_vec()) } else { asked.iter().map(named).collect() }
    }

    /// What the metadata of a model says of its outputs.
    pub(super) fn metadata(face: &Face, model: &ModelInfo) -> Vec<TensorMetadata> {
        let form = output_form(model);
        let tensor = |output: &Self| {
            let name = output.name(face).to_owned();
            match output {
                Self::Claimed => TensorMetadata {
                    name,
                    datatype: datatype(form.dtype).to_owned(),
                    shape: vec![output_rows(model), i64::try_from(form.width).unwrap_or(i64::MAX)],
                },
                Self::Text | Self::FinishReason => {
                    TensorMetadata { name, datatype: "BYTES".to_owned(), shape: vec![1] }
                }
            }
        };
        Self::declared(face).iter().map(tensor).collect()
    }
}

/// Puts outputs into a response, raw.
pub(super) fn fill(
    response: &mut ModelInferResponse,
    face: &Face,
    outputs: &[Output],
    part: &Part<'_>,
) {
    for output in outputs {
        let (datatype, shape, raw) = match output {
            Output::Claimed => {
                let dims = part.dims.iter().map(|dim| i64::try_from(*dim).unwrap_or(i64::MAX));
                (datatype(part.dtype), dims.collect(), part.data.clone())
            }
            Output::Text => ("BYTES", vec![1], one(part.text)),
            Output::FinishReason => ("BYTES", vec![1], one(part.finish_reason)),
        };
        response.outputs.push(InferOutputTensor {
            name: output.name(face).to_owned(),
            datatype: datatype.to_owned(),
            shape,
            ..InferOutputTensor::default()
        });
        response.raw_output_contents.push(raw);
    }
}

/// The one element of a raw BYTES tensor: its length as a little-endian u32, then its bytes.
fn one(text: &str) -> Bytes {
    let length = u32::try_from(text.len()).expect("an answer is shorter than 4 GiB");
    [&length.to_le_bytes(), text.as_bytes()].concat().into()
}
