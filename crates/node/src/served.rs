//! The models that a node serves: their files, and what stands beside them.

use std::{fs, path::Path, sync::Arc};

use anyhow::{Context as _, Result};
use hyperion_engine::Registry;
use hyperion_model::{Model, Tokenizer, Trust, import::generation::Generation};
use hyperion_primitives::B256;
use hyperion_rpc::{door::Face, writing::Writing};
use hyperion_verify::Sampling;

use crate::{config::NodeConfig, text::Text};

/// A model with what people see of it.
#[derive(Debug)]
pub struct Served {
    /// The name it is asked for by.
    pub alias: String,
    /// The model.
    pub model: Arc<Model>,
    /// Its words, if it reads text.
    pub(crate) text: Option<Arc<Text>>,
    /// For a generator: the advice of whoever made it.
    pub(crate) advice: Option<Generation>,
    /// For a generator: the alias of the model that drafts for it.
    pub(crate) draft: Option<String>,
}

impl Served {
    /// A model of the program's own, without words.
    fn bare(alias: &str, model: Model) -> Self {
        let (text, advice, draft) = (None, None, None);
        Self { alias: alias.to_owned(), model: Arc::new(model), text, advice, draft }
    }

    /// What the doors show of it.
    pub(crate) fn face(&self) -> Face {
        let manifest = self.model.manifest();
        let (input, output) = match (self.model.program().vocabulary(), manifest.generator) {
            (Some(_), true) => ("tokens", "tokens"),
            (Some(_), false) => ("tokens", "embedding"),
            (None, _) => ("pixels", "logits"),
        };
        let text = self.text.as_ref().filter(|_| manifest.generator);
        let writing = text.map(|text| writing(text, self.advice.as_ref()));
        Face {
            input: input.into(),
            output: output.into(),
            text: self.text.as_ref().map(|text| Arc::clone(text) as _),
            writing,
            ..Face::default()
        }
    }
}

/// What a generator's answers are written with.
pub(crate) fn writing(text: &Arc<Text>, advice: Option<&Generation>) -> Writing {
    let draws = advice.map_or(hyperion_ops::Sampling::GREEDY, |advice| advice.sampling);
    Writing {
        decoder: Arc::clone(text) as _,
        end_ids: advice.map(|advice| advice.end_ids.clone()).unwrap_or_default(),
        sampling: Sampling {
            temperature_q16: draws.temperature_q16,
            top_k: draws.top_k,
            top_p_q16: draws.top_p_q16,
            min_p_q16: draws.min_p_q16,
            repetition_q16: draws.repetition_q16,
            ..Sampling::default()
        },
    }
}

/// Models under their names, as the engine wants them.
///
/// # Errors
///
/// When a name stands for two models, or is none, or a model cannot draft for the one that names it.
pub fn registry(served: &[Served]) -> Result<Registry> {
    let mut registry = Registry::new();
    for one in served {
        registry.add(&one.alias, Arc::clone(&one.model))?;
    }
    for one in served {
        if let Some(draft) = &one.draft {
            registry.set_draft(&one.alias, draft)?;
        }
    }
    Ok(registry)
}

/// Reads the models that a configuration names.
///
/// # Errors
///
/// When a file cannot be read or is no model, or the tokenizer beside it is another than the model was made with.
pub fn models(config: &NodeConfig) -> Result<Vec<Served>> {
    let read = |(alias, model): (&String, &crate::config::ModelConfig)| {
        let draft = (!model.draft.is_empty()).then(|| model.draft.clone());
        Ok(Served { draft, ..served(alias, &model.path, &model.tokenizer)? })
    };
    config.models.iter().map(read).collect()
}

