//! Each operator as dispatches.

mod cached;

use hyperion_ops::{
    ActivationTable, AttentionShape, Backend, BackendError, BufferId, Cap, DeviceInfo, DeviceKind,
    NormKind, NormShape, Pairing, PoolMode, RopeShape, Sequence, Step, View, WeightId, Weights,
    quantize::{KMIN, KMIN_FINE, KMIN_SCORE},
    table,
};

use crate::{
    adapter::{self, AdapterDescription, AdapterKind, OpenError},
    gpu::Gpu,
    kernels::{Kernel, Kernels},
    pass::{Binding, Pass},
    weights::{Linear, Packed, Table},
};

/// Threads of a workgroup.
const GROUP: u32 = 64;
/// Threads of a workgroup that works on one row, where shaders run in software: one vector.
const SOFTWARE_GROUP: u32 = 8;
/// Words of a head's codes up to which it is narrow, `WORDS` of attention.wgsl.
const NARROW_WORDS: u32 = 16;
/// Rows that a thread of `gemm` makes, and so what rows of codes are padded to.
const GEMM_ROWS: u32 = 4;

/// A GPU as a backend.
#[derive(Debug)]
pub struct Wgpu {
    info: DeviceInfo,
    adapter: AdapterDescription,
    gpu: Gpu,
    kernels: Kernels,
    tables: Tables,
    scratch: Scratch,
    used_bytes: u64,
    buffers: Vec<wgpu::Buffer>,
    weights: Vec<Option<(Packed, u64)>>,
}

/// Tables of the operators, an entry a word.
#[derive(Debug)]
struct Tables {
    exp2: wgpu::Buffer,
    sin: wgpu::Buffer,
    /// By [`ActivationTable::ALL`], each with the index of its last entry.
    corrections: [(wgpu::Buffer, u32); 4],
    /// For a binding that a kernel does not read.
    nothing: wgpu::Buffer,
}

/// Quantized rows on their way from one kernel to the next.
#[derive(Debug)]
struct Scratch {
    codes: wgpu::Buffer,
    steps: wgpu::Buffer,
    /// Rows of `pool` before they are packed.
    words: wgpu::Buffer,
}

/// What is chosen by the adapter unless it is said here; no choice changes a bit.
#[derive(Clone, Copy, Debug, Default)]
pub struct Form {
    /// Whether shaders take the form for software.
    pub is_software: Option<bool>,
    /// Bytes that one binding may hold, at most what the adapter allows.
    pub binding_bytes_max: Option<u64>,
}

impl Wgpu {
    /// Opens adapter `index` of [`adapters`](crate::adapters) and compiles the shaders, in the form that suits it.
    ///
    /// Drivers do not say how much memory there is: weights and buffers take `memory_bytes` at most, and an
    /// allocation that the driver refuses is an error like any other.
    ///
    /// # Errors
    ///
    /// When there is no such adapter, or its driver refuses.
    pub fn open(index: usize, memory_bytes: u64) -> Result<Self, OpenError> {
        Self::open_as(index, memory_bytes, Form::default())
    }

    /// The same as another adapter would run it.
    ///
    /// # Errors
    ///
    /// When there is no such adapter, or its driver refuses.
    pub fn open_as(index: usize, memory_bytes: u64, form: Form) -> Result<Self, OpenError> {
        let (adapter, gpu) = adapter::open(index, form.binding_bytes_max)?;
        let refused = |error: BackendError| OpenError::Refused(error.to_string());
        let is_software = form.is_software.unwrap_or(adapter.kind == AdapterKind::Software);
        let group = if is_software { SOFTWARE_GROUP } else { GROUP };
        let kernels = Kernels::new(&gpu, group);
        let tables = Tables::new(&gpu).map_err(refused)?;
        let scratch = Scratch::new(&gpu).map_err(refused)?;
        gpu.check().map_err(refused)?;
        let info = DeviceInfo {
            kind: DeviceKind::Wgpu,
            name: adapter.name.clone(),
            kernels: format!("wgsl-{}", adapter.api),
            threads: 1,
            memory_bytes,
        };
        let (buffers, weights) = (Vec::new(), Vec::new());
        Ok(Self { info, adapter, gpu, kernels, tables, scratch, used_bytes: 0, buffers, weights })
    }

