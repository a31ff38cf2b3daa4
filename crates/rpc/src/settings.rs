//! How an answer is drawn, in the numbers that people use: OpenAI's callers and Triton's.
//!
//! They become the sampler's own by one rule, `floor(x * 65536 + 1/2)`, and come back with the answer: the edge's float is visible and
//! no part of the claim. What a caller leaves out is the advice of whoever made the model.

use hyperion_primitives::{B256, U256};
use hyperion_verify::Request;

use crate::{
    convert::stop_texts,
    r#gen::v1,
    limits::{Limits, at_most},
    status::{Code, Error},
    writing::Writing,
};

/// What a caller says.
#[derive(Debug, Default)]
pub(crate) struct Settings {
    pub(crate) temperature: Option<f64>,
    pub(crate) top_p: Option<f64>,
    pub(crate) top_k: Option<u32>,
    pub(crate) min_p: Option<f64>,
    pub(crate) frequency_penalty: Option<f64>,
    pub(crate) presence_penalty: Option<f64>,
    pub(crate) repetition_penalty: Option<f64>,
    /// Tokens of the answer at most; 0: as many as the model has room for.
    pub(crate) tokens_max: u32,
    /// Texts that end the answer.
    pub(crate) stop: Option<Vec<String>>,
}

impl Settings {
    /// Settings in the sampler's numbers; `ends_in_text` where the model's answers can end in the middle of a token's text.
    ///
    /// # Errors
    ///
    /// When a number is out of range, or a stop text is; the engine judges the rest.
    pub(crate) fn sampling(
        &self,
        writing: &Writing,
        ends_in_text: bool,
        limits: &Limits,
    ) -> Result<v1::Sampling, Error> {
        let advice = &writing.sampling;
        // What narrows the choice beside a temperature of the caller's own would change what was meant by it.
        let names_its_own = self.temperature.is_some() || self.top_p.is_some();
        let advised = |number: u32| if names_its_own { 0 } else { number };
        let signed = |field, value: Option<f64>| value.map_or(Ok(0), |value| q16(field, value));
        let (stop_tokens, stop_texts) = stops(self.stop.as_deref(), writing, ends_in_text, limits)?;
        Ok(v1::Sampling {
            temperature_q16: unsigned("temperature", self.temperature, advice.temperature_q16)?,
            top_k: self.top_k.unwrap_or_else(|| advised(advice.top_k)),
            top_p_q16: share("top_p", self.top_p, advice.top_p_q16)?,
            frequency_q16: signed("frequency_penalty", self.frequency_penalty)?,
            presence_q16: signed("presence_penalty", self.presence_penalty)?,
            tokens_max: self.tokens_max,
            stop_tokens,
            min_p_q16: unsigned("min_p", self.min_p, advised(advice.min_p_q16))?,
            repetition_q16: share(
                "repetition_penalty",
                self.repetition_penalty,
                advice.repetition_q16,
            )?,
            stop_texts,
        })
    }
}

/// The request with the seed of its draws; at temperature 0 there are none, and a seed changes nothing. A seed is sign-extended to the
/// 32 bytes of the entropy.
pub(crate) fn seeded(request: Request, seed: Option<i64>, temperature_q16: u32) -> Request {
    let Some(seed) = seed.filter(|_| temperature_q16 > 0) else { return request };
    let sign = if seed < 0 { u64::MAX } else { 0 };
    let extended = U256::from_limbs([seed.cast_unsigned(), sign, sign, sign]);
    Request { seed_mode: 1, entropy: B256::from(extended.to_be_bytes::<32>()), ..request }
}

fn unsigned(field: &'static str, value: Option<f64>, advice_q16: u32) -> Result<u32, Error> {
    let Some(value) = value else { return Ok(advice_q16) };
    u32::try_from(q16(field, value)?).map_err(|_| Error::bad_field(field, "must not be below 0"))
}

/// As [`unsigned`], of a number of which 0 on the wire means that nobody gave it.
fn share(field: &'static str, value: Option<f64>, advice_q16: u32) -> Result<u32, Error> {
    match unsigned(field, value, advice_q16)? {
        0 if value.is_some() => Err(Error::at(Code::SamplingInvalid, field, "must be above 0")),
        number => Ok(number),
    }
}

/// `floor(value * 65536 + 1/2)`.
fn q16(field: &'static str, value: f64) -> Result<i32, Error> {
    let scaled = (value * 65_536.0 + 0.5).floor();
    if (f64::from(i32::MIN)..=f64::from(i32::MAX)).contains(&scaled) {
        Ok(scaled as i32)
    } else {
        Err(Error::at(Code::SamplingInvalid, field, "is out of range"))
    }
}

