//! Each operator as launches.

use std::collections::BTreeMap;

use hyperion_ops::{
    ActivationTable, AttentionShape, BufferId, Cache, Cap, LinearShape, NormKind, NormShape,
    Pairing, PoolMode, RopeShape, Sequence, Step, View, WeightId,
    quantize::{KMIN, KMIN_FINE, KMIN_SCORE},
};

use crate::{
    Address, Kernel, Launch, ProductShape, TileSource, Work,
    cuda::Tables,
    room::{BLOCK_KEYS, Piece, Room, cached, head_depth, values_bytes, values_stride},
    weights::{Kind, Linear, Packed, Table},
};

/// Threads of a block that takes elements.
const ELEMENTS: u32 = 256;
/// Rows of a query tile, `QUERIES` of attention.cu.
const QUERIES: u32 = 16;
/// Bytes from one row of codes of weights to the next, `WEIGHTS_STRIDE` of attention.cu.
const WEIGHTS_STRIDE: u32 = BLOCK_KEYS + 16;
/// Threads of attention and of `gemm_few_rows`.
const FOUR_WARPS: u32 = 128;
/// Rows and channels of a block of `gemm`, and its stages of shared memory.
const TILE: u32 = 128;
const TILE_DEPTH: u32 = 64;
const TILE_STAGES: u32 = 3;
/// The same of `gemm_group`, whose tiles start at multiples of 1,024.
const GROUP_DEPTH: u32 = 128;
const GROUP_STAGES: u32 = 4;
const GROUP_ALIGN: u32 = 1_024;
pub(crate) const GROUP_SHARED_BYTES: u32 = GROUP_STAGES * 2 * TILE * GROUP_DEPTH + GROUP_ALIGN;
/// Rows and channels of a block of `gemm_few_rows`.
const FEW_ROWS: u32 = 16;
const FEW_CHANNELS: u32 = 32;
/// Rows up to which blocks of few rows keep more of a device busy.
pub(crate) const FEW_ROWS_MAX: u32 = 64;

/// Who multiplies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A kernel of ours for any architecture; which depends on the rows.
    Own,
    /// Our kernel for Hopper alone.
    Group,
    /// The library, and our requantization after it.
    Library,
}

/// Rows in powers of two, channels, depth, and whether codes have 15 bits: what a route is chosen for.
pub(crate) type RouteKey = (u32, u32, u32, bool);

pub(crate) const fn route_key(shape: LinearShape, rows: u32) -> RouteKey {
    (rows.next_power_of_two(), shape.n, shape.depth(), shape.a15)
}

/// A view's first element and the elements from one row to the next.
#[derive(Clone, Copy, Debug)]
struct Matrix {
    at: Address,
    stride: u64,
}

/// What happens to a linear step's output in the same kernel.
#[derive(Clone, Copy, Debug, Default)]
struct Fused {
    active: Option<(ActivationTable, View)>,
    sum: Option<(View, View)>,
}

/// Records steps.
pub(crate) struct Recorder<'d> {
    pub(crate) tables: &'d Tables,
    pub(crate) buffers: &'d [(Address, u64)],
    pub(crate) weights: &'d [Option<Packed>],
    pub(crate) room: &'d Room,
    pub(crate) routes: &'d BTreeMap<RouteKey, Route>,
    pub(crate) shared_bytes_max: u32,
    /// What kernels are told, to be uploaded to [`Piece::Notes`] before they run.
    pub(crate) notes: Vec<u8>,
    pub(crate) work: Vec<Work>,
}

/// Tiles of queries as attention.cu has them, and where values go.
#[derive(Debug, Default)]
struct Tiles {
    words: Vec<u32>,
    /// Bytes of the values so far.
    values: u64,
    /// Keys of the longest sequence, counted from the start of its first block.
    keys_max: u32,
}

