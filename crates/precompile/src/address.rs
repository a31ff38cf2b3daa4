//! Where the precompiles live: ASCII "HYPER", thirteen zero bytes, a two-byte index.
//!
//! Indices `0001` to `00ff` are precompiles, `0100` to `01ff` contracts placed at genesis. The addresses are all digits,
//! so they have one spelling; `IInference.sol` declares the same ones, and a test compares.

use hyperion_primitives::Address;

/// Runs a registered model.
pub const INFERENCE: Address = at(0x0001);
/// Reads claims that are logged.
pub const CLAIMS: Address = at(0x0002);
/// Checks what calldata brings.
pub const VERIFY: Address = at(0x0003);
/// Decides one elementary step of a dispute.
pub const ARBITRATE: Address = at(0x0004);
/// The contract that models are registered with.
pub const MODELS: Address = at(0x0100);
/// The contract that keeps checkpoints.
pub const CHECKPOINTS: Address = at(0x0101);
/// The contract that takes requests; `verifyingContract` of what is signed on a chain of ours.
pub const REQUESTS: Address = at(0x0102);
/// The contract that disputes are played in.
pub const DISPUTES: Address = at(0x0103);

const fn at(index: u16) -> Address {
    let [high, low] = index.to_be_bytes();
    let mut bytes = [0; 20];
    bytes[0] = b'H';
    bytes[1] = b'Y';
    bytes[2] = b'P';
    bytes[3] = b'E';
    bytes[4] = b'R';
    bytes[18] = high;
    bytes[19] = low;
    Address::new(bytes)
}

/// A precompile of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Precompile {
    /// [`INFERENCE`].
    Inference,
    /// [`CLAIMS`].
    Claims,
    /// [`VERIFY`].
    Verify,
    /// [`ARBITRATE`].
    Arbitrate,
}

impl Precompile {
    /// Every precompile, by address.
    pub const ALL: [Self; 4] = [Self::Inference, Self::Claims, Self::Verify, Self::Arbitrate];

    /// The precompile at an address.
    pub fn at(address: &Address) -> Option<Self> {
        Self::ALL.into_iter().find(|precompile| precompile.address() == *address)
    }

    /// Where it lives.
    pub const fn address(self) -> Address {
        match self {
            Self::Inference => INFERENCE,
            Self::Claims => CLAIMS,
            Self::Verify => VERIFY,
            Self::Arbitrate => ARBITRATE,
        }
    }

    /// Its name in `IInference.sol`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Inference => "INFERENCE",
            Self::Claims => "CLAIMS",
            Self::Verify => "VERIFY",
            Self::Arbitrate => "ARBITRATE",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_solidity_text_names_the_same_addresses() {
        let text = include_str!("../../../contracts/src/IInference.sol");
        let declared: Vec<(&str, Address)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("address constant "))
            .map(|line| {
                let (name, value) = line.trim_end_matches(';').split_once(" = ").unwrap();
                (name, value.parse().unwrap())
            })
            .collect();
        let ours = [
            ("INFERENCE", INFERENCE),
            ("CLAIMS", CLAIMS),
            ("VERIFY", VERIFY),
            ("ARBITRATE", ARBITRATE),
            ("MODELS", MODELS),
            ("CHECKPOINTS", CHECKPOINTS),
            ("REQUESTS", REQUESTS),
            ("DISPUTES", DISPUTES),
        ];
        assert_eq!(declared, ours);
        for precompile in Precompile::ALL {
            assert!(ours.contains(&(precompile.name(), precompile.address())));
            assert_eq!(Precompile::at(&precompile.address()), Some(precompile));
        }
        assert_eq!(Precompile::at(&MODELS), None);
    }
}