/// Stop texts as such, and as ids with the model's own end ids where only an id can end an answer: special tokens, which write nothing,
/// and tokens of models that end by ids alone. Neither where the caller names none.
fn stops(
    stop: Option<&[String]>,
    writing: &Writing,
    ends_in_text: bool,
    limits: &Limits,
) -> Result<(Vec<u32>, Vec<String>), Error> {
    let Some(stop) = stop else { return Ok((Vec::new(), Vec::new())) };
    at_most("stop", "strings", stop.len(), limits.stop_tokens_max)?;
    let decoder = &writing.decoder;
    let ends_in_text = ends_in_text && decoder.token_bytes().is_ok();
    let (mut ids, mut texts) = (writing.end_ids.clone(), Vec::new());
    for text in stop {
        // Looked up by the tokenizer, for which a long text is work, and no token is long.
        let id = if text.len() <= limits.name_bytes_max { decoder.id(text) } else { None };
        let is_mute = |id: &u32| decoder.decode(&[*id]).is_ok_and(|text| text.is_empty());
        match id.filter(|id| !ends_in_text || is_mute(id)) {
            Some(id) => ids.push(id),
            None => texts.push(text.clone()),
        }
    }
    stop_texts("stop", &texts)?;
    Ok((ids, texts))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hyperion_engine::TokenBytes;
    use hyperion_verify::Sampling;
    use serde_json::Value;

    use super::*;
    use crate::writing::TextDecoder;

    /// Token 7 is special, token 8 a letter.
    struct Two {
        has_bytes: bool,
    }

    impl TextDecoder for Two {
        fn decode(&self, ids: &[u32]) -> Result<String, String> {
            Ok(ids.iter().filter(|id| **id == 8).map(|_| 'a').collect())
        }

        fn id(&self, text: &str) -> Option<u32> {
            match text {
                "<end>" => Some(7),
                "a" => Some(8),
                _ => None,
            }
        }

        fn token_bytes(&self) -> Result<Arc<TokenBytes>, String> {
            let table = || Arc::new(TokenBytes::new(["a"; 9]));
            self.has_bytes.then(table).ok_or_else(|| "none".to_owned())
        }

        fn chat(&self, _: &[Value], _: Option<&Value>) -> Result<Vec<u32>, String> {
            Err("no template".to_owned())
        }
    }

    fn writing(has_bytes: bool) -> Writing {
        let sampling = Sampling {
            temperature_q16: 45_875,
            top_k: 20,
            top_p_q16: 52_429,
            min_p_q16: 655,
            repetition_q16: 68_813,
            ..Sampling::default()
        };
        Writing { decoder: Arc::new(Two { has_bytes }), end_ids: vec![3], sampling }
    }

    fn sampling(settings: &Settings) -> Result<v1::Sampling, Error> {
        settings.sampling(&writing(true), true, &Limits::default())
    }

    #[test]
    fn what_is_left_out_is_advised_and_nothing_narrows_a_temperature_of_the_callers_own() {
        let advised = sampling(&Settings::default()).unwrap();
        let numbers = |s: &v1::Sampling| {
            (s.temperature_q16, s.top_k, s.top_p_q16, s.min_p_q16, s.repetition_q16)
        };
        assert_eq!(numbers(&advised), (45_875, 20, 52_429, 655, 68_813));
        let own = Settings { temperature: Some(1.0), ..Settings::default() };
        assert_eq!(numbers(&sampling(&own).unwrap()), (65_536, 0, 52_429, 0, 68_813));
        let named =
            Settings { top_k: Some(5), min_p: Some(0.5), repetition_penalty: Some(1.0), ..own };
        assert_eq!(numbers(&sampling(&named).unwrap()), (65_536, 5, 52_429, 32_768, 65_536));
        assert!(advised.stop_tokens.is_empty(), "the model's own are filled in later");
    }

    #[test]
    fn only_what_no_text_can_end_is_an_id_beside_the_models_own() {
        let stop = |texts: &[&str], has_bytes, ends_in_text| {
            let stop = Some(texts.iter().map(|text| (*text).to_owned()).collect());
            let settings = Settings { stop, ..Settings::default() };
            let sampling =
                settings.sampling(&writing(has_bytes), ends_in_text, &Limits::default())?;
            Ok::<_, Error>((sampling.stop_tokens, sampling.stop_texts))
        };
        let all = ["<end>", "a", "never"];
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        assert_eq!(stop(&all, true, true).unwrap(), (vec![3, 7], texts(&["a", "never"])));
        let by_ids = (vec![3, 7, 8], texts(&["never"]));
        assert_eq!(stop(&all, false, true).unwrap(), by_ids);
        assert_eq!(stop(&all, true, false).unwrap(), by_ids);
        assert!(stop(&[""], true, true).is_err());
        assert!(stop(&["a"; 99], true, true).is_err());
    }

    #[test]
    fn a_seed_keeps_its_sign_and_a_greedy_answer_has_none() {
        let of = |seed, temperature| seeded(Request::default(), seed, temperature);
        assert_eq!(of(Some(7), 0), Request::default());
        assert_eq!(of(None, 1), Request::default());
        assert_eq!(of(Some(-1), 1).entropy, B256::repeat_byte(0xff));
        assert_eq!((of(Some(7), 1).entropy[31], of(Some(7), 1).seed_mode), (7, 1));
    }
}
