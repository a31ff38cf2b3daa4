//! `docs/precompiles.md` says what the code does.

use alloy_primitives::hex;
use alloy_sol_types::SolCall as _;
use hyperion_precompile::{
    GasSchedule, Precompile, Refusal,
    abi::{
        IArbitrate::arbitrateCall,
        IClaims::{checkpointCall, lookupCall, lookupOfCall, outputCall},
        IInference::{inferCall, inferHashCall, modelCall, quoteCall},
        IVerify::{tensorRootCall, verifyProofCall, verifyReceiptCall},
    },
};

const TEXT: &str = include_str!("../../../docs/precompiles.md");

#[track_caller]
fn says(line: &str) {
    assert!(TEXT.contains(line), "docs/precompiles.md does not say: {line}");
}

#[test]
fn addresses_and_selectors_are_the_codes() {
    for precompile in Precompile::ALL {
        let address = hex::encode(precompile.address());
        says(&format!("| `{}` | `0x{address}` |", precompile.name()));
    }
    let functions = [
        (inferCall::SIGNATURE, inferCall::SELECTOR),
        (inferHashCall::SIGNATURE, inferHashCall::SELECTOR),
        (quoteCall::SIGNATURE, quoteCall::SELECTOR),
        (modelCall::SIGNATURE, modelCall::SELECTOR),
        (checkpointCall::SIGNATURE, checkpointCall::SELECTOR),
        (lookupCall::SIGNATURE, lookupCall::SELECTOR),
        (lookupOfCall::SIGNATURE, lookupOfCall::SELECTOR),
        (outputCall::SIGNATURE, outputCall::SELECTOR),
        (tensorRootCall::SIGNATURE, tensorRootCall::SELECTOR),
        (verifyReceiptCall::SIGNATURE, verifyReceiptCall::SELECTOR),
        (verifyProofCall::SIGNATURE, verifyProofCall::SELECTOR),
        (arbitrateCall::SIGNATURE, arbitrateCall::SELECTOR),
    ];
    for (signature, selector) in functions {
        let (name, _) = signature.split_once('(').unwrap();
        says(&format!("| `{name}` | `0x{}` |", hex::encode(selector)));
    }
}

#[test]
fn every_error_is_listed() {
    let (_, errors) = TEXT.split_once("## Errors").unwrap();
    for selector in Refusal::SELECTORS {
        let signature = Refusal::signature_by_selector(*selector).unwrap();
        let row = errors.lines().find(|line| line.contains(&format!("`{signature}`")));
        let row = row.unwrap_or_else(|| panic!("no row for {signature}"));
        assert!(row.contains(&format!("`0x{}`", hex::encode(selector))), "{signature}");
    }
}

#[test]
fn the_table_of_gas_is_the_defaults() {
    let table: Vec<String> = TEXT
        .lines()
        .skip_while(|line| *line != "| gas setting | default |")
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "))
        .map(|(name, value)| format!("{name}: {value}"))
        .collect();
    let defaults = format!("{:?}", GasSchedule::default());
    assert_eq!(defaults, format!("GasSchedule {{ {} }}", table.join(", ")));
}

#[test]
fn the_worked_example_adds_up() {
    let schedule = GasSchedule::default();
    // A selector, eleven words, and 256 bytes of image.
    let (first, second) = (schedule.entry(4 + 32 * 11 + 256), schedule.run(6_464, 202, 2));
    says(&format!("| first price | 612 bytes of calldata = 20 words: 3 000 + 3 · 20 | {first} |"));
    says(&format!("| **infer** | | **{}** |", first + second));
}
