//! A claim with its place, as the C2SP text that everybody checks.

use bytes::Bytes;
use hyperion_primitives::B256;
use hyperion_verify::{Receipt, SignedClaim};

use crate::{
    answer::Place,
    convert,
    r#gen::v1,
    status::{Code, Error},
};

/// The receipt of a claim under a checkpoint.
pub(crate) fn receipt(claim: &SignedClaim, place: &Place) -> Result<Receipt, Error> {
    let note = place.checkpoint.note.parse().map_err(|error| {
        Error::new(Code::Internal, format!("this node's own checkpoint is malformed: {error}"))
    })?;
    let Place { index, path, .. } = place;
    Ok(Receipt { entry: claim.entry().to_vec(), index: *index, path: path.clone(), note })
}

/// The receipt that a message carries, with its claim. Nothing is checked but its form.
///
/// # Errors
///
/// `bad_field` naming the field that is malformed.
pub(crate) fn of_wire(wire: v1::Receipt) -> Result<(SignedClaim, Receipt), Error> {
    let claim = wire.claim.ok_or_else(|| Error::bad_field("receipt.claim", "is missing"))?;
    let claim = convert::claim(claim)?;
    let checkpoint =
        wire.checkpoint.ok_or_else(|| Error::bad_field("receipt.checkpoint", "is missing"))?;
    let note = checkpoint
        .note
        .parse()
        .map_err(|error| Error::bad_field("receipt.checkpoint.note", format!("{error}")))?;
    let hash = |bytes: &Bytes| convert::digest("receipt.path", bytes);
    let path: Vec<B256> = wire.path.iter().map(hash).collect::<Result<_, _>>()?;
    let receipt = Receipt { entry: claim.entry().to_vec(), index: wire.index, path, note };
    Ok((claim, receipt))
}
