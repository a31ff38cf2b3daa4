//! `contracts/src/IInference.sol` as Rust: the very structs, functions and errors that contracts compile.
//!
//! Everything signed or called across the border between a contract and this program is spelled once, there.
#![expect(missing_docs, reason = "documented in the Solidity text")]

alloy_sol_types::sol!(
    #![sol(all_derives)]
    "../../contracts/src/IInference.sol"
);
