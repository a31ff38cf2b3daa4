//! The backend: memory, weights and routes over a [`Driver`].

use std::{collections::BTreeMap, fmt};

use hyperion_ops::{
    ActivationTable, Backend, BackendError, BufferId, DeviceInfo, DeviceKind, LinearShape, Step,
    WeightId, Weights, table,
};
use hyperion_primitives::{B256, Mix, TILE_BYTES};

use crate::{
    Address, DeviceDescription, Driver, Kernel, Launch, ProductShape, Work,
    room::{Need, Piece, Room},
    steps::{FEW_ROWS_MAX, GROUP_SHARED_BYTES, Recorder, Route, RouteKey, route_key},
    weights::{Kind, Linear, Packed},
};

/// Tiles that a block of `keccak` hashes.
const KECCAK_THREADS: u32 = 128;
/// Runs of each route, of which the fastest counts.
const ROUTE_RUNS: u32 = 3;
/// Step of a row and scale of a channel with which an output is the very sum: the product of the mantissas is 2^14, and
/// the shift is 14. As `pack_step` of common.cu has them.
const EXACT_STEP: u32 = 128 | (128 << 8);
const EXACT_SCALE: u32 = 128 | ((128 + 14) << 8);

/// An NVIDIA GPU as a backend.
pub struct Cuda {
    info: DeviceInfo,
    tables: Tables,
    room: Room,
    /// Who multiplies each shape, once it was measured.
    routes: BTreeMap<RouteKey, Route>,
    used_bytes: u64,
    buffers: Vec<(Address, u64)>,
    weights: Vec<Option<Packed>>,
    driver: Box<dyn Driver>,
}

impl fmt::Debug for Cuda {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cuda").field("info", &self.info).finish_non_exhaustive()
    }
}

/// Tables of the operators, an entry a word.
#[derive(Debug)]
pub(crate) struct Tables {
    pub(crate) exp2: Address,
    pub(crate) sin: Address,
    /// By [`ActivationTable::ALL`], each with the index of its last entry.
    corrections: [(Address, u64); 4],
}

impl Tables {
    fn new(driver: &mut dyn Driver) -> Result<Self, BackendError> {
        let mut upload = |entries: Vec<u32>| {
            let bytes: Vec<u8> = entries.into_iter().flat_map(u32::to_le_bytes).collect();
            let at = driver.alloc(bytes.len() as u64)?;
            driver.upload(at, &bytes)?;
            Ok(at)
        };
        let mut corrections = [(Address(0), 0); 4];
        for (place, table) in corrections.iter_mut().zip(ActivationTable::ALL) {
            let entries = table.corrections();
            let at = upload(entries.iter().map(|entry| u32::from(*entry)).collect())?;
            *place = (at, entries.len() as u64 - 1);
        }
        Ok(Self {
            exp2: upload(table::EXP2.to_vec())?,
            sin: upload(table::SIN.iter().map(|entry| u32::from(*entry)).collect())?,
            corrections,
        })
    }

    pub(crate) fn correction(&self, table: ActivationTable) -> (Address, u64) {
        let index = ActivationTable::ALL.iter().position(|other| *other == table);
        self.corrections[index.expect("every table is in the list")]
    }
}

impl Cuda {
    /// A backend over a device; weights and buffers take `memory_bytes` at most, and no more than it has free.
    ///
    /// # Errors
    ///
    /// When the device has no memory for the tables, or is lost.
    pub fn new(mut driver: Box<dyn Driver>, memory_bytes: u64) -> Result<Self, BackendError> {
        let tables = Tables::new(&mut *driver)?;
        let described = driver.description();
        let (major, minor) = described.architecture;
        let info = DeviceInfo {
            kind: DeviceKind::Cuda,
            name: described.name.clone(),
            kernels: format!("sm_{major}{minor}, {}", described.driver),
            threads: 1,
            memory_bytes: memory_bytes.min(described.memory_bytes),
        };
        Ok(Self {
            info,
            tables,
            room: Room::default(),
            routes: BTreeMap::new(),
            used_bytes: 0,
            buffers: Vec::new(),
            weights: Vec::new(),
            driver,
        })
    }

    /// The device behind it.
    pub fn description(&self) -> &DeviceDescription {
        self.driver.description()
    }

    fn free_bytes(&self) -> u64 {
        self.info.memory_bytes.saturating_sub(self.used_bytes)
    }

    /// Makes room for what the steps need in between.
    fn reserve(&mut self, need: Need) -> Result<(), BackendError> {
        let growth = self.room.growth(need);
        let free_bytes = self.free_bytes();
        if growth > free_bytes {
            return Err(BackendError::OutOfMemory { wanted_bytes: growth, free_bytes });
        }
        self.room.grow(&mut *self.driver, need)?;
        self.used_bytes += growth;
        Ok(())
    }

