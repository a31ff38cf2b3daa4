//! Receipts: the vectors, the order of checks, and that a changed byte never changes what is proved.

mod common;

use common::{DOMAIN, Log, bytes, draw, flips, store_vectors, text, vector_request};
use hyperion_primitives::{Address, B256, Mix, RequestId, U256};
use hyperion_verify::{
    Claim, ClaimError, Domain, Receipt, ReceiptError, SignatureError, Trust,
    claim::{Request, RequestError},
    log::InclusionError,
    note::NoteError,
    receipt::{AnswerError, RECEIPT_BYTES_MAX, check_request},
};

#[test]
fn the_receipt_of_the_vectors_reads_and_writes() {
    let vectors = &store_vectors()["block"];
    let want = text(&vectors["receipt"]);
    let receipt: Receipt = want.parse().unwrap();
    assert_eq!(receipt.to_string(), want);
    assert_eq!(receipt.entry, bytes(&vectors["claim_entry"]));
    assert_eq!(receipt.index, 1);
    assert_eq!(receipt.check_inclusion(), Ok(()));
    assert_eq!(receipt.note.to_string(), text(&vectors["checkpoint"]));
}

#[test]
fn a_receipt_of_each_entry_holds() {
    for count in [1, 2, 3, 7, 8, 20] {
        let log = Log::of(count);
        for index in 0..count {
            let receipt = log.receipt(index.into());
            let text = receipt.to_string();
            assert_eq!(text.parse().as_ref(), Ok(&receipt));
            let claim = receipt.check(&log.trust, Some(&[Log::output(index)])).unwrap();
            assert_eq!(claim, log.claims[usize::from(index)]);
        }
    }
}

/// Each case breaks one thing more than the case after it; the first broken in the order of checks is named.
#[test]
fn the_first_thing_wrong_is_named() {
    let log = Log::of(6);
    let good = log.receipt(2);
    let wrong_output = [Log::output(3)];
    let mut trust = log.trust;
    let check =
        |receipt: &Receipt, trust: &Trust| receipt.check(trust, Some(&wrong_output)).unwrap_err();

    let output = check(&good, &trust);
    assert!(matches!(output, ReceiptError::Output { .. }), "{output}");
    assert!(output.to_string().starts_with("output: "), "{output}");

    trust.witnesses_min = 2;
    assert_eq!(check(&good, &trust), ReceiptError::Witnesses { got: 1, want: 2 });

    let mut unsigned = good;
    unsigned.note.signatures.remove(0);
    let name = trust.log.name().to_owned();
    assert_eq!(check(&unsigned, &trust), ReceiptError::Checkpoint(NoteError::Unsigned { name }));

    let mut elsewhere = unsigned.clone();
    elsewhere.index = 3;
    let inclusion = check(&elsewhere, &trust);
    assert!(matches!(inclusion, ReceiptError::Inclusion(InclusionError::Root { .. })));
    assert!(inclusion.to_string().starts_with("log: "), "{inclusion}");
    elsewhere.index = 6;
    let outside = InclusionError::IndexOutOfTree { index: 6, size: 6 };
    assert_eq!(check(&elsewhere, &trust), outside.into());

    let mut resigned = elsewhere;
    resigned.entry[241] ^= 1;
    let signature = check(&resigned, &trust);
    assert!(matches!(signature, ReceiptError::Claim(ClaimError::SignerMismatch { .. })));
    assert!(signature.to_string().starts_with("signature: recovered 0x"), "{signature}");

    let mut form = resigned.clone();
    form.entry[335] = 1;
    let want = ClaimError::Signature(SignatureError::RecoveryByte { got: 1 });
    assert_eq!(check(&form, &trust), want.into());
    form.entry.pop();
    assert_eq!(check(&form, &trust), ClaimError::Length { got: 335 }.into());
}

