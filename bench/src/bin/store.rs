//! The store's figures: claims appended in batches, and one durable append beside a bare write of the same disk.
//!
//! `store [DIR]` works below DIR (default: the system's folder for temporary files, which should be on the disk that
//! is to be measured) and prints one JSON object. Every run asserts that what it wrote reopens with the same head and
//! passes fsck.
//!
//! Claims are appended alone and with the two words of state that a block writes for each, a request's and a claim's;
//! with the next block prepared while this one is written, and in turn. The bare write is measured twice: over blocks
//! that the file has, as the store's tail writes, and behind its end.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use hyperion_primitives::{ClaimDigest, Mix, RequestId, keccak256};
use hyperion_store::{BlockInput, Seal, StatePath, Store, StoreConfig, Word};
use hyperion_verify::state::ClaimWord;
use serde_json::{Value, json};

const BATCH: usize = 4096;
const BATCHES: usize = 128;
const SINGLES: usize = 2_000;
/// Singles and bare writes alternate in groups, so that a disturbance meets both.
const GROUP: usize = 100;
const ORIGIN: &str = "bench.example/store";

fn main() {
    let dir = std::env::args().nth(1).map_or_else(std::env::temp_dir, PathBuf::from);
    let dir = dir.join(format!("hyperion-bench-store-{}", std::process::id()));
    let claims = append(&dir.join("claims"), false);
    let words = append(&dir.join("words"), true);
    let single = single(&dir.join("single"));
    fs::remove_dir_all(&dir).expect("the bench's own folder");
    let report = json!({
        "batch_claims": BATCH,
        "batches": BATCHES,
        "claims_per_s": claims["overlapped"],
        "claims_per_s_of": { "claims": claims, "claims_and_two_words_each": words },
        "append_over_bare": single["over_bare"]["overwrite_p50"],
        "single": single,
    });
    println!("{report:#}");
}

/// One block's claims and, with words, two changed words for each of them.
struct Batch {
    claims: Vec<Vec<u8>>,
    diff: Vec<(StatePath, Option<Word>)>,
}

fn batch(mix: &mut Mix, claims: usize, first_index: u64, with_words: bool) -> Batch {
    let claims: Vec<Vec<u8>> = (0..claims)
        .map(|_| {
            let mut claim = vec![1, 1];
            while claim.len() < 336 {
                claim.extend_from_slice(&mix.u64().to_be_bytes());
            }
            claim.truncate(336);
            claim
        })
        .collect();
    let words = |(claim, index): (&Vec<u8>, u64)| {
        let id: [u8; 32] = claim[2..34].try_into().expect("a claim has 336 bytes");
        let request = RequestId::from(id);
        let digest = ClaimDigest(keccak256(claim));
        let word = ClaimWord::logged(index, false).word();
        [(StatePath::request(&request), Some(digest.0)), (StatePath::claim(&digest), Some(word))]
    };
    let diff = if with_words {
        claims.iter().zip(first_index..).flat_map(words).collect()
    } else {
        Vec::new()
    };
    Batch { claims, diff }
}

/// Appends the batches twice: prepare and commit in turn on one thread, and with the next block prepared meanwhile.
fn append(dir: &Path, with_words: bool) -> Value {
    let mut in_turn = Vec::new();
    let mut overlapped = Vec::new();
    for round in 0..2u64 {
        let mut mix = Mix::new(round);
        let first = |at: usize| 1 + (at * (BATCH + 1)) as u64;
        let batches: Vec<Batch> =
            (0..BATCHES).map(|at| batch(&mut mix, BATCH, first(at), with_words)).collect();
        in_turn.push(claims_per_s(checked(dir, |store| append_in_turn(store, &batches))));
        overlapped.push(claims_per_s(checked(dir, |store| append_overlapped(store, &batches))));
    }
    json!({ "overlapped": best(&overlapped), "in_turn": best(&in_turn) })
}

fn claims_per_s(elapsed: Duration) -> f64 {
    ((BATCH * BATCHES) as f64 / elapsed.as_secs_f64()).round()
}

fn best(rates: &[f64]) -> f64 {
    rates.iter().copied().fold(0.0, f64::max)
}

