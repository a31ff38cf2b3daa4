//! `conformance.toml`: what every verifier computes, for machines and languages we do not have today.
#![expect(clippy::unwrap_used, reason = "what does not parse fails its test")]

mod common;

use std::fmt::Write as _;

use alloy_sol_types::SolStruct as _;
use common::{
    DOMAIN, Log, b256, claim_vectors, draw, drawn_claim, key, vector_claim, vector_domain,
    vector_request,
};
use hyperion_primitives::{
    B256, Dtype, Keccak, Mix, U256, input_hash, keccak256, output_hash, tensor_root_of, w8r,
};
use hyperion_verify::{
    Formula, Manifest, OutputRows, Request, Sampling, abi,
    commit::{CommitEntry, DiffChunk, DiffEntry},
    log::{consistency_proof, inclusion_proof, leaf_hash, root_of},
    state::{self, StatePath, StateProof},
    tensor::TileRun,
};
use serde_json::Value;

const HEAD: &str = "\
# What every verifier computes. `[vectors]` repeats tests/vectors/claim.json; a section below it is keccak-256 over the
# encodings of n_cases values drawn from splitmix64, as tests/conformance.rs draws them.
";

#[test]
fn the_pinned_text_is_what_this_code_computes() {
    let mut text = HEAD.to_owned();
    writeln!(text, "\n[vectors]").unwrap();
    for (name, hash, want) in vectors(&claim_vectors()) {
        assert_eq!(hash, b256(&want), "{name}");
        writeln!(text, "{name} = \"{hash}\"").unwrap();
    }
    type Encode = fn(&mut Mix) -> Vec<u8>;
    let sections: [(&str, u64, Encode); 9] = [
        ("request", 200, |mix| drawn_request(mix).id(&DOMAIN).as_bytes().to_vec()),
        ("sampling", 200, |mix| drawn_sampling(mix).hash().to_vec()),
        ("claim", 100, |mix| {
            let key = key(mix.u64());
            drawn_claim(mix).sign(&DOMAIN, &key).entry().to_vec()
        }),
        ("manifest", 200, |mix| drawn_manifest(mix).encode().to_vec()),
        ("commit", 200, |mix| drawn_commit(mix).encode().to_vec()),
        ("diff", 50, |mix| {
            let count = 1 + mix.below(40);
            DiffChunk::encode(mix.u64(), 1, &drawn_changes(mix, count))
        }),
        ("log", 60, drawn_log),
        ("state", 60, drawn_state),
        ("tile_run", 20, drawn_run),
    ];
    for (seed, (name, cases, encode)) in (1..).zip(sections) {
        let (mut mix, mut hasher) = (Mix::new(seed), Keccak::new());
        for _ in 0..cases {
            hasher.update(encode(&mut mix));
        }
        let hash = hasher.finish();
        write!(text, "\n[{name}]\nn_cases = {cases}\nseed = {seed}\nhash = \"{hash}\"\n").unwrap();
    }
    let receipt = keccak256(Log::of(20).receipt(13).to_string());
    write!(text, "\n[receipt]\nhash = \"{receipt}\"\n").unwrap();
    assert_eq!(include_str!("../conformance.toml"), text, "this code computes:\n{text}");
}

