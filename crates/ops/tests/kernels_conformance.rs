//! Every kernel set of this machine against the pinned suite and the definitions, on 1, 2 and 5 threads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use hyperion_ops::{
    Cpu, KernelSet, Parallel, Reference, Serial,
    conformance::{Stem, check, sweep},
};

/// Threads that take parts as they come; more of them than this machine may have cores.
struct Threads(usize);

impl Parallel for Threads {
    fn threads(&self) -> usize {
        self.0
    }

    fn run(&self, parts: usize, part: &(dyn Fn(usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let index = next.fetch_add(1, Ordering::Relaxed);
                if index >= parts {
                    return;
                }
                part(index);
            }
        };
        thread::scope(|scope| (0..self.0).for_each(|_| drop(scope.spawn(work))));
    }
}

fn devices() -> Vec<(String, Cpu)> {
    let mut devices = Vec::new();
    for set in KernelSet::available() {
        devices.push((set.name().to_owned(), Cpu::new(set, Arc::new(Serial))));
        for threads in [2, 5] {
            let name = format!("{} on {threads} threads", set.name());
            devices.push((name, Cpu::new(set, Arc::new(Threads(threads)))));
        }
    }
    if KernelSet::available().iter().all(|set| set.name() != "avx512-vnni") {
        println!("skipped: no AVX-512 VNNI");
    }
    devices
}

#[test]
fn every_kernel_set_conforms_on_any_number_of_threads() {
    for (name, mut device) in devices() {
        let report = check(&mut device).unwrap();
        assert!(report.conforms(), "{name}: {:?}", report.differences());
    }
}

#[test]
fn a_sweep_finds_no_difference_from_the_definitions() {
    let mut definition = Reference::default();
    for stem in Stem::ALL {
        let mut devices = devices();
        let names: Vec<String> = devices.iter().map(|(name, _)| name.clone()).collect();
        let mut others: Vec<_> = devices
            .iter_mut()
            .map(|(_, device)| device as &mut dyn hyperion_ops::Backend)
            .collect();
        let tally = sweep(stem, 300, 0x5eed, &mut definition, &mut others).unwrap();
        for (name, differences) in names.iter().zip(tally.differences) {
            assert_eq!(differences, 0, "{name}, {}", stem.name());
        }
    }
}