    /// The adapter behind it.
    pub const fn adapter(&self) -> &AdapterDescription {
        &self.adapter
    }

    fn claim(&mut self, bytes: u64) -> Result<(), BackendError> {
        let free_bytes = self.info.memory_bytes.saturating_sub(self.used_bytes);
        if bytes > free_bytes {
            return Err(BackendError::OutOfMemory { wanted_bytes: bytes, free_bytes });
        }
        self.used_bytes += bytes;
        Ok(())
    }
}

impl Tables {
    fn new(gpu: &Gpu) -> Result<Self, BackendError> {
        let upload = |entries: &mut dyn Iterator<Item = u32>| {
            gpu.upload(&entries.flat_map(u32::to_le_bytes).collect::<Vec<u8>>())
        };
        let correction = |table: ActivationTable| {
            let entries = table.corrections();
            let last = u32::try_from(entries.len() - 1).expect("4,096 entries at most");
            Ok((upload(&mut entries.iter().map(|entry| u32::from(*entry)))?, last))
        };
        let [relu, gelu, gelu_tanh, silu] = ActivationTable::ALL.map(correction);
        Ok(Self {
            exp2: upload(&mut table::EXP2.iter().copied())?,
            sin: upload(&mut table::SIN.iter().map(|entry| u32::from(*entry)))?,
            corrections: [relu?, gelu?, gelu_tanh?, silu?],
            nothing: gpu.alloc(16)?,
        })
    }

    fn correction(&self, table: ActivationTable) -> &(wgpu::Buffer, u32) {
        let index = ActivationTable::ALL.iter().position(|other| *other == table);
        &self.corrections[index.expect("every table is in the list")]
    }
}

impl Scratch {
    fn new(gpu: &Gpu) -> Result<Self, BackendError> {
        Ok(Self { codes: gpu.alloc(16)?, steps: gpu.alloc(16)?, words: gpu.alloc(16)? })
    }

    /// Makes a buffer larger if it has to be; kernels recorded before keep the old one.
    fn grow(gpu: &Gpu, buffer: &mut wgpu::Buffer, words: u64) -> Result<(), BackendError> {
        let bytes = 4 * words;
        if bytes > gpu.binding_bytes_max {
            let free_bytes = gpu.binding_bytes_max;
            return Err(BackendError::OutOfMemory { wanted_bytes: bytes, free_bytes });
        }
        if bytes > buffer.size() {
            *buffer = gpu.alloc(bytes)?;
        }
        Ok(())
    }
}

/// Records steps.
struct Recorder<'d> {
    gpu: &'d Gpu,
    tables: &'d Tables,
    buffers: &'d [wgpu::Buffer],
    weights: &'d [Option<(Packed, u64)>],
    scratch: &'d mut Scratch,
    pass: Pass<'d>,
}

/// A view's rows as a kernel binds them.
struct Bound<'b> {
    binding: Binding<'b>,
    /// The first element of the first row, counted from the binding's start.
    at: u32,
    stride: u32,
}

