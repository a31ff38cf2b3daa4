//! Text becomes token ids that the model takes, by the very file that the model was made with.

use hyperion_model::{Tokenizer, TokenizerError};
use hyperion_primitives::{B256, keccak256};
use serde_json::json;

/// A word-piece tokenizer as encoders have it, with padding and truncation of its own.
fn file() -> Vec<u8> {
    let special = |id: u32, content: &str| {
        json!({"id": id, "content": content, "special": true, "single_word": false, "lstrip": false,
               "rstrip": false, "normalized": false})
    };
    let words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "##b", "claim", "log"];
    let vocabulary: serde_json::Map<_, _> =
        (0..).zip(words).map(|(id, word)| (word.to_owned(), json!(id))).collect();
    let tokenizer = json!({
        "version": "1.0",
        "truncation": {"max_length": 3, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
        "padding": {"strategy": {"Fixed": 16}, "direction": "Right", "pad_to_multiple_of": null, "pad_id": 0,
                    "pad_type_id": 0, "pad_token": "[PAD]"},
        "added_tokens": [special(0, "[PAD]"), special(1, "[UNK]"), special(2, "[CLS]"), special(3, "[SEP]")],
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                       "strip_accents": null, "lowercase": true},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]},
        "decoder": null,
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": vocabulary},
    });
    tokenizer.to_string().into_bytes()
}

#[test]
fn a_text_is_framed_cut_to_the_model_and_never_padded() {
    let cases: [(&str, &str, u32, &[u32]); 5] = [
        ("two words", "Claim log", 16, &[2, 6, 7, 3]),
        ("pieces and the unknown", "ab q", 16, &[2, 4, 5, 1, 3]),
        ("nothing", "", 16, &[2, 3]),
        ("just too long", "log log log", 4, &[2, 7, 7, 3]),
        ("one word fits", "log log", 3, &[2, 7, 3]),
    ];
    for (name, text, tokens_max, want) in cases {
        let tokenizer = Tokenizer::from_bytes(&file(), tokens_max).unwrap();
        assert_eq!(tokenizer.encode(text).unwrap(), want, "{name}");
    }
}

#[test]
fn a_model_without_room_for_a_text_is_refused() {
    // The crate subtracts the special tokens from the limit without looking.
    for tokens_max in [0, 1, 2] {
        let error = Tokenizer::from_bytes(&file(), tokens_max).unwrap_err();
        assert!(matches!(error, TokenizerError::Room { special: 2, .. }), "{tokens_max}: {error}");
    }
}

#[test]
fn another_file_is_not_the_models_tokenizer() {
    let hash = keccak256(file());
    let tokenizer = || Tokenizer::from_bytes(&file(), 16).unwrap();
    assert_eq!(tokenizer().hash(), hash);
    assert!(tokenizer().for_model(hash).is_ok());
    let error = tokenizer().for_model(B256::ZERO).unwrap_err();
    assert!(
        matches!(error, TokenizerError::Hash { got, want } if got == hash && want == B256::ZERO)
    );
    assert!(matches!(Tokenizer::from_bytes(b"{}", 16), Err(TokenizerError::Format(_))));
}