impl Tiles {
    /// Appends the rows of a sequence that attend to these keys; where the codes of their values start, and from one
    /// column of them to the next.
    fn push(&mut self, shape: AttentionShape, rows: Sequence, keys: Sequence) -> (u32, u32) {
        let start = u32::try_from(self.values).expect("`run` refuses more");
        let stride = values_stride(keys);
        for row in (0..rows.rows).step_by(QUERIES as usize) {
            let count = QUERIES.min(rows.rows - row);
            self.words.extend([rows.row + row, count, keys.row, keys.rows]);
            self.words.extend([keys.position, start, stride, rows.position + row]);
        }
        self.values += values_bytes(shape, keys);
        self.keys_max = self.keys_max.max(keys.position % BLOCK_KEYS + keys.rows);
        (start, stride)
    }
}

/// Whole warps, one thread for `share` of `items`, `most` at most.
fn threads(items: u32, share: u32, most: u32) -> u32 {
    items.div_ceil(share).next_multiple_of(32).clamp(32, most)
}

impl Recorder<'_> {
    /// Records all steps.
    pub(crate) fn steps(&mut self, steps: &[Step<'_>]) {
        let mut rest = steps;
        while let Some((step, after)) = rest.split_first() {
            rest = after;
            if let Step::Linear { weights, input, out, .. } = *step {
                let fused = rest.first().map_or_else(Fused::default, |next| fused(next, out));
                if fused.active.is_some() || fused.sum.is_some() {
                    rest = &rest[1..];
                }
                self.linear(weights, input, out, fused);
            } else {
                self.step(step);
            }
        }
    }

    fn step(&mut self, step: &Step<'_>) {
        match *step {
            Step::Linear { .. } => unreachable!("recorded with the step after it"),
            Step::Embed { table, tokens, out } => self.embed(table, tokens, out),
            Step::Position { table, sequences, input, out } => {
                self.position(table, sequences, input, out);
            }
            Step::Norm { weights, shape, input, out } => self.norm(weights, shape, input, out),
            Step::Rope { frequencies, shape, sequences, input, out } => {
                self.rope(frequencies, shape, sequences, input, out);
            }
            Step::Attention { shape, sequences, q, k, v, out } => {
                self.attention(shape, sequences, [q, k, v], out);
            }
            Step::CachedAttention { shape, sequences, cache, q, k, v, out } => {
                self.cached_attention(shape, sequences, cache, [q, k, v], out);
            }
            Step::Activation { table, input, out } => self.activation(table, input, out),
            Step::Softcap { cap, input, out } => self.softcap(cap, input, out),
            Step::Gate { gate, up, out } => self.pair(Kernel::Gate, gate, up, out),
            Step::Add { lhs, rhs, out } => self.pair(Kernel::Add, lhs, rhs, out),
            Step::Rows { rows, input, out } => self.rows(rows, input, out),
            Step::Pool { mode, unit, sequences, input, out } => {
                self.pool((mode, unit), sequences, input, out);
            }
            Step::Argmax { input, out } => {
                let (x, y) = (self.matrix(input), self.matrix(out));
                let words = [y.at.0, y.stride, x.at.0, x.stride, input.width.into()];
                let threads = threads(input.width, 8, 1_024);
                self.launch(Kernel::Argmax, [out.rows, 1], threads, 0, &words);
            }
        }
    }

    fn launch(
        &mut self,
        kernel: Kernel,
        grid: [u32; 2],
        threads: u32,
        shared_bytes: u32,
        arguments: &[u64],
    ) {
        if grid.contains(&0) {
            return;
        }
        let launch = Launch::new(kernel, grid, threads, shared_bytes, arguments);
        self.work.push(Work::Launch(launch));
    }

    /// A kernel that takes elements, a row a block along x.
    fn elements(&mut self, kernel: Kernel, rows: u32, width: u32, arguments: &[u64]) {
        self.launch(kernel, [rows, width.div_ceil(ELEMENTS)], ELEMENTS, 0, arguments);
    }

    fn packed(&self, id: WeightId) -> Kind {
        self.weights[id.0 as usize].as_ref().expect("the weights were unpacked").kind
    }

    fn table(&self, id: WeightId) -> Table {
        let Kind::Table(table) = self.packed(id) else { panic!("the step needs a table") };
        table
    }

    fn buffer(&self, id: BufferId) -> Address {
        self.buffers[id.0 as usize].0
    }

    fn matrix(&self, view: View) -> Matrix {
        let at = self.buffer(view.buffer).plus(view.offset * view.dtype.bytes() as u64);
        Matrix { at, stride: view.stride.into() }
    }

    /// Tells kernels something; where they find it.
    fn note(&mut self, words: impl IntoIterator<Item = u32>) -> Address {
        self.notes.resize(self.notes.len().next_multiple_of(16), 0);
        let at = self.room.at(Piece::Notes).plus(self.notes.len() as u64);
        self.notes.extend(words.into_iter().flat_map(u32::to_le_bytes));
        at
    }

    /// The absolute position of each row.
    fn positions(&mut self, sequences: &[Sequence], rows: u32) -> Address {
        let mut positions = vec![0; rows as usize];
        for sequence in sequences {
            let first = sequence.row as usize;
            let places = &mut positions[first..first + sequence.rows as usize];
            places.iter_mut().zip(sequence.position..).for_each(|(place, at)| *place = at);
        }
        self.note(positions)
    }

    fn embed(&mut self, table: WeightId, tokens: View, out: View) {
        let table = self.table(table);
        let (x, y) = (self.matrix(tokens), self.matrix(out));
        let [codes, steps, width, wide] = table_words(table);
        let words = [y.at.0, y.stride, x.at.0, x.stride, codes, steps, width, wide];
        self.elements(Kernel::Embed, out.rows, out.width, &words);
    }

    fn position(&mut self, table: WeightId, sequences: &[Sequence], input: View, out: View) {
        let table = self.table(table);
        let positions = self.positions(sequences, out.rows);
        let (x, y) = (self.matrix(input), self.matrix(out));
        let [codes, steps, width, wide] = table_words(table);
        let words = [y.at.0, y.stride, x.at.0, x.stride, positions.0, codes, steps, width, wide];
        self.elements(Kernel::Position, out.rows, out.width, &words);
    }

    fn norm(&mut self, weights: WeightId, shape: NormShape, input: View, out: View) {
        let Kind::Norm(weights) = self.packed(weights) else { panic!("`norm` needs its scale") };
        let (x, y) = (self.matrix(input), self.matrix(out));
        let groups = out.width / shape.group;
        let words = [
            y.at.0,
            y.stride,
            x.at.0,
            x.stride,
            weights.0,
            shape.group.into(),
            groups.into(),
            shape.eps_q32.into(),
            u64::from(shape.kind == NormKind::Layer),
        ];
        let threads = threads(shape.group, 4, 512);
        self.launch(Kernel::Norm, [out.rows * groups, 1], threads, 0, &words);
    }

    fn linear(&mut self, weights: WeightId, input: View, out: View, fused: Fused) {
        let Kind::Linear(layer) = self.packed(weights) else {
            panic!("`linear` needs its weights")
        };
        let shape = layer.shape;
        let low = if shape.a15 { self.room.at(Piece::LowCodes) } else { Address(0) };
        let codes = (self.room.at(Piece::Codes), low);
        let kmin = if shape.a15 { KMIN_FINE } else { KMIN };
        let steps = self.room.at(Piece::Steps);
        self.quantize(input, (1, shape.depth()), kmin, (codes, steps), layer.smooth);
        let y = self.matrix(out);
        let epilogue = self.epilogue(layer, [y.at.0, y.stride], fused);
        let route = self.routes.get(&route_key(shape, out.rows));
        self.multiply(layer, out.rows, route.copied().unwrap_or(Route::Own), epilogue);
    }

    /// Multiplies the rows of codes that stand in [`Piece::Codes`]; outputs without bias or fusion go to `out`.
    pub(crate) fn multiply_alone(&mut self, layer: Linear, rows: u32, route: Route, out: Address) {
        let epilogue = self.epilogue(layer, [out.0, layer.shape.n.into()], Fused::default());
        self.multiply(layer, rows, route, epilogue);
    }

    fn multiply(&mut self, layer: Linear, rows: u32, route: Route, epilogue: [u64; 12]) {
        let Linear { shape, codes: weights, .. } = layer;
        let codes = self.room.at(Piece::Codes);
        let low = if shape.a15 { self.room.at(Piece::LowCodes) } else { Address(0) };
        if route != Route::Library {
            self.gemm(shape, rows, [codes, low, weights], route, epilogue);
            return;
        }
        let product = ProductShape { rows, channels: shape.n, depth: shape.depth() };
        let mut sums = [Address(0); 2];
        let halves = [(codes, Piece::Sums), (low, Piece::LowSums)];
        for ((codes, piece), sums) in halves.into_iter().zip(&mut sums) {
            if codes != Address(0) {
                *sums = self.room.at(piece);
                self.work.push(Work::Product { shape: product, codes, weights, out: *sums });
            }
        }
        let words: Vec<u64> =
            [sums[0].0, sums[1].0, shape.n.into()].into_iter().chain(epilogue).collect();
        self.elements(Kernel::Requantize, rows, shape.n, &words);
    }

    /// Our own product; `epilogue` is the struct of requantize.cu.
    fn gemm(
        &mut self,
        shape: LinearShape,
        rows: u32,
        [codes, low, weights]: [Address; 3],
        route: Route,
        epilogue: [u64; 12],
    ) {
        let sizes = [rows.into(), shape.n.into(), shape.depth().into()];
        let words: Vec<u64> =
            [codes.0, low.0, weights.0].into_iter().chain(sizes).chain(epilogue).collect();
        if route == Route::Group {
            let grid = [shape.n.div_ceil(TILE), rows.div_ceil(TILE)];
            let (threads, depth) = (2 * TILE, shape.depth());
            let tiles = [(weights, shape.n), (codes, rows)];
            let tiles = tiles.map(|(at, lines)| TileSource { at, lines, depth });
            let launch = Launch::new(Kernel::GemmGroup, grid, threads, GROUP_SHARED_BYTES, &words);
            if !grid.contains(&0) {
                self.work.push(Work::Launch(Launch { tiles: Some(tiles), ..launch }));
            }
        } else if rows <= FEW_ROWS_MAX {
            let kernel = if shape.a15 { Kernel::GemmFewRowsFine } else { Kernel::GemmFewRows };
            let grid = [shape.n.div_ceil(FEW_CHANNELS), rows.div_ceil(FEW_ROWS)];
            self.launch(kernel, grid, FOUR_WARPS, 0, &words);
        } else {
            let (kernel, operands) =
                if shape.a15 { (Kernel::GemmFine, 3) } else { (Kernel::Gemm, 2) };
            let grid = [shape.n.div_ceil(TILE), rows.div_ceil(TILE)];
            let shared = TILE_STAGES * operands * TILE * TILE_DEPTH;
            self.launch(kernel, grid, 2 * TILE, shared, &words);
        }
    }

    fn epilogue(&self, layer: Linear, [out, stride]: [u64; 2], fused: Fused) -> [u64; 12] {
        let mut words = [0; 12];
        let steps = self.room.at(Piece::Steps).0;
        words[..4].copy_from_slice(&[out, stride, steps, layer.scales.0]);
        if let Some((table, out)) = fused.active {
            let (z, (corrections, last)) = (self.matrix(out), self.tables.correction(table));
            words[4..8].copy_from_slice(&[z.at.0, z.stride, corrections.0, last]);
        }
        if let Some((other, out)) = fused.sum {
            let (x, z) = (self.matrix(other), self.matrix(out));
            words[8..].copy_from_slice(&[z.at.0, z.stride, x.at.0, x.stride]);
        }
        words
    }

    /// Codes, their low halves where there is a place for them, and steps of groups of columns.
    fn quantize(
        &mut self,
        input: View,
        (groups, depth): (u32, u32),
        kmin: i32,
        ((codes, low), steps): ((Address, Address), Address),
        factors: Option<Address>,
    ) {
        let x = self.matrix(input);
        let words = [
            codes.0,
            low.0,
            steps.0,
            x.at.0,
            x.stride,
            factors.map_or(0, |factors| factors.0),
            (input.width / groups).into(),
            groups.into(),
            depth.into(),
            i64::from(kmin).cast_unsigned(),
        ];
        let threads = threads(depth, 16, 256);
        self.launch(Kernel::Quantize, [input.rows * groups, 1], threads, 0, &words);
    }

    fn rope(
        &mut self,
        frequencies: WeightId,
        shape: RopeShape,
        sequences: &[Sequence],
        input: View,
        out: View,
    ) {
        let Kind::Frequencies(frequencies) = self.packed(frequencies) else {
            panic!("`rope` needs its frequencies")
        };
        let positions = self.positions(sequences, out.rows);
        let (x, y) = (self.matrix(input), self.matrix(out));
        let words = [
            y.at.0,
            y.stride,
            x.at.0,
            x.stride,
            frequencies.0,
            self.tables.sin.0,
            positions.0,
            out.width.into(),
            shape.head_dim.into(),
            shape.rot.into(),
            u64::from(shape.pairing == Pairing::Adjacent),
        ];
        self.elements(Kernel::Rope, out.rows, out.width, &words);
    }

    fn attention(
        &mut self,
        shape: AttentionShape,
        sequences: &[Sequence],
        [q, k, v]: [View; 3],
        out: View,
    ) {
        let [keys, values, key_steps, value_steps] =
            [Piece::Keys, Piece::Values, Piece::KeySteps, Piece::ValueSteps]
                .map(|piece| self.room.at(piece));
        self.quantize_queries(shape, q);
        let kv_heads = (shape.kv_heads, head_depth(shape));
        self.quantize(k, kv_heads, KMIN_SCORE, ((keys, Address(0)), key_steps), None);
        let mut places = vec![0; 2 * v.rows as usize];
        let mut tiles = Tiles::default();
        for sequence in sequences {
            let (start, stride) = tiles.push(shape, *sequence, *sequence);
            for row in 0..sequence.rows {
                let place = 2 * (sequence.row + row) as usize;
                let column = start + sequence.position % BLOCK_KEYS + row;
                places[place..place + 2].copy_from_slice(&[column, stride]);
            }
        }
        let places = self.note(places);
        let x = self.matrix(v);
        let words = [
            values.0,
            value_steps.0,
            x.at.0,
            x.stride,
            places.0,
            shape.head_dim.into(),
            shape.kv_heads.into(),
        ];
        let threads = threads(shape.head_dim, 2, 128);
        self.launch(Kernel::QuantizeValues, [v.rows * shape.kv_heads, 1], threads, 0, &words);
        self.attend(shape, tiles, out);
    }

    /// Adds new rows to their pages, gathers the pages, and attends as without a cache.
    fn cached_attention(
        &mut self,
        shape: AttentionShape,
        sequences: &[Sequence],
        cache: Cache<'_>,
        [q, k, v]: [View; 3],
        out: View,
    ) {
        let page = cache.page;
        self.quantize_queries(shape, q);
        let mut tiles = Tiles::default();
        let (mut positions, mut places) = (vec![0; k.rows as usize], Vec::new());
        let mut value_places = Vec::new();
        let mut keys_row = 0;
        for (sequence, pages) in sequences.iter().zip(cache.pages) {
            let keys = Sequence { row: keys_row, ..cached(sequence) };
            let (start, stride) = tiles.push(shape, *sequence, keys);
            for position in 0..keys.rows {
                places.extend([pages[(position / page.rows) as usize], position % page.rows]);
                value_places.extend([start + position, stride]);
            }
            for row in 0..sequence.rows {
                positions[(sequence.row + row) as usize] = keys_row + sequence.position + row;
            }
            keys_row += keys.rows;
        }
        let (positions, places) = (self.note(positions), self.note(places));
        let value_places = self.note(value_places);
        let pages = [
            self.buffer(cache.buffer).0,
            page.bytes() / 2,
            page.rows.into(),
            page.kv_heads.into(),
            page.head_dim.into(),
            page.head_dim.next_multiple_of(4).into(),
        ];
        let [new_keys, new_values] = [k, v].map(|view| self.matrix(view));
        let new = [new_keys.at.0, new_keys.stride, new_values.at.0, new_values.stride];
        let append: Vec<u64> =
            pages.into_iter().chain(new).chain([positions.0, places.0]).collect();
        let threads = threads(shape.head_dim, 2, 128);
        let new_rows = k.rows * shape.kv_heads;
        self.launch(Kernel::CacheAppend, [new_rows, 2], threads, 0, &append);
        let [keys, values, key_steps, value_steps] =
            [Piece::Keys, Piece::Values, Piece::KeySteps, Piece::ValueSteps]
                .map(|piece| self.room.at(piece).0);
        let to = [
            places.0,
            keys,
            key_steps,
            head_depth(shape).into(),
            values,
            value_steps,
            value_places.0,
        ];
        let gather: Vec<u64> = pages.into_iter().chain(to).collect();
        self.launch(Kernel::CacheGather, [keys_row * shape.kv_heads, 2], threads, 0, &gather);
        self.attend(shape, tiles, out);
    }

    fn quantize_queries(&mut self, shape: AttentionShape, q: View) {
        let to = (self.room.at(Piece::Codes), Address(0));
        let steps = self.room.at(Piece::Steps);
        self.quantize(q, (shape.heads, head_depth(shape)), KMIN_SCORE, (to, steps), None);
    }

    /// Attends from tiles of queries to the keys and values that stand in their pieces.
    fn attend(&mut self, shape: AttentionShape, tiles: Tiles, out: View) {
        let [codes, keys, values] =
            [Piece::Codes, Piece::Keys, Piece::Values].map(|piece| self.room.at(piece));
        let [steps, key_steps, value_steps] =
            [Piece::Steps, Piece::KeySteps, Piece::ValueSteps].map(|piece| self.room.at(piece));
        let codes_bytes = QUERIES * WEIGHTS_STRIDE * if shape.p15 { 2 } else { 1 };
        let chunk = self.chunk(tiles.keys_max, codes_bytes);
        let count = u32::try_from(tiles.words.len() / 8).expect("no more than rows");
        let tiles = self.note(tiles.words);
        let y = self.matrix(out);
        let cap = cap_words(shape.cap);
        let words = [
            y.at.0,
            y.stride,
            codes.0,
            steps.0,
            keys.0,
            key_steps.0,
            values.0,
            value_steps.0,
            tiles.0,
            self.tables.exp2.0,
            shape.heads.into(),
            shape.kv_heads.into(),
            shape.head_dim.into(),
            head_depth(shape).into(),
            shape.causal.into(),
            shape.window.into(),
            chunk.into(),
            cap[0],
            cap[1],
        ];
        let kernel = match (shape.head_dim, shape.p15) {
            (..=64, false) => Kernel::Attention64,
            (..=128, false) => Kernel::Attention128,
            (_, false) => Kernel::Attention256,
            (..=64, true) => Kernel::Attention64Fine,
            (..=128, true) => Kernel::Attention128Fine,
            (_, true) => Kernel::Attention256Fine,
        };
        let shared = QUERIES * (chunk + 4) * 4 + codes_bytes;
        self.launch(kernel, [count, shape.heads], FOUR_WARPS, shared, &words);
    }

    /// Keys whose scores shared memory holds: those of the longest sequence, if they fit beside the codes.
    fn chunk(&self, keys_max: u32, codes_bytes: u32) -> u32 {
        let room = (self.shared_bytes_max - codes_bytes) / (4 * QUERIES) - 4;
        let most = (room / BLOCK_KEYS * BLOCK_KEYS).max(BLOCK_KEYS);
        keys_max.next_multiple_of(BLOCK_KEYS).clamp(BLOCK_KEYS, most)
    }

    fn activation(&mut self, table: ActivationTable, input: View, out: View) {
        let (x, y) = (self.matrix(input), self.matrix(out));
        let (corrections, last) = self.tables.correction(table);
        let words = [y.at.0, y.stride, x.at.0, x.stride, out.width.into(), corrections.0, last];
        self.elements(Kernel::Activation, out.rows, out.width, &words);
    }

    fn softcap(&mut self, cap: Cap, input: View, out: View) {
        let (x, y) = (self.matrix(input), self.matrix(out));
        let (powers, [cap, inverse]) = (self.tables.exp2.0, cap_words(Some(cap)));
        let words = [y.at.0, y.stride, x.at.0, x.stride, out.width.into(), powers, cap, inverse];
        self.elements(Kernel::Softcap, out.rows, out.width, &words);
    }

    /// An operator of two inputs, element by element.
    fn pair(&mut self, kernel: Kernel, lhs: View, rhs: View, out: View) {
        let [x, z, y] = [lhs, rhs, out].map(|view| self.matrix(view));
        let words = [y.at.0, y.stride, x.at.0, x.stride, z.at.0, z.stride, out.width.into()];
        self.elements(kernel, out.rows, out.width, &words);
    }

    fn rows(&mut self, chosen: &[u32], input: View, out: View) {
        assert_eq!(input.dtype, out.dtype, "a copy keeps the type");
        let bytes = input.dtype.bytes() as u64;
        assert!(bytes == 4 || bytes == 2, "rows have elements of 4 or 2 bytes");
        let chosen = self.note(chosen.iter().copied());
        let (x, y) = (self.matrix(input), self.matrix(out));
        let words = [y.at.0, y.stride, x.at.0, x.stride, chosen.0, out.width.into(), bytes];
        self.elements(Kernel::Rows, out.rows, out.width, &words);
    }

    fn pool(
        &mut self,
        (mode, unit): (PoolMode, bool),
        sequences: &[Sequence],
        input: View,
        out: View,
    ) {
        let places = self.note(sequences.iter().flat_map(|of| [of.row, of.rows]));
        let (x, y) = (self.matrix(input), self.matrix(out));
        let words = [
            y.at.0,
            y.stride,
            x.at.0,
            x.stride,
            places.0,
            input.width.into(),
            mode.code().into(),
            unit.into(),
        ];
        let threads = threads(input.width, 1, 256);
        self.launch(Kernel::Pool, [out.rows, 1], threads, 0, &words);
    }
}

/// What of the step after a linear one can be done as its output leaves.
fn fused(next: &Step<'_>, linear: View) -> Fused {
    match *next {
        Step::Activation { table, input, out } if input == linear => {
            Fused { active: Some((table, out)), ..Fused::default() }
        }
        // What is added must not be the output itself, which is not there yet.
        Step::Add { lhs, rhs, out } if lhs == linear && rhs.buffer != linear.buffer => {
            Fused { sum: Some((rhs, out)), ..Fused::default() }
        }
        Step::Add { lhs, rhs, out } if rhs == linear && lhs.buffer != linear.buffer => {
            Fused { sum: Some((lhs, out)), ..Fused::default() }
        }
        _ => Fused::default(),
    }
}

/// `CodeTable` of embed.cu.
fn table_words(table: Table) -> [u64; 4] {
    [table.codes.0, table.steps.0, table.width.into(), table.wide.into()]
}

/// `Cap` of softcap.cu; zeros stand for none.
fn cap_words(cap: Option<Cap>) -> [u64; 2] {
    cap.map_or([0, 0], |cap| [cap.q16().into(), cap.inverse().into()])
}