impl<'d> Recorder<'d> {
    fn packed(&self, id: WeightId) -> &'d Packed {
        let packed = self.weights[id.0 as usize].as_ref();
        &packed.expect("the weights were unpacked").0
    }

    fn table(&self, id: WeightId) -> &'d Table {
        let Packed::Table(table) = self.packed(id) else { panic!("the step needs a table") };
        table
    }

    /// Rows of views that one dispatch may take: their bindings fit, and so does the grid.
    fn rows_max(&self, views: &[View]) -> u32 {
        let fits = |view: &View| {
            if self.is_whole(*view) {
                return u64::MAX;
            }
            // A binding starts a little before its first row.
            let room = self.gpu.binding_bytes_max - self.gpu.binding_align;
            (room / (u64::from(view.stride) * view.dtype.bytes() as u64)).max(1)
        };
        let rows = views.iter().map(fits).min().unwrap_or(u64::MAX);
        u32::try_from(rows).unwrap_or(u32::MAX).min(self.gpu.groups_max)
    }

    /// Cuts rows into parts of `most` at most: first row, and how many.
    fn parts(rows: u32, most: u32) -> impl Iterator<Item = (u32, u32)> {
        let starts = (0..rows).step_by(most.max(1) as usize);
        starts.map(move |first| (first, most.min(rows - first)))
    }

    /// Binds `count` rows of a view from row `first` on.
    fn bind(&self, view: View, first: u32, count: u32) -> Bound<'d> {
        let buffer = &self.buffers[view.buffer.0 as usize];
        let size = view.dtype.bytes() as u64;
        let stride = if view.rows == 1 { view.width } else { view.stride };
        let element = view.offset + u64::from(first) * u64::from(stride);
        if self.is_whole(view) {
            let at = u32::try_from(element).expect("a binding is below 2^32 bytes");
            return Bound { binding: Binding::whole(buffer), at, stride };
        }
        let start = element * size / self.gpu.binding_align * self.gpu.binding_align;
        let last = element + u64::from(count - 1) * u64::from(stride) + u64::from(view.width);
        let len = (last * size).next_multiple_of(4).min(buffer.size()) - start;
        let at = u32::try_from(element - start / size).expect("below the binding's size");
        Bound { binding: Binding { buffer, start, len }, at, stride }
    }

    fn upload(&self, words: impl IntoIterator<Item = u32>) -> Result<wgpu::Buffer, BackendError> {
        let bytes: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        self.gpu.upload(&bytes)
    }

    /// The absolute position of each row.
    fn positions(&self, sequences: &[Sequence], rows: u32) -> Result<Vec<u32>, BackendError> {
        let mut positions = vec![0; rows as usize];
        for sequence in sequences {
            let first = sequence.row as usize;
            let places = &mut positions[first..first + sequence.rows as usize];
            places.iter_mut().zip(sequence.position..).for_each(|(place, at)| *place = at);
        }
        Ok(positions)
    }

    fn step(&mut self, step: &Step<'_>) -> Result<(), BackendError> {
        match *step {
            Step::Embed { table, tokens, out } => self.embed(table, tokens, out),
            Step::Position { table, sequences, input, out } => {
                return self.position(table, sequences, input, out);
            }
            Step::Norm { weights, shape, input, out } => self.norm(weights, shape, input, out),
            Step::Linear { weights, input, out, .. } => {
                return self.linear(weights, input, out);
            }
            Step::Rope { frequencies, shape, sequences, input, out } => {
                return self.rope(frequencies, shape, sequences, input, out);
            }
            Step::Attention { shape, sequences, q, k, v, out } => {
                return self.attention(shape, sequences, [q, k, v], out);
            }
            Step::CachedAttention { shape, sequences, cache, q, k, v, out } => {
                return self.cached_attention(shape, sequences, cache, [q, k, v], out);
            }
            Step::Activation { table, input, out } => self.activation(table, input, out),
            Step::Softcap { cap, input, out } => self.softcap(cap, input, out),
            Step::Gate { gate, up, out } => self.pair(Kernel::Gate, gate, up, out),
            Step::Add { lhs, rhs, out } => self.pair(Kernel::Add, lhs, rhs, out),
            Step::Rows { rows, input, out } => return self.rows(rows, input, out),
            Step::Pool { mode, unit, sequences, input, out } => {
                return self.pool((mode, unit), sequences, input, out);
            }
            Step::Argmax { input, out } => {
                for (first, count) in Self::parts(input.rows, self.rows_max(&[input, out])) {
                    let (x, y) = (self.bind(input, first, count), self.bind(out, first, count));
                    let params = [count, input.width, x.at, x.stride, y.at, y.stride];
                    let bindings = [y.binding, x.binding];
                    self.pass.dispatch(Kernel::Argmax, &bindings, &params, [1, count]);
                }
            }
        }
        Ok(())
    }

    fn embed(&mut self, table: WeightId, tokens: View, out: View) {
        let table = self.table(table);
        for (first, count) in Self::parts(out.rows, self.rows_max(&[tokens, out])) {
            let (x, y) = (self.bind(tokens, first, count), self.bind(out, first, count));
            for shard in &table.shards {
                let bindings = [
                    y.binding,
                    x.binding,
                    Binding::whole(&shard.codes),
                    Binding::whole(&shard.scales),
                ];
                let params = [
                    count,
                    out.width,
                    x.at,
                    x.stride,
                    y.at,
                    y.stride,
                    shard.first,
                    shard.count,
                    table.words,
                    table.halves.into(),
                ];
                let groups = [out.width.div_ceil(GROUP), count];
                self.pass.dispatch(Kernel::Embed, &bindings, &params, groups);
            }
        }
    }

    fn position(
        &mut self,
        table: WeightId,
        sequences: &[Sequence],
        input: View,
        out: View,
    ) -> Result<(), BackendError> {
        let table = self.table(table);
        let positions = self.positions(sequences, out.rows)?;
        for (first, count) in Self::parts(out.rows, self.rows_max(&[input, out])) {
            let (x, y) = (self.bind(input, first, count), self.bind(out, first, count));
            let rows = first as usize..(first + count) as usize;
            let positions = self.upload(positions[rows].iter().copied())?;
            for shard in &table.shards {
                let bindings = [
                    y.binding,
                    x.binding,
                    Binding::whole(&shard.codes),
                    Binding::whole(&shard.scales),
                    Binding::whole(&positions),
                ];
                let params = [
                    count,
                    out.width,
                    x.at,
                    x.stride,
                    y.at,
                    y.stride,
                    shard.first,
                    shard.count,
                    table.words,
                    table.halves.into(),
                ];
                let groups = [out.width.div_ceil(GROUP), count];
                self.pass.dispatch(Kernel::Position, &bindings, &params, groups);
            }
        }
        Ok(())
    }

    fn norm(&mut self, weights: WeightId, shape: NormShape, input: View, out: View) {
        let Packed::Norm(weights) = self.packed(weights) else {
            panic!("`norm` needs its scale");
        };
        for (first, count) in Self::parts(out.rows, self.rows_max(&[input, out])) {
            let (x, y) = (self.bind(input, first, count), self.bind(out, first, count));
            let centre = u32::from(shape.kind == NormKind::Layer);
            let params =
                [count, shape.group, x.at, x.stride, y.at, y.stride, shape.eps_q32, centre];
            let bindings = [y.binding, x.binding, Binding::whole(weights)];
            let groups = [out.width / shape.group, count];
            self.pass.dispatch(Kernel::Norm, &bindings, &params, groups);
        }
    }

    fn linear(&mut self, weights: WeightId, input: View, out: View) -> Result<(), BackendError> {
        let Packed::Linear(layer) = self.packed(weights) else {
            panic!("`linear` needs its weights");
        };
        let Linear { shape, smooth, shards } = layer;
        let words = shape.depth() / 4;
        let halves = if shape.a15 { 2 } else { 1 };
        let room = self.gpu.binding_bytes_max / (4 * u64::from(words) * halves);
        let room = u32::try_from(room).unwrap_or(u32::MAX) / GEMM_ROWS * GEMM_ROWS;
        if room == 0 {
            let wanted_bytes = 4 * u64::from(words) * halves * u64::from(GEMM_ROWS);
            let free_bytes = self.gpu.binding_bytes_max;
            return Err(BackendError::OutOfMemory { wanted_bytes, free_bytes });
        }
        let most = self.rows_max(&[input, out]).min(room);
        for (first, count) in Self::parts(out.rows, most) {
            let padded = count.next_multiple_of(GEMM_ROWS);
            let half = u64::from(padded) * u64::from(words);
            Scratch::grow(self.gpu, &mut self.scratch.codes, half * halves)?;
            Scratch::grow(self.gpu, &mut self.scratch.steps, padded.into())?;
            let low_at = u32::try_from(half).expect("a binding is below 2^32 bytes");
            let (x, y) = (self.bind(input, first, count), self.bind(out, first, count));
            let kmin = if shape.a15 { KMIN_FINE } else { KMIN };
            let factors = smooth.as_ref().unwrap_or(&self.tables.nothing);
            let params = [
                count,
                shape.k,
                1,
                x.at,
                x.stride,
                words,
                0,
                low_at,
                0,
                kmin.unsigned_abs(),
                shape.a15.into(),
                smooth.is_some().into(),
            ];
            let bindings = [
                Binding::whole(&self.scratch.codes),
                Binding::whole(&self.scratch.steps),
                x.binding,
                Binding::whole(factors),
            ];
            self.pass.dispatch(Kernel::Quantize, &bindings, &params, [1, count]);
            let kernel = if shape.a15 { Kernel::GemmFine } else { Kernel::Gemm };
            for shard in shards {
                let params = [count, shard.count, shard.first, words, 0, low_at, 0, y.at, y.stride];
                let bindings = [
                    y.binding,
                    Binding::whole(&self.scratch.codes),
                    Binding::whole(&self.scratch.steps),
                    Binding::whole(&shard.codes),
                    Binding::whole(&shard.scales),
                ];
                let groups = [shard.count.div_ceil(4).div_ceil(GROUP), padded / GEMM_ROWS];
                self.pass.dispatch(kernel, &bindings, &params, groups);
            }
        }
        Ok(())
    }

    fn rope(
        &mut self,
        frequencies: WeightId,
        shape: RopeShape,
        sequences: &[Sequence],
        input: View,
        out: View,
    ) -> Result<(), BackendError> {
        let Packed::Frequencies(frequencies) = self.packed(frequencies) else {
            panic!("`rope` needs its frequencies");
        };
        let positions = self.positions(sequences, out.rows)?;
        for (first, count) in Self::parts(out.rows, self.rows_max(&[input, out])) {
            let (x, y) = (self.bind(input, first, count), self.bind(out, first, count));
            let rows = first as usize..(first + count) as usize;
            let positions = self.upload(positions[rows].iter().copied())?;
            let params = [
                count,
                out.width,
                x.at,
                x.stride,
                y.at,
                y.stride,
                shape.head_dim,
                shape.rot,
                u32::from(shape.pairing == Pairing::Adjacent),
            ];
            let bindings = [
                y.binding,
                x.binding,
                Binding::whole(frequencies),
                Binding::whole(&self.tables.sin),
                Binding::whole(&positions),
            ];
            let groups = [out.width.div_ceil(GROUP), count];
            self.pass.dispatch(Kernel::Rope, &bindings, &params, groups);
        }
        Ok(())
    }

    /// Attends sequence by sequence, as many together as the scratch has room for.
    fn attention(
        &mut self,
        shape: AttentionShape,
        sequences: &[Sequence],
        qkv: [View; 3],
        out: View,
    ) -> Result<(), BackendError> {
        let heads = shape.heads + 2 * shape.kv_heads;
        let row_words = u64::from(shape.head_dim.div_ceil(4)) * u64::from(heads);
        let [q, k, v] = qkv;
        let room = self.gpu.binding_bytes_max / (4 * row_words);
        let most = self.rows_max(&[q, k, v, out]).min(u32::try_from(room).unwrap_or(u32::MAX));
        let mut rest = sequences;
        while let Some(first) = rest.first() {
            let (mut rows, mut count) = (first.rows, 1);
            while let Some(next) = rest.get(count) {
                if next.row != first.row + rows || rows + next.rows > most {
                    break;
                }
                rows += next.rows;
                count += 1;
            }
            if rows > most {
                let (wanted_bytes, free_bytes) =
                    (4 * row_words * u64::from(rows), self.gpu.binding_bytes_max);
                return Err(BackendError::OutOfMemory { wanted_bytes, free_bytes });
            }
            let group;
            (group, rest) = rest.split_at(count);
            if rows > 0 {
                self.attend(shape, group, qkv, out, (first.row, rows))?;
            }
        }
        Ok(())
    }

    /// Attends from `rows` rows from `first` on, whole sequences.
    fn attend(
        &mut self,
        shape: AttentionShape,
        sequences: &[Sequence],
        qkv: [View; 3],
        out: View,
        (first, rows): (u32, u32),
    ) -> Result<(), BackendError> {
        let words = shape.head_dim.div_ceil(4);
        let heads = [shape.heads, shape.kv_heads, shape.kv_heads];
        let all: u64 = heads.iter().map(|heads| u64::from(rows) * u64::from(*heads)).sum();
        Scratch::grow(self.gpu, &mut self.scratch.codes, all * u64::from(words))?;
        Scratch::grow(self.gpu, &mut self.scratch.steps, all)?;
        // Narrow heads are attended from four rows at once.
        let is_narrow = words <= NARROW_WORDS;
        let mut places = Vec::new();
        for sequence in sequences {
            let start = sequence.row - first;
            for (row, count) in Self::parts(sequence.rows, if is_narrow { 4 } else { 1 }) {
                if is_narrow {
                    places.extend([start + row, count, start, sequence.rows]);
                    places.extend([sequence.position, 0, 0, 0]);
                } else {
                    places.extend([start, sequence.rows, sequence.position, 0]);
                }
            }
        }
        let groups = places.len() / if is_narrow { 8 } else { 4 };
        let groups = u32::try_from(groups).expect("no more than rows");
        let places = self.upload(places)?;
        let (mut at, mut step_at) = ([0; 3], [0; 3]);
        let (mut codes, mut steps) = (0, 0);
        for (part, view) in qkv.into_iter().enumerate() {
            (at[part], step_at[part]) = (codes, steps);
            let x = self.bind(view, first, rows);
            let kmin = if part < 2 { KMIN_SCORE } else { KMIN };
            let params = [
                rows,
                shape.head_dim,
                heads[part],
                x.at,
                x.stride,
                words,
                codes,
                0,
                steps,
                kmin.unsigned_abs(),
                0,
                0,
            ];
            let bindings = [
                Binding::whole(&self.scratch.codes),
                Binding::whole(&self.scratch.steps),
                x.binding,
                Binding::whole(&self.tables.nothing),
            ];
            for (row, count) in Self::parts(rows, self.gpu.groups_max) {
                let mut params = params;
                params[3] += row * x.stride;
                params[6] += row * heads[part] * words;
                params[8] += row * heads[part];
                self.pass.dispatch(Kernel::Quantize, &bindings, &params, [heads[part], count]);
            }
            steps += rows * heads[part];
            codes += rows * heads[part] * words;
        }
        let y = self.bind(out, first, rows);
        let bindings = [
            y.binding,
            Binding::whole(&self.scratch.codes),
            Binding::whole(&self.scratch.steps),
            Binding::whole(&places),
            Binding::whole(&self.tables.exp2),
        ];
        let kernel = match (is_narrow, shape.p15) {
            (false, false) => Kernel::Attention,
            (false, true) => Kernel::AttentionFine,
            (true, false) => Kernel::AttentionRows,
            (true, true) => Kernel::AttentionRowsFine,
        };
        let cap = cap_words(shape.cap);
        for (row, count) in Self::parts(groups, self.gpu.groups_max) {
            let params = [
                shape.heads,
                shape.kv_heads,
                shape.head_dim,
                words,
                at[0],
                at[1],
                at[2],
                step_at[0],
                step_at[1],
                step_at[2],
                y.at,
                y.stride,
                shape.causal.into(),
                shape.window,
                row,
                cap[0],
                cap[1],
            ];
            self.pass.dispatch(kernel, &bindings, &params, [shape.heads, count]);
        }
        Ok(())
    }

    fn activation(&mut self, table: ActivationTable, input: View, out: View) {
        let (corrections, last) = self.tables.correction(table);
        for (first, count) in Self::parts(out.rows, self.rows_max(&[input, out])) {
            let (x, y) = (self.bind(input, first, count), self.bind(out, first, count));
            let params = [count, out.width, x.at, x.stride, y.at, y.stride, *last];
            let bindings = [y.binding, x.binding, Binding::whole(corrections)];
            let groups = [out.width.div_ceil(GROUP), count];
            self.pass.dispatch(Kernel::Activation, &bindings, &params, groups);
        }
    }

    fn softcap(&mut self, cap: Cap, input: View, out: View) {
        for (first, count) in Self::parts(out.rows, self.rows_max(&[input, out])) {
            let (x, y) = (self.bind(input, first, count), self.bind(out, first, count));
            let (cap, inverse) = (cap.q16(), cap.inverse());
            let params = [count, out.width, x.at, x.stride, y.at, y.stride, cap, inverse];
            let bindings = [y.binding, x.binding, Binding::whole(&self.tables.exp2)];
            let groups = [out.width.div_ceil(GROUP), count];
            self.pass.dispatch(Kernel::Softcap, &bindings, &params, groups);
        }
    }

    /// An operator of two inputs, element by element.
    fn pair(&mut self, kernel: Kernel, lhs: View, rhs: View, out: View) {
        for (first, count) in Self::parts(out.rows, self.rows_max(&[lhs, rhs, out])) {
            let [x, z] = [lhs, rhs].map(|view| self.bind(view, first, count));
            let y = self.bind(out, first, count);
            let params = [count, out.width, x.at, x.stride, z.at, z.stride, y.at, y.stride];
            let bindings = [y.binding, x.binding, z.binding];
            let groups = [out.width.div_ceil(GROUP), count];
            self.pass.dispatch(kernel, &bindings, &params, groups);
        }
    }

    fn rows(&mut self, chosen: &[u32], input: View, out: View) -> Result<(), BackendError> {
        assert_eq!(input.dtype, out.dtype, "a copy keeps the type");
        let kernel = match input.dtype.bytes() {
            4 => Kernel::Rows,
            2 => Kernel::RowsOfHalves,
            _ => panic!("rows have elements of 4 or 2 bytes"),
        };
        let most = self.rows_max(&[out]);
        for (first, count) in self.spans(chosen.iter().map(|row| (*row, 1)), input, most)? {
            let rows = &chosen[first as usize..(first + count) as usize];
            let lowest = *rows.iter().min().expect("a part has rows");
            let highest = *rows.iter().max().expect("a part has rows");
            let x = self.bind(input, lowest, highest - lowest + 1);
            let chosen = self.upload(rows.iter().map(|row| row - lowest))?;
            let y = self.bind(out, first, count);
            self.copy(kernel, (x.binding, x.at, [x.stride, 1]), &chosen, &y, (count, out.width));
        }
        Ok(())
    }

    /// Cuts ranges of rows of a view, each `(first, rows)`, into parts of `most` at most that one binding holds together:
    /// the first range of a part, and how many.
    ///
    /// # Errors
    ///
    /// When one range alone is more than a binding holds.
    fn spans(
        &self,
        ranges: impl Iterator<Item = (u32, u32)>,
        view: View,
        most: u32,
    ) -> Result<Vec<(u32, u32)>, BackendError> {
        let fits = self.rows_max(&[view]).max(1);
        let fits = if self.is_whole(view) { u32::MAX } else { fits };
        let mut parts: Vec<(u32, u32)> = Vec::new();
        let (mut lowest, mut end) = (u32::MAX, 0);
        for (index, (first, rows)) in (0..).zip(ranges) {
            if rows > fits {
                let row_bytes = u64::from(view.stride) * view.dtype.bytes() as u64;
                let free_bytes = self.gpu.binding_bytes_max;
                let wanted_bytes = u64::from(rows) * row_bytes;
                return Err(BackendError::OutOfMemory { wanted_bytes, free_bytes });
            }
            let (low, high) = (first.min(lowest), (first + rows).max(end));
            match parts.last_mut().filter(|part| part.1 < most && high - low <= fits) {
                Some(part) => {
                    part.1 += 1;
                    (lowest, end) = (low, high);
                }
                None => {
                    parts.push((index, 1));
                    (lowest, end) = (first, first + rows);
                }
            }
        }
        Ok(parts)
    }

    /// Whether one binding holds all of a view's buffer.
    fn is_whole(&self, view: View) -> bool {
        self.buffers[view.buffer.0 as usize].size() <= self.gpu.binding_bytes_max
    }

    /// Copies rows of words or of halves of words.
    fn copy(
        &mut self,
        kernel: Kernel,
        (x, x_at, [x_stride, x_step]): (Binding<'_>, u32, [u32; 2]),
        chosen: &wgpu::Buffer,
        y: &Bound<'_>,
        (rows, width): (u32, u32),
    ) {
        let last = y.at + (rows - 1) * y.stride + width;
        let (first_word, end_word) = (y.at / 2, last.div_ceil(2));
        let words = end_word - first_word;
        let params = [rows, width, x_at, x_stride, y.at, y.stride, first_word, words, x_step];
        let groups = match kernel {
            Kernel::Rows => [width.div_ceil(GROUP), rows],
            _ => {
                let groups = words.div_ceil(GROUP);
                let x = groups.min(self.gpu.groups_max);
                [x, groups.div_ceil(x)]
            }
        };
        let bindings = [y.binding, x, Binding::whole(chosen)];
        self.pass.dispatch(kernel, &bindings, &params, groups);
    }

    fn pool(
        &mut self,
        (mode, unit): (PoolMode, bool),
        sequences: &[Sequence],
        input: View,
        out: View,
    ) -> Result<(), BackendError> {
        let ranges = sequences.iter().map(|of| (of.row, of.rows));
        for (first, count) in self.spans(ranges, input, self.rows_max(&[out]))? {
            let group = &sequences[first as usize..(first + count) as usize];
            let lowest = group.iter().map(|of| of.row).min().expect("a part has sequences");
            let end = group.iter().map(|of| of.row + of.rows).max().expect("a part has sequences");
            let x = self.bind(input, lowest, end - lowest);
            let places = self.upload(group.iter().flat_map(|of| [of.row - lowest, of.rows]))?;
            let y = self.bind(out, first, count);
            if unit {
                let words = u64::from(count) * u64::from(out.width);
                Scratch::grow(self.gpu, &mut self.scratch.words, words)?;
            }
            let words = self.scratch.words.clone();
            let (to, to_at, to_stride) = if unit {
                (Binding::whole(&words), 0, out.width)
            } else {
                (y.binding, y.at, y.stride)
            };
            let params =
                [input.width, x.at, x.stride, to_at, to_stride, mode.code().into(), unit.into()];
            let bindings = [to, x.binding, Binding::whole(&places)];
            self.pass.dispatch(Kernel::Pool, &bindings, &params, [1, count]);
            if unit {
                // The low half of a word is its 16-bit value.
                let each = self.upload(0..count)?;
                let from = (Binding::whole(&words), 0, [2 * out.width, 2]);
                self.copy(Kernel::RowsOfHalves, from, &each, &y, (count, out.width));
            }
        }
        Ok(())
    }
}

