//! Prints `crates/ops/conformance.toml` as the definitions give it, for a change of the definitions:
//! `pinned=$(cargo run -p hyperion-ops --example conformance) && printf "%s\n" "$pinned" > crates/ops/conformance.toml`

use hyperion_ops::{BackendError, Reference, conformance::check};

fn main() -> Result<(), BackendError> {
    print!("{}", check(&mut Reference::default())?);
    Ok(())
}
