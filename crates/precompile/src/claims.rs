//! CLAIMS: reads what is logged.
//!
//! The state keeps where a claim stands and the log keeps what it says, so a node that executes blocks never prunes
//! entries.

use alloy_sol_types::SolCall;
use hyperion_primitives::RequestId;
use hyperion_verify::abi::{
    IClaims::{
        checkpointCall, checkpointReturn, lookupCall, lookupOfCall, lookupOfReturn, lookupReturn,
        outputCall,
    },
    InferenceErrors::{ClaimDisproved, ClaimNotFound, ModelMismatch, TierNotReached},
    Standing,
};

use crate::{
    Logged, Refusal,
    plan::{Case, Decided, Stop},
};

pub(crate) fn dispatch(selector: [u8; 4], case: &mut Case<'_>) -> Option<Result<Decided, Stop>> {
    Some(match selector {
        checkpointCall::SELECTOR => checkpoint(case),
        lookupCall::SELECTOR => lookup(case),
        lookupOfCall::SELECTOR => lookup_of(case),
        outputCall::SELECTOR => output(case),
        _ => return None,
    })
}

fn checkpoint(case: &mut Case<'_>) -> Result<Decided, Stop> {
    case.charge(case.rules.schedule.lookup)?;
    case.arguments.exactly(0)?;
    case.no_value()?;
    let checkpoint = case.view.checkpoint();
    Ok(Decided::Output(checkpointCall::abi_encode_returns(&checkpointReturn {
        size: checkpoint.size,
        root: checkpoint.root,
        height: checkpoint.height,
    })))
}

fn lookup(case: &mut Case<'_>) -> Result<Decided, Stop> {
    case.charge(case.rules.schedule.lookup)?;
    let request = RequestId(case.arguments.word(0, 0)?);
    case.arguments.exactly(1)?;
    case.no_value()?;
    let logged = found(request, case.view.claim(&request))?;
    Ok(Decided::Output(lookupCall::abi_encode_returns(&lookupReturn {
        claim: (&logged.claim).into(),
        index: logged.word.index,
        standing: standing(&logged),
        reached: logged.word.reached(),
    })))
}

fn lookup_of(case: &mut Case<'_>) -> Result<Decided, Stop> {
    case.charge(case.rules.schedule.lookup)?;
    let request = RequestId(case.arguments.word(0, 0)?);
    let worker = case.arguments.address(1, 1)?;
    case.arguments.exactly(2)?;
    case.no_value()?;
    let logged = found(request, case.view.claim_of(&request, &worker))?;
    Ok(Decided::Output(lookupOfCall::abi_encode_returns(&lookupOfReturn {
        claim: (&logged.claim).into(),
        index: logged.word.index,
        standing: standing(&logged),
        reached: logged.word.reached(),
    })))
}

fn output(case: &mut Case<'_>) -> Result<Decided, Stop> {
    case.charge(case.rules.schedule.lookup)?;
    let request = RequestId(case.arguments.word(0, 0)?);
    let model = case.arguments.word(1, 1)?;
    let tier = case.arguments.u8(2, 2)?;
    case.arguments.exactly(3)?;
    case.no_value()?;
    let logged = found(request, case.view.claim(&request))?;
    if logged.word.disproved {
        return Err(Refusal::ClaimDisproved(ClaimDisproved { requestId: request.0 }).into());
    }
    let got = logged.claim.model_id.0;
    if got != model {
        return Err(Refusal::ModelMismatch(ModelMismatch { got, want: model }).into());
    }
    let reached = logged.word.reached();
    if reached < tier {
        return Err(Refusal::TierNotReached(TierNotReached { got: reached, want: tier }).into());
    }
    Ok(Decided::Output(logged.claim.output_hash.to_vec()))
}

fn found(request: RequestId, logged: Option<Logged>) -> Result<Logged, Refusal> {
    logged.ok_or(Refusal::ClaimNotFound(ClaimNotFound { requestId: request.0 }))
}

/// Nothing more can happen to a claim that was disproved, or that reached tier 4 or 5.
const fn standing(logged: &Logged) -> Standing {
    if logged.word.disproved {
        Standing::Disproved
    } else if logged.word.reached() >= 4 {
        Standing::Final
    } else {
        Standing::Logged
    }
}
