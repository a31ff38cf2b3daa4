//! Every disk that a loss of power could leave behind, within reason, opens with all acknowledged blocks.
//!
//! A child commits blocks under a recorder of its writes and syncs (`crash_images/record.c`, preloaded). Between two
//! syncs of a file any subset of its writes may have reached the disk, each of them in any subset of its 512-byte
//! sectors; the images drawn here are such disks. Each must open, at a head that was committed and is not below the
//! last acknowledged one, and pass fsck. That a sector is written whole or not at all is assumed, by LMDB as well.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod common;

use std::{
    collections::BTreeMap,
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use common::{Draft, config, create};
use hyperion_primitives::Mix;
use hyperion_store::{Head, Store, StoreConfig};
use hyperion_verify::log::leaf_hash;

const CHILD_DIR: &str = "HYPERION_TRACE_DIR";
const SECTOR: usize = 512;
const BLOCKS: u64 = 60;
const IMAGES: u64 = 400;

fn store_config(dir: &Path) -> StoreConfig {
    let mut config = config(dir.join("store"));
    config.tail_blocks_max = 5;
    config
}

fn draft(height: u64) -> Draft {
    let mut mix = Mix::new(height);
    // Small ones for the tail, some of several pages, and now and then one that goes to the tables at once.
    let claims = [1, 2, 1, 40, 3, 1, 400][mix.below(7) as usize];
    Draft::drawn(&mut mix, claims, 6, 40)
}

/// Not a test of its own: the one below starts this program again, with the recorder.
#[test]
fn child() {
    let Some(dir) = env::var_os(CHILD_DIR).map(PathBuf::from) else { return };
    let mut acknowledged = fs::File::create(dir.join("acks")).unwrap();
    let store = create(&store_config(&dir));
    acknowledged.write_all(b"a").unwrap();
    for height in 1..=BLOCKS {
        draft(height).commit(&store);
        acknowledged.write_all(b"a").unwrap();
    }
}

/// One recorded call.
enum Event {
    Write { file: u8, offset: usize, bytes: Vec<u8>, is_synced: bool },
    Barrier { file: u8 },
    Truncate { file: u8, len: usize },
    Name { file: u8, name: String },
}

fn events(trace: &[u8]) -> Vec<Event> {
    let mut rest = trace;
    let mut events = Vec::new();
    while !rest.is_empty() {
        let (head, after) = rest.split_at(16);
        let len = u32::from_ne_bytes(head[4..8].try_into().unwrap()) as usize;
        let offset = u64::from_ne_bytes(head[8..].try_into().unwrap()) as usize;
        let (bytes, after) = after.split_at(len);
        let (bytes, file) = (bytes.to_vec(), head[1]);
        events.push(match head[0] {
            1 | 3 => Event::Write { file, offset, bytes, is_synced: head[0] == 3 },
            2 => Event::Barrier { file },
            4 => Event::Truncate { file, len: offset },
            5 => Event::Name { file, name: String::from_utf8(bytes).unwrap() },
            kind => panic!("record of kind {kind}"),
        });
        rest = after;
    }
    events
}

/// A file as far as it is known to be on disk, and what may be there besides.
#[derive(Default)]
struct OnDisk {
    durable: Vec<u8>,
    pending: Vec<(usize, Vec<u8>)>,
}

impl OnDisk {
    fn sync(&mut self) {
        for (offset, bytes) in std::mem::take(&mut self.pending) {
            put(&mut self.durable, offset, &bytes);
        }
    }

    /// One possible content: each pending write is there, is not, or is in some of its sectors.
    fn drawn(&self, mix: &mut Mix) -> Vec<u8> {
        let mut content = self.durable.clone();
        // All, none, or each by itself: the corners matter as much as the mixtures.
        let manner = mix.below(4);
        for (offset, bytes) in &self.pending {
            let fate = match manner {
                0 => 0,
                1 => 1,
                _ => mix.below(3),
            };
            match fate {
                0 => {}
                1 => put(&mut content, *offset, bytes),
                _ => {
                    let mut at = 0;
                    while at < bytes.len() {
                        // Sectors are counted from the file's start.
                        let end = (at + SECTOR - (offset + at) % SECTOR).min(bytes.len());
                        if mix.below(2) == 0 {
                            put(&mut content, offset + at, &bytes[at..end]);
                        }
                        at = end;
                    }
                }
            }
        }
        content
    }
}

fn put(content: &mut Vec<u8>, offset: usize, bytes: &[u8]) {
    if content.len() < offset + bytes.len() {
        content.resize(offset + bytes.len(), 0);
    }
    content[offset..offset + bytes.len()].copy_from_slice(bytes);
}

/// Records one run; gives out the trace.
fn recorded(dir: &Path) -> Vec<u8> {
    let (library, trace) = (dir.join("record.so"), dir.join("trace"));
    let source = Path::new("tests/crash_images/record.c").to_path_buf();
    let built = Command::new("cc")
        .args(["-O1", "-fPIC", "-shared", "-pthread", "-o"])
        .args([&library, &source])
        .status()
        .expect("a C compiler, which building LMDB needs as well");
    assert!(built.success());
    let run = Command::new(env::current_exe().unwrap())
        .args(["--exact", "child", "--test-threads", "1"])
        .env(CHILD_DIR, dir)
        .env("HYPERION_TRACE", &trace)
        .env("LD_PRELOAD", &library)
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stdout));
    fs::read(trace).unwrap()
}

