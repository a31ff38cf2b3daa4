//! The kernels compute the pinned bits: on the CPU, thread by thread, and on every NVIDIA GPU there is.

#![expect(clippy::unwrap_used, reason = "what cannot be set up fails its test")]

mod common;

use common::{Traits, emulated};
use hyperion_backend_cuda::{Kernel, OpenError, devices, open};
use hyperion_ops::conformance;

fn conforms(traits: Traits) {
    let Some(mut device) = emulated(traits) else { return };
    let report = conformance::check(&mut device).unwrap();
    assert!(report.conforms(), "{traits:?}: differs in {:?}", report.differences());
}

#[test]
fn threads_run_forwards() {
    conforms(Traits::default());
}

#[test]
fn threads_run_backwards() {
    conforms(Traits { order: 1, ..Traits::default() });
}

#[test]
fn threads_run_mixed_and_scores_do_not_fit() {
    // Scores of 1,024 keys take 65,792 bytes, codes of weights up to 8,704.
    conforms(Traits { order: 7, shared_bytes_max: 73_728, ..Traits::default() });
}

#[test]
fn hoppers_products_are_used_where_they_are_the_fastest() {
    conforms(Traits { order: 5, fast: Some(Kernel::GemmGroup), ..Traits::default() });
}

/// With this order tiles are copied at once, with the one above as late as they may be.
#[test]
fn hoppers_tiles_may_come_before_they_are_waited_for() {
    conforms(Traits { order: 6, fast: Some(Kernel::GemmGroup), ..Traits::default() });
}

#[test]
fn the_library_multiplies() {
    conforms(Traits { products: Some(true), ..Traits::default() });
}

#[test]
fn a_library_that_gives_other_bits_is_not_used() {
    conforms(Traits { products: Some(false), ..Traits::default() });
}

#[test]
fn every_gpu_conforms() {
    let count = match devices() {
        Ok(count) => count,
        Err(error @ OpenError::NoDriver) => {
            println!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    for index in 0..count {
        let mut device = open(index, 1 << 30, None).unwrap();
        let report = conformance::check(&mut device).unwrap();
        assert!(report.conforms(), "cuda:{index}: differs in {:?}", report.differences());
    }
}
