//! Leases, questions and results on the wire.

use bytes::Bytes;
use hyperion_engine::{
    Tensor,
    machine::{Fault, LeaseId, Leased},
};
use hyperion_verify::Manifest;

use crate::{
    convert::{copied, dtype, exactly, wire_request},
    r#gen::v1,
    status::{Code, Error},
};

/// Characters of a worker's own words that are kept.
pub(super) const DETAIL_CHARS_MAX: usize = 256;

/// How the engine's numbers of leases are called on the wire: 16 bytes, of which the first eight are this process's own.
/// So a name of an earlier life of the node is never taken for one of this.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseNames([u8; 8]);

impl LeaseNames {
    pub(super) fn draw() -> Self {
        Self(rand::random())
    }

    pub(super) fn of(self, number: u64) -> Bytes {
        copied([self.0, number.to_be_bytes()].concat())
    }

    /// The number of a name; `None` for one of another life.
    pub(super) fn number_of(self, field: &'static str, name: &[u8]) -> Result<Option<u64>, Error> {
        let name: [u8; 16] = exactly(field, name)?;
        let ([life, number], _) = name.as_chunks::<8>() else {
            return Ok(None);
        };
        Ok((*life == self.0).then(|| u64::from_be_bytes(*number)))
    }

    pub(super) fn lease_of(
        self,
        field: &'static str,
        name: &[u8],
    ) -> Result<Option<LeaseId>, Error> {
        Ok(self.number_of(field, name)?.map(LeaseId))
    }

    pub(super) fn lease(self, leased: &Leased, manifest: &Manifest) -> v1::Lease {
        let request = &leased.ask.request;
        v1::Lease {
            lease_id: self.of(leased.lease.0),
            request: Some(wire_request(request)),
            request_id: copied(leased.ask.id.0),
            attempt: leased.attempt.into(),
            inputs: vec![input(manifest, Bytes::from_owner(leased.input.clone()))],
            sampling: None,
            seed: copied(leased.content.seed),
            deadline_ms: request.deadline.saturating_mul(1_000),
            stream: false,
            eager_trace: false,
            challenge_until_s: leased.challenge_until,
            request_signature: leased.ask.signature.map(copied).unwrap_or_default(),
        }
    }
}

/// The one tensor that a model reads.
pub(super) fn input(manifest: &Manifest, data: Bytes) -> v1::Tensor {
    v1::Tensor {
        name: String::new(),
        dtype: manifest.input_dtype.code().into(),
        dims: vec![
            data.len() as u64 / u64::from(manifest.row_bytes()),
            manifest.input_width.into(),
        ],
        body: Some(v1::tensor::Body::Data(data)),
    }
}

/// The one output of a result.
pub(super) fn output(outputs: Vec<v1::Tensor>) -> Result<Tensor, Error> {
    let [tensor] = <[_; 1]>::try_from(outputs).map_err(|outputs| {
        let text = format!("a model gives one tensor, {} came", outputs.len());
        Error::at(Code::BadField, "finished.outputs", text)
    })?;
    let dims = tensor.dims.try_into();
    let dims = dims.map_err(|_| Error::bad_field("finished.outputs", "want two dimensions"))?;
    let Some(v1::tensor::Body::Data(data)) = tensor.body else {
        return Err(Error::bad_field("finished.outputs", "the data has to be in the message"));
    };
    Ok(Tensor::new(dtype("finished.outputs", tensor.dtype)?, dims, data.into()))
}

/// What a worker's reason means to the engine. None ends a request: the node has checked the request itself.
pub(super) fn fault(kind: i32) -> Fault {
    match v1::FailureKind::try_from(kind) {
        Ok(v1::FailureKind::InputRejected) => Fault::Refused,
        Ok(v1::FailureKind::NoMemory) => Fault::NoMemory,
        Ok(v1::FailureKind::ModelMissing) => Fault::Missing,
        Ok(v1::FailureKind::Cancelled) => Fault::Cancelled,
        Ok(
            v1::FailureKind::DeviceLost | v1::FailureKind::Internal | v1::FailureKind::Unspecified,
        )
        | Err(_) => Fault::Lost,
    }
}
