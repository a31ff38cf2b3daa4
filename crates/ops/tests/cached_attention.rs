//! Attention to a cache gives the bits of attention to the whole sequence, and every backend keeps the same pages.

#![cfg(feature = "std")]
#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

use std::sync::Arc;

use hyperion_ops::{
    AttentionShape, Backend, Cache, Cpu, KernelSet, Reference, Sequence, Serial, Step, View,
    cache::PageShape,
};
use hyperion_primitives::{Dtype, Mix};

const ROWS: u32 = 300;

/// One sequence's queries, keys and values.
struct Rows {
    shape: AttentionShape,
    page: PageShape,
    parts: [Vec<i32>; 3],
}

impl Rows {
    fn new(mix: &mut Mix, shape: AttentionShape) -> Self {
        let mut part = |heads: u32| {
            let bits = |mix: &mut Mix| 4 + mix.below(18) as u32;
            let row = |_| {
                let bits = bits(mix);
                (0..heads * shape.head_dim).map(|_| mix.i32(bits)).collect::<Vec<_>>()
            };
            (0..ROWS).flat_map(row).collect()
        };
        let parts = [part(shape.heads), part(shape.kv_heads), part(shape.kv_heads)];
        Self { shape, page: PageShape::new(shape, 16).unwrap(), parts }
    }

    /// Views of rows in fresh buffers, and room for the result.
    fn views(&self, backend: &mut dyn Backend, from: u32, to: u32) -> [View; 4] {
        let Self { shape, parts: [q, k, v], .. } = self;
        let (heads, kv_heads) = (shape.heads, shape.kv_heads);
        let nothing = Vec::new();
        [(q, heads), (k, kv_heads), (v, kv_heads), (&nothing, heads)].map(|(part, heads)| {
            let width = heads * shape.head_dim;
            let buffer = backend.alloc(4 * u64::from(ROWS) * u64::from(width)).unwrap();
            let rows = part.chunks(width as usize).take(to as usize).skip(from as usize);
            let bytes: Vec<u8> = rows.flatten().flat_map(|x| x.to_le_bytes()).collect();
            backend.write(buffer, 0, &bytes).unwrap();
            View { buffer, dtype: Dtype::I32, offset: 0, rows: to - from, width, stride: width }
        })
    }

    fn whole(&self, backend: &mut dyn Backend) -> Vec<u8> {
        let shape = self.shape;
        let [q, k, v, out] = self.views(backend, 0, ROWS);
        let sequences = &[Sequence { row: 0, rows: ROWS, position: 0 }];
        backend.run(&[Step::Attention { shape, sequences, q, k, v, out }]).unwrap();
        read(backend, out)
    }

    /// The same in pieces, through pages in an order of their own; with the pages' bytes.
    fn in_pieces(&self, backend: &mut dyn Backend, ends: &[u32]) -> (Vec<u8>, Vec<u8>) {
        let (shape, page) = (self.shape, self.page);
        let count = page.pages(ROWS);
        let bytes = u64::from(count) * page.bytes();
        let buffer = backend.alloc(bytes).unwrap();
        backend.write(buffer, 0, &vec![0; usize::try_from(bytes).unwrap()]).unwrap();
        let numbers: Vec<u32> = (0..count).rev().collect();
        let cache = Cache { buffer, page, pages: &[&numbers] };
        let (mut position, mut outputs) = (0, Vec::new());
        for end in ends {
            let [q, k, v, out] = self.views(backend, position, *end);
            let sequences = &[Sequence { row: 0, rows: end - position, position }];
            let step = Step::CachedAttention { shape, sequences, cache, q, k, v, out };
            backend.run(&[step]).unwrap();
            outputs.extend(read(backend, out));
            position = *end;
        }
        let mut pages = vec![0; usize::try_from(bytes).unwrap()];
        backend.read(buffer, 0, &mut pages).unwrap();
        (outputs, pages)
    }
}

fn read(backend: &mut dyn Backend, view: View) -> Vec<u8> {
    let mut bytes = vec![0; 4 * view.rows as usize * view.width as usize];
    backend.read(view.buffer, 0, &mut bytes).unwrap();
    bytes
}

#[test]
fn pieces_through_pages_give_the_bits_of_the_whole() {
    let mut mix = Mix::new(53);
    let shape = |heads, kv_heads, head_dim, window| {
        AttentionShape::new(heads, kv_heads, head_dim).unwrap().with_causal(window)
    };
    let cases = [
        ("grouped heads", shape(4, 2, 32, 0).with_p15()),
        ("a window", shape(2, 1, 17, 40).with_p15()),
        ("8-bit weights", shape(2, 2, 6, 0)),
        ("a window beyond a block", shape(1, 1, 64, 270)),
    ];
    for (name, shape) in cases {
        let rows = Rows::new(&mut mix, shape);
        let want = rows.whole(&mut Reference::default());
        let one_by_one: Vec<u32> = (1..=ROWS).collect();
        let cuts: [&[u32]; 3] = [&[ROWS], &[1, 2, 17, 255, 257, ROWS], &one_by_one];
        let (_, pages) = rows.in_pieces(&mut Reference::default(), &[ROWS]);
        for set in KernelSet::available() {
            for ends in cuts {
                let mut cpu = Cpu::new(set, Arc::new(Serial));
                let got = rows.in_pieces(&mut cpu, ends);
                let of = format!("{name}, {}, {} pieces", set.name(), ends.len());
                assert!(got.0 == want, "{of}");
                assert!(got.1 == pages, "{of}: pages");
            }
        }
        let got = rows.in_pieces(&mut Reference::default(), &[5, 100, ROWS]);
        assert!(got == (want, pages), "{name}, definition");
    }
}
