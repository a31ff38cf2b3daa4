//! From files to a model.

use std::{io::Cursor, path::Path, sync::Arc};

use candle_core::{
    DType, Device, Tensor,
    quantized::gguf_file::{Content, Value},
};

use crate::{
    Facts, Family, FloatError, FloatModel, Kind, Net, Options, Source,
    context::context,
    facts::Advice,
    family::{self, quantized},
    folder::Folder,
    pooling::Pooling,
};

/// Images of one request at most.
const IMAGES_MAX: u32 = 32;

/// Loads a Hugging Face folder of the family that `named` finds for its name.
pub(crate) fn folder<'a>(
    path: &Path,
    options: &Options,
    named: impl FnOnce(&str) -> Result<&'a Family, String>,
) -> Result<FloatModel, FloatError> {
    let mut folder = Folder::open(path)?;
    let device = options.device()?;
    let published = if folder.has("torch_dtype") { "torch_dtype" } else { "dtype" };
    let dtype = options.dtype(&device, folder.text(published))?;
    if folder.has("quantization_config") {
        return Err(folder.unsupported("quantized weights are not read"));
    }
    let family = folder.family().to_owned();
    let known =
        named(&family).map_err(|why| folder.unsupported(format!("model_type `{family}` {why}")))?;
    let pooling = Pooling::of(&mut folder)?;
    let tokenizer = folder.tokenizer()?;
    let mut tensors = folder.weights(dtype, &device)?;
    let id = folder.identity(&family, &device, dtype.as_str());
    family::prepare(&mut folder)?;
    family::tie(&mut folder, &mut tensors);
    let mut net = (known.load)(&Source::new(&folder, tensors, dtype, &device))?;
    let kind = kind(&mut net, dtype, &device)?;
    let maps = matches!(kind, Kind::Maps { .. });
    let facts = Facts {
        id,
        family,
        vocabulary: if maps { 0 } else { vocabulary(&folder)? },
        rows_max: if maps {
            IMAGES_MAX
        } else {
            u32::try_from(context(&folder)).unwrap_or(u32::MAX)
        },
        kind,
        tokenizer,
        advice: Advice::default(),
        runs_on: format!("{} {}", options.device, dtype.as_str()),
    };
    Ok(FloatModel::new(Arc::new(facts), (device, dtype), net, pooling))
}

/// Loads a GGUF file.
pub(crate) fn gguf(path: &Path, options: &Options) -> Result<FloatModel, FloatError> {
    let refused = |what: String| FloatError::Unsupported { path: path.to_path_buf(), what };
    let mut folder = Folder::bare(path.parent().unwrap_or(Path::new(".")));
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let device = options.device()?;
    let tokenizer = folder.tokenizer()?;
    let mut file = Cursor::new(folder.read_as(name, "model.gguf")?);
    let content = Content::read(&mut file)?;
    let text =
        |key: &str| content.metadata.get(key).and_then(|value| value.to_string().ok().cloned());
    let family = text("general.architecture").unwrap_or_default();
    let known = quantized::QUANTIZED.iter().find(|known| known.names.contains(&&*family));
    let known = known.ok_or_else(|| {
        let names: Vec<&str> =
            quantized::QUANTIZED.iter().flat_map(|known| known.names).copied().collect();
        refused(format!("general.architecture `{family}` is none of {}", names.join(", ")))
    })?;
    quantized::check(&content).map_err(refused)?;
    let number = |key: &str| content.metadata.get(key).and_then(whole);
    let context = number(&format!("{family}.context_length")).unwrap_or(2048);
    let embedding = content.tensor_infos.get("token_embd.weight");
    let vocabulary = embedding.and_then(|tensor| tensor.shape.dims().first().copied());
    let vocabulary = vocabulary.and_then(|rows| u32::try_from(rows).ok());
    let end_id = number("tokenizer.ggml.eos_token_id").and_then(|id| u32::try_from(id).ok());
    let facts = Facts {
        id: folder.identity(&family, &device, "gguf"),
        kind: Kind::Generates,
        vocabulary: vocabulary.ok_or_else(|| refused("token_embd.weight is missing".to_owned()))?,
        rows_max: u32::try_from(known.context_max.map_or(context, |most| context.min(most)))
            .unwrap_or(u32::MAX),
        tokenizer,
        advice: Advice {
            end_ids: end_id.into_iter().collect(),
            chat_template: text("tokenizer.chat_template"),
        },
        runs_on: format!("{} gguf", options.device),
        family,
    };
    let net = (known.load)(content, &mut file, &device)?;
    Ok(FloatModel::new(Arc::new(facts), (device, DType::F32), net, Pooling::Mean))
}

/// What a model gives. How wide a row of numbers comes out, only a run says: of an image that is black.
fn kind(net: &mut Net, dtype: DType, device: &Device) -> Result<Kind, FloatError> {
    let narrow = |width: usize| u32::try_from(width).unwrap_or(u32::MAX);
    Ok(match net {
        Net::Generates(_) => Kind::Generates,
        Net::Embeds { width, .. } => Kind::Embeds { width: narrow(*width) },
        Net::Maps { map, row } => {
            let image = Tensor::zeros([&[1], &row[..]].concat(), dtype, device)?;
            Kind::Maps { row: row.clone(), width: narrow(map(&image)?.elem_count()) }
        }
    })
}

fn vocabulary(folder: &Folder) -> Result<u32, FloatError> {
    let size = folder.number("vocab_size").or_else(|| folder.number("padded_vocab_size"));
    let size = size.and_then(|size| u32::try_from(size).ok());
    size.ok_or_else(|| folder.unsupported("vocab_size is missing"))
}

fn whole(value: &Value) -> Option<usize> {
    let number = value.to_u64().or_else(|_| value.to_u32().map(u64::from)).ok()?;
    usize::try_from(number).ok()
}
