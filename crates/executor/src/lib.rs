//! Executes blocks over revm with batched inference calls.
