//! gRPC and HTTP at the door: limits, decoding, status.
