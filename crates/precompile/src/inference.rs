//! INFERENCE: runs a registered model inside the transaction.
//!
//! `infer` and `inferHash` decide everything but the model's bytes: arguments, model, shape, sampling, work, price, range.
//! What is left is an [`InferCall`], a pure function of its [`Run`]; [`InferCall::returns`] turns the bytes into what the
//! contract reads.

use std::sync::Arc;

use alloy_sol_types::SolCall;
use hyperion_primitives::{B256, Dtype, ModelId, output_hash, tensor_root};
use hyperion_verify::{
    Manifest, Sampling,
    abi::{
        IInference::{inferCall, inferHashCall, inferReturn, modelCall, quoteCall},
        InferenceErrors::{ModelInactive, ModelNotFound, NotNative, TooMuchWork},
        Model, Quote,
    },
    claim::PENALISED_TOKENS_MAX,
};

use crate::{
    CALLDATA_BYTES_MAX, GasSchedule, Refusal, View,
    calldata::{Arguments, Tail},
    plan::{Case, Decided, Stop},
    refusal::{input_refused, sampling_invalid},
};

/// Everything that a model's output depends on: equal runs give equal bytes, on every node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    /// The model.
    pub model: ModelId,
    /// Elements of its one input tensor: little-endian, row-major, accepted by the model's manifest.
    pub input: Arc<[u8]>,
    /// How tokens are drawn; all zero for a model that generates none.
    pub sampling: Sampling,
    /// Seed of the draws; zero when nothing is drawn or always the largest logit.
    pub seed: B256,
}

/// What the caller reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `infer`: the output's bytes and their hash.
    Output,
    /// `inferHash`: the hash.
    Hash,
}

/// A model to run, paid for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InferCall {
    /// What to run.
    pub run: Run,
    /// What to return of it.
    pub form: Form,
    /// Element type of the output.
    pub dtype: Dtype,
    /// Rows and width of the output.
    pub dims: [u64; 2],
}

/// An output of another size than the model's manifest says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the model gave {got} bytes, want {} x {} elements of {dtype}", dims[0], dims[1])]
pub struct WrongOutput {
    /// The bytes given.
    pub got: usize,
    /// Element type that the manifest says.
    pub dtype: Dtype,
    /// Rows and width that it says.
    pub dims: [u64; 2],
}

impl InferCall {
    /// The return data for the model's output: little-endian elements, row-major.
    ///
    /// # Errors
    ///
    /// When the output has another size than the manifest says, which no model of that manifest gives.
    pub fn returns(&self, output: &[u8]) -> Result<Vec<u8>, WrongOutput> {
        let Self { dtype, dims, .. } = *self;
        let wrong = WrongOutput { got: output.len(), dtype, dims };
        let hash = output_hash(&[tensor_root(dtype, &dims, output).ok_or(wrong)?]);
        Ok(match self.form {
            Form::Output => inferCall::abi_encode_returns(&inferReturn {
                output: output.to_vec().into(),
                outputHash: hash,
            }),
            Form::Hash => hash.to_vec(),
        })
    }
}

/// Words of the arguments of `infer` before the input's bytes.
const INFER_WORDS: usize = 11;

pub(crate) fn dispatch(selector: [u8; 4], case: &mut Case<'_>) -> Option<Result<Decided, Stop>> {
    Some(match selector {
        inferCall::SELECTOR => infer(case, Form::Output),
        inferHashCall::SELECTOR => infer(case, Form::Hash),
        quoteCall::SELECTOR => quote(case),
        modelCall::SELECTOR => model(case),
        _ => return None,
    })
}

fn infer(case: &mut Case<'_>, form: Form) -> Result<Decided, Stop> {
    let schedule = &case.rules.schedule;
    case.charge(schedule.entry(case.calldata_bytes))?;
    let header = InferHeader::read(&case.arguments)?;
    case.no_value()?;
    let manifest = native(case.view, header.model)?;
    let rows = manifest.input_rows(header.input.len as u64).map_err(|e| input_refused(&e))?;
    let tokens = sampling(&manifest, rows, &header)?;
    case.charge(price(schedule, &manifest, rows, tokens)?)?;
    let input = header.rest(&case.arguments)?;
    manifest.check_input(input).map_err(|error| input_refused(&error))?;
    let dims = manifest.output_dims(rows, tokens).expect("rows and tokens were accepted");
    Ok(Decided::Run(InferCall {
        run: Run {
            model: header.model,
            input: input.into(),
            sampling: header.sampling,
            seed: header.seed,
        },
        form,
        dtype: manifest.output_dtype,
        dims,
    }))
}

