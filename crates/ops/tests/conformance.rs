//! The definitions give the pinned text, and a device that is wrong in one stem is told so.

use hyperion_ops::{
    Backend, BackendError, BufferId, DeviceInfo, Reference, Step, WeightId, Weights,
    conformance::{PINNED, Stem, check, sweep},
};

#[test]
fn the_definitions_give_the_pinned_text() {
    let report = check(&mut Reference::default()).unwrap();
    assert!(
        report.conforms(),
        "differs from crates/ops/conformance.toml in {:?}; the text is now\n{report}",
        report.differences()
    );
    for stem in Stem::ALL {
        assert!(PINNED.contains(&format!("[{}]", stem.name())));
    }
}

/// The definitions, except that a sum of two values does not saturate on its own.
struct Careless(Reference);

impl Backend for Careless {
    fn info(&self) -> &DeviceInfo {
        self.0.info()
    }

    fn pack(&mut self, weights: &Weights<'_>) -> Result<WeightId, BackendError> {
        self.0.pack(weights)
    }

    fn unpack(&mut self, weights: WeightId) {
        self.0.unpack(weights);
    }

    fn alloc(&mut self, bytes: u64) -> Result<BufferId, BackendError> {
        self.0.alloc(bytes)
    }

    fn write(&mut self, to: BufferId, at: u64, bytes: &[u8]) -> Result<(), BackendError> {
        self.0.write(to, at, bytes)
    }

    fn run(&mut self, steps: &[Step<'_>]) -> Result<(), BackendError> {
        self.0.run(steps)?;
        for step in steps {
            if let Step::Add { lhs, rhs, out } = step {
                for row in 0..u64::from(out.rows) {
                    for column in 0..u64::from(out.width) {
                        let at = |view: &hyperion_ops::View| {
                            4 * (view.offset + row * u64::from(view.stride) + column)
                        };
                        let (mut a, mut b) = ([0; 4], [0; 4]);
                        self.0.read(lhs.buffer, at(lhs), &mut a)?;
                        self.0.read(rhs.buffer, at(rhs), &mut b)?;
                        let sum = i32::from_le_bytes(a).saturating_add(i32::from_le_bytes(b));
                        self.0.write(out.buffer, at(out), &sum.to_le_bytes())?;
                    }
                }
            }
        }
        Ok(())
    }

    fn read(&mut self, from: BufferId, at: u64, bytes: &mut [u8]) -> Result<(), BackendError> {
        self.0.read(from, at, bytes)
    }

    fn reset(&mut self) {
        self.0.reset();
    }
}

#[test]
fn a_device_that_saturates_late_is_noticed() {
    let report = check(&mut Careless(Reference::default())).unwrap();
    assert!(!report.conforms());
    assert_eq!(report.differences(), [Stem::Add]);
    let mut careless = Careless(Reference::default());
    let others: &mut [&mut dyn Backend] = &mut [&mut Reference::default(), &mut careless];
    let tally = sweep(Stem::Add, 1000, 7, &mut Reference::default(), others).unwrap();
    assert_eq!(tally.differences[0], 0);
    assert!(tally.differences[1] > 0 && tally.differences[1] < tally.elements);
}

#[test]
fn a_sweep_of_every_stem_agrees_with_itself() {
    for stem in Stem::ALL.into_iter().filter(|stem| stem.on_device()) {
        let others: &mut [&mut dyn Backend] = &mut [&mut Reference::default()];
        let tally = sweep(stem, 200, 11, &mut Reference::default(), others).unwrap();
        assert!(tally.cases >= 200 && tally.elements >= tally.cases, "{stem:?}: {tally:?}");
        assert_eq!(tally.differences, [0], "{stem:?}");
    }
}

#[test]
fn a_case_gives_back_all_it_took() {
    let mut small = Reference::new(64 << 20);
    check(&mut small).unwrap();
    let all = small.alloc(64 << 20);
    assert!(all.is_ok(), "{all:?}");
    assert_eq!(small.alloc(1), Err(BackendError::OutOfMemory { wanted_bytes: 1, free_bytes: 0 }));
}
