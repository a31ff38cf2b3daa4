//! How long a sequence of a folder's model may be.

use crate::folder::Folder;

/// Tokens of a text at most, as `config.json` says it for the family; 2,048 where it says nothing.
pub(crate) fn context(folder: &Folder) -> usize {
    let keys = [
        "max_position_embeddings",
        "n_positions",
        "seq_length",
        "max_seq_len",
        "max_sequence_length",
    ];
    let positions = keys.iter().find_map(|key| folder.number(key)).unwrap_or(2048);
    let family = folder.family();
    let is_windowed = match family {
        // Their caches turn, or see no more than the window.
        "gemma3_text" | "modernbert" => false,
        // Positions are counted from behind the padding's id.
        "roberta" | "xlm-roberta" => {
            return positions.saturating_sub(folder.number("pad_token_id").unwrap_or(0) + 1);
        }
        // A state has no length of its own.
        "mamba" | "mamba2" | "rwkv5" | "rwkv6" | "rwkv7" => return 1 << 20,
        "qwen2" | "qwen2_moe" | "qwen3" | "qwen3_moe" | "smollm3" => {
            folder.says("use_sliding_window")
        }
        _ => true,
    };
    // Beyond a window candle's caches keep what the model must not see, so a sequence ends with it.
    let window = match family {
        "recurrent_gemma" => folder.number("attention_window_size"),
        _ => folder.number("sliding_window").filter(|_| is_windowed),
    };
    positions.min(window.unwrap_or(positions))
}
