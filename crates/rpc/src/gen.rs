//! Rust of `proto/`, written by `cargo xtask codegen` and never by hand.

/// Package `hyperion.v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::doc_markdown,
    clippy::use_self,
    clippy::needless_pass_by_value,
    clippy::semicolon_if_nothing_returned,
    rustdoc::all,
    reason = "generated; proto/ holds the words"
)]
pub mod v1 {
    include!("gen/hyperion.v1.rs");
}

/// Package `inference`: the Open Inference Protocol, version 2.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::allow_attributes_without_reason,
    clippy::doc_markdown,
    clippy::use_self,
    clippy::needless_pass_by_value,
    clippy::semicolon_if_nothing_returned,
    rustdoc::all,
    reason = "generated; proto/ holds the words"
)]
pub mod inference {
    include!("gen/inference.rs");
}

/// Both packages as an encoded `FileDescriptorSet`, for reflection.
pub const DESCRIPTOR: &[u8] = include_bytes!("gen/descriptor.bin");
