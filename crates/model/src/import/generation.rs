//! What a folder says of how its model wants to be asked: `generation_config.json`, and `config.json` where that is silent.
//!
//! It is advice for whoever serves the model and no part of the model's identity. Numbers become the sampler's own, from
//! their decimal text.

use std::{fs, path::Path};

use hyperion_ops::Sampling;
use serde::{Deserialize, Serialize};
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
    /// How a chat becomes a prompt: a Jinja template.
    pub chat_template: Option<String>,
    /// The texts that a template knows as `bos_token` and `eos_token`.
    pub begin_text: Option<String>,
    /// See [`begin_text`](Self::begin_text).
    pub end_text: Option<String>,
}

/// What `tokenizer_config.json` says of chats.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct ChatConfig {
    chat_template: Option<Template>,
    bos_token: Option<Token>,
    eos_token: Option<Token>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Template {
    One(String),
    Many(Vec<Named>),
}

#[derive(Debug, Deserialize)]
struct Named {
    name: String,
    template: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Added { content: String },
}

impl Token {
    fn into_text(self) -> String {
        match self {
            Self::Text(text) | Self::Added { content: text } => text,
        }
    }
}

impl Template {
    fn into_text(self) -> Option<String> {
        match self {
            Self::One(text) => Some(text),
            Self::Many(named) => {
                let default = named.into_iter().find(|named| named.name == "default");
                default.map(|named| named.template)
            }
        }
    }
}

/// The advice as it stands beside a model file.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Beside {
    begin_id: Option<u32>,
    end_ids: Vec<u32>,
    temperature_q16: u32,
    top_k: u32,
    #[serde(rename = "topPQ16")]
    top_p_q16: u32,
    #[serde(rename = "minPQ16", default)]
    min_p_q16: u32,
    #[serde(default = "off")]
    repetition_q16: u32,
    chat_template: Option<String>,
    begin_text: Option<String>,
    end_text: Option<String>,
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
    min_p: Option<Number>,
    repetition_penalty: Option<Number>,
}

