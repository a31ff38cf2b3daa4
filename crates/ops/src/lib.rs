//! The integer operators: definition, kernels, backends, conformance.
