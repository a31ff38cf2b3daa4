//! How much one caller may send before any work is done for it.

use std::time::Duration;

use crate::status::{Code, Error};

/// Limits at the door. Over a limit the answer is `input_too_large` or `bad_field`, naming the field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one gRPC message, in or out; 64 MiB. Over it tonic itself answers `OUT_OF_RANGE`.
    pub message_bytes_max: usize,
    /// Bytes of a tensor inside a request; 16 MiB. Larger ones come as blobs.
    pub tensor_bytes_max: u64,
    /// Bytes of one blob; 1 GiB.
    pub blob_bytes_max: u64,
    /// Bytes of all blobs held at once; 2 GiB.
    pub blobs_bytes_max: u64,
    /// How long a blob is held; 1 h.
    pub blob_keep: Duration,
    /// Bytes of one piece of a blob; 1 MiB.
    pub chunk_bytes_max: usize,
    /// Tensors in a request; 64.
    pub tensors_max: usize,
    /// Dimensions of a tensor; 8, which is also the bound of a tensor root.
    pub dims_max: usize,
    /// Bytes of a name; 128.
    pub name_bytes_max: usize,
    /// Bytes of a text; 1 MiB.
    pub text_bytes_max: usize,
    /// Turns of a chat; 512.
    pub turns_max: usize,
    /// Stop tokens; 32.
    pub stop_tokens_max: usize,
    /// Bytes of an HTTP body; 8 MiB.
    pub body_bytes_max: usize,
    /// Deadline of a call that names none; 60 s.
    pub unary_deadline: Duration,
    /// Deadline of a stream that names none; 600 s.
    pub stream_deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message_bytes_max: 64 << 20,
            tensor_bytes_max: 16 << 20,
            blob_bytes_max: 1 << 30,
            blobs_bytes_max: 2 << 30,
            blob_keep: Duration::from_secs(3600),
            chunk_bytes_max: 1 << 20,
            tensors_max: 64,
            dims_max: 8,
            name_bytes_max: 128,
            text_bytes_max: 1 << 20,
            turns_max: 512,
            stop_tokens_max: 32,
            body_bytes_max: 8 << 20,
            unary_deadline: Duration::from_secs(60),
            stream_deadline: Duration::from_secs(600),
        }
    }
}

/// `got` of something of which at most `max` are taken.
pub(crate) fn at_most(
    field: &'static str,
    what: &str,
    got: usize,
    max: usize,
) -> Result<(), Error> {
    if got <= max {
        return Ok(());
    }
    Err(Error::at(Code::InputTooLarge, field, format!("{got} {what}, at most {max} are taken")))
}