    fn kind(&self, id: WeightId) -> Kind {
        self.weights[id.0 as usize].as_ref().expect("the weights were unpacked").kind
    }

    /// Measures who multiplies the shapes of these steps fastest, where that is not known yet.
    fn choose(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError> {
        for step in steps {
            let Step::Linear { weights, out, .. } = *step else { continue };
            let Kind::Linear(layer) = self.kind(weights) else { continue };
            let (shape, rows) = (layer.shape, out.rows);
            let key = route_key(shape, rows);
            let known = self.routes.get(&key).copied();
            let candidates =
                known.map_or_else(|| self.candidates(shape, rows), |route| vec![route]);
            if candidates.contains(&Route::Library) {
                let mut need = Need::default();
                need.sums(shape, rows);
                self.reserve(need)?;
            }
            if known.is_none() {
                let is_choice = candidates.len() > 1;
                let route =
                    if is_choice { self.measure(layer, rows, &candidates)? } else { Route::Own };
                tracing::debug!(?key, ?route, "who multiplies");
                self.routes.insert(key, route);
            }
        }
        Ok(())
    }

    /// Who could multiply a shape; ours for any architecture is the first, and what the others are compared with.
    fn candidates(&self, shape: LinearShape, rows: u32) -> Vec<Route> {
        let product = ProductShape { rows, channels: shape.n, depth: shape.depth() };
        let about = self.driver.description();
        let is_hopper = about.architecture.0 == 9
            && about.has_tiles
            && about.shared_bytes_max >= GROUP_SHARED_BYTES;
        let mut candidates = vec![Route::Own];
        if is_hopper && !shape.a15 && rows > FEW_ROWS_MAX {
            candidates.push(Route::Group);
        }
        if self.driver.has_products(product) {
            candidates.push(Route::Library);
        }
        candidates
    }

    /// Multiplies random rows every way. One that gives other sums is not used.
    fn measure(
        &mut self,
        layer: Linear,
        rows: u32,
        candidates: &[Route],
    ) -> Result<Route, BackendError> {
        let LinearShape { n, a15, .. } = layer.shape;
        let out_bytes = 4 * u64::from(rows) * u64::from(n);
        let bytes = out_bytes + 8 * u64::from(n);
        if bytes > self.free_bytes() {
            return Ok(Route::Own); // what cannot be measured is not worth an error
        }
        let mut mix = Mix::new(rows.into());
        let halves = if a15 { &[Piece::Codes, Piece::LowCodes][..] } else { &[Piece::Codes] };
        for piece in halves {
            let count = u64::from(rows) * u64::from(layer.shape.depth());
            let codes: Vec<u8> =
                (0..count).map(|_| (mix.below(255) as u8).wrapping_sub(127)).collect();
            self.driver.upload(self.room.at(*piece), &codes)?;
        }
        let steps = EXACT_STEP.to_le_bytes().repeat(rows as usize);
        self.driver.upload(self.room.at(Piece::Steps), &steps)?;
        let memory = self.driver.alloc(bytes)?;
        let outcome = self.compare(layer, rows, candidates, (memory, out_bytes));
        self.driver.free(memory);
        outcome
    }

    /// Outputs go to `memory`, and scales behind them.
    fn compare(
        &mut self,
        layer: Linear,
        rows: u32,
        candidates: &[Route],
        (memory, out_bytes): (Address, u64),
    ) -> Result<Route, BackendError> {
        let scales = memory.plus(out_bytes);
        let pairs = [EXACT_SCALE, 0].map(u32::to_le_bytes).concat();
        self.driver.upload(scales, &pairs.repeat(layer.shape.n as usize))?;
        let mut fastest = (u64::MAX, Route::Own);
        let mut ours = None;
        for route in candidates {
            let mut recorder = self.recorder();
            recorder.multiply_alone(Linear { scales, ..layer }, rows, *route, memory);
            let work = recorder.work;
            let mut best = u64::MAX;
            for _ in 0..ROUTE_RUNS {
                // SAFETY: everything lies in `memory` or in the pieces, which were made large enough before.
                best = best.min(unsafe { self.driver.nanoseconds(&work) }?);
            }
            let mut sums = vec![0; usize::try_from(out_bytes).expect("it was just made")];
            self.driver.download(memory, &mut sums)?;
            if ours.get_or_insert_with(|| sums.clone()) != &sums {
                tracing::error!(?route, shape = ?layer.shape, rows, "other sums than ours; not used here");
            } else if best < fastest.0 {
                fastest = (best, *route);
            }
        }
        Ok(fastest.1)
    }

    fn recorder(&self) -> Recorder<'_> {
        Recorder {
            tables: &self.tables,
            buffers: &self.buffers,
            weights: &self.weights,
            room: &self.room,
            routes: &self.routes,
            shared_bytes_max: self.driver.description().shared_bytes_max,
            notes: Vec::new(),
            work: Vec::new(),
        }
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        self.reset();
        for packed in self.weights.drain(..).flatten() {
            self.driver.free(packed.memory);
        }
        self.room.clear(&mut *self.driver);
        let Tables { exp2, sin, corrections } = self.tables;
        corrections
            .into_iter()
            .map(|(at, _)| at)
            .chain([exp2, sin])
            .for_each(|at| self.driver.free(at));
    }
}