fn append_in_turn(store: &Store, batches: &[Batch]) -> Duration {
    let start = Instant::now();
    for batch in batches {
        let prepared = store.prepare(input(batch)).expect("a sound block");
        store.commit(prepared, Seal::default()).expect("room on the disk");
    }
    start.elapsed()
}

/// Blocks are prepared by one thread, each on the candidate before it, and committed by another.
fn append_overlapped(store: &Store, batches: &[Batch]) -> Duration {
    let start = Instant::now();
    thread::scope(|scope| {
        let (send, receive) = mpsc::sync_channel(1);
        scope.spawn(move || {
            for prepared in receive {
                store.commit(prepared, Seal::default()).expect("room on the disk");
            }
        });
        let mut base = store.base();
        for batch in batches {
            let prepared = store.prepare_on(&base, input(batch)).expect("a sound block");
            base = prepared.base();
            send.send(prepared).expect("the committer lives as long");
        }
    });
    start.elapsed()
}

fn input(batch: &Batch) -> BlockInput<'_> {
    BlockInput { diff: &batch.diff, claims: &batch.claims, blobs: &[] }
}

/// Runs `work` on a new store, then reopens it and checks everything.
fn checked<T>(dir: &Path, work: impl FnOnce(&Store) -> T) -> T {
    let _ = fs::remove_dir_all(dir);
    let config = StoreConfig::new(dir, 133_717, ORIGIN);
    let store = Store::create(&config, Seal::default(), []).expect("an empty folder");
    let done = work(&store);
    let head = store.head();
    drop(store);
    let report = Store::fsck(&config).expect("a store");
    assert!(report.is_clean(), "{:?}", report.faults);
    assert_eq!(Store::open(&config).expect("a sound store").head(), head, "reopened");
    done
}

/// One claim with its two words at a time, beside bare writes of 4 KiB with fdatasync.
fn single(dir: &Path) -> Value {
    let mut mix = Mix::new(9);
    let first = |at: usize| 1 + 2 * at as u64;
    let batches: Vec<Batch> = (0..SINGLES).map(|at| batch(&mut mix, 1, first(at), true)).collect();
    let (mut ours, mut over, mut behind) = (Vec::new(), Vec::new(), Vec::new());
    checked(dir, |store| {
        let over_file = bare_file(&dir.with_extension("over"), SINGLES).expect("a writable folder");
        let behind_file = bare_file(&dir.with_extension("behind"), 0).expect("a writable folder");
        for (group, batches) in batches.chunks(GROUP).enumerate() {
            for batch in batches {
                ours.push(timed(|| {
                    let prepared = store.prepare(input(batch)).expect("a sound block");
                    store.commit(prepared, Seal::default()).expect("room on the disk");
                }));
            }
            for (file, times) in [(&over_file, &mut over), (&behind_file, &mut behind)] {
                for at in 0..batches.len() {
                    let offset = ((group * GROUP + at) * 4096) as u64;
                    times.push(timed(|| bare_write(file, offset).expect("room on the disk")));
                }
            }
        }
    });
    let (ours, over, behind) = (percentiles(ours), percentiles(over), percentiles(behind));
    let over_bare = |bare: [f64; 2]| (ours[0] / bare[0] * 100.0).round() / 100.0;
    json!({
        "append_us": { "p50": ours[0], "p99": ours[1] },
        "bare_overwrite_us": { "p50": over[0], "p99": over[1] },
        "bare_append_us": { "p50": behind[0], "p99": behind[1] },
        "over_bare": { "overwrite_p50": over_bare(over), "append_p50": over_bare(behind) },
    })
}

fn bare_file(path: &Path, pages: usize) -> io::Result<File> {
    let file = File::options().create(true).truncate(true).write(true).open(path)?;
    file.write_all_at(&vec![7; pages * 4096], 0)?;
    file.sync_all()?;
    Ok(file)
}

fn bare_write(file: &File, offset: u64) -> io::Result<()> {
    file.write_all_at(&[9; 4096], offset)?;
    file.sync_data()
}

fn timed(work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64() * 1e6
}

/// Median and 99th percentile.
fn percentiles(mut times: Vec<f64>) -> [f64; 2] {
    times.sort_by(f64::total_cmp);
    [times.len() / 2, times.len() * 99 / 100].map(|at| (times[at] * 10.0).round() / 10.0)
}
