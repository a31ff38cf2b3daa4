//! Requests, claims, entries and signatures against `vectors/claim.json`, made by an independent implementation.
#![expect(clippy::unwrap_used, reason = "what does not parse fails its test")]

mod common;

use alloy_sol_types::SolStruct as _;
use common::{
    address, b256, bytes, claim_vectors, hashes, number, text, vector_claim, vector_domain,
    vector_request,
};
use hyperion_primitives::{
    B256, Dtype, Keccak, RequestId, input_hash, keccak256, merkle, output_hash, tensor_root_of,
};
use hyperion_verify::{
    Formula, Manifest, OutputRows, Sampling, SignedClaim, abi,
    claim::{RequestError, sampling_hash, seed, stop_hash, text_stop_hash},
    log,
    receipt::{check_output, check_request},
    sign::{self, SigningKey},
    tensor::{run_path, run_root},
};
use serde_json::Value;

const CASES: [&str; 2] = ["claim_a", "claim_b"];

fn signer(vectors: &Value, who: &str) -> SigningKey {
    let secret = bytes(&vectors["keys"][format!("{who}_secret").as_str()]);
    let key = SigningKey::from_slice(&secret).unwrap();
    assert_eq!(sign::address(&key), address(&vectors["keys"][who]));
    key
}

#[test]
fn the_solidity_text_has_the_types_of_the_vectors() {
    let vectors = claim_vectors();
    let eip712 = &vectors["eip712"];
    assert_eq!(vector_domain(&vectors).separator(), b256(&eip712["domainSeparator"]));
    let types = [
        ("InferenceRequest", abi::InferenceRequest::eip712_encode_type()),
        ("InferenceClaim", abi::InferenceClaim::eip712_encode_type()),
    ];
    for (name, encoded) in types {
        assert_eq!(encoded, text(&eip712["types"][name]));
        let hash = hyperion_primitives::keccak256(encoded.as_bytes());
        assert_eq!(hash, b256(&eip712["typeHashes"][name]), "{name}");
    }
}

#[test]
fn requests_have_the_ids_and_signatures_of_the_vectors() {
    let vectors = claim_vectors();
    let domain = vector_domain(&vectors);
    let requester = signer(&vectors, "requester");
    for case in CASES.map(|name| &vectors[name]) {
        let request = vector_request(&case["request"]);
        let id = request.id(&domain);
        assert_eq!(id.0, b256(&case["requestId"]));
        assert_eq!(sign::sign(&requester, &id.0).to_vec(), bytes(&case["request_signature"]));
    }
}

#[test]
fn claims_have_the_digests_cores_entries_and_leaves_of_the_vectors() {
    let vectors = claim_vectors();
    let domain = vector_domain(&vectors);
    let worker = signer(&vectors, "worker");
    for case in CASES.map(|name| &vectors[name]) {
        let claim = vector_claim(&case["claim"]);
        assert_eq!(
            abi::InferenceClaim::from(&claim).eip712_hash_struct(),
            b256(&case["structHash"])
        );
        assert_eq!(claim.digest(&domain).0, b256(&case["claimDigest"]));
        assert_eq!(claim.core(), b256(&case["claimCore"]));
        let signed = claim.sign(&domain, &worker);
        assert_eq!(signed.signature.to_vec(), bytes(&case["signature"]));
        assert_eq!(signed.recover(&domain), Ok(sign::address(&worker)));
        assert_eq!(signed.check(&domain), Ok(()));
        let entry = signed.entry();
        assert_eq!(entry.to_vec(), bytes(&case["entry"]));
        assert_eq!(SignedClaim::from_entry(&entry).as_ref(), Ok(&signed));
        assert_eq!(log::leaf_hash(&entry), b256(&case["log_leaf_sha256"]));
    }
}

#[test]
fn a_claim_answers_its_own_request_only() {
    let vectors = claim_vectors();
    let domain = vector_domain(&vectors);
    let beacon = b256(&vectors["claim_b"]["beacon"]);
    for (own, other) in [("claim_a", "claim_b"), ("claim_b", "claim_a")] {
        let claim = vector_claim(&vectors[own]["claim"]);
        let request = |name: &str| vector_request(&vectors[name]["request"]);
        assert_eq!(check_request(&claim, &request(own), &domain, Some(beacon)), Ok(()), "{own}");
        assert!(check_request(&claim, &request(other), &domain, Some(beacon)).is_err(), "{own}");
    }
}

