//! What a block has changed so far, over its parent's state.

use std::collections::BTreeMap;

use revm::{
    bytecode::Bytecode,
    database_interface::DatabaseRef,
    primitives::{Address, B256, KECCAK_EMPTY, U256},
    state::{AccountInfo, EvmState},
};

use crate::{AccountChange, AccountDiff, AccountState, StateDiff};

/// A state with the transactions of a block applied one by one.
#[derive(Debug)]
pub(crate) struct Overlay<'d, D> {
    parent: &'d D,
    accounts: BTreeMap<Address, Entry>,
    codes: BTreeMap<B256, Bytecode>,
}

/// An account that a transaction touched.
#[derive(Debug, Default)]
struct Entry {
    before: Option<AccountState>,
    now: Option<AccountState>,
    storage: BTreeMap<U256, Slot>,
}

#[derive(Debug)]
struct Slot {
    before: U256,
    now: U256,
}

impl<'d, D: DatabaseRef> Overlay<'d, D> {
    pub(crate) const fn new(parent: &'d D) -> Self {
        Self { parent, accounts: BTreeMap::new(), codes: BTreeMap::new() }
    }

    /// Applies what a transaction left in its journal.
    pub(crate) fn commit(&mut self, changes: EvmState) -> Result<(), D::Error> {
        let touched: BTreeMap<_, _> =
            changes.into_iter().filter(|(_, account)| account.is_touched()).collect();
        for (address, account) in touched {
            if !self.accounts.contains_key(&address) {
                let before = self.parent.basic_ref(address)?.and_then(|info| state_of(&info));
                let entry = Entry { before, now: before, storage: BTreeMap::new() };
                self.accounts.insert(address, entry);
            }
            let entry = self.accounts.entry(address).or_default();
            if account.is_selfdestructed() {
                // Created by this very transaction (EIP-6780), so the parent holds no slot of it.
                entry.now = None;
                entry.storage.clear();
                continue;
            }
            entry.now = state_of(&account.info);
            let changed = account.storage.iter().filter(|(_, slot)| slot.is_changed());
            for (key, slot) in changed.collect::<BTreeMap<_, _>>() {
                let (before, now) = (slot.original_value, slot.present_value);
                entry.storage.entry(*key).or_insert(Slot { before, now }).now = now;
            }
            if let Some(code) = account.info.code.filter(|code| !code.is_empty()) {
                self.codes.entry(account.info.code_hash).or_insert(code);
            }
        }
        Ok(())
    }

    /// What the block changed, net.
    pub(crate) fn into_diff(self) -> StateDiff {
        let mut diff = StateDiff::default();
        for (address, entry) in self.accounts {
            let account = change(entry.before, entry.now);
            let slots = entry.storage.into_iter().filter(|(_, slot)| slot.before != slot.now);
            let storage: BTreeMap<_, _> = slots.map(|(key, slot)| (key, slot.now)).collect();
            let code_before = entry.before.map_or(KECCAK_EMPTY, |account| account.code_hash);
            if let AccountChange::Is(AccountState { code_hash, .. }) = account
                && code_hash != code_before
                && let Some(code) = self.codes.get(&code_hash)
            {
                diff.codes.insert(code_hash, code.original_bytes());
            }
            if account != AccountChange::Same || !storage.is_empty() {
                diff.accounts.insert(address, AccountDiff { account, storage });
            }
        }
        diff
    }
}

/// The account, unless it is empty: an empty account does not exist (EIP-161).
pub(crate) fn state_of(info: &AccountInfo) -> Option<AccountState> {
    let AccountInfo { balance, nonce, code_hash, .. } = *info;
    let code_hash = if code_hash.is_zero() { KECCAK_EMPTY } else { code_hash };
    let is_empty = balance.is_zero() && nonce == 0 && code_hash == KECCAK_EMPTY;
    (!is_empty).then_some(AccountState { balance, nonce, code_hash })
}

pub(crate) fn change(before: Option<AccountState>, now: Option<AccountState>) -> AccountChange {
    match now {
        _ if before == now => AccountChange::Same,
        None => AccountChange::Gone,
        Some(account) => AccountChange::Is(account),
    }
}

impl<D: DatabaseRef> DatabaseRef for Overlay<'_, D> {
    type Error = D::Error;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, D::Error> {
        let Some(entry) = self.accounts.get(&address) else {
            return self.parent.basic_ref(address);
        };
        Ok(entry.now.map(|account| AccountInfo {
            balance: account.balance,
            nonce: account.nonce,
            code_hash: account.code_hash,
            code: None,
            account_id: None,
        }))
    }

    fn code_by_hash_ref(&self, code_hash: B256) -> Result<Bytecode, D::Error> {
        match self.codes.get(&code_hash) {
            Some(code) => Ok(code.clone()),
            None => self.parent.code_by_hash_ref(code_hash),
        }
    }

    fn storage_ref(&self, address: Address, key: U256) -> Result<U256, D::Error> {
        match self.accounts.get(&address).and_then(|entry| entry.storage.get(&key)) {
            Some(slot) => Ok(slot.now),
            None => self.parent.storage_ref(address, key),
        }
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, D::Error> {
        self.parent.block_hash_ref(number)
    }
}

/// A state in which a sender has sent what stands before its transaction.
#[derive(Debug)]
pub(crate) struct Ahead<'o, O> {
    pub(crate) state: &'o O,
    pub(crate) sender: Address,
    pub(crate) nonce: u64,
}

impl<O: DatabaseRef> DatabaseRef for Ahead<'_, O> {
    type Error = O::Error;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, O::Error> {
        let info = self.state.basic_ref(address)?;
        Ok(if address == self.sender {
            info.map(|info| AccountInfo { nonce: self.nonce, ..info })
        } else {
            info
        })
    }

    fn code_by_hash_ref(&self, code_hash: B256) -> Result<Bytecode, O::Error> {
        self.state.code_by_hash_ref(code_hash)
    }

    fn storage_ref(&self, address: Address, key: U256) -> Result<U256, O::Error> {
        self.state.storage_ref(address, key)
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, O::Error> {
        self.state.block_hash_ref(number)
    }
}