/// A repetition penalty that changes nothing.
const fn off() -> u32 {
    Sampling::GREEDY.repetition_q16
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Ids {
    One(u32),
    Many(Vec<u32>),
}

impl Config {
    /// Settings in the sampler's numbers; `None` when one is out of range.
    fn sampling(&self) -> Option<Sampling> {
        let share =
            |number: &Option<Number>, otherwise| number.as_ref().map_or(Some(otherwise), q16);
        let draws = if self.do_sample {
            let temperature = share(&self.temperature, 1 << 16)?;
            let top_p = share(&self.top_p, 1 << 16)?;
            let draws = Sampling::new(temperature, self.top_k.unwrap_or(0), top_p, 0, 0)?;
            draws.min_p(share(&self.min_p, 0)?)?
        } else {
            Sampling::GREEDY
        };
        draws.repetition(share(&self.repetition_penalty, off())?)
    }
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
        let sampling = own.sampling().ok_or_else(|| {
            let what = "want a temperature of 0 or 0.01 to 100, top_p above 0 to 1, min_p of 0 to 1, and a \
                        repetition_penalty of 1/8 to 8";
            ImportError::Format { path, what: what.to_owned() }
        })?;
        let mut end_ids = match own.eos_token_id.or(model.eos_token_id) {
            None => Vec::new(),
            Some(Ids::One(id)) => vec![id],
            Some(Ids::Many(ids)) => ids,
        };
        end_ids.sort_unstable();
        end_ids.dedup();
        let chat: ChatConfig = optional(&folder.join("tokenizer_config.json"))?.unwrap_or_default();
        let path = folder.join("chat_template.jinja");
        let chat_template = if path.is_file() {
            let text = fs::read_to_string(&path);
            Some(text.map_err(|cause| ImportError::Io { path, cause })?)
        } else {
            chat.chat_template.and_then(Template::into_text)
        };
        Ok(Self {
            begin_id: own.bos_token_id.or(model.bos_token_id),
            end_ids,
            sampling,
            chat_template,
            begin_text: chat.bos_token.map(Token::into_text),
            end_text: chat.eos_token.map(Token::into_text),
        })
    }

    /// The advice as a file beside a model file.
    pub fn to_json(&self) -> String {
        let beside = Beside {
            begin_id: self.begin_id,
            end_ids: self.end_ids.clone(),
            temperature_q16: self.sampling.temperature_q16,
            top_k: self.sampling.top_k,
            top_p_q16: self.sampling.top_p_q16,
            min_p_q16: self.sampling.min_p_q16,
            repetition_q16: self.sampling.repetition_q16,
            chat_template: self.chat_template.clone(),
            begin_text: self.begin_text.clone(),
            end_text: self.end_text.clone(),
        };
        serde_json::to_string_pretty(&beside).expect("numbers and texts")
    }

    /// Reads what [`to_json`](Self::to_json) wrote; `None` where there is no file.
    ///
    /// # Errors
    ///
    /// When the file is malformed, or a number is outside the sampler's range.
    pub fn beside(path: &Path) -> Result<Option<Self>, ImportError> {
        let Some(beside) = optional::<Beside>(path)? else { return Ok(None) };
        let Beside { temperature_q16, top_k, top_p_q16, .. } = beside;
        let sampling = Sampling::new(temperature_q16, top_k, top_p_q16, 0, 0)
            .and_then(|sampling| sampling.min_p(beside.min_p_q16))
            .and_then(|sampling| sampling.repetition(beside.repetition_q16));
        let sampling = sampling.ok_or_else(|| ImportError::Format {
            path: path.to_path_buf(),
            what: "temperatureQ16, topPQ16, minPQ16 or repetitionQ16 is out of range".to_owned(),
        })?;
        Ok(Some(Self {
            begin_id: beside.begin_id,
            end_ids: beside.end_ids,
            sampling,
            chat_template: beside.chat_template,
            begin_text: beside.begin_text,
            end_text: beside.end_text,
        }))
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

        // A penalty counts whether or not tokens are drawn, what narrows a draw only where they are.
        let text = r#"{"do_sample": true, "min_p": 0.05, "repetition_penalty": 1.1}"#;
        put("generation_config.json", text);
        let drawn = Generation::of(folder.path()).unwrap().sampling;
        let want = Sampling::new(1 << 16, 0, 1 << 16, 0, 0).unwrap();
        assert_eq!(drawn, want.min_p(3_277).unwrap().repetition(72_090).unwrap());
        put("generation_config.json", r#"{"min_p": 0.05, "repetition_penalty": 1.1}"#);
        let greedy = Generation::of(folder.path()).unwrap().sampling;
        assert_eq!(greedy, Sampling::GREEDY.repetition(72_090).unwrap());

        for text in [
            r#"{"do_sample": true, "temperature": 1000}"#,
            r#"{"do_sample": true, "min_p": 1.5}"#,
            r#"{"repetition_penalty": 0}"#,
            r#"{"repetition_penalty": 9}"#,
        ] {
            put("generation_config.json", text);
            assert!(Generation::of(folder.path()).is_err(), "{text}");
        }
    }

    /// A file's JSON without some members.
    fn advice_without(members: &[&str], path: &Path) -> String {
        let mut object: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
        let object = object.as_object_mut().unwrap();
        for member in members {
            assert!(object.remove(*member).is_some(), "{member}");
        }
        serde_json::to_string(object).unwrap()
    }

    #[test]
    fn chats_have_the_template_of_the_folder_and_the_advice_travels_beside_a_model() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        put("config.json", r#"{"bos_token_id": 1, "eos_token_id": 2}"#);
        let text = r#"{"chat_template": [{"name": "default", "template": "{{ a }}"}, {"name": "b", "template": ""}],
                       "bos_token": {"content": "<s>"}, "eos_token": "</s>", "model_max_length": 1}"#;
        put("tokenizer_config.json", text);
        put(
            "generation_config.json",
            r#"{"do_sample": true, "min_p": 0.1, "repetition_penalty": 1.5}"#,
        );
        let advice = Generation::of(folder.path()).unwrap();
        assert_eq!(advice.chat_template.as_deref(), Some("{{ a }}"));
        let texts = (advice.begin_text.as_deref(), advice.end_text.as_deref());
        assert_eq!(texts, (Some("<s>"), Some("</s>")));
        put("chat_template.jinja", "{{ c }}");
        let own = Generation::of(folder.path()).unwrap();
        assert_eq!(own.chat_template.as_deref(), Some("{{ c }}"));

        put("beside.json", &advice.to_json());
        let path = folder.path().join("beside.json");
        assert_eq!(Generation::beside(&path).unwrap(), Some(advice));
        assert_eq!(Generation::beside(&folder.path().join("none.json")).unwrap(), None);
        // Files of before there were these two settings.
        let older = advice_without(&["minPQ16", "repetitionQ16"], &path);
        put("beside.json", &older);
        let sampling = Generation::beside(&path).unwrap().unwrap().sampling;
        assert_eq!(sampling, Sampling::new(1 << 16, 0, 1 << 16, 0, 0).unwrap());
        put("beside.json", r#"{"endIds": []}"#);
        assert!(Generation::beside(&path).is_err());
    }
}