#[test]
fn a_receipt_with_one_byte_changed_is_refused_or_proves_the_same() {
    let log = Log::of(5);
    let good = log.receipt(3);
    for (at, changed) in flips(good.to_string().as_bytes()) {
        let Ok(changed) = String::from_utf8(changed) else { continue };
        let Ok(receipt) = changed.parse::<Receipt>() else { continue };
        assert_eq!(receipt.to_string(), changed, "byte {at}: two texts of one receipt");
        let proved = receipt.check(&log.trust, Some(&[Log::output(3)]));
        assert!(proved.is_err(), "byte {at} changed, still accepted: {changed}");
    }
}

#[test]
fn a_receipt_of_another_entry_log_or_chain_is_refused() {
    let log = Log::of(9);
    let mut swapped = log.receipt(4);
    swapped.entry = log.receipt(5).entry;
    let refused = swapped.check(&log.trust, None).unwrap_err();
    assert!(matches!(refused, ReceiptError::Inclusion(_)), "{refused}");

    let mut other_chain = log.trust.clone();
    other_chain.domain = Domain { chain_id: DOMAIN.chain_id + 1, ..DOMAIN };
    let refused = log.receipt(4).check(&other_chain, None).unwrap_err();
    assert!(matches!(refused, ReceiptError::Claim(ClaimError::SignerMismatch { .. })));

    let mut older = log.receipt(4);
    older.note = Log::of(8).note;
    let refused = older.check(&log.trust, None).unwrap_err();
    assert!(matches!(refused, ReceiptError::Inclusion(_)), "a path to another root: {refused}");
}

#[test]
fn a_malformed_receipt_names_the_line() {
    let text = Log::of(3).receipt(1).to_string();
    let header = "\"c2sp.org/tlog-proof@v1\"";
    let extra = "\"extra\" and base64 of an entry";
    let cases = [
        ("nothing", String::new(), 1, header),
        ("version 2", text.replacen("@v1", "@v2", 1), 1, header),
        ("no entry", text.replacen("extra ", "", 1), 2, extra),
        ("an entry of one byte", "c2sp.org/tlog-proof@v1\nextra AA==\n".to_owned(), 2, extra),
        ("no index", text.replacen("index 1", "index", 1), 3, "\"index\" and a number"),
        ("a sign", text.replacen("index 1", "index -1", 1), 3, "\"index\" and a number"),
        (
            "a hash cut short",
            text.replacen("=\n\n", "\n\n", 1),
            5,
            "hash of an inclusion path or blank line",
        ),
        ("two blank lines", text.replacen("\n\n", "\n\n\n", 1), 7, "origin"),
    ];
    for (name, text, line, want) in cases {
        let refused = text.parse::<Receipt>();
        assert_eq!(refused, Err(ReceiptError::Form(NoteError::Line { line, want })), "{name}");
    }
    let long = "x".repeat(RECEIPT_BYTES_MAX + 1);
    assert_eq!(long.parse::<Receipt>(), Err(ReceiptError::Length { got: long.len() }));
}

/// A path may be as long as the largest tree is high, and no longer.
#[test]
fn sixty_five_hashes_are_no_path() {
    let mut receipt = Log::of(3).receipt(1);
    receipt.path = vec![B256::repeat_byte(1); 64];
    assert_eq!(receipt.to_string().parse().as_ref(), Ok(&receipt));
    receipt.path.push(B256::repeat_byte(1));
    assert!(receipt.to_string().parse::<Receipt>().is_err());
}

