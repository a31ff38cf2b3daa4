use hyperion_verify::abi;
use proptest::prelude::*;

use super::*;

/// What decoding and encoding again says of the same bytes.
fn by_definition(bytes: &[u8]) -> bool {
    inferCall::abi_decode_raw_validate(bytes).is_ok_and(|call| call.abi_encode()[4..] == *bytes)
}

fn by_us(bytes: &[u8]) -> bool {
    let arguments = Arguments::new(bytes);
    InferHeader::read(&arguments).and_then(|header| header.rest(&arguments).map(drop)).is_ok()
}

fn encoding(input: Vec<u8>, sampling: abi::Sampling) -> Vec<u8> {
    let call = inferCall {
        modelId: B256::repeat_byte(7),
        input: input.into(),
        sampling,
        seed: B256::repeat_byte(9),
    };
    call.abi_encode()[4..].to_vec()
}

proptest! {
    #[test]
    fn the_header_takes_what_encoding_again_gives_back(
        len in 0..100_usize,
        penalty in any::<i32>(),
        edits in crate::calldata::mutation::edits(),
    ) {
        let sampling = abi::Sampling {
            temperatureQ16: 5,
            topK: u32::MAX,
            topPQ16: 0,
            frequencyQ16: penalty,
            presenceQ16: -1,
            tokensMax: 3,
            stopHash: B256::ZERO,
        };
        let mut bytes = encoding(vec![1; len], sampling);
        prop_assert!(by_us(&bytes) && by_definition(&bytes));
        for edit in edits {
            edit.apply(&mut bytes);
            prop_assert_eq!(by_us(&bytes), by_definition(&bytes));
        }
    }
}

#[test]
fn dirty_padding_trailing_bytes_and_other_offsets_are_refused() {
    let clean = encoding(vec![1; 33], abi::Sampling::default_zero());
    assert!(by_us(&clean));
    type Edit = fn(&mut Vec<u8>);
    let edits: [(&str, Edit); 6] = [
        ("a trailing word", |bytes| bytes.extend([0; 32])),
        ("a trailing byte", |bytes| bytes.push(0)),
        ("a byte short", |bytes| bytes.truncate(bytes.len() - 1)),
        ("dirty padding", |bytes| *bytes.last_mut().unwrap() = 1),
        ("another offset", |bytes| bytes[63] += 32),
        ("a longer length", |bytes| bytes[351] = 65),
    ];
    for (name, edit) in edits {
        let mut bytes = clean.clone();
        edit(&mut bytes);
        assert!(!by_us(&bytes), "{name}");
        assert!(!by_definition(&bytes), "{name}");
    }
}

trait Zero {
    fn default_zero() -> Self;
}

impl Zero for abi::Sampling {
    fn default_zero() -> Self {
        Self {
            temperatureQ16: 0,
            topK: 0,
            topPQ16: 0,
            frequencyQ16: 0,
            presenceQ16: 0,
            tokensMax: 0,
            stopHash: B256::ZERO,
        }
    }
}
