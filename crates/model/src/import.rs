//! Makes model files out of what others publish.
//!
//! An import is a pure function of the source's bits: the same source gives the same file and the same model id on
//! every machine. Each source kind has its file: [`bert()`] (Hugging Face encoders), [`mlp()`] (safetensors with a
//! declared graph), [`onnx()`] (classifiers), `llama`, `gemma` and `gpt2` (Hugging Face decoders), `gguf`. Small models are made in
//! memory by `Builder`, operator by operator; decoders by a `Template`, which knows the whole program before it reads a weight.

mod balance;
mod bert;
mod builder;
mod decoder;
mod encoding;
mod fill;
mod gemma;
pub mod generation;
mod gguf;
mod gpt2;
mod json;
mod llama;
mod makers;
mod mixing;
pub(crate) mod mlp;
pub mod onnx;
mod order;
mod partial;
mod sizes;
mod source;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use hyperion_primitives::{B256, ModelId, keccak256};
use serde::Deserialize;

pub(crate) use self::builder::Builder;
pub use self::{bert::bert, mlp::mlp, onnx::onnx};
use self::{
    decoder::{Decoder, Template},
    gguf::Gguf,
    llama::Architecture,
    partial::Partial,
    source::{Source, Tensors},
};
use crate::{
    Tokenizer,
    file::{Kept, Parts},
    program::ProgramError,
    quantized::WeightError,
};

/// Why a source cannot be imported.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// A file cannot be read.
    #[error("{}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// A file is not what its name says.
    #[error("{}: {what}", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// The configuration asks for something that the operator set does not have.
    #[error("{key} is {got}; {want}")]
    Unsupported {
        /// The configuration's key.
        key: &'static str,
        /// Its value.
        got: String,
        /// What is supported.
        want: &'static str,
    },
    /// A tensor is not there.
    #[error("the source has no tensor `{name}`")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape.
    #[error("tensor `{name}` is {got:?}, want {want:?}")]
    Shape {
        /// Its name.
        name: String,
        /// Its shape.
        got: Vec<usize>,
        /// The shape that the configuration implies.
        want: Vec<usize>,
    },
    /// A tensor's numbers cannot be represented.
    #[error("tensor `{name}`: {cause}")]
    Weight {
        /// Its name.
        name: String,
        /// Why not.
        cause: WeightError,
    },
    /// The operators do not fit together.
    #[error(transparent)]
    Program(#[from] ProgramError),
    /// The ONNX file.
    #[error(transparent)]
    Onnx(#[from] onnx::OnnxError),
    /// The tokenizer makes ids that the model does not have.
    #[error(
        "tokenizer.json has ids up to {highest}, the model has {vocabulary} tokens; they do not belong together"
    )]
    Vocabulary {
        /// The highest id of the tokenizer.
        highest: u32,
        /// Tokens of the model.
        vocabulary: u32,
    },
    /// The model file cannot be written.
    #[error("writing the model: {0}")]
    Write(#[from] io::Error),
}

/// Hears of an import's progress: steps done, steps in all.
pub type Progress<'a> = &'a mut dyn FnMut(usize, usize);

/// Imports a source of any kind into memory: a folder with `config.json` (an encoder of the BERT family, or a decoder: Llama,
/// Mistral, Qwen2, Qwen3, Gemma 2 and 3, GPT-2), a folder with `graph.json` (a declared graph), or a file that ends in `.onnx` or `.gguf`.
///
/// # Errors
///
/// When the source is none of these, or its own import refuses it.
pub fn import(source: &Path, progress: Progress<'_>) -> Result<Parts, ImportError> {
    with(source, progress, &mut |decoder, progress| decoder.parts(progress), &mut Ok)
}

/// Imports a source of any kind into a file, as [`import`]; a decoder tensor by tensor, so that neither it nor its source
/// has to fit into memory.
///
/// # Errors
///
/// As for `import`, and when writing fails. What was written by then is no model.
pub fn write(
    source: &Path,
    out: &mut (impl io::Write + io::Seek),
    progress: Progress<'_>,
) -> Result<ModelId, ImportError> {
    write_with(source, Precision::EightBits, out, progress)
}

/// Bits of a decoder's weights.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Precision {
    /// One code a byte.
    #[default]
    EightBits,
    /// Two codes a byte, in groups of 32 with a scale each: about half the bytes that decoding reads. Embedding and head have a code a
    /// byte.
    FourBits,
    /// Two codes of a byte each, and inputs of 15 bits: the answers of the source for twice the bytes and four times the products.
    SixteenBits,
}

impl Precision {
    /// As it is asked for.
    pub const fn name(self) -> &'static str {
        match self {
            Self::EightBits => "8bit",
            Self::FourBits => "4bit",
            Self::SixteenBits => "16bit",
        }
    }
}

/// As [`write()`], with weights of the precision asked for.
///
/// # Errors
///
/// As for `write`, and when what is no decoder is asked for in four bits.
pub fn write_with(
    source: &Path,
    precision: Precision,
    out: &mut (impl io::Write + io::Seek),
    progress: Progress<'_>,
) -> Result<ModelId, ImportError> {
    let made = made(source, precision, progress, &mut |decoder, progress| {
        decoder.write(Kept::default(), out, progress)
    })?;
    match made {
        Made::Written(id) => Ok(id),
        Made::Whole(parts) => Ok(parts.write(out)?),
    }
}

