//! `docs/claims.md` and `docs/proofs.md` against this code: editing either alone fails.
#![expect(clippy::unwrap_used, reason = "what does not parse fails its test")]

mod common;

use std::collections::BTreeMap;

use alloy_sol_types::SolStruct as _;
use common::{claim_vectors, vector_domain, vector_request};
use hyperion_primitives::{
    Address, Dtype, Keccak, ModelId, RequestId, U256, input_hash, keccak256, merkle, output_hash,
    tensor_root_of, w8r,
};
use hyperion_verify::{
    Checkpoint, Claim, Domain, Formula, Manifest, OutputRows, Request, abi,
    commit::{CommitEntry, DiffEntry, diff_hash},
    log::{leaf_hash, root_of},
    sign::{self, SigningKey},
    state::{self, AccountWord, ClaimWord, StatePath, StateProof, Word, leaf},
};

/// The `name = value` lines of a page's `vectors` blocks.
fn printed(page: &str) -> BTreeMap<String, String> {
    let blocks = page.split("```vectors\n").skip(1);
    let lines = blocks.flat_map(|rest| rest.split("```").next().unwrap().lines());
    lines
        .map(|line| line.split_once(" = ").unwrap_or_else(|| panic!("`{line}` is no vector")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn agree(page: &str, computed: impl IntoIterator<Item = (&'static str, String)>) {
    let computed: BTreeMap<_, _> =
        computed.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    assert_eq!(printed(page), computed);
}

#[test]
fn claims_md_says_what_the_code_computes() {
    let page = include_str!("../../../docs/claims.md");
    let domain = Domain {
        chain_id: 31_337,
        verifying_contract: "0x5fbdb2315678afecb367f032d93f642f64180aa3".parse().unwrap(),
    };
    let x: [i8; 32] = std::array::from_fn(|i| i8::try_from((7 * i) % 23).unwrap() - 11);
    let w: [[i8; 32]; 4] = std::array::from_fn(|j| {
        std::array::from_fn(|i| i8::try_from((5 * j + 3 * i) % 19).unwrap() - 9)
    });
    let z = w.map(|row| row.iter().zip(x).map(|(w, x)| i32::from(*w) * i32::from(x)).sum::<i32>());
    assert_eq!(z, [27, -13, -15, -17]);
    let y = z.map(|z| (z * 23_170 + (1 << 14)) >> 15);
    assert_eq!(y, [19, -9, -11, -12]);
    let root_x = tensor_root_of(Dtype::I8, &[1, 32], x.map(i8::to_le_bytes)).unwrap();
    let root_y = tensor_root_of(Dtype::I32, &[1, 4], y.map(i32::to_le_bytes)).unwrap();
    let rows = w.map(|row| {
        let mut bytes = [0; 32];
        w8r::encode(&row, &mut bytes);
        bytes
    });
    let bytes = rows.as_flattened().iter().map(|byte| [*byte]);
    let root_w = tensor_root_of(Dtype::W8r, &[4, 32], bytes).unwrap();

    // The toy's program bytes are opaque; its table of tensors holds W alone.
    let program = keccak256(b"P1opaque program bytes of this vector");
    let tensor = Keccak::tagged(b"\0TT1").u32(0).u16(0).update(root_w.0).finish();
    let table = Keccak::tagged(b"\x02TT1").u32(1).update(merkle::root([tensor]).unwrap()).finish();
    let model = Keccak::tagged(b"M1").update(program).update([0; 32]).update(table).finish();

    let key = |who: &[u8]| SigningKey::from_slice(keccak256(who).as_slice()).unwrap();
    let (worker, requester) = (key(b"hyperion vector worker"), key(b"hyperion vector requester"));
    let request = Request {
        requester: sign::address(&requester),
        model_id: ModelId(model),
        input_hash: input_hash(&[root_x]),
        tier: 4,
        fee_max: 10_u128.pow(15),
        deadline: 1_800_000_000,
        nonce: U256::from(1),
        ..Request::default()
    };
    let claim = Claim {
        request_id: request.id(&domain),
        model_id: request.model_id,
        input_hash: request.input_hash,
        output_hash: output_hash(&[root_y]),
        in_tokens: 1,
        macs: 128,
        challenge_until: 1_800_086_400,
        tier: 4,
        worker: sign::address(&worker),
        ..Claim::default()
    };
    let signed = claim.clone().sign(&domain, &worker);
    let type_hash = |text: &str| hex::encode(keccak256(text.as_bytes()));
    let llama = Manifest {
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
        rows_max: 8_192,
        macs: Formula { base: 0, per_row: 6_979_321_856, per_pair: 262_144, per_out: 525_336_576 },
        elements: Formula::default(),
        peak_bytes: 0,
    };
    agree(
        page,
        [
            ("macs(4, 4)", llama.macs(4, 4).unwrap().to_string()),
            ("domain separator", hex::encode(domain.separator())),
            ("InferenceRequest type", type_hash(&abi::InferenceRequest::eip712_encode_type())),
            ("InferenceClaim type", type_hash(&abi::InferenceClaim::eip712_encode_type())),
            ("root x", hex::encode(root_x.0)),
            ("root W", hex::encode(root_w.0)),
            ("root y", hex::encode(root_y.0)),
            ("inputHash", hex::encode(claim.input_hash)),
            ("outputHash", hex::encode(claim.output_hash)),
            ("modelId", hex::encode(model)),
            ("requestId", hex::encode(claim.request_id.0)),
            ("claim struct", hex::encode(abi::InferenceClaim::from(&claim).eip712_hash_struct())),
            ("claimDigest", hex::encode(claim.digest(&domain).0)),
            ("claimCore", hex::encode(claim.core())),
            ("worker", hex::encode(claim.worker)),
            ("signature r", hex::encode(&signed.signature[..32])),
            ("signature s", hex::encode(&signed.signature[32..64])),
            ("signature v", hex::encode(&signed.signature[64..])),
            ("log leaf", hex::encode(leaf_hash(&signed.entry()))),
        ],
    );
    // The page and the vectors tell one story.
    let vectors = claim_vectors();
    assert_eq!(vector_domain(&vectors), domain);
    assert_eq!(vector_request(&vectors["claim_a"]["request"]), request);
}

#[test]
fn the_layout_tables_of_claims_md_are_those_of_the_code() {
    let page = include_str!("../../../docs/claims.md");
    assert_eq!(row_after(page, "## C1").last(), Some(&(271, 65)));
    assert_eq!(row_after(page, "## Manifest").last(), Some(&(128, 8)));
    let ends = [("## C1", 336), ("## Manifest", 136)];
    for (heading, end) in ends {
        let fields = row_after(page, heading);
        for (field, next) in
            fields.iter().zip(fields.iter().skip(1).map(|next| next.0).chain([end]))
        {
            assert_eq!(field.0 + field.1, next, "{heading}: a gap or an overlap at {}", field.0);
        }
    }
}

/// `(offset, bytes)` of every field in the two-column layout table under a heading, in order.
fn row_after(page: &str, heading: &str) -> Vec<(usize, usize)> {
    let section = page.split(heading).nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with("| ")).skip(1);
    let mut fields: Vec<(usize, usize)> = rows
        .flat_map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            let field = |at: usize| Some((cells[at].parse().ok()?, cells[at + 1].parse().ok()?));
            [field(1), field(4)].into_iter().flatten()
        })
        .collect();
    fields.sort_unstable();
    fields
}

#[test]
fn proofs_md_says_what_the_code_computes() {
    let page = include_str!("../../../docs/proofs.md");
    let entries = [
        "",
        "00",
        "10",
        "2021",
        "3031",
        "40414243",
        "5051525354555657",
        "606162636465666768696a6b6c6d6e6f",
    ];
    let leaves = entries.map(|entry| leaf_hash(&hex::decode(entry).unwrap()));
    let root = |count: usize| hex::encode(root_of(&leaves[..count]));

    let owner: Address = "0x00000000000000000000000000000000000a11ce".parse().unwrap();
    let (request, digest) =
        (RequestId(keccak256(b"request 1")), keccak256(b"stands for the EIP-712 claim digest"));
    let slot = |slot: u8| StatePath::storage(&owner, &Word::with_last_byte(slot));
    let account = AccountWord { code_bytes: 0, nonce: 7, balance: 10_u128.pow(18) };
    let words = [
        (["path storage 2", "leaf storage 2"], slot(2), Word::with_last_byte(3)),
        (["path account", "leaf account"], StatePath::account(&owner), account.word()),
        (["path storage 0", "leaf storage 0"], slot(0), Word::with_last_byte(1)),
        (["path request", "leaf request"], StatePath::request(&request), digest),
        (["path storage 1", "leaf storage 1"], slot(1), Word::with_last_byte(2)),
        (
            ["path claim", "leaf claim"],
            StatePath::claim(&digest.into()),
            ClaimWord::logged(1, false).word(),
        ),
    ];
    let state = words.map(|(_, path, word)| (path, word));
    assert!(state.is_sorted(), "the page lists them in path order");
    let proof = |path: &StatePath| hex::encode(StateProof::of(&state, path).encode());
    let of_words = words.iter().flat_map(|(names, path, word)| {
        [(names[0], hex::encode(path.0)), (names[1], hex::encode(leaf(path, word)))]
    });

    let genesis = CommitEntry {
        time_ms: 1_767_225_600_000,
        chain_id: 133_717,
        block_hash: keccak256(b"chain spec"),
        diff_hash: diff_hash([]),
        ..CommitEntry::default()
    };
    let filler = (0..10).flat_map(|i: u8| keccak256([&b"filler"[..], &[i]].concat()));
    let claim: Vec<u8> = [1, 1].into_iter().chain(request.0).chain(filler).take(336).collect();
    let changes = state.map(|(path, word)| DiffEntry { path, old: None, new: Some(word) });
    let commit = CommitEntry {
        claims: 1,
        height: 1,
        time_ms: 1_767_225_601_000,
        first_index: 1,
        diff_entries: 6,
        parent: leaf_hash(&genesis.encode()),
        block_hash: keccak256(b"block 1"),
        state_root: state::root_of(&state),
        diff_hash: diff_hash(&changes),
        ..genesis
    };
    assert_eq!(commit.encode()[112..144], commit.state_root.0, "as the page says");
    let log = [&genesis.encode()[..], &claim, &commit.encode()].map(leaf_hash);
    let checkpoint =
        Checkpoint { origin: "example.org/hyperion/133717".into(), size: 3, root: root_of(&log) };
    assert!(page.contains(&format!("```\n{}```", checkpoint.body())), "the body of the checkpoint");

    let others = [
        ("root(0)", root(0)),
        ("root(1)", root(1)),
        ("root(7)", root(7)),
        ("root(8)", root(8)),
        ("state root", hex::encode(commit.state_root)),
        ("proof account", proof(&StatePath::account(&owner))),
        ("path storage 3", hex::encode(slot(3).0)),
        ("proof storage 3", proof(&slot(3))),
        ("leaf 0", hex::encode(log[0])),
        ("leaf 1", hex::encode(log[1])),
        ("leaf 2", hex::encode(log[2])),
        ("log root", hex::encode(checkpoint.root)),
    ];
    agree(page, of_words.chain(others));
}