fn quote(case: &mut Case<'_>) -> Result<Decided, Stop> {
    let schedule = &case.rules.schedule;
    case.charge(schedule.lookup)?;
    let arguments = &case.arguments;
    let id = ModelId(arguments.word(0, 0)?);
    let input_bytes = arguments.u64(1, 1)?;
    let tokens = arguments.u32(2, 2)?;
    arguments.exactly(3)?;
    case.no_value()?;
    let manifest = found(case.view, id)?;
    let rows = manifest.input_rows(input_bytes).map_err(|error| input_refused(&error))?;
    let work = work(&manifest, rows, tokens).ok_or(sampling_invalid(TOKENS_MAX))?;
    // The selector, the words before the input, and the input's own; a row is at least 4 bytes.
    let words = INFER_WORDS as u64 + input_bytes.div_ceil(32);
    let calldata_bytes = words.saturating_mul(32).saturating_add(4);
    let quote = Quote {
        gasCost: schedule.entry(calldata_bytes).saturating_add(work.price(schedule)),
        macs: work.macs,
        fits: manifest.active
            && manifest.native
            && work.macs <= schedule.macs_max
            && calldata_bytes <= CALLDATA_BYTES_MAX as u64,
    };
    Ok(Decided::Output(quoteCall::abi_encode_returns(&quote)))
}

fn model(case: &mut Case<'_>) -> Result<Decided, Stop> {
    case.charge(case.rules.schedule.lookup)?;
    let id = ModelId(case.arguments.word(0, 0)?);
    case.arguments.exactly(1)?;
    case.no_value()?;
    let manifest = found(case.view, id)?;
    Ok(Decided::Output(modelCall::abi_encode_returns(&Model::from(&manifest))))
}

fn found(view: &dyn View, model: ModelId) -> Result<Manifest, Refusal> {
    let unknown = || Refusal::ModelNotFound(ModelNotFound { modelId: model.0 });
    view.model(&model).ok_or_else(unknown)
}

/// A model that a block may run.
fn native(view: &dyn View, model: ModelId) -> Result<Manifest, Refusal> {
    let manifest = found(view, model)?;
    if !manifest.active {
        return Err(Refusal::ModelInactive(ModelInactive { modelId: model.0 }));
    }
    if !manifest.native {
        return Err(Refusal::NotNative(NotNative { modelId: model.0 }));
    }
    Ok(manifest)
}

/// Place of `tokensMax` among the fields of `Sampling`.
const TOKENS_MAX: u8 = 5;
const STOP_HASH: u8 = 6;
const SEED: u8 = 7;