/// The files of a run, up to some event.
#[derive(Default)]
struct Disk {
    names: BTreeMap<String, u8>,
    files: BTreeMap<u8, OnDisk>,
    /// Marks the child has set: one when the store was there, one after each block.
    acknowledged: u64,
}

impl Disk {
    fn begin(&mut self, event: &Event) {
        match event {
            Event::Name { file, name } => {
                self.names.insert(name.clone(), *file);
            }
            Event::Write { file, .. } if self.names.get("acks") == Some(file) => {
                self.acknowledged += 1;
            }
            Event::Write { file, offset, bytes, .. } => {
                self.files.entry(*file).or_default().pending.push((*offset, bytes.clone()));
            }
            Event::Barrier { file } => self.files.entry(*file).or_default().sync(),
            Event::Truncate { file, len } => {
                let file = self.files.entry(*file).or_default();
                file.sync();
                file.durable.resize(*len, 0);
            }
        }
    }

    /// A write that syncs itself is only pending until it returns.
    fn end(&mut self, event: &Event) {
        if let Event::Write { file, is_synced: true, .. } = event {
            self.files.entry(*file).or_default().sync();
        }
    }

    /// Writes one possible disk to `dir`.
    fn draw(&self, mix: &mut Mix, dir: &Path) {
        fs::create_dir_all(dir.join("log")).unwrap();
        for name in ["log/data.mdb", "tail"] {
            let file = &self.files[&self.names[&format!("store/{name}")]];
            fs::write(dir.join(name), file.drawn(mix)).unwrap();
        }
    }
}

/// Heads by height, from the store that was not disturbed.
fn heads(config: &StoreConfig) -> Vec<Head> {
    let store = Store::open(config).unwrap();
    assert_eq!(store.head().height, BLOCKS);
    let head = |height| {
        let record = store.log().record(height).unwrap();
        Head {
            height,
            state_root: record.entry.state_root,
            log_size: record.size_after,
            log_root: record.log_root_after,
            commit_leaf: leaf_hash(&record.entry.encode()),
            time_ms: record.entry.time_ms,
            block_hash: record.entry.block_hash,
        }
    };
    (0..=BLOCKS).map(head).collect()
}

#[test]
fn four_hundred_disks_after_a_loss_of_power() {
    let place = tempfile::tempdir().unwrap();
    let dir = fs::canonicalize(place.path()).unwrap();
    let events = events(&recorded(&dir));
    let heads = heads(&store_config(&dir));
    let seed = u64::from(std::process::id());
    println!("seed {seed}, {} events", events.len());

    let mut mix = Mix::new(seed);
    let config = store_config(&dir.join("image"));
    let mut disk = Disk::default();
    let mut images = [0; 2];
    // Every event gets its share of the images, and the share that does not divide evenly is drawn.
    let (share, of) = (IMAGES, events.len() as u64);
    for event in &events {
        disk.begin(event);
        let count = if disk.acknowledged == 0 { 0 } else { (share + mix.below(of)) / of };
        for _ in 0..count {
            disk.draw(&mut mix, &config.dir);
            let head = Store::open(&config).unwrap_or_else(|e| panic!("seed {seed}: {e}")).head();
            assert_eq!(head, heads[head.height as usize], "seed {seed}");
            let acknowledged = disk.acknowledged - 1;
            assert!(head.height >= acknowledged, "seed {seed}: {acknowledged} is lost: {head:?}");
            let report = Store::fsck(&config).unwrap();
            assert!(report.is_clean(), "seed {seed}: {:?}", report.faults);
            images[usize::from(head.height > acknowledged)] += 1;
            fs::remove_dir_all(&config.dir).unwrap();
        }
        disk.end(event);
    }
    assert_eq!(disk.acknowledged, BLOCKS + 1);
    println!(
        "{} images, {} of them with a block that was durable before it was acknowledged",
        images[0] + images[1],
        images[1]
    );
    assert!(images[0] + images[1] > IMAGES / 2 && images[1] > 0, "{images:?}");
}
