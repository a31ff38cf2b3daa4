//! Whatever calldata says, a call returns, reverts with a typed error, or runs out of gas. It never takes the block along.
//!
//! `HYPERION_CALLDATAS=100000` makes as many calls of each precompile; `bench`'s `calldata` does, for the record.

mod common;

use common::{double, rules};
use hyperion_executor::{hostile, precompile::Precompile};

/// Calls of each precompile in the short form.
const CALLS: u64 = 1_500;

#[test]
fn random_and_structured_calldata_under_every_kind_of_call() {
    let calls = std::env::var("HYPERION_CALLDATAS").ok();
    let calls = calls.map_or(CALLS, |calls| calls.parse().expect("HYPERION_CALLDATAS is a number"));
    let facts = common::Facts { models: double::manifests(), ..common::Facts::default() };
    let models: Vec<_> = facts.models.keys().copied().collect();
    for found in hostile::run(1, calls, rules(), &facts, &models, &common::Table::default()) {
        println!("{found:?}");
        assert_eq!(found.aborted, 0, "{}: {:?}", found.precompile.name(), found.first_abort);
        assert_eq!(found.calls, calls);
        // A transaction below its intrinsic gas once took the rest of its block along, by its sender's nonce.
        assert_eq!(found.stray_skip, None, "{}", found.precompile.name());
        assert_eq!(found.executed + found.skipped, calls);
        assert_eq!(found.returned + found.refused + found.out_of_gas, found.executed);
        assert!(found.skipped > 0, "{}: no gas was too little", found.precompile.name());
        assert!(found.executed > calls * 9 / 10, "{}: {found:?}", found.precompile.name());
        assert_eq!(
            found.untyped,
            0,
            "{}: a revert that no error explains",
            found.precompile.name()
        );
        let decides = found.precompile != Precompile::Arbitrate;
        assert_eq!(found.returned > 0, decides, "{}", found.precompile.name());
        assert!(found.refused > 0 && found.out_of_gas > 0, "{}", found.precompile.name());
    }
}
