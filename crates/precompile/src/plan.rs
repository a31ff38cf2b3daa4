//! Calldata to a decision, and what it costs. Nothing here runs a model.

use hyperion_primitives::{Address, B256, ModelId, U256, output_hash};
use hyperion_verify::abi::InferenceErrors as E;

use crate::{GasSchedule, View, address, claims, inference, refusal::Refusal, verify};

/// Calldata longer than this is refused before anything looks at it.
pub const CALLDATA_BYTES_MAX: usize = 1 << 20;

/// What becomes of a call. There is no arm for "the block is lost", so nothing can lead there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// The answer is here.
    Done {
        /// Gas used.
        gas: u64,
        /// Return data.
        output: Vec<u8>,
    },
    /// The call reverts with a typed error.
    Refuse {
        /// Gas used: what had been charged when the check failed.
        gas: u64,
        /// ABI encoding of the error.
        revert_data: Vec<u8>,
    },
    /// The call gives too little gas; nothing ran.
    OutOfGas,
    /// A model must run; only the bytes of the answer are missing, gas and success are decided.
    Infer {
        /// Gas used.
        gas: u64,
        /// What must run.
        call: InferCall,
    },
}

/// A run that a contract asked for; two equal calls have one answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InferCall {
    /// The model.
    pub model: ModelId,
    /// Elements of the input tensor, checked against the model.
    pub input: Vec<u8>,
    /// Whether only the hash of the output is wanted.
    pub hash_only: bool,
}

impl InferCall {
    /// Return data of the call, once the model has said `output`, whose one tensor has this root.
    pub fn answer(&self, output: &[u8], root: hyperion_primitives::TensorRoot) -> Vec<u8> {
        let hash = output_hash(&[root]);
        if self.hash_only {
            return hash.to_vec();
        }
        // (bytes output, bytes32 outputHash): offset, hash, length, bytes, zeros to a whole word.
        let mut data = Vec::with_capacity(96 + output.len().next_multiple_of(32));
        data.extend_from_slice(word(64).as_slice());
        data.extend_from_slice(hash.as_slice());
        data.extend_from_slice(word(output.len() as u64).as_slice());
        data.extend_from_slice(output);
        data.resize(96 + output.len().next_multiple_of(32), 0);
        data
    }
}

fn word(value: u64) -> B256 {
    B256::from(U256::from(value))
}

/// A call of one precompile.
pub(crate) struct Call<'a> {
    pub(crate) view: &'a dyn View,
    pub(crate) schedule: &'a GasSchedule,
    /// Calldata after the selector.
    pub(crate) arguments: &'a [u8],
    pub(crate) gas_limit: u64,
    pub(crate) value: U256,
    spent: u64,
}

impl Call<'_> {
    /// Charges before the work that it pays for.
    pub(crate) fn charge(&mut self, gas: u64) -> Result<(), Stop> {
        let spent = self.spent.saturating_add(gas);
        if spent > self.gas_limit {
            return Err(Stop::OutOfGas);
        }
        self.spent = spent;
        Ok(())
    }

    /// Refuses a transfer: nobody could ever get it back.
    pub(crate) fn no_value(&self) -> Result<(), Stop> {
        if self.value.is_zero() { Ok(()) } else { Err(E::ValueNotAccepted { got: self.value }.into()) }
    }
}

/// Why a call ends without an answer.
pub(crate) enum Stop {
    OutOfGas,
    Refuse(Refusal),
}

impl<R: Into<Refusal>> From<R> for Stop {
    fn from(refusal: R) -> Self {
        Self::Refuse(refusal.into())
    }
}

/// What a function of a precompile comes to.
pub(crate) enum Answer {
    Output(Vec<u8>),
    Infer(InferCall),
}

/// Decides a call of the precompile at `target`, which is one of [`address::ALL`].
///
/// `input` is the whole calldata. The order of checks is consensus (`docs/precompiles.md`): length, selector, header,
/// value, what is named, shape, work, price, the rest of the encoding, elements.
pub fn plan(
    view: &dyn View,
    schedule: &GasSchedule,
    target: Address,
    input: &[u8],
    gas_limit: u64,
    value: U256,
) -> Plan {
    let mut call = Call { view, schedule, arguments: &[], gas_limit, value, spent: 0 };
    let answer = route(&mut call, target, input);
    let gas = call.spent;
    match answer {
        Ok(Answer::Output(output)) => Plan::Done { gas, output },
        Ok(Answer::Infer(call)) => Plan::Infer { gas, call },
        Err(Stop::OutOfGas) => Plan::OutOfGas,
        Err(Stop::Refuse(refusal)) => Plan::Refuse { gas, revert_data: refusal.0 },
    }
}

fn route<'a>(call: &mut Call<'a>, target: Address, input: &'a [u8]) -> Result<Answer, Stop> {
    if input.len() > CALLDATA_BYTES_MAX {
        let max = CALLDATA_BYTES_MAX as u64;
        return Err(E::InputTooLarge { got: input.len() as u64, max }.into());
    }
    let mut selector = [0; 4];
    let known = input.len().min(4);
    selector[..known].copy_from_slice(&input[..known]);
    call.arguments = &input[known..];
    let answer = match target {
        address::INFERENCE => inference::call(call, selector, input.len() as u64),
        address::CLAIMS => claims::call(call, selector),
        address::VERIFY => verify::call(call, selector),
        _ => None,
    };
    answer.unwrap_or_else(|| Err(E::UnknownFunction { selector: selector.into() }.into()))
}