impl Backend for Cuda {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn pack(&mut self, weights: &Weights<'_>) -> Result<WeightId, BackendError> {
        let free_bytes = self.free_bytes();
        let packed = Packed::new(&mut *self.driver, weights, |bytes| {
            let refused = BackendError::OutOfMemory { wanted_bytes: bytes, free_bytes };
            if bytes > free_bytes { Err(refused) } else { Ok(()) }
        })?;
        self.used_bytes += packed.bytes;
        self.weights.push(Some(packed));
        Ok(WeightId(id(self.weights.len() - 1)))
    }

    fn unpack(&mut self, weights: WeightId) {
        let packed = self.weights[weights.0 as usize].take().expect("unpacked once only");
        self.driver.free(packed.memory);
        self.used_bytes -= packed.bytes;
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId, BackendError> {
        let (bytes, free_bytes) = (bytes.max(1), self.free_bytes());
        if bytes > free_bytes {
            return Err(BackendError::OutOfMemory { wanted_bytes: bytes, free_bytes });
        }
        self.buffers.push((self.driver.alloc(bytes)?, bytes));
        self.used_bytes += bytes;
        Ok(BufferId(id(self.buffers.len() - 1)))
    }

    fn write(&mut self, to: BufferId, at: u64, bytes: &[u8]) -> Result<(), BackendError> {
        let (start, size) = self.buffers[to.0 as usize];
        assert!(at + bytes.len() as u64 <= size, "inside the buffer");
        self.driver.upload(start.plus(at), bytes)
    }

    fn run(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError> {
        let need = Need::of(steps, |id| self.kind(id));
        let (wanted_bytes, free_bytes) = (need.values(), u64::from(u32::MAX));
        if wanted_bytes > free_bytes {
            return Err(BackendError::OutOfMemory { wanted_bytes, free_bytes });
        }
        self.reserve(need)?;
        self.choose(steps)?;
        let mut recorder = self.recorder();
        recorder.steps(steps);
        let Recorder { notes, work, .. } = recorder;
        self.driver.upload(self.room.at(Piece::Notes), &notes)?;
        // SAFETY: views lie in their buffers, which is what steps promise; pieces were made large enough above.
        unsafe { self.driver.submit(&work) }
    }

    fn read(&mut self, from: BufferId, at: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        let (start, size) = self.buffers[from.0 as usize];
        assert!(at + bytes.len() as u64 <= size, "inside the buffer");
        self.driver.download(start.plus(at), bytes)
    }

    fn leaves(
        &mut self,
        from: BufferId,
        at: u64,
        bytes: u64,
    ) -> Result<Option<Vec<B256>>, BackendError> {
        let (start, size) = self.buffers[from.0 as usize];
        assert!(at + bytes <= size, "inside the buffer");
        let tiles = bytes.div_ceil(TILE_BYTES as u64);
        let mut need = Need::default();
        need.leaves(32 * tiles);
        self.reserve(need)?;
        let leaves = self.room.at(Piece::Leaves);
        let words = [leaves.0, start.plus(at).0, bytes, tiles];
        let blocks = u32::try_from(tiles.div_ceil(KECCAK_THREADS.into())).expect("below 2^31");
        let launch = Launch::new(Kernel::Keccak, [blocks, 1], KECCAK_THREADS, 0, &words);
        // SAFETY: the buffer has as many bytes, and the piece was made large enough for the leaves.
        unsafe { self.driver.submit(&[Work::Launch(launch)]) }?;
        let mut bytes = vec![0; 32 * usize::try_from(tiles).expect("they fit in memory")];
        self.driver.download(leaves, &mut bytes)?;
        Ok(Some(bytes.as_chunks::<32>().0.iter().map(|leaf| B256::new(*leaf)).collect()))
    }

    fn reset(&mut self) {
        for (at, bytes) in self.buffers.drain(..) {
            self.driver.free(at);
            self.used_bytes -= bytes;
        }
    }
}

fn id(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than 2^32 buffers and weights")
}
