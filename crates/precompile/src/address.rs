//! Where the precompiles and the contracts of genesis are. `IInference.sol` has the same constants; a test compares.

use hyperion_primitives::Address;

/// ASCII "HYPER", thirteen zero bytes, and the index.
const fn at(index: u16) -> Address {
    let mut bytes = *b"HYPER\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
    let [high, low] = index.to_be_bytes();
    bytes[18] = high;
    bytes[19] = low;
    Address::new(bytes)
}

/// Runs models: `IInference`.
pub const INFERENCE: Address = at(0x0001);
/// Reads logged claims: `IClaims`.
pub const CLAIMS: Address = at(0x0002);
/// Checks roots and receipts: `IVerify`.
pub const VERIFY: Address = at(0x0003);
/// The contract that the EIP-712 domain of requests and claims names.
pub const REQUESTS: Address = at(0x0102);

/// The precompiles that exist.
pub const ALL: [Address; 3] = [INFERENCE, CLAIMS, VERIFY];
