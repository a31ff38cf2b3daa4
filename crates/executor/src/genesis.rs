use std::collections::BTreeMap;

use hyperion_precompile::Precompile;
use revm::primitives::{Address, Bytes, KECCAK_EMPTY, U256, keccak256};

use crate::{AccountChange, AccountDiff, AccountState, StateDiff};

/// An account that a chain begins with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GenesisAccount {
    /// In wei.
    pub balance: U256,
    /// Transactions sent.
    pub nonce: u64,
    /// Code; empty for a key's account.
    pub code: Bytes,
    /// Slots that are not zero.
    pub storage: BTreeMap<U256, U256>,
}

/// The state that a chain begins with: what is allocated, and the precompiles.
///
/// A precompile's account has nonce 1 and the code `0x00`, so that it is not empty and Solidity's check for code holds; a
/// node never runs that code.
pub fn genesis(allocated: &BTreeMap<Address, GenesisAccount>) -> StateDiff {
    let stop =
        GenesisAccount { nonce: 1, code: Bytes::from_static(&[0]), ..GenesisAccount::default() };
    let mut accounts = allocated.clone();
    accounts.extend(Precompile::ALL.map(|precompile| (precompile.address(), stop.clone())));
    let mut diff = StateDiff::default();
    for (address, account) in accounts {
        let code_hash = if account.code.is_empty() {
            KECCAK_EMPTY
        } else {
            let hash = keccak256(&account.code);
            diff.codes.insert(hash, account.code);
            hash
        };
        let GenesisAccount { balance, nonce, storage, .. } = account;
        let account = AccountChange::Is(AccountState { balance, nonce, code_hash });
        let storage = storage.into_iter().filter(|(_, value)| !value.is_zero()).collect();
        diff.accounts.insert(address, AccountDiff { account, storage });
    }
    diff
}
