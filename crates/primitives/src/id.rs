use crate::B256;

macro_rules! digest {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        pub struct $name(pub B256);

        impl $name {
            /// The 32 bytes.
            pub const fn as_bytes(&self) -> &[u8; 32] {
                &self.0.0
            }
        }

        impl From<B256> for $name {
            fn from(digest: B256) -> Self {
                Self(digest)
            }
        }

        impl From<[u8; 32]> for $name {
            fn from(bytes: [u8; 32]) -> Self {
                Self(B256::new(bytes))
            }
        }

        impl core::str::FromStr for $name {
            type Err = <B256 as core::str::FromStr>::Err;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }

        impl core::fmt::Display for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, "{}", self.0)
            }
        }

        impl core::fmt::Debug for $name {
            fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
    };
}

digest! {
    /// Identity of a model: program, tokenizer and tensors together (`docs/model-format.md`, "M1").
    ModelId
}
digest! {
    /// Identity of a program, `K("P1" ‖ program bytes)`.
    ProgramId
}
digest! {
    /// Identity of a piece of work: the EIP-712 digest of its `InferenceRequest`.
    RequestId
}
digest! {
    /// Name of a claim everywhere: the EIP-712 digest of its `InferenceClaim`.
    ClaimDigest
}
digest! {
    /// CT1 root of a tensor: type, shape and elements ([`crate::tensor_root`]).
    TensorRoot
}
