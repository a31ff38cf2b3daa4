//! The hyperion binary: configuration, wiring, block producer, command line.

fn main() {}