/// Every hash of the vectors that this crate computes: its name, ours, and theirs.
fn vectors(vectors: &Value) -> Vec<(String, B256, Value)> {
    let domain = vector_domain(vectors);
    let (eip712, toy) = (&vectors["eip712"], &vectors["toy"]);
    let type_hash = |text: &str| keccak256(text.as_bytes());
    let request_type = type_hash(&abi::InferenceRequest::eip712_encode_type());
    let claim_type = type_hash(&abi::InferenceClaim::eip712_encode_type());
    let numbers = |name: &str| {
        toy[name].as_array().unwrap().iter().map(|x| x.as_i64().unwrap()).collect::<Vec<_>>()
    };
    let bytes =
        |values: &[i64]| values.iter().map(|v| i8::try_from(*v).unwrap()).collect::<Vec<_>>();
    let words = |name: &str| {
        let words = numbers(name).into_iter().map(|v| i32::try_from(v).unwrap().to_le_bytes());
        tensor_root_of(Dtype::I32, &[1, 4], words).unwrap()
    };
    let x = bytes(&numbers("x")).into_iter().map(i8::to_le_bytes);
    let x = tensor_root_of(Dtype::I8, &[1, 32], x).unwrap();
    let rows = toy["w"].as_array().unwrap().iter().flat_map(|row| {
        let row: Vec<i64> = row.as_array().unwrap().iter().map(|w| w.as_i64().unwrap()).collect();
        let mut encoded = [0; 32];
        w8r::encode(&bytes(&row), &mut encoded);
        encoded
    });
    let w = tensor_root_of(Dtype::W8r, &[4, 32], rows.map(|byte| [byte])).unwrap();
    let mut list = vec![
        ("domain_separator".to_owned(), domain.separator(), eip712["domainSeparator"].clone()),
        ("request_type".into(), request_type, eip712["typeHashes"]["InferenceRequest"].clone()),
        ("claim_type".into(), claim_type, eip712["typeHashes"]["InferenceClaim"].clone()),
        ("toy_root_w".into(), w.0, toy["root_w"].clone()),
        ("toy_root_x".into(), x.0, toy["root_x"].clone()),
        ("toy_root_y".into(), words("y").0, toy["root_y"].clone()),
        ("toy_root_z".into(), words("z").0, toy["root_z"].clone()),
        ("toy_input_hash".into(), input_hash(&[x]), toy["inputHash"].clone()),
        ("toy_output_hash".into(), output_hash(&[words("y")]), toy["outputHash"].clone()),
    ];
    for name in ["claim_a", "claim_b"] {
        let case = &vectors[name];
        let (request, claim) = (vector_request(&case["request"]), vector_claim(&case["claim"]));
        let struct_hash = abi::InferenceClaim::from(&claim).eip712_hash_struct();
        let entry = claim.clone().sign(&domain, &key_of(vectors)).entry();
        let hashes = [
            ("request_id", request.id(&domain).0, "requestId"),
            ("struct_hash", struct_hash, "structHash"),
            ("digest", claim.digest(&domain).0, "claimDigest"),
            ("core", claim.core(), "claimCore"),
            ("log_leaf", leaf_hash(&entry), "log_leaf_sha256"),
        ];
        list.extend(
            hashes.map(|(field, hash, want)| (format!("{name}_{field}"), hash, case[want].clone())),
        );
    }
    list
}

fn key_of(vectors: &Value) -> hyperion_verify::sign::SigningKey {
    let secret = b256(&vectors["keys"]["worker_secret"]);
    hyperion_verify::sign::SigningKey::from_slice(secret.as_slice()).unwrap()
}

fn low<T: TryFrom<u64>>(mix: &mut Mix, bound: u64) -> T
where
    T::Error: std::fmt::Debug,
{
    T::try_from(mix.below(bound)).unwrap()
}

fn drawn_request(mix: &mut Mix) -> Request {
    let address = |mix: &mut Mix| hyperion_primitives::Address::from_word(draw(mix));
    Request {
        requester: address(mix),
        worker: address(mix),
        model_id: draw(mix).into(),
        input_hash: draw(mix),
        sampling_hash: draw(mix),
        tier: low(mix, 6),
        seed_mode: low(mix, 3),
        entropy: draw(mix),
        fee_asset: address(mix),
        fee_max: u128::from(mix.u64()) << 64 | u128::from(mix.u64()),
        deadline: mix.u64(),
        nonce: U256::from_be_bytes(draw(mix).0),
    }
}

fn drawn_sampling(mix: &mut Mix) -> Sampling {
    Sampling {
        temperature_q16: low(mix, 1 << 32),
        top_k: low(mix, 1 << 32),
        top_p_q16: low(mix, 1 << 32),
        frequency_q16: mix.i32(31),
        presence_q16: mix.i32(31),
        tokens_max: low(mix, 1 << 32),
        stop_hash: draw(mix),
        ..Sampling::default()
    }
}