/// As [`write_with`], into a file that a later call goes on with if this one does not end: what a decoder's tensors are made
/// of is noted in `PATH.journal` as each is written, and what stands in the file is compared with the note before it is kept.
///
/// # Errors
///
/// As for `write_with`. What was made so far stays where going on may help, and goes where it cannot.
pub fn to_file(
    source: &Path,
    precision: Precision,
    path: &Path,
    progress: Progress<'_>,
) -> Result<ModelId, ImportError> {
    let mut partial = Partial::open(source, path)?;
    let made = made(source, precision, progress, &mut |decoder, progress| {
        partial.write(decoder, progress)
    });
    let outcome = match made {
        Ok(Made::Written(id)) => Ok(id),
        Ok(Made::Whole(parts)) => partial.write_whole(&parts),
        Err(error) => Err(error),
    };
    partial.close(outcome)
}

/// A source that was read.
enum Made {
    /// As a decoder, whose tensors were written one by one.
    Written(ModelId),
    Whole(Parts),
}

/// Reads a source; `write` is called for one that is written as it is read.
fn made(
    source: &Path,
    precision: Precision,
    progress: Progress<'_>,
    write: Make<'_, ModelId>,
) -> Result<Made, ImportError> {
    with(
        source,
        progress,
        &mut |decoder, progress| {
            let decoder = match precision {
                Precision::EightBits => decoder,
                Precision::FourBits => decoder.narrowed()?,
                Precision::SixteenBits => decoder.widened()?,
            };
            write(decoder, progress).map(Made::Written)
        },
        &mut |parts| match precision {
            Precision::EightBits => Ok(Made::Whole(parts)),
            Precision::FourBits | Precision::SixteenBits => Err(ImportError::Unsupported {
                key: "weights",
                got: precision.name().to_owned(),
                want: "decoders can have them",
            }),
        },
    )
}

/// What a decoder that is ready is made into.
type Make<'m, T> = &'m mut dyn FnMut(Decoder<'_>, Progress<'_>) -> Result<T, ImportError>;
/// What a model that was made whole is made into.
type Take<'m, T> = &'m mut dyn FnMut(Parts) -> Result<T, ImportError>;

/// Finds out of what kind a source is and makes it.
fn with<T>(
    source: &Path,
    progress: Progress<'_>,
    make: Make<'_, T>,
    take: Take<'_, T>,
) -> Result<T, ImportError> {
    let is_file = |kind: &str| source.extension().is_some_and(|extension| extension == kind);
    if is_file("onnx") {
        return take(onnx(source)?);
    }
    if is_file("gguf") {
        let mut gguf = Gguf::open(source)?;
        let template = gguf.template()?;
        let folder = source.parent().unwrap_or(Path::new(""));
        return make(ready(template, folder, &gguf)?, progress);
    }
    if source.join("graph.json").is_file() {
        return take(mlp(source)?);
    }
    let config = source.join("config.json");
    if !config.is_file() {
        let what = "no config.json (Hugging Face), no graph.json (declared graph), and not a .onnx or .gguf file";
        return Err(ImportError::Format { path: source.to_path_buf(), what: what.to_owned() });
    }
    let Kind { model_type } = json::required(&config)?;
    match model_type.as_str() {
        "llama" | "mistral" | "qwen2" | "qwen3" => {
            let template = Architecture::of(source)?.template()?;
            let tensors = Source::open(source)?;
            make(ready(template, source, &tensors)?, progress)
        }
        "gpt2" => {
            let tensors = Source::open(source)?;
            let template = gpt2::template(source, &tensors)?;
            make(ready(template, source, &tensors)?, progress)
        }
        "gemma2" | "gemma3_text" => {
            let template = gemma::template(source)?;
            let tensors = Source::open(source)?;
            make(ready(template, source, &tensors)?, progress)
        }
        "bert" => take(bert(source, progress)?),
        _ => Err(ImportError::Unsupported {
            key: "model_type",
            got: model_type,
            want: "`bert`, `llama`, `mistral`, `qwen2`, `qwen3`, `gemma2`, `gemma3_text`, `gpt2` are supported",
        }),
    }
}

/// The key of `config.json` that says what the rest means.
#[derive(Debug, Deserialize)]
struct Kind {
    model_type: String,
}

/// A decoder whose tensors and tokenizer are there.
fn ready<'s>(
    template: Template,
    folder: &Path,
    source: &'s dyn Tensors,
) -> Result<Decoder<'s>, ImportError> {
    let decoder = template.checked(source, tokenizer_hash(folder)?)?;
    let path = folder.join("tokenizer.json");
    if path.is_file() {
        let wrong = |what: String| ImportError::Format { path: path.clone(), what };
        let tokenizer = Tokenizer::open(&path, decoder.context());
        let highest = tokenizer.map_err(|error| wrong(error.to_string()))?.highest_id();
        let vocabulary = decoder.vocabulary();
        if let Some(highest) = highest.filter(|highest| *highest >= vocabulary) {
            return Err(ImportError::Vocabulary { highest, vocabulary });
        }
    }
    Ok(decoder)
}

/// keccak-256 of a folder's `tokenizer.json`; zero without one.
fn tokenizer_hash(folder: &Path) -> Result<B256, ImportError> {
    let path = folder.join("tokenizer.json");
    match fs::read(&path) {
        Ok(bytes) => Ok(keccak256(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(B256::ZERO),
        Err(cause) => Err(ImportError::Io { path, cause }),
    }
}