impl Backend for Wgpu {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    fn pack(&mut self, weights: &Weights<'_>) -> Result<WeightId, BackendError> {
        let bytes = Packed::bytes(weights);
        self.claim(bytes)?;
        match Packed::new(&self.gpu, weights) {
            Ok(packed) => self.weights.push(Some((packed, bytes))),
            Err(error) => {
                self.used_bytes -= bytes;
                return Err(error);
            }
        }
        self.gpu.check()?;
        Ok(WeightId(id(self.weights.len() - 1)))
    }

    fn unpack(&mut self, weights: WeightId) {
        let (_, bytes) = self.weights[weights.0 as usize].take().expect("unpacked once only");
        self.used_bytes -= bytes;
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId, BackendError> {
        let words = bytes.max(4).checked_next_multiple_of(4);
        let free_bytes = self.info.memory_bytes.saturating_sub(self.used_bytes);
        let bytes = words.ok_or(BackendError::OutOfMemory { wanted_bytes: bytes, free_bytes })?;
        self.claim(bytes)?;
        match self.gpu.alloc(bytes) {
            Ok(buffer) => self.buffers.push(buffer),
            Err(error) => {
                self.used_bytes -= bytes;
                return Err(error);
            }
        }
        Ok(BufferId(id(self.buffers.len() - 1)))
    }

    fn write(&mut self, to: BufferId, at: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.gpu.write(&self.buffers[to.0 as usize], at, bytes)
    }

    fn run(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError> {
        let mut recorder = Recorder {
            gpu: &self.gpu,
            tables: &self.tables,
            buffers: &self.buffers,
            weights: &self.weights,
            scratch: &mut self.scratch,
            pass: Pass::new(&self.gpu, &self.kernels),
        };
        for step in steps {
            recorder.step(step)?;
        }
        recorder.pass.submit()
    }

    fn read(&mut self, from: BufferId, at: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.gpu.read(&self.buffers[from.0 as usize], at, bytes)
    }

    fn reset(&mut self) {
        for buffer in self.buffers.drain(..) {
            self.used_bytes -= buffer.size();
        }
    }
}

fn id(index: usize) -> u32 {
    u32::try_from(index).expect("fewer than 2^32 buffers and weights")
}

/// A cap and its `R` as `attention.wgsl` takes them; zeros stand for none.
fn cap_words(cap: Option<Cap>) -> [u32; 2] {
    cap.map_or([0, 0], |cap| [cap.q16(), cap.inverse()])
}