fn drawn_manifest(mix: &mut Mix) -> Manifest {
    let formula = |mix: &mut Mix| Formula {
        base: mix.u64(),
        per_row: mix.u64(),
        per_pair: mix.u64(),
        per_out: mix.u64(),
    };
    let (tokens, generator) = (mix.below(2) == 0, mix.below(2) == 0);
    Manifest {
        program_id: draw(mix).into(),
        active: mix.below(2) == 0,
        native: mix.below(2) == 0,
        causal: mix.below(2) == 0,
        generator,
        input_dtype: if tokens { Dtype::U32 } else { Dtype::I32 },
        input_width: if tokens { 1 } else { 1 + low::<u32>(mix, 16_384) },
        vocabulary: if tokens { 1 + low::<u32>(mix, 262_144) } else { 0 },
        output_dtype: [Dtype::I16, Dtype::I32, Dtype::U32][low::<usize>(mix, 3)],
        output_width: 1 + low::<u32>(mix, 262_144),
        output_rows: match (generator, mix.below(2)) {
            (true, _) => OutputRows::Tokens,
            (false, 0) => OutputRows::Rows,
            (false, _) => OutputRows::One,
        },
        rows_max: 1 + low::<u32>(mix, 65_536),
        macs: formula(mix),
        elements: formula(mix),
        peak_bytes: mix.u64(),
    }
}

fn drawn_commit(mix: &mut Mix) -> CommitEntry {
    CommitEntry {
        claims: low(mix, 1 << 32),
        height: mix.u64(),
        time_ms: mix.u64(),
        chain_id: mix.u64(),
        first_index: mix.u64(),
        diff_entries: mix.u64(),
        parent: draw(mix),
        block_hash: draw(mix),
        state_root: draw(mix),
        diff_hash: draw(mix),
    }
}

fn drawn_changes(mix: &mut Mix, count: u64) -> Vec<DiffEntry> {
    let mut changes: Vec<_> = (0..count)
        .map(|_| {
            let kind = mix.below(3);
            let (old, new) = (draw(mix), draw(mix));
            let path = StatePath(draw(mix));
            DiffEntry { path, old: (kind > 0).then_some(old), new: (kind < 2).then_some(new) }
        })
        .collect();
    changes.sort_by_key(|change| change.path);
    changes
}

/// A tree's root with one inclusion and one consistency proof.
fn drawn_log(mix: &mut Mix) -> Vec<u8> {
    let size = low::<usize>(mix, 300) + 1;
    let leaves: Vec<_> = (0..size as u64).map(|i| leaf_hash(&i.to_be_bytes())).collect();
    let (index, old) = (low(mix, size as u64), low(mix, size as u64));
    let mut bytes = root_of(&leaves).to_vec();
    bytes.extend(inclusion_proof(index, &leaves).unwrap().iter().flatten());
    bytes.extend(consistency_proof(old, &leaves).unwrap().iter().flatten());
    bytes
}

/// A state's root with the proofs of one path that is there and one that is not.
fn drawn_state(mix: &mut Mix) -> Vec<u8> {
    let count = 1 + mix.below(60);
    let mut leaves: Vec<_> = (0..count).map(|_| (StatePath(draw(mix)), draw(mix))).collect();
    leaves.sort();
    let present = leaves[low::<usize>(mix, count)].0;
    let mut bytes = state::root_of(&leaves).to_vec();
    for path in [present, StatePath(draw(mix))] {
        bytes.extend(StateProof::of(&leaves, &path).encode());
    }
    bytes
}

fn drawn_run(mix: &mut Mix) -> Vec<u8> {
    let tensor: Vec<u8> = (0..1 + mix.below(9_000)).map(|_| low(mix, 256)).collect();
    let tiles = (tensor.len() as u64).div_ceil(1024);
    let first = low::<usize>(mix, tiles);
    let last = first + low::<usize>(mix, tiles - first as u64);
    TileRun::open(&tensor, first, last).unwrap().encode()
}
