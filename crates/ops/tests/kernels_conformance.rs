//! Every kernel set of this machine against the pinned suite and the definitions, on 1, 2 and 5 threads.

mod kernels;

use hyperion_ops::{
    Backend, Reference,
    conformance::{Stem, check, sweep},
};
use kernels::devices;

#[test]
fn every_kernel_set_conforms_on_any_number_of_threads() {
    for (name, mut device) in devices(&[1, 2, 5]) {
        let report = check(&mut device).unwrap();
        assert!(report.conforms(), "{name}: {:?}", report.differences());
    }
}

#[test]
fn a_sweep_finds_no_difference_from_the_definitions() {
    let mut definition = Reference::default();
    for stem in Stem::ALL {
        let mut devices = devices(&[1, 2, 5]);
        let names: Vec<String> = devices.iter().map(|(name, _)| name.clone()).collect();
        let mut others: Vec<_> =
            devices.iter_mut().map(|(_, device)| device as &mut dyn Backend).collect();
        let tally = sweep(stem, 300, 0x5eed, &mut definition, &mut others).unwrap();
        for (name, differences) in names.iter().zip(tally.differences) {
            assert_eq!(differences, 0, "{name}, {}", stem.name());
        }
    }
}
