//! The `hyperion` binary: configuration, wiring, block producer, command line.
//!
//! Start with [`wire`], which turns a configuration into a running node, and [`producer`], which turns finished claims
//! into blocks. Every subcommand is one file under `cli`.
#![forbid(unsafe_code)]

pub mod chain;
pub mod cli;
pub mod clock;
pub mod config;
mod control;
pub mod devices;
mod float;
pub mod keys;
pub mod known_logs;
pub mod ledger;
pub mod metrics;
pub mod producer;
pub mod served;
mod text;
mod trace;
pub mod wire;