/// A model file with what stands beside it; an empty `tokenizer` is the one there.
///
/// # Errors
///
/// As [`models`].
pub(crate) fn served(alias: &str, path: &Path, tokenizer: &Path) -> Result<Served> {
    let named = || format!("model {alias}, file {}", path.display());
    let model = Model::open(path, Trust::Nothing).with_context(named)?;
    let beside = path.with_extension("tokenizer.json");
    let file = if tokenizer.as_os_str().is_empty() { beside } else { tokenizer.to_path_buf() };
    let mut served = Served::bare(alias, model);
    let (model, generator) = (&served.model, served.model.manifest().generator);
    if model.tokenizer_hash() == B256::ZERO || !file.is_file() {
        return Ok(served);
    }
    let tokenizer = if generator {
        Tokenizer::whole(&file)?
    } else {
        Tokenizer::open(&file, model.program().context())?
    };
    let tokenizer = tokenizer
        .for_model(model.tokenizer_hash())
        .with_context(|| format!("model {alias}, tokenizer {}", file.display()))?;
    if generator {
        let (text, advice) = Text::of_generator(tokenizer, path).with_context(named)?;
        (served.text, served.advice) = (Some(Arc::new(text)), advice);
    } else {
        served.text = Some(Arc::new(Text::plain(tokenizer)));
    }
    Ok(served)
}

/// The built-in models of `--dev`: what they are imported from travels in the program.
pub mod embedded {
    use std::io::Cursor;

    use anyhow::Context as _;
    use hyperion_model::{Tokenizer, import};

    use super::{Arc, Generation, Model, Result, Served, Text, Trust, fs};

    const DIGITS: [(&str, &[u8]); 2] = [
        ("graph.json", include_bytes!("../../../fixtures/digits/graph.json")),
        ("model.safetensors", include_bytes!("../../../fixtures/digits/model.safetensors")),
    ];
    const PYDOC: [(&str, &[u8]); 5] = [
        ("config.json", include_bytes!("../../../fixtures/pydoc/config.json")),
        ("model.safetensors", include_bytes!("../../../fixtures/pydoc/model.safetensors")),
        ("tokenizer.json", include_bytes!("../../../fixtures/pydoc/tokenizer.json")),
        ("tokenizer_config.json", include_bytes!("../../../fixtures/pydoc/tokenizer_config.json")),
        (
            "generation_config.json",
            include_bytes!("../../../fixtures/pydoc/generation_config.json"),
        ),
    ];
    /// An image of a seven, as the digits model reads it.
    pub const SEVEN: &[u8] = include_bytes!("../../../fixtures/digits/seven.i32");

    /// Imports every built-in model; the same everywhere.
    ///
    /// # Errors
    ///
    /// As for [`digits`].
    pub fn all() -> Result<Vec<Served>> {
        Ok(vec![digits()?, pydoc()?])
    }

    /// Imports the digits classifier.
    ///
    /// # Errors
    ///
    /// When there is no place for a few temporary files.
    pub fn digits() -> Result<Served> {
        let (model, _) = imported(&DIGITS)?;
        Ok(Served::bare("digits", model))
    }

    /// Imports the text model, which writes as Python's documentation does.
    ///
    /// # Errors
    ///
    /// As for [`digits`].
    pub fn pydoc() -> Result<Served> {
        let (model, folder) = imported(&PYDOC)?;
        let tokenizer = Tokenizer::whole(&folder.path().join("tokenizer.json"))?;
        let advice = Generation::of(folder.path())?;
        let text = Text::new(tokenizer.for_model(model.tokenizer_hash())?, &advice)?;
        let (text, advice) = (Some(Arc::new(text)), Some(advice));
        Ok(Served { text, advice, ..Served::bare("pydoc", model) })
    }

    fn imported(files: &[(&str, &[u8])]) -> Result<(Model, tempfile::TempDir)> {
        let folder = tempfile::tempdir().context("a temporary folder")?;
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes)?;
        }
        let mut file = Cursor::new(Vec::new());
        import::write(folder.path(), &mut file, &mut |_, _| {})?;
        Ok((Model::from_bytes(file.into_inner(), Trust::Roots)?, folder))
    }
}
