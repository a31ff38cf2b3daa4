use hyperion_primitives::Mix;
use serde_json::json;

use super::*;

fn tokenizer(decoder: &Value, vocabulary: &[&str], special: &[&str]) -> Tokenizer {
    let vocab: serde_json::Map<String, Value> =
        vocabulary.iter().enumerate().map(|(id, token)| ((*token).to_owned(), id.into())).collect();
    let added: Vec<Value> = special
        .iter()
        .enumerate()
        .map(|(nth, token)| {
            json!({
                "id": vocabulary.len() + nth, "content": token, "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": nth == 0,
            })
        })
        .collect();
    let file = json!({
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": added,
        "normalizer": null, "pre_tokenizer": null, "post_processor": null, "decoder": decoder,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": true,
            "vocab": vocab, "merges": [],
        },
    });
    Tokenizer::from_bytes(file.to_string().as_bytes(), u32::MAX).unwrap()
}

fn joined(table: &TokenBytes, ids: &[u32]) -> Vec<u8> {
    ids.iter().flat_map(|id| table.of(*id)).copied().collect()
}

#[test]
fn byte_level_tokens_join_to_what_is_decoded() {
    let file = include_bytes!("../../../../../fixtures/pydoc/tokenizer.json");
    let tokenizer = Tokenizer::from_bytes(file, u32::MAX).unwrap();
    let table = tokenizer.token_bytes().unwrap();
    let highest = tokenizer.highest_id().unwrap();
    let mut mix = Mix::new(3);
    for length in 1..200 {
        let ids: Vec<u32> = (0..length).map(|_| mix.below(u64::from(highest) + 3) as u32).collect();
        let text = String::from_utf8_lossy(&joined(&table, &ids)).into_owned();
        assert_eq!(text, tokenizer.decode(&ids).unwrap());
    }
    for text in ["a  list, é漢🙂\n\n\tof `x`", " <|end|> "] {
        let ids = tokenizer.encode(text).unwrap();
        let written = String::from_utf8(joined(&table, &ids)).unwrap();
        assert_eq!(written, text.replace("<|end|>", ""), "special tokens write nothing");
    }
    let letters: Vec<char> = (0..0x180).filter_map(char::from_u32).collect();
    let mut bytes: Vec<u8> = letters.iter().filter_map(|letter| byte_of(*letter)).collect();
    bytes.sort_unstable();
    assert_eq!(bytes, (0..=u8::MAX).collect::<Vec<_>>(), "every byte has one letter");
}

#[test]
fn pieces_join_to_what_is_decoded_but_for_the_first_space() {
    let vocabulary = ["▁", "▁a", "b", "<0xC3>", "<0xA9>", "▁c▁d", "<0xZZ>", "é"];
    let replace = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    let (fallback, fuse) = (json!({"type": "ByteFallback"}), json!({"type": "Fuse"}));
    let sequence = json!({"type": "Sequence", "decoders": [replace, fallback, fuse, strip]});
    let bytes = tokenizer(&sequence, &vocabulary, &["<s>", "<tool x>"]);
    let scheme =
        json!({"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": true});
    let spaces = tokenizer(&scheme, &vocabulary, &["<s>", "<tool x>"]);
    for ids in [&[1, 2, 5, 7][..], &[8, 2, 0, 1, 9], &[1, 6, 8, 5, 99], &[2, 3, 4, 1], &[2]] {
        for (tokenizer, has_bytes) in [(&bytes, true), (&spaces, false)] {
            let table = tokenizer.token_bytes().unwrap();
            let text = String::from_utf8(joined(&table, ids)).unwrap();
            assert_eq!(text.strip_prefix(' ').unwrap_or(&text), tokenizer.decode(ids).unwrap());
            assert_eq!(table.of(3) == [0xc3], has_bytes);
            assert_eq!((table.of(8), table.of(9)), (&b""[..], &b"<tool x>"[..]));
        }
    }
}

#[test]
fn decoders_that_join_by_neighbours_have_no_byte_strings() {
    let word_piece = json!({"type": "WordPiece", "prefix": "##", "cleanup": true});
    let strip = json!({"type": "Strip", "content": " ", "start": 1, "stop": 0});
    for decoder in [Value::Null, word_piece, strip] {
        let refused = tokenizer(&decoder, &["a"], &[]).token_bytes().unwrap_err();
        assert!(matches!(refused, TokenizerError::Joined), "{refused}");
    }
}