#[test]
fn sampling_seed_and_stop_ids_hash_as_in_the_vectors() {
    let vectors = claim_vectors();
    let case = &vectors["claim_b"];
    let stop: Vec<u32> = case["stop"].as_array().unwrap().iter().map(number).collect();
    assert_eq!(stop_hash(&stop), Ok(b256(&case["stopHash"])));
    let field = |name: &str| number::<u32>(&case["sampling"][name]);
    let sampling = Sampling {
        temperature_q16: field("tempQ16"),
        top_k: field("topK"),
        top_p_q16: field("topPQ16"),
        frequency_q16: 6554,
        presence_q16: -3277,
        tokens_max: field("outTokensMax"),
        stop_hash: b256(&case["stopHash"]),
        ..Sampling::default()
    };
    assert_eq!(case["sampling"]["freqQ16"], 6554);
    assert_eq!(case["sampling"]["presQ16"], -3277);
    assert_eq!(sampling_hash(Some(&sampling)), b256(&case["request"]["samplingHash"]));
    assert!(sampling.draw().is_some(), "every number is in its range");
    assert_eq!(sampling_hash(None), B256::ZERO);

    let id = RequestId(b256(&case["requestId"]));
    let beacon = b256(&case["beacon"]);
    assert_eq!(seed(2, id, beacon), b256(&case["claim"]["seed"]));
    let request = vector_request(&case["request"]);
    assert_eq!(request.seed(id, Some(beacon)), Ok(b256(&case["claim"]["seed"])));
}

/// The preimages written out byte by byte, as a checker in another language would.
#[test]
fn settings_hash_under_their_own_tag_where_the_newer_ones_are_on() {
    let word = |n: i64| {
        let mut bytes = [if n < 0 { 0xff } else { 0 }; 32];
        bytes[24..].copy_from_slice(&n.to_be_bytes());
        bytes
    };
    let stop = stop_hash(&[2, 7]).unwrap();
    let base = Sampling {
        temperature_q16: 45_875,
        top_k: 40,
        top_p_q16: 62_259,
        frequency_q16: 6554,
        presence_q16: -3277,
        tokens_max: 256,
        stop_hash: stop,
        ..Sampling::default()
    };
    let preimage = |tag: &[u8], more: &[i64]| {
        let mut all = tag.to_vec();
        [45_875, 40, 62_259, 6554, -3277, 256].iter().for_each(|n| all.extend(word(*n)));
        all.extend(stop);
        more.iter().for_each(|n| all.extend(word(*n)));
        keccak256(&all)
    };
    let with = |min_p_q16, repetition_q16| Sampling { min_p_q16, repetition_q16, ..base }.hash();
    assert_eq!(with(0, 0), preimage(b"S1", &[]));
    assert_eq!(with(0, 65_536), preimage(b"S1", &[]));
    assert_eq!(with(3277, 0), preimage(b"S2", &[3277, 65_536]));
    assert_eq!(with(3277, 65_536), preimage(b"S2", &[3277, 65_536]));
    assert_eq!(with(0, 72_090), preimage(b"S2", &[0, 72_090]));
    assert_eq!(with(3277, 72_090), preimage(b"S2", &[3277, 72_090]));
    let pinned = "0xd5d522d41c071bd12d6f9ee54a8f519bdb70671b11e0e9c1318478e3ea168638";
    assert_eq!(with(3277, 72_090).to_string(), pinned);

    // With texts that end the answer, whatever else is on.
    let stop_text = |texts: &[&[u8]]| {
        let mut all = b"ST1".to_vec();
        for text in texts {
            all.extend([0, text.len() as u8]);
            all.extend(*text);
        }
        keccak256(&all)
    };
    let texts = ["\n\n", "User:", "é"];
    let text_hash = text_stop_hash(&texts).unwrap();
    assert_eq!(text_hash, stop_text(&[b"\n\n", b"User:", b"\xc3\xa9"]));
    let texted = |min_p_q16, repetition_q16| {
        let mut preimage = b"S3".to_vec();
        [45_875, 40, 62_259, 6554, -3277, 256].iter().for_each(|n| preimage.extend(word(*n)));
        preimage.extend(stop);
        [i64::from(min_p_q16), 65_536.max(i64::from(repetition_q16))]
            .iter()
            .for_each(|n| preimage.extend(word(*n)));
        preimage.extend(text_hash);
        let sampling = Sampling { min_p_q16, repetition_q16, text_stop_hash: text_hash, ..base };
        assert_eq!(sampling.hash(), keccak256(&preimage));
        sampling.hash()
    };
    assert_ne!(texted(0, 0), texted(3277, 72_090));
    let pinned = "0xe0adcdcc596a2ec11674856b142b5ba7c73471c8e070589d45901795d5bd8df7";
    assert_eq!(texted(0, 0).to_string(), pinned);
    assert_eq!(text_stop_hash(&[""; 0]), Ok(B256::ZERO));
    let long = [b'a'; 257];
    for (wrong, why) in [
        (&[&b"b"[..], b"a"][..], RequestError::TextOrder { place: 1 }),
        (&[b"a", b"a"], RequestError::TextOrder { place: 1 }),
        (&[b""], RequestError::TextBytes { got: 0 }),
        (&[&long], RequestError::TextBytes { got: 257 }),
        (&[b"a", b"b", b"c", b"d", b"e"], RequestError::TextCount { got: 5 }),
    ] {
        assert_eq!(text_stop_hash(wrong), Err(why));
    }
    assert!(text_stop_hash(&[&long[..256]]).is_ok());

    let fits =
        |min_p_q16, repetition_q16| Sampling { min_p_q16, repetition_q16, ..base }.draw().is_some();
    assert!(fits(65_536, 8_192) && fits(0, 524_288) && fits(0, 0));
    assert!(!fits(65_537, 0) && !fits(0, 8_191) && !fits(0, 524_289) && !fits(0, u32::MAX));
}

