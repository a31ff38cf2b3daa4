//! Generators for benches: the committed text model, and shapes of published models with seeded random weights.
#![allow(dead_code, reason = "each bench uses its part")]

use std::{
    fs,
    io::{self, BufWriter, Cursor, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use hyperion_model::{
    Model, Trust,
    import::{self, Precision},
};
use hyperion_primitives::Mix;

/// The folder of the committed text model.
pub fn pydoc_folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/pydoc")
}

/// The committed text model.
pub fn pydoc() -> Arc<Model> {
    in_memory(&pydoc_folder())
}

/// Sizes of a Llama.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub name: &'static str,
    pub hidden: usize,
    pub inner: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub vocabulary: usize,
    pub context: usize,
}

/// TinyLlama-1.1B.
pub const SMALL: Shape = Shape {
    name: "1.1B",
    hidden: 2048,
    inner: 5632,
    layers: 22,
    heads: 32,
    kv_heads: 4,
    vocabulary: 32_000,
    context: 2048,
};

/// Llama-3-8B with a quarter of its 32 layers, which are all alike, so that model and peers fit an ordinary machine.
pub const LARGE: Shape = Shape {
    name: "8B-quarter",
    hidden: 4096,
    inner: 14_336,
    layers: 8,
    heads: 32,
    kv_heads: 8,
    vocabulary: 128_256,
    context: 2048,
};

/// A file of a model of this shape with seeded random weights in `Q8_0`, as llama.cpp reads it: its text is noise, its work is
/// real. It is written once and kept beside what tests fetch.
pub fn gguf(shape: Shape) -> PathBuf {
    let path = kept(&format!("{}.gguf", shape.name));
    if !path.exists() {
        let part = kept(&format!("{}.gguf.part", shape.name));
        write_gguf(shape, &part).expect("the disk has room");
        fs::rename(&part, &path).expect("a name in the same folder");
    }
    path
}

/// The same weights imported like any other file; kept too.
pub fn random(shape: Shape, precision: Precision) -> Arc<Model> {
    let name = match precision {
        Precision::EightBits => shape.name.to_owned(),
        other => format!("{}-{}", shape.name, other.name()),
    };
    let path = kept(&format!("{name}.hyp"));
    if !path.exists() {
        let part = kept(&format!("{name}.hyp.part"));
        import::to_file(&gguf(shape), precision, &part, &mut |_, _| {}).expect("a Llama");
        fs::rename(&part, &path).expect("a name in the same folder");
    }
    Arc::new(Model::open(&path, Trust::Roots).expect("what was written"))
}

fn kept(name: &str) -> PathBuf {
    let home =
        || PathBuf::from(std::env::var_os("HOME").expect("a home folder")).join(".cache/hyperion");
    let cache = std::env::var_os("HYPERION_FIXTURES").map_or_else(home, PathBuf::from);
    let folder = cache.join("shapes");
    fs::create_dir_all(&folder).expect("a folder");
    folder.join(name)
}

/// Format numbers of GGUF's tensors.
const F32: u32 = 0;
const Q8_0: u32 = 8;
/// Weights of a block of `Q8_0`, which share a scale of 16 bits.
const BLOCK: usize = 32;