/// LazAI's user signs (nonce, user, node) only, and its proof id is never compared: there a claim for one request can be
/// shown for another. Here each field of the request, changed alone, makes it another request.
#[test]
fn a_claim_answers_no_request_that_differs_in_one_field() {
    let vectors = common::claim_vectors();
    let domain = common::vector_domain(&vectors);
    let claim = common::vector_claim(&vectors["claim_a"]["claim"]);
    let request = vector_request(&vectors["claim_a"]["request"]);
    type Change<'a> = &'a dyn Fn(&mut Request);
    let other = B256::repeat_byte(9);
    let changes: [(&str, Change<'_>); 12] = [
        ("requester", &|r| r.requester = Address::ZERO),
        ("worker", &|r| r.worker = Address::repeat_byte(9)),
        ("model", &|r| r.model_id = other.into()),
        ("input", &|r| r.input_hash = other),
        ("sampling", &|r| r.sampling_hash = other),
        ("tier", &|r| r.tier = 1),
        ("seed mode", &|r| r.seed_mode = 1),
        ("entropy", &|r| r.entropy = other),
        ("fee asset", &|r| r.fee_asset = Address::repeat_byte(9)),
        ("fee", &|r| r.fee_max += 1),
        ("deadline", &|r| r.deadline += 1),
        ("nonce", &|r| r.nonce += U256::from(1)),
    ];
    for (name, change) in changes {
        let mut changed = request.clone();
        change(&mut changed);
        let refused = check_request(&claim, &changed, &domain, None).unwrap_err();
        assert!(matches!(refused, AnswerError::Id { .. }), "{name}: {refused}");
        // Even a worker that names the new id must agree with it in everything else that both carry.
        let mut renamed = claim.clone();
        renamed.request_id = changed.id(&domain);
        let judged = check_request(&renamed, &changed, &domain, None);
        let free = ["requester", "fee asset", "fee", "deadline", "nonce"].contains(&name);
        assert_eq!(judged.is_ok(), free, "{name}: {judged:?}");
    }
}

#[test]
fn the_seed_is_fixed_before_the_run() {
    let mut mix = Mix::new(3);
    let id = RequestId(draw(&mut mix));
    let (entropy, beacon) = (draw(&mut mix), draw(&mut mix));
    let request = |seed_mode, entropy| Request { seed_mode, entropy, ..Request::default() };
    let zero = B256::ZERO;
    assert_eq!(request(0, zero).seed(id, Some(beacon)), Ok(zero));
    let own = request(1, entropy).seed(id, Some(beacon)).unwrap();
    assert_eq!(request(1, entropy).seed(id, None), Ok(own), "a beacon does not reach mode 1");
    let drawn = request(2, zero).seed(id, Some(beacon)).unwrap();
    assert_ne!(own, drawn);
    assert_eq!(request(2, zero).seed(id, None), Err(RequestError::BeaconMissing));
    for mode in [0, 2] {
        let refused = request(mode, entropy).seed(id, Some(beacon));
        assert_eq!(refused, Err(RequestError::EntropyUnused { mode }));
    }
    assert_eq!(request(3, zero).seed(id, None), Err(RequestError::SeedMode { got: 3 }));

    let mut claim = common::drawn_claim(&mut mix);
    let request = Request { seed_mode: 2, tier: claim.tier, ..Request::default() };
    (claim.model_id, claim.input_hash, claim.sampling_hash) = Default::default();
    claim.request_id = request.id(&DOMAIN);
    let check = |claim: &Claim, beacon| check_request(claim, &request, &DOMAIN, beacon);
    assert_eq!(check(&claim, None), Ok(()), "without the block, the seed is not judged");
    assert!(check(&claim, Some(beacon)).is_err());
    claim.seed = request.seed(claim.request_id, Some(beacon)).unwrap();
    assert_eq!(check(&claim, Some(beacon)), Ok(()));
}

#[test]
fn end_ids_ascend_and_are_few() {
    use hyperion_verify::claim::{STOP_IDS_MAX, stop_hash};
    assert_eq!(stop_hash(&[]), Ok(B256::ZERO));
    assert_eq!(stop_hash(&[2, 2]), Err(RequestError::StopOrder { got: 2, before: 2 }));
    assert_eq!(stop_hash(&[3, 2]), Err(RequestError::StopOrder { got: 2, before: 3 }));
    let many: Vec<u32> = (0..257).collect();
    assert!(stop_hash(&many[..STOP_IDS_MAX]).is_ok());
    assert_eq!(stop_hash(&many), Err(RequestError::StopCount { got: 257 }));
}
