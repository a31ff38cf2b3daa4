//! `receipt.json`: one form, both directions, and no byte of it can be changed unseen.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use common::{DOMAIN, key, ledger};
use hyperion_engine::Drawing;
use hyperion_primitives::{Address, Dtype, ModelId, U256, input_hash, output_hash};
use hyperion_rpc::receipt_json::{Envelope, EnvelopeError, TensorData};
use hyperion_verify::{
    Checkpoint, Claim, KeyKind, NoteSigner, Receipt, Request, Sampling, Trust,
    log::{inclusion_proof, leaf_hash, root_of},
    sign,
};
use serde_json::{Value, json};

/// A whole receipt of a toy model, second of three entries.
fn envelope() -> Envelope {
    let input = TensorData {
        dtype: Dtype::I32,
        dims: vec![1, 2],
        data: vec![1, 0, 0, 0, 255, 255, 255, 255],
    };
    let output = TensorData { dtype: Dtype::I16, dims: vec![1, 2], data: vec![0, 64, 0, 192] };
    let request = Request {
        model_id: ModelId::from([5; 32]),
        input_hash: input_hash(&[input.root().unwrap()]),
        tier: 1,
        fee_max: u128::MAX,
        deadline: 1_800_000_000,
        nonce: U256::MAX,
        ..Request::default()
    };
    let claim = Claim {
        request_id: request.id(&DOMAIN),
        model_id: request.model_id,
        input_hash: request.input_hash,
        output_hash: output_hash(&[output.root().unwrap()]),
        in_tokens: 1,
        macs: 6464,
        challenge_until: 1_800_086_400,
        tier: 1,
        worker: sign::address(&key(7)),
        ..Claim::default()
    };
    let claim = claim.sign(&DOMAIN, &key(7));
    let leaves = [leaf_hash(b"first"), leaf_hash(&claim.entry()), leaf_hash(b"last")];
    let signer = NoteSigner::new(ledger::ORIGIN, KeyKind::Log, &[9; 32]).unwrap();
    let checkpoint = Checkpoint { origin: ledger::ORIGIN.into(), size: 3, root: root_of(&leaves) };
    let receipt = Receipt {
        entry: claim.entry().to_vec(),
        index: 1,
        path: inclusion_proof(1, &leaves).unwrap(),
        note: checkpoint.sign(&signer),
    };
    Envelope {
        sampling: None,
        domain: DOMAIN,
        request: Some(request),
        claim,
        proof: receipt.to_string(),
        input: Some(vec![input]),
        output: Some(vec![output]),
    }
}

/// The verdict of `hyperion verify`: what the file says, if everything that it says holds.
fn verdict(text: &str) -> Result<Envelope, String> {
    let trust =
        Trust { domain: DOMAIN, log: ledger::log_key(), witnesses: Vec::new(), witnesses_min: 0 };
    let envelope = Envelope::parse(text).map_err(|error| error.to_string())?;
    envelope.claim.check(&envelope.domain).map_err(|error| error.to_string())?;
    envelope.check_log(&trust).map_err(|error| error.to_string())?;
    envelope.check_request().map_err(|error| error.to_string())?;
    envelope.check_input().map_err(|error| error.to_string())?;
    envelope.check_output().map_err(|error| error.to_string())?;
    Ok(envelope)
}

#[test]
fn what_is_written_is_read_again() {
    let whole = envelope();
    let bare = Envelope { request: None, input: None, output: None, ..whole.clone() };
    for envelope in [whole, bare] {
        assert_eq!(verdict(&envelope.to_json()).unwrap(), envelope);
        assert_eq!(Envelope::parse(&envelope.to_value().to_string()).unwrap(), envelope);
    }
}

