//! Who signed, and that there is one way to say so.

mod common;

use common::{bytes, claim_vectors, vector_domain};
use hyperion_primitives::{Address, U256};
use hyperion_verify::{ClaimError, SignatureError, SignedClaim, claim::TIER_MAX};

/// Ethereum took both `s` and its negative until EIP-2, and libraries still differ in which `v` they take: each such
/// pair is one claim under two names in the log.
#[test]
fn a_signature_has_one_form() {
    type Change<'a> = &'a dyn Fn(&mut [u8; 65]);
    let vectors = claim_vectors();
    let domain = vector_domain(&vectors);
    let good = SignedClaim::from_entry(&bytes(&vectors["claim_a"]["entry"])).unwrap();
    let order =
        hex::decode("fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141").unwrap();
    let high_s: Vec<u8> = {
        let (n, s) = (U256::from_be_slice(&order), U256::from_be_slice(&good.signature[32..64]));
        (n - s).to_be_bytes_vec()
    };
    let with = |change: Change<'_>| {
        let mut changed = good.clone();
        change(&mut changed.signature);
        changed.check(&domain)
    };
    let v = good.signature[64];
    let cases: [(&str, Change<'_>, ClaimError); 7] = [
        ("v of 0", &|s| s[64] = 0, SignatureError::RecoveryByte { got: 0 }.into()),
        ("v of 1", &|s| s[64] = 1, SignatureError::RecoveryByte { got: 1 }.into()),
        ("v of 29", &|s| s[64] = 29, SignatureError::RecoveryByte { got: 29 }.into()),
        (
            "the mirror image",
            &|s| {
                s[32..64].copy_from_slice(&high_s);
                s[64] = 55 - v;
            },
            SignatureError::HighS.into(),
        ),
        ("r of zero", &|s| s[..32].fill(0), SignatureError::Scalar.into()),
        ("s of zero", &|s| s[32..64].fill(0), SignatureError::Scalar.into()),
        ("r of the order", &|s| s[..32].copy_from_slice(&order), SignatureError::Scalar.into()),
    ];
    for (name, change, want) in cases {
        assert_eq!(with(change), Err(want), "{name}");
    }
    let other_key = with(&|s| s[64] = 55 - v).unwrap_err();
    assert!(
        matches!(other_key, ClaimError::SignerMismatch { want, .. } if want == good.claim.worker)
            || other_key == SignatureError::NoSigner.into(),
        "the other recovery byte is another key: {other_key}"
    );
}

/// A zero worker is what a failed `ecrecover` returns: a claim that names it would be signed by everybody.
#[test]
fn nobody_signs_for_the_zero_address() {
    let vectors = claim_vectors();
    let domain = vector_domain(&vectors);
    let mut signed = SignedClaim::from_entry(&bytes(&vectors["claim_a"]["entry"])).unwrap();
    signed.claim.worker = Address::ZERO;
    let refused = ClaimError::NoWorker { tier: 4 };
    assert_eq!(signed.check(&domain), Err(refused));
    assert_eq!(SignedClaim::from_entry(&signed.entry()), Err(refused));
    signed.signature = [0; 65];
    assert_eq!(signed.check(&domain), Err(refused), "no signature, but tier 4");
    signed.claim.tier = 0;
    assert_eq!(signed.check(&domain), Ok(()), "a block's own result");
    assert!(signed.is_of_block());
    assert_eq!(SignedClaim::of_block(signed.claim.clone()), signed);
    assert_eq!(SignedClaim::from_entry(&signed.entry()).as_ref(), Ok(&signed));
    signed.signature[64] = 27;
    assert_eq!(signed.check(&domain), Err(ClaimError::NoWorker { tier: 0 }));
}

#[test]
fn a_tier_that_does_not_exist_is_refused() {
    let vectors = claim_vectors();
    let domain = vector_domain(&vectors);
    let mut signed = SignedClaim::from_entry(&bytes(&vectors["claim_a"]["entry"])).unwrap();
    signed.claim.tier = TIER_MAX;
    assert_eq!(SignedClaim::from_entry(&signed.entry()).as_ref(), Ok(&signed));
    signed.claim.tier = TIER_MAX + 1;
    let refused = ClaimError::Tier { got: TIER_MAX + 1 };
    assert_eq!(SignedClaim::from_entry(&signed.entry()), Err(refused));
    assert_eq!(signed.check(&domain), Err(refused));
}
