//! gRPC and HTTP at the door: limits, decoding, status.
//!
//! A call comes in through [`serve`], is let in by [`auth`], becomes a job in one place (`convert.rs`), is waited for in
//! another (`answer.rs`), and whatever goes wrong is one row of [`status`]. The surfaces are thin over that:
//! `infer.rs` and [`log`] are `hyperion.v1`, `oip.rs` is the Open Inference Protocol, `http.rs` the rest.
//! `worker.rs` is where GPU hosts attach. [`receipt_json`], [`client`] and [`join`] are for the other end of the wire.
//!
//! The node hands over everything by [`door::Parts`]; this crate knows neither a store nor a model file.
#![forbid(unsafe_code)]

mod answer;
pub mod auth;
mod blob;
pub mod client;
mod convert;
mod deadline;
pub mod door;
pub mod float;
pub mod r#gen;
pub mod health;
mod http;
mod infer;
pub mod join;
pub mod limits;
pub mod log;
mod lookup;
mod oip;
mod plain;
mod receipt;
pub mod receipt_json;
pub mod serve;
mod settings;
pub mod status;
pub mod tls;
mod worker;
pub mod writing;