#[test]
fn settings_have_one_spelling() {
    let drawing = |min_p_q16, repetition_q16| {
        let sampling = Sampling {
            top_p_q16: 65_536,
            tokens_max: 8,
            min_p_q16,
            repetition_q16,
            ..Sampling::default()
        };
        Envelope { sampling: Some(Drawing::new(sampling, vec![2]).unwrap()), ..envelope() }
    };
    let off = drawing(0, 0).to_json();
    assert!(!off.contains("minP") && !off.contains("repetition"), "{off}");
    for (min_p, repetition, spelled) in [
        (900, 0, vec![r#""minPQ16":900"#]),
        (0, 70_000, vec![r#""repetitionQ16":70000"#]),
        (1, 8_192, vec![r#""minPQ16":1"#, r#""repetitionQ16":8192"#]),
    ] {
        let on = drawing(min_p, repetition);
        let text = on.to_json();
        assert!(spelled.iter().all(|part| text.contains(part)), "{text}");
        assert_eq!(Envelope::parse(&text).unwrap(), on);
    }
    let with = |extra: &str| {
        let settings = r#""stopTokens":[2]"#;
        Envelope::parse(&off.replace(settings, &format!("{settings},{extra}")))
    };
    assert!(with(r#""minPQ16":9"#).is_ok());
    let texts = r#""stopTexts":["\n\nUser:","é"]"#;
    let texted = with(texts).unwrap();
    assert_eq!(texted.sampling.as_ref().unwrap().stop_texts(), ["\n\nUser:", "é"]);
    assert!(texted.to_json().contains(texts) && !off.contains("stopTexts"));
    assert_ne!(texted.sampling, drawing(0, 0).sampling);
    for wrong in [
        r#""stopTexts":[]"#,
        r#""stopTexts":null"#,
        r#""stopTexts":[""]"#,
        r#""stopTexts":["b","a"]"#,
        r#""stopTexts":["a","a"]"#,
        r#""stopTexts":["a","b","c","d","e"]"#,
        r#""minPQ16":0"#,
        r#""minPQ16":null"#,
        r#""minPQ16":-1"#,
        r#""minPQ16":65537"#,
        r#""repetitionQ16":0"#,
        r#""repetitionQ16":65536"#,
        r#""repetitionQ16":8191"#,
        r#""repetitionQ16":524289"#,
    ] {
        assert!(with(wrong).is_err(), "{wrong}");
    }
}

/// Two flips per byte: the lowest bit, and the one that turns a letter's case. A flip in a key's name makes the key
/// unknown, so what it held is gone; nothing that is left may differ.
#[test]
fn every_byte_flipped_twice_is_seen() {
    let original = envelope();
    let text = original.to_json().into_bytes();
    for at in 0..text.len() {
        for bit in [1, 0x20] {
            let mut flipped = text.clone();
            flipped[at] ^= bit;
            let Ok(flipped) = String::from_utf8(flipped) else { continue };
            let Ok(seen) = verdict(&flipped) else { continue };
            let place =
                String::from_utf8_lossy(&text[at.saturating_sub(20)..(at + 20).min(text.len())]);
            assert_eq!(
                (seen.domain, &seen.claim, &seen.proof),
                (original.domain, &original.claim, &original.proof),
                "{place}"
            );
            assert!(seen.request.is_none() || seen.request == original.request, "{place}");
            assert!(seen.input.is_none() || seen.input == original.input, "{place}");
            assert!(seen.output.is_none() || seen.output == original.output, "{place}");
        }
    }
}

#[test]
fn a_file_that_is_no_receipt_says_where() {
    let change = |pointer: &str, value: Value| {
        let mut json = envelope().to_value();
        *json.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value;
        json.to_string()
    };
    let text = envelope().to_json();
    let cases = [
        ("nothing", String::new(), "EOF"),
        ("half of it", text[..text.len() / 2].to_owned(), "EOF"),
        ("version 2", change("/version", json!(2)), "version is 2, want 1"),
        ("another domain", change("/domain/name", json!("Other")), "domain.name is Other"),
        (
            "another version of the domain",
            change("/domain/version", json!("2")),
            "domain.version is 2",
        ),
        ("a chain id as a number", change("/domain/chainId", json!(31337)), "string"),
        ("a chain id in hex", change("/domain/chainId", json!("0x7a69")), "not a decimal number"),
        ("leading zeros", change("/claim/macs", json!("06464")), "not a decimal number"),
        (
            "capitals",
            change("/claim/worker", json!(format!("0x{}", "AB".repeat(20)))),
            "40 lower-case hex digits",
        ),
        ("a short digest", change("/claim/modelId", json!("0x11")), "64 lower-case hex digits"),
        ("no prefix", change("/signature", json!("11".repeat(65))), "130 lower-case hex digits"),
        ("null for nothing", change("/request", Value::Null), "null"),
        (
            "a fee beyond 128 bits",
            change("/request/feeMax", json!("340282366920938463463374607431768211456")),
            "not a decimal number",
        ),
        (
            "a nonce beyond 256 bits",
            change("/request/nonce", json!(format!("{}0", U256::MAX))),
            "not a decimal number",
        ),
        ("tier 256", change("/claim/tier", json!(256)), "256"),
        ("an unknown type", change("/output/0/dtype", json!("f32")), "dtype is f32"),
        ("half a byte", change("/output/0/data", json!("0x004")), "even number"),
    ];
    for (name, text, want) in cases {
        let error: EnvelopeError = Envelope::parse(&text).unwrap_err();
        assert!(error.to_string().contains(want), "{name}: {error}");
    }
}

#[test]
fn a_key_of_the_future_is_ignored() {
    let mut json = envelope().to_value();
    json["colour"] = json!("blue");
    json["claim"]["weight"] = json!(7);
    assert_eq!(Envelope::parse(&json.to_string()).unwrap(), envelope());
}

#[test]
fn the_first_wrong_thing_is_named() {
    let change = |change: fn(&mut Envelope)| {
        let mut envelope = envelope();
        change(&mut envelope);
        verdict(&envelope.to_json()).unwrap_err()
    };
    let cases = [
        ("macs", change(|e| e.claim.claim.macs += 1), "recovered"),
        ("worker", change(|e| e.claim.claim.worker = Address::repeat_byte(1)), "claim names"),
        ("domain", change(|e| e.domain.chain_id += 1), "recovered"),
        (
            "proof of another entry",
            change(|e| e.proof = e.proof.replacen("extra AQE", "extra AgE", 1)),
            "another entry",
        ),
        ("index", change(|e| e.proof = e.proof.replace("index 1", "index 0")), "log"),
        ("checkpoint", change(|e| e.proof = e.proof.replace("\n3\n", "\n4\n")), "log"),
        ("request", change(|e| e.request.as_mut().unwrap().deadline += 1), "request"),
        ("input", change(|e| e.input.as_mut().unwrap()[0].data[0] ^= 1), "input"),
        ("output", change(|e| e.output.as_mut().unwrap()[0].data[0] ^= 1), "output"),
        ("output's shape", change(|e| e.output.as_mut().unwrap()[0].dims = vec![3]), "shape"),
    ];
    for (name, got, want) in cases {
        assert!(got.contains(want), "{name}: {got}");
    }
}