/// The file: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.
fn write_gguf(shape: Shape, path: &Path) -> io::Result<()> {
    let Shape { hidden, inner, layers, heads, kv_heads, vocabulary, context, .. } = shape;
    let (kv, mut tensors) = (hidden / heads * kv_heads, Vec::new());
    tensors.push(("token_embd.weight".to_owned(), vec![vocabulary, hidden]));
    for layer in 0..layers {
        for (name, rows, columns) in [
            ("attn_q", hidden, hidden),
            ("attn_k", kv, hidden),
            ("attn_v", kv, hidden),
            ("attn_output", hidden, hidden),
            ("ffn_gate", inner, hidden),
            ("ffn_up", inner, hidden),
            ("ffn_down", hidden, inner),
        ] {
            tensors.push((format!("blk.{layer}.{name}.weight"), vec![rows, columns]));
        }
        for name in ["attn_norm", "ffn_norm"] {
            tensors.push((format!("blk.{layer}.{name}.weight"), vec![hidden]));
        }
    }
    tensors.push(("output_norm.weight".to_owned(), vec![hidden]));
    tensors.push(("output.weight".to_owned(), vec![vocabulary, hidden]));

    let mut header = Header::default();
    header.bytes.extend(b"GGUF");
    header.u32(3);
    header.u64(tensors.len());
    header.u64(13);
    header.text("general.architecture", "llama");
    header.text("general.name", shape.name);
    header.text("tokenizer.ggml.model", "no_vocab");
    for (key, value) in [
        ("vocab_size", vocabulary),
        ("context_length", context),
        ("embedding_length", hidden),
        ("block_count", layers),
        ("feed_forward_length", inner),
        ("attention.head_count", heads),
        ("attention.head_count_kv", kv_heads),
        ("rope.dimension_count", hidden / heads),
    ] {
        header.number(key, 4, &u32::try_from(value).expect("a size").to_le_bytes());
    }
    header.number("attention.layer_norm_rms_epsilon", 6, &1e-5_f32.to_le_bytes());
    header.number("rope.freq_base", 6, &10_000_f32.to_le_bytes());
    let mut at = 0;
    for (name, dims) in &tensors {
        header.string(name);
        header.u32(dims.len() as u32);
        dims.iter().rev().for_each(|dim| header.u64(*dim));
        header.u32(if dims.len() == 1 { F32 } else { Q8_0 });
        header.u64(at);
        let elements: usize = dims.iter().product();
        at += if dims.len() == 1 { 4 * elements } else { elements / BLOCK * (BLOCK + 2) };
        // Tensors begin at multiples of 32 bytes.
        at = at.next_multiple_of(32);
    }
    let mut out = BufWriter::with_capacity(1 << 20, fs::File::create(path)?);
    header.bytes.resize(header.bytes.len().next_multiple_of(32), 0);
    out.write_all(&header.bytes)?;
    let mut mix = Mix::new(7);
    for (_, dims) in &tensors {
        let mut bytes = Vec::new();
        let elements: usize = dims.iter().product();
        match dims.get(1) {
            None => (0..elements).for_each(|_| bytes.extend(1_f32.to_le_bytes())),
            Some(columns) => {
                // Uniform codes with the variance 1 / columns, and scales up to a quarter below and 3/16 above.
                let step = (3.0 / *columns as f32).sqrt() / 127.0;
                for _ in 0..elements / BLOCK {
                    let scale = step * (1.0 + mix.i32(2) as f32 / 16.0);
                    bytes.extend(half_bits(scale).to_le_bytes());
                    for _ in 0..BLOCK / 8 {
                        bytes.extend(
                            mix.u64()
                                .to_le_bytes()
                                .map(|byte| if byte == 0x80 { 0x81 } else { byte }),
                        );
                    }
                }
            }
        }
        bytes.resize(bytes.len().next_multiple_of(32), 0);
        out.write_all(&bytes)?;
    }
    out.flush()
}

/// A normal number of 16 bits, its fraction cut off.
fn half_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let exponent = (bits >> 23 & 255) as i32 - 127 + 15;
    assert!((1..31).contains(&exponent), "a scale is a normal half");
    (exponent as u16) << 10 | (bits >> 13 & 1023) as u16
}

/// The head of a GGUF file under construction.
#[derive(Default)]
struct Header {
    bytes: Vec<u8>,
}

impl Header {
    fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: usize) {
        self.bytes.extend((value as u64).to_le_bytes());
    }

    fn string(&mut self, text: &str) {
        self.u64(text.len());
        self.bytes.extend(text.as_bytes());
    }

    fn text(&mut self, key: &str, value: &str) {
        self.string(key);
        self.u32(8);
        self.string(value);
    }

    /// A number of the architecture: 4 for u32, 6 for f32.
    fn number(&mut self, key: &str, kind: u32, bytes: &[u8; 4]) {
        self.string(&format!("llama.{key}"));
        self.u32(kind);
        self.bytes.extend(bytes);
    }
}

/// The committed text model with the sign of every `every`th weight turned: another model with the same tokens, the more alike the larger
/// `every` is.
pub fn altered(every: usize) -> Arc<Model> {
    let folder =
        std::env::temp_dir().join(format!("hyperion-bench-altered-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    for name in ["config.json", "tokenizer.json", "generation_config.json"] {
        fs::copy(pydoc_folder().join(name), folder.join(name)).expect("the committed model");
    }
    let mut weights = fs::read(pydoc_folder().join("model.safetensors")).expect("the weights");
    let header = u64::from_le_bytes(weights[..8].try_into().expect("8 bytes")) as usize;
    // The sign of a bfloat16 is the highest bit of its second byte.
    for at in (8 + header + 1..weights.len()).step_by(2 * every) {
        weights[at] ^= 0x80;
    }
    fs::write(folder.join("model.safetensors"), weights).expect("the disk has room");
    let model = in_memory(&folder);
    fs::remove_dir_all(&folder).expect("the bench's own folder");
    model
}

fn in_memory(folder: &Path) -> Arc<Model> {
    let mut file = Cursor::new(Vec::new());
    import::write(folder, &mut file, &mut |_, _| {}).expect("a Llama");
    Arc::new(Model::from_bytes(file.into_inner(), Trust::Roots).expect("what was just written"))
}

/// Token ids of an answer or a prompt.
pub fn ids(data: &[u8]) -> Vec<u32> {
    data.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// Token ids as an input.
pub fn bytes(ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}
