//! What the precompiles mean and cost.
