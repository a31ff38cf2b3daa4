//! One call, from calldata to what becomes of it.
//!
//! The order is consensus, the first failure decides: length → selector → *first price* → static header → value →
//! what the function asks of models and claims → *second price* → the rest of the calldata → work. Whatever a price does
//! not cover is not begun.

use alloy_sol_types::SolInterface as _;
use hyperion_primitives::U256;
use hyperion_verify::{
    Domain,
    abi::InferenceErrors::{InputTooLarge, UnknownFunction, ValueNotAccepted},
};

use crate::{
    GasSchedule, InferCall, Precompile, Refusal, View, calldata::Arguments, claims, inference,
    verify,
};

/// Longest calldata that is read, in bytes.
pub const CALLDATA_BYTES_MAX: usize = 1 << 20;

/// What a chain fixes about its precompiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// The domain that claims are signed in.
    pub domain: Domain,
    /// What calls cost.
    pub schedule: GasSchedule,
}

/// A call of a precompile.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Which one.
    pub precompile: Precompile,
    /// The calldata.
    pub input: &'a [u8],
    /// Gas that came with it.
    pub gas_limit: u64,
    /// What was transferred with it, in wei; zero for a `DELEGATECALL`, which transfers nothing.
    pub value: U256,
}

/// What becomes of a call. There is no way to lose the block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// It returns.
    Done {
        /// Gas used.
        gas: u64,
        /// ABI-encoded return values.
        output: Vec<u8>,
    },
    /// It reverts with a custom error.
    Refuse {
        /// Gas used.
        gas: u64,
        /// The ABI-encoded error.
        revert_data: Vec<u8>,
    },
    /// Its gas does not cover a price; nothing that the price pays for was begun.
    OutOfGas,
    /// It returns what a model says; all but the model's bytes is decided.
    Infer {
        /// Gas used.
        gas: u64,
        /// What to run.
        call: InferCall,
    },
}

/// Decides a call.
///
/// Equal arguments give equal plans: nothing else is read. `view` is asked for one model, one claim or one root at most.
pub fn plan(view: &dyn View, rules: &Rules, call: &Call<'_>) -> Plan {
    let (selector, arguments) = call.input.split_first_chunk::<4>().unzip();
    let mut case = Case {
        view,
        rules,
        arguments: Arguments::new(arguments.unwrap_or_default()),
        calldata_bytes: call.input.len() as u64,
        value: call.value,
        gas_limit: call.gas_limit,
        gas: 0,
    };
    let decided = decide(&mut case, call, selector);
    let gas = case.gas;
    match decided {
        Ok(Decided::Output(output)) => Plan::Done { gas, output },
        Ok(Decided::Run(call)) => Plan::Infer { gas, call },
        Err(Stop::Refuse(refusal)) => Plan::Refuse { gas, revert_data: refusal.abi_encode() },
        Err(Stop::OutOfGas) => Plan::OutOfGas,
    }
}

fn decide(
    case: &mut Case<'_>,
    call: &Call<'_>,
    selector: Option<&[u8; 4]>,
) -> Result<Decided, Stop> {
    let unknown = case.rules.schedule.unknown;
    let (got, max) = (case.calldata_bytes, CALLDATA_BYTES_MAX as u64);
    if got > max {
        case.charge(unknown)?;
        return Err(Refusal::InputTooLarge(InputTooLarge { got, max }).into());
    }
    let decided = selector.and_then(|selector| match call.precompile {
        Precompile::Inference => inference::dispatch(*selector, case),
        Precompile::Claims => claims::dispatch(*selector, case),
        Precompile::Verify => verify::dispatch(*selector, case),
        Precompile::Arbitrate => None,
    });
    decided.unwrap_or_else(|| {
        case.charge(unknown)?;
        let mut selector = [0; 4];
        selector.iter_mut().zip(call.input).for_each(|(to, from)| *to = *from);
        Err(Refusal::UnknownFunction(UnknownFunction { selector: selector.into() }).into())
    })
}

/// A call that is being decided.
pub(crate) struct Case<'a> {
    pub(crate) view: &'a dyn View,
    pub(crate) rules: &'a Rules,
    pub(crate) arguments: Arguments<'a>,
    pub(crate) calldata_bytes: u64,
    value: U256,
    gas_limit: u64,
    /// Charged so far.
    gas: u64,
}

impl Case<'_> {
    /// Charges a price, before the work it is for.
    pub(crate) fn charge(&mut self, price: u64) -> Result<(), Stop> {
        let gas = self.gas.saturating_add(price);
        if gas > self.gas_limit {
            return Err(Stop::OutOfGas);
        }
        self.gas = gas;
        Ok(())
    }

    /// Refuses a transfer of value: nothing here could ever give it back.
    pub(crate) fn no_value(&self) -> Result<(), Refusal> {
        if self.value.is_zero() {
            return Ok(());
        }
        Err(Refusal::ValueNotAccepted(ValueNotAccepted { got: self.value }))
    }
}

/// A call that ends well.
pub(crate) enum Decided {
    /// With these return values.
    Output(Vec<u8>),
    /// With what this gives.
    Run(InferCall),
}

/// A call that ends otherwise.
pub(crate) enum Stop {
    Refuse(Refusal),
    OutOfGas,
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refuse(refusal)
    }
}
