//! Generators for benches: the committed text model, and shapes of published models with seeded random weights.
#![allow(dead_code, reason = "each bench uses its part")]

use std::{
    fs,
    io::{BufWriter, Cursor, Write},
    path::{Path, PathBuf},
    sync::Arc,
};

use hyperion_model::{Model, Trust, import};
use hyperion_primitives::Mix;
use serde_json::json;

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

/// A model of this shape with seeded random weights, imported like any other: its text is noise, its work is real.
pub fn random(shape: Shape) -> Arc<Model> {
    let folder = std::env::temp_dir().join(format!("hyperion-bench-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("a temporary folder");
    write_folder(shape, &folder);
    let file = folder.join("model.hyp");
    let mut out = BufWriter::new(fs::File::create(&file).expect("a file"));
    import::write(&folder, &mut out, &mut |_, _| {}).expect("a Llama");
    out.flush().expect("the disk has room");
    let model = Model::open(&file, Trust::Roots).expect("what was just written");
    fs::remove_dir_all(&folder).expect("the bench's own folder");
    Arc::new(model)
}

fn write_folder(shape: Shape, folder: &Path) {
    let Shape { hidden, inner, layers, heads, kv_heads, vocabulary, context, .. } = shape;
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": hidden,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "hidden_act": "silu", "vocab_size": vocabulary,
        "max_position_embeddings": context, "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
        "tie_word_embeddings": false, "bos_token_id": 1, "eos_token_id": 2,
    });
    fs::write(folder.join("config.json"), config.to_string()).expect("the disk has room");
    let (kv, mut tensors) = (hidden / heads * kv_heads, Vec::new());
    tensors.push(("model.embed_tokens.weight".to_owned(), vec![vocabulary, hidden]));
    for layer in 0..layers {
        for (name, rows, columns) in [
            ("self_attn.q_proj", hidden, hidden),
            ("self_attn.k_proj", kv, hidden),
            ("self_attn.v_proj", kv, hidden),
            ("self_attn.o_proj", hidden, hidden),
            ("mlp.gate_proj", inner, hidden),
            ("mlp.up_proj", inner, hidden),
            ("mlp.down_proj", hidden, inner),
        ] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), vec![rows, columns]));
        }
        for name in ["input_layernorm", "post_attention_layernorm"] {
            tensors.push((format!("model.layers.{layer}.{name}.weight"), vec![hidden]));
        }
    }
    tensors.push(("model.norm.weight".to_owned(), vec![hidden]));
    tensors.push(("lm_head.weight".to_owned(), vec![vocabulary, hidden]));
    let mut header = serde_json::Map::new();
    let mut at = 0_usize;
    for (name, dims) in &tensors {
        let bytes = 2 * dims.iter().product::<usize>();
        let value = json!({"dtype": "BF16", "shape": dims, "data_offsets": [at, at + bytes]});
        header.insert(name.clone(), value);
        at += bytes;
    }
    let mut header = serde_json::Value::Object(header).to_string();
    while !header.len().is_multiple_of(8) {
        header.push(' ');
    }
    let file = fs::File::create(folder.join("model.safetensors")).expect("a file");
    let mut out = BufWriter::with_capacity(1 << 20, file);
    out.write_all(&(header.len() as u64).to_le_bytes()).expect("the disk has room");
    out.write_all(header.as_bytes()).expect("the disk has room");
    let mut mix = Mix::new(7);
    for (_, dims) in &tensors {
        let elements = dims.iter().product::<usize>();
        // Norms are 1; weights are uniform with the variance 1 / columns.
        let scale = dims.get(1).map(|columns| (3.0 / *columns as f32).sqrt());
        let mut bytes = Vec::with_capacity(2 * elements);
        while bytes.len() < 2 * elements {
            let word = mix.u64();
            for part in 0..4 {
                let uniform = f32::from((word >> (16 * part)) as u16 as i16) / 32_768.0;
                let value = scale.map_or(1.0, |scale| uniform * scale);
                bytes.extend(((value.to_bits() >> 16) as u16).to_le_bytes());
            }
        }
        bytes.truncate(2 * elements);
        out.write_all(&bytes).expect("the disk has room");
    }
    out.flush().expect("the disk has room");
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
