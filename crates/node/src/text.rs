//! Words of a model: its tokenizer, and its chat template.

use std::{
    fmt,
    path::Path,
    sync::{Arc, OnceLock},
};

use anyhow::{Context as _, Result};
use hyperion_model::{TokenBytes, Tokenizer, import::generation::Generation};
use hyperion_rpc::{door::TextEncoder, writing::TextDecoder};
use minijinja::{Environment, ErrorKind, context};
use serde_json::Value;

/// Steps that a template may take: templates loop over messages, and messages are a stranger's.
const FUEL: u64 = 10_000_000;

/// A tokenizer, and how chats become prompts.
pub(crate) struct Text {
    tokenizer: Tokenizer,
    template: Option<Template>,
    /// Made when it is first asked for.
    token_bytes: OnceLock<Arc<TokenBytes>>,
}

struct Template {
    environment: Environment<'static>,
    begin_text: String,
    end_text: String,
    knows_tools: bool,
}

impl fmt::Debug for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Text").field("chats", &self.template.is_some()).finish_non_exhaustive()
    }
}

impl Text {
    /// A tokenizer without chats.
    pub(crate) const fn plain(tokenizer: Tokenizer) -> Self {
        Self { tokenizer, template: None, token_bytes: OnceLock::new() }
    }

    /// A tokenizer with the chat template of a model's advice, if it has one.
    ///
    /// # Errors
    ///
    /// When the template cannot be read.
    pub(crate) fn new(tokenizer: Tokenizer, advice: &Generation) -> Result<Self> {
        let Some(source) = advice.chat_template.clone() else { return Ok(Self::plain(tokenizer)) };
        let mut environment = Environment::new();
        // As the templates of Hugging Face folders expect it.
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |text: String| {
            Err::<String, _>(minijinja::Error::new(ErrorKind::InvalidOperation, text))
        });
        let knows_tools = source.contains("tools");
        environment.add_template_owned("chat", source).context("the model's chat template")?;
        let spelled = |text: &Option<String>| text.clone().unwrap_or_default();
        let template = Template {
            environment,
            begin_text: spelled(&advice.begin_text),
            end_text: spelled(&advice.end_text),
            knows_tools,
        };
        Ok(Self { template: Some(template), ..Self::plain(tokenizer) })
    }

    /// The advice beside a model file, and its words.
    ///
    /// # Errors
    ///
    /// When the advice or its template cannot be read.
    pub(crate) fn of_generator(
        tokenizer: Tokenizer,
        model: &Path,
    ) -> Result<(Self, Option<Generation>)> {
        let path = model.with_extension("generation.json");
        let advice = Generation::beside(&path)?;
        let text = match &advice {
            Some(advice) => {
                Self::new(tokenizer, advice).with_context(|| path.display().to_string())?
            }
            None => Self::plain(tokenizer),
        };
        Ok((text, advice))
    }

    /// The prompt that a chat is, in words.
    fn render(&self, messages: &[Value], tools: Option<&Value>) -> Result<String, String> {
        let template =
            self.template.as_ref().ok_or("this model has no chat template; send it a text")?;
        if tools.is_some() && !template.knows_tools {
            return Err("this model's chat template knows no tools".to_owned());
        }
        let chat = template.environment.get_template("chat").map_err(|error| error.to_string())?;
        chat.render(context! {
            messages => messages,
            tools => tools,
            add_generation_prompt => true,
            bos_token => template.begin_text,
            eos_token => template.end_text,
        })
        .map_err(|error| format!("the chat template refuses: {}", told(&error)))
    }
}

/// What an error says, without the place in the template where a stranger can do nothing.
fn told(error: &minijinja::Error) -> String {
    error.detail().map_or_else(|| error.kind().to_string(), ToOwned::to_owned)
}

impl TextEncoder for Text {
    fn encode(&self, text: &str) -> Result<Vec<u32>, String> {
        self.tokenizer.encode(text).map_err(|error| error.to_string())
    }
}

impl TextDecoder for Text {
    fn decode(&self, ids: &[u32]) -> Result<String, String> {
        self.tokenizer.decode(ids).map_err(|error| error.to_string())
    }

    fn id(&self, text: &str) -> Option<u32> {
        self.tokenizer.id(text)
    }

    fn token_bytes(&self) -> Result<Arc<TokenBytes>, String> {
        if let Some(table) = self.token_bytes.get() {
            return Ok(Arc::clone(table));
        }
        let table = self.tokenizer.token_bytes().map_err(|error| error.to_string())?;
        Ok(Arc::clone(self.token_bytes.get_or_init(|| Arc::new(table))))
    }

    fn chat(&self, messages: &[Value], tools: Option<&Value>) -> Result<Vec<u32>, String> {
        let prompt = self.render(messages, tools)?;
        self.tokenizer.encode_bare(&prompt).map_err(|error| error.to_string())
    }
}