#[test]
fn tokens_hash_to_the_inputs_and_outputs_of_the_vectors() {
    let vectors = claim_vectors();
    let case = &vectors["claim_b"];
    let root = |name: &str| {
        let ids: Vec<u32> = case[name].as_array().unwrap().iter().map(number).collect();
        tensor_root_of(Dtype::U32, &[ids.len() as u64, 1], ids.iter().map(|id| id.to_le_bytes()))
            .unwrap()
    };
    let claim = vector_claim(&case["claim"]);
    assert_eq!(input_hash(&[root("prompt")]), claim.input_hash);
    assert_eq!(output_hash(&[root("answer")]), claim.output_hash);
    assert_eq!(check_output(&claim, &[root("answer")]), Ok(()));
    assert!(check_output(&claim, &[root("prompt")]).is_err());
}

#[test]
fn the_formula_counts_the_multiply_adds_of_the_vectors() {
    let vectors = claim_vectors();
    let toy = &vectors["toy"];
    let coefficients = &vectors["claim_b"]["macs_coefficients"];
    let term = |at: usize| number::<u64>(&coefficients[at]);
    let generator = Manifest {
        program_id: common::program(),
        active: true,
        native: false,
        causal: true,
        generator: true,
        input_dtype: Dtype::U32,
        input_width: 1,
        vocabulary: 128_256,
        output_dtype: Dtype::U32,
        output_width: 1,
        output_rows: OutputRows::Tokens,
        rows_max: 8192,
        macs: Formula { base: term(0), per_row: term(1), per_pair: term(2), per_out: term(3) },
        elements: Formula::default(),
        peak_bytes: 0,
    };
    let claim = vector_claim(&vectors["claim_b"]["claim"]);
    assert_eq!(generator.rows(claim.in_tokens, claim.out_tokens), Some(7));
    assert_eq!(generator.macs(claim.in_tokens, claim.out_tokens), Some(claim.macs));
    let encoder = Manifest {
        generator: false,
        causal: false,
        output_rows: OutputRows::Rows,
        macs: Formula { per_row: 128, ..Formula::default() },
        ..generator
    };
    assert_eq!(encoder.macs(1, 0), Some(number(&toy["macs"])));
}

#[test]
fn paths_of_one_leaf_and_of_runs_are_those_of_the_vectors() {
    let vectors = claim_vectors();
    let tree = &vectors["t4"];
    let leaves: Vec<B256> = (0..37).map(|i| Keccak::tagged(&[0]).word(i).finish()).collect();
    let root = b256(&tree["root"]);
    assert_eq!(merkle::root(leaves.clone()), Some(root));
    for index in [5, 36] {
        let path = hashes(&tree[format!("path_{index}").as_str()]);
        assert_eq!(merkle::path(&leaves, index), Some(path.clone()));
        assert_eq!(merkle::root_from_path(leaves[index], index as u64, 37, &path), Some(root));
        assert_eq!(run_path(&leaves, index, index), path, "a run of one is a leaf");
    }
    for run in tree["runs"].as_array().unwrap() {
        let (first, last) = (number::<usize>(&run["first"]), number::<usize>(&run["last"]));
        let path = hashes(&run["path"]);
        assert_eq!(run_path(&leaves, first, last), path);
        let found = run_root(leaves[first..=last].to_vec(), first as u64, 37, &path);
        assert_eq!(found, Some(root), "{first} to {last}");
    }
}
