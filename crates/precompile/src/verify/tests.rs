use hyperion_primitives::B256;
use hyperion_verify::abi;
use proptest::prelude::*;

use super::*;
use crate::calldata::mutation::edits;

fn root_by_us(bytes: &[u8]) -> bool {
    let arguments = Arguments::new(bytes);
    RootHeader::read(&arguments).and_then(|header| header.rest(&arguments).map(drop)).is_ok()
}

/// Decoding and encoding again, and what no tensor has.
fn root_by_definition(bytes: &[u8]) -> bool {
    tensorRootCall::abi_decode_raw_validate(bytes).is_ok_and(|call| {
        call.abi_encode()[4..] == *bytes
            && Dtype::from_code(call.dtype).is_some()
            && (1..=RANK_MAX).contains(&call.dims.len())
    })
}

fn receipt_by_us(bytes: &[u8]) -> bool {
    let arguments = Arguments::new(bytes);
    ReceiptHeader::read(&arguments).and_then(|header| header.rest(&arguments).map(drop)).is_ok()
}

/// Decoding and encoding again, and what no receipt has.
fn receipt_by_definition(bytes: &[u8]) -> bool {
    verifyReceiptCall::abi_decode_raw_validate(bytes).is_ok_and(|call| {
        call.abi_encode()[4..] == *bytes
            && call.signature.len() == SIGNATURE_BYTES
            && call.proof.path.len() <= PATH_MAX
    })
}

proptest! {
    #[test]
    fn tensor_root_takes_what_encoding_again_gives_back(
        dims in prop::collection::vec(any::<u64>(), 0..10),
        len in 0..70_usize,
        edits in edits(),
    ) {
        let call = tensorRootCall { dtype: 5, dims, data: vec![3; len].into() };
        let mut bytes = call.abi_encode()[4..].to_vec();
        prop_assert_eq!(root_by_us(&bytes), root_by_definition(&bytes));
        for edit in edits {
            edit.apply(&mut bytes);
            prop_assert_eq!(root_by_us(&bytes), root_by_definition(&bytes));
        }
    }

    #[test]
    fn verify_receipt_takes_what_encoding_again_gives_back(
        signature_bytes in prop_oneof![Just(65_usize), 0..70_usize],
        path in prop::collection::vec(any::<[u8; 32]>(), 0..4),
        edits in edits(),
    ) {
        let call = verifyReceiptCall {
            claim: abi::InferenceClaim::from(&Claim::default()),
            signature: vec![1; signature_bytes].into(),
            proof: abi::Inclusion {
                index: 3,
                size: 9,
                path: path.into_iter().map(B256::from).collect(),
            },
        };
        let mut bytes = call.abi_encode()[4..].to_vec();
        prop_assert_eq!(receipt_by_us(&bytes), receipt_by_definition(&bytes));
        for edit in edits {
            edit.apply(&mut bytes);
            prop_assert_eq!(receipt_by_us(&bytes), receipt_by_definition(&bytes));
        }
    }
}
