//! What a folder says of how its model wants to be asked: `generation_config.json`, and `config.json` where that is silent.
//!
//! It is advice for whoever serves the model and no part of the model's identity. Numbers become the sampler's own, from
//! their decimal text.

use std::path::Path;

use hyperion_ops::Sampling;
use serde::Deserialize;
use serde_json::Number;

use super::{
    ImportError,
    json::{optional, ratio},
};

/// The advice of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// The id that a text begins with.
    pub begin_id: Option<u32>,
    /// Ids that end an answer, ascending.
    pub end_ids: Vec<u32>,
    /// How tokens are drawn; the largest logit unless the folder says `do_sample`.
    pub sampling: Sampling,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Config {
    bos_token_id: Option<u32>,
    eos_token_id: Option<Ids>,
    do_sample: bool,
    temperature: Option<Number>,
    top_k: Option<u32>,
    top_p: Option<Number>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Generation {
    /// Reads a folder's advice; without either file there is none to give.
    ///
    /// # Errors
    ///
    /// When a file is malformed, or a number is outside the sampler's range.
    pub fn of(folder: &Path) -> Result<Self, ImportError> {
        let path = folder.join("generation_config.json");
        let own: Config = optional(&path)?.unwrap_or_default();
        let model: Config = optional(&folder.join("config.json"))?.unwrap_or_default();
        let mut end_ids = match own.eos_token_id.or(model.eos_token_id) {
            None => Vec::new(),
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Many(ids)) => ids,
        };
        end_ids.sort_unstable();
        end_ids.dedup();
        let sampling = if own.do_sample {
            let temperature = own.temperature.as_ref().map_or(Some(1 << 16), q16);
            let top_p = own.top_p.as_ref().map_or(Some(1 << 16), q16);
            let sampling = temperature.zip(top_p).and_then(|(temperature, top_p)| {
                Sampling::new(temperature, own.top_k.unwrap_or(0), top_p, 0, 0)
            });
            sampling.ok_or_else(|| {
                let what = "temperature is not 0 or 0.01 to 100, or top_p not above 0 to 1";
                ImportError::Format { path, what: what.to_owned() }
            })?
        } else {
            Sampling::GREEDY
        };
        Ok(Self { begin_id: own.bos_token_id.or(model.bos_token_id), end_ids, sampling })
    }
}

/// `round(value · 2^16)`, half up.
fn q16(number: &Number) -> Option<u32> {
    let (over, under) = ratio(number)?;
    let (over, under) = (u128::from(over) << 17, u128::from(under));
    u32::try_from((over + under) / (2 * under)).ok()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn numbers_become_the_samplers_own() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("config.json", r#"{"bos_token_id": 1, "eos_token_id": 2, "temperature": 9}"#);
        let plain = Generation::of(folder.path()).unwrap();
        assert_eq!(plain.end_ids, [2]);
        assert_eq!((plain.begin_id, plain.sampling), (Some(1), Sampling::GREEDY));

        let text =
            r#"{"eos_token_id": [9, 7, 9], "do_sample": true, "temperature": 0.6, "top_p": 0.9}"#;
        put("generation_config.json", text);
        let own = Generation::of(folder.path()).unwrap();
        assert_eq!(own.end_ids, [7, 9]);
        assert_eq!(own.sampling, Sampling::new(39_322, 0, 58_982, 0, 0).unwrap());

        put("generation_config.json", r#"{"do_sample": true, "temperature": 1000}"#);
        assert!(Generation::of(folder.path()).is_err());
    }
}
