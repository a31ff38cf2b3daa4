//! A worker's proof of its key, against the vector of the specification.
#![expect(clippy::unwrap_used, reason = "what does not parse fails its test")]

mod common;

use common::{claim_vectors, vector_domain};
use hyperion_primitives::{Address, B256, keccak256};
use hyperion_verify::{
    SignatureError,
    attach::{Attach, AttachError},
    sign::{self, SigningKey},
};

fn vector() -> (SigningKey, Attach) {
    let secret = &claim_vectors()["keys"]["worker_secret"];
    let key = SigningKey::from_slice(&hex::decode(secret.as_str().unwrap()).unwrap()).unwrap();
    let attach = Attach {
        worker: sign::address(&key),
        node: "0x70997970C51812dc3A010C7d01b50e0d17dc79C8".parse().unwrap(),
        session: keccak256("hyperion vector session"),
        build: keccak256("hyperion vector build"),
        expires: 1_800_000_000,
    };
    (key, attach)
}

#[test]
fn digest_and_signature_are_those_of_the_vector() {
    let (key, attach) = vector();
    let domain = vector_domain(&claim_vectors());
    let digest = attach.digest(&domain);
    assert_eq!(
        digest.to_string(),
        "0x00707b1255facc2813845841737fda6d28a969a47f2792f3ae6aa3762f641502"
    );
    let signature = sign::sign(&key, &digest);
    assert_eq!(
        hex::encode(signature),
        "05d9fa602ad06d8a889e8fc87bc7beff1c27a17ffb159d2b8039eecea9a9b40a\
         5f8f6a86c04782b43f2e1cb9254a150963bef3bf38fe047906dc381fec6c02c31c"
    );
    assert_eq!(attach.check(&domain, &signature), Ok(()));
}

#[test]
fn every_field_is_signed() {
    let (key, attach) = vector();
    let domain = vector_domain(&claim_vectors());
    let signature = sign::sign(&key, &attach.digest(&domain));
    let cases: [(&str, Attach); 5] = [
        ("worker", Attach { worker: Address::repeat_byte(1), ..attach.clone() }),
        ("node", Attach { node: Address::repeat_byte(1), ..attach.clone() }),
        ("session", Attach { session: B256::repeat_byte(1), ..attach.clone() }),
        ("build", Attach { build: B256::ZERO, ..attach.clone() }),
        ("expires", Attach { expires: 1_800_000_001, ..attach }),
    ];
    for (name, changed) in cases {
        let refused = changed.check(&domain, &signature);
        assert!(matches!(refused, Err(AttachError::Signer { .. })), "{name}: {refused:?}");
    }
    let mut odd = signature;
    odd[64] = 0;
    let want = AttachError::Signature(SignatureError::RecoveryByte { got: 0 });
    assert_eq!(attach.check(&domain, &odd), Err(want));
}
