//! How a worker proves to a node whose claims it will sign.
//!
//! The node draws `session` for each connection and names itself and a time; the worker signs all of it. So an
//! [`Attach`] that somebody recorded opens no second connection, and one that was made for another node opens none
//! here.

use hyperion_primitives::{Address, B256};

use crate::{
    Domain,
    sign::{self, SIGNATURE_BYTES, SignatureError},
};

mod signed {
    alloy_sol_types::sol! {
        #![sol(all_derives)]
        struct Attach {
            address worker;
            address node;
            bytes32 session;
            bytes32 build;
            uint64 expires;
        }
    }
}

/// What a worker signs when it attaches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attach {
    /// Whose claims will come over this connection.
    pub worker: Address,
    /// The node that greeted.
    pub node: Address,
    /// 32 bytes that the node drew for this connection.
    pub session: B256,
    /// keccak-256 of the worker's program, or zero; for the record, nobody relies on it.
    pub build: B256,
    /// Unix seconds until which the node takes this signature.
    pub expires: u64,
}

/// Why a signature attaches nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttachError {
    /// The signature is not in its one form, or nobody's.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Somebody else signed.
    #[error("recovered {got}, the worker says that it is {want}")]
    Signer {
        /// Who signed.
        got: Address,
        /// Who was to sign.
        want: Address,
    },
}

impl Attach {
    /// The EIP-712 digest that is signed, in the domain of claims.
    pub fn digest(&self, domain: &Domain) -> B256 {
        let Self { worker, node, session, build, expires } = self.clone();
        domain.digest(&signed::Attach { worker, node, session, build, expires })
    }

    /// Accepts the signature of [`worker`](Self::worker).
    ///
    /// # Errors
    ///
    /// When the signature is malformed, or another key's.
    pub fn check(
        &self,
        domain: &Domain,
        signature: &[u8; SIGNATURE_BYTES],
    ) -> Result<(), AttachError> {
        let got = sign::recover(&self.digest(domain), signature)?;
        let want = self.worker;
        if got == want { Ok(()) } else { Err(AttachError::Signer { got, want }) }
    }
}

#[cfg(test)]
mod tests {
    use alloy_sol_types::SolStruct as _;

    use super::*;

    #[test]
    fn the_type_is_the_one_of_the_specification() {
        let encoded = signed::Attach::eip712_encode_type();
        assert_eq!(
            encoded,
            "Attach(address worker,address node,bytes32 session,bytes32 build,uint64 expires)"
        );
        assert_eq!(
            hyperion_primitives::keccak256(encoded.as_bytes()).to_string(),
            "0x266015780000825ce65b79704522529d4cf944aff09e8228b0641f09429c00c4"
        );
    }
}
