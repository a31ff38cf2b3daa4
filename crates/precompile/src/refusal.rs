use alloy_sol_types::SolError;

/// ABI encoding of one of `InferenceErrors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal(pub(crate) Vec<u8>);

impl<E: SolError> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self(error.abi_encode())
    }
}
