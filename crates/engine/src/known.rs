//! Known questions: what a device has to answer before it serves, and from time to time.

use std::{
    any::Any,
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
};

use hyperion_model::{Decoder, Limits, Model, Prepared, Tensor};
use hyperion_ops::Reference;
use hyperion_primitives::{Dtype, Mix};
use parking_lot::Mutex;

use crate::generator;

/// Rows of a known question.
const QUESTION_ROWS: u32 = 4;

/// Known answers per model: what the first device said that had passed the whole suite, or the scalar reference.
#[derive(Debug, Default)]
pub(crate) struct KnownAnswers(Mutex<BTreeMap<usize, Tensor>>);

impl KnownAnswers {
    /// Whether `answer` is the known one; the first answer becomes it.
    pub(crate) fn agrees(&self, index: usize, answer: Tensor) -> bool {
        let mut known = self.0.lock();
        match known.get(&index) {
            Some(known) => *known == answer,
            None => {
                known.insert(index, answer);
                true
            }
        }
    }

    /// The answer for the model at `index`. Where no device has given one the scalar reference is asked, which takes
    /// long for a large model.
    pub(crate) fn answer(&self, index: usize, model: &Model) -> Result<Tensor, String> {
        if let Some(known) = self.0.lock().get(&index) {
            return Ok(known.clone());
        }
        let answer = by_reference(model, &question(model))?;
        Ok(self.0.lock().entry(index).or_insert(answer).clone())
    }
}

/// The question whose answer a device has to know: a few rows that exercise the whole program.
pub(crate) fn question(model: &Model) -> Vec<u8> {
    let manifest = model.manifest();
    let rows = manifest.rows_max.min(QUESTION_ROWS);
    let mut mix = Mix::new(0x6879_7065);
    let elements = rows * manifest.input_width;
    let element = |_| match manifest.input_dtype {
        Dtype::U32 => (mix.below(manifest.vocabulary.max(1).into()) as u32).to_le_bytes(),
        _ => mix.i32(18).to_le_bytes(),
    };
    (0..elements).flat_map(element).collect()
}

/// The token ids that an input is.
pub(crate) fn ids(input: &[u8]) -> Vec<u32> {
    let (words, _) = input.as_chunks::<4>();
    words.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// What the scalar reference says; of a generator, the logits after the input.
pub(crate) fn by_reference(model: &Model, input: &[u8]) -> Result<Tensor, String> {
    guarded(|| {
        let mut reference = Reference::default();
        let rows = input.len() / model.manifest().row_bytes() as usize;
        let rows = u32::try_from(rows).map_err(|error| error.to_string())?;
        if model.manifest().generator {
            let pages = rows.div_ceil(Decoder::PAGE_ROWS);
            let limits = Limits { rows_max: rows, outputs_max: 1, pages };
            let decoder = Decoder::load(model, &mut reference, limits);
            let mut decoder = decoder.map_err(|error| error.to_string())?;
            return generator::logits(&mut decoder, &mut reference, &ids(input))
                .map_err(|error| error.to_string());
        }
        let prepared =
            Prepared::load(model, &mut reference, rows).map_err(|error| error.to_string())?;
        let outputs = prepared.run(&mut reference, &[input]).map_err(|error| error.to_string())?;
        outputs.into_iter().next().ok_or_else(|| "a run of one input gave no output".to_owned())
    })
}

/// Runs `work` and turns a panic into the words it left.
pub(crate) fn guarded<T>(work: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    let said = |panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
    };
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(format!("the device's thread panicked: {}", said(panic))))
}
