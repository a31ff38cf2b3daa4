//! What does not fit is refused with the numbers, before anything runs.

mod common;

use common::{Traits, emulated};
use hyperion_ops::{
    AttentionShape, Backend, BackendError, Cache, Sequence, Step, View, cache::PageShape,
};
use hyperion_primitives::Dtype;

#[test]
fn more_values_than_kernels_count_are_refused() {
    let Some(mut device) = emulated(Traits::default()) else { return };
    let shape = AttentionShape::new(128, 128, 128).expect("within the limits").with_causal(0);
    let buffer = device.alloc(4).expect("memory");
    // Five contexts of 65,536 positions: 1 GiB of values each.
    let sequences: Vec<Sequence> =
        (0..5).map(|row| Sequence { row, rows: 1, position: 65_535 }).collect();
    let view =
        View { buffer, dtype: Dtype::I32, offset: 0, rows: 5, width: 16_384, stride: 16_384 };
    let page = PageShape::new(shape, 32).expect("causal");
    let cache = Cache { buffer, page, pages: &[] };
    let (q, k, v, out) = (view, view, view, view);
    let step = Step::CachedAttention { shape, sequences: &sequences, cache, q, k, v, out };
    let wanted_bytes = 5 << 30;
    let free_bytes = u64::from(u32::MAX);
    assert_eq!(device.run(&[step]), Err(BackendError::OutOfMemory { wanted_bytes, free_bytes }));
}
