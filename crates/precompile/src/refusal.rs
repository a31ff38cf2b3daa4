//! Typed refusals: the custom errors of `IInference.sol`, as the plan of a call gives them.

pub use hyperion_verify::abi::InferenceErrors::InferenceErrorsErrors as Refusal;
use hyperion_verify::{
    InputError,
    abi::InferenceErrors::{BadCalldata, InputRange, InputShape, InputTooLarge, SamplingInvalid},
};

/// `BadCalldata`'s argument when every argument was read and the bytes are still not their one encoding.
pub(crate) const WHOLE: u8 = 255;

/// Calldata that is not the one encoding of its arguments; `argument` counts from 0.
pub(crate) const fn bad_calldata(argument: u8) -> Refusal {
    Refusal::BadCalldata(BadCalldata { argument })
}

/// Field `field` of `Sampling`, from 0; 5 is `tokensMax`, 7 the seed beside it.
pub(crate) const fn sampling_invalid(field: u8) -> Refusal {
    Refusal::SamplingInvalid(SamplingInvalid { field })
}

/// What a model says of an input, as a contract reads it.
pub(crate) fn input_refused(error: &InputError) -> Refusal {
    match *error {
        InputError::Shape { got_bytes, row_bytes } => {
            Refusal::InputShape(InputShape { gotBytes: got_bytes, rowBytes: row_bytes.into() })
        }
        InputError::Rows { got, max } => {
            Refusal::InputTooLarge(InputTooLarge { got, max: max.into() })
        }
        InputError::Range { element, got, max } => {
            Refusal::InputRange(InputRange { element, got, max })
        }
    }
}