/// Accepts sampling and seed; gives the tokens that the run generates.
///
/// The price of a run is known before it, so a block takes no end ids: a generator gives exactly `tokensMax` tokens.
fn sampling(manifest: &Manifest, rows: u32, header: &InferHeader) -> Result<u32, Refusal> {
    let given = &header.sampling;
    if !manifest.generator {
        let unused = Sampling::default();
        let is_set = [
            given.temperature_q16 != unused.temperature_q16,
            given.top_k != unused.top_k,
            given.top_p_q16 != unused.top_p_q16,
            given.frequency_q16 != unused.frequency_q16,
            given.presence_q16 != unused.presence_q16,
            given.tokens_max != unused.tokens_max,
            given.stop_hash != unused.stop_hash,
            !header.seed.is_zero(),
        ];
        let field = (0..).zip(is_set).find_map(|(field, is_set)| is_set.then_some(field));
        return field.map_or(Ok(0), |field| Err(sampling_invalid(field)));
    }
    let greedy = Sampling { top_p_q16: 1 << 16, ..Sampling::default() };
    // One field at a time, so that the error can name it.
    let fields = [
        Sampling { temperature_q16: given.temperature_q16, ..greedy },
        Sampling { top_k: given.top_k, ..greedy },
        Sampling { top_p_q16: given.top_p_q16, ..greedy },
        Sampling { frequency_q16: given.frequency_q16, ..greedy },
        Sampling { presence_q16: given.presence_q16, ..greedy },
    ];
    if let Some(field) = (0..).zip(fields).find_map(|(i, one)| one.draw().is_none().then_some(i)) {
        return Err(sampling_invalid(field));
    }
    let is_penalised = (given.frequency_q16, given.presence_q16) != (0, 0);
    let longest = if is_penalised { PENALISED_TOKENS_MAX } else { u32::MAX };
    if given.tokens_max > longest || manifest.rows(rows, given.tokens_max).is_none() {
        return Err(sampling_invalid(TOKENS_MAX));
    }
    if !given.stop_hash.is_zero() {
        return Err(sampling_invalid(STOP_HASH));
    }
    if given.temperature_q16 == 0 && !header.seed.is_zero() {
        return Err(sampling_invalid(SEED));
    }
    Ok(given.tokens_max)
}

/// Static counts of a run; a count beyond `u64` stays at its end, which no schedule pays for.
struct Work {
    macs: u64,
    elements: u64,
    tiles: u64,
}

impl Work {
    const fn price(&self, schedule: &GasSchedule) -> u64 {
        schedule.run(self.macs, self.elements, self.tiles)
    }
}

/// `None` when the model generates another number of tokens than this, or its trunk does not take so many rows.
fn work(manifest: &Manifest, rows: u32, tokens: u32) -> Option<Work> {
    manifest.rows(rows, tokens)?;
    Some(Work {
        macs: manifest.macs(rows, tokens).unwrap_or(u64::MAX),
        elements: manifest.elements(rows, tokens).unwrap_or(u64::MAX),
        tiles: manifest.tiles(rows, tokens).unwrap_or(u64::MAX),
    })
}

/// The second price of a run; refuses more work than one call may ask for.
fn price(
    schedule: &GasSchedule,
    manifest: &Manifest,
    rows: u32,
    tokens: u32,
) -> Result<u64, Refusal> {
    let work = work(manifest, rows, tokens).ok_or(sampling_invalid(TOKENS_MAX))?;
    if work.macs > schedule.macs_max {
        let (got, max) = (work.macs, schedule.macs_max);
        return Err(Refusal::TooMuchWork(TooMuchWork { got, max }));
    }
    Ok(work.price(schedule))
}

/// The arguments of `infer` and `inferHash`, the input's bytes left unread.
struct InferHeader {
    model: ModelId,
    input: Tail,
    sampling: Sampling,
    seed: B256,
}

impl InferHeader {
    fn read(arguments: &Arguments<'_>) -> Result<Self, Refusal> {
        let model = ModelId(arguments.word(0, 0)?);
        arguments.offset(1, 1, 0, INFER_WORDS - 1)?;
        let sampling = Sampling {
            temperature_q16: arguments.u32(2, 2)?,
            top_k: arguments.u32(3, 2)?,
            top_p_q16: arguments.u32(4, 2)?,
            frequency_q16: arguments.i32(5, 2)?,
            presence_q16: arguments.i32(6, 2)?,
            tokens_max: arguments.u32(7, 2)?,
            stop_hash: arguments.word(8, 2)?,
            // The ABI's seven fields know neither min-p nor a repetition penalty: both are off.
            ..Sampling::default()
        };
        let seed = arguments.word(9, 3)?;
        let input = arguments.tail(INFER_WORDS - 1, 1, 1)?;
        Ok(Self { model, input, sampling, seed })
    }

    /// The input, once its price is paid.
    fn rest<'a>(&self, arguments: &Arguments<'a>) -> Result<&'a [u8], Refusal> {
        arguments.exactly(self.input.end())?;
        arguments.bytes(self.input)
    }
}

#[cfg(test)]
mod tests;
