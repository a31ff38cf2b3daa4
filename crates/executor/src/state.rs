//! The store as revm and the precompiles read it, and a block's changes as the store keeps them.

use std::fmt::Display;

use hyperion_precompile::{Checkpoint, ClaimWord, Logged, Manifest, View};
use hyperion_primitives::{ClaimDigest, ModelId, RequestId};
use hyperion_store::{LogReader, PageStore, Pinned, StatePath, StoreError, Word};
use hyperion_verify::{SignedClaim, state::AccountWord};
use parking_lot::Mutex;
use revm::{
    bytecode::Bytecode,
    database_interface::{DBErrorMarker, DatabaseRef},
    primitives::{Address, B256, KECCAK_EMPTY, U256},
    state::AccountInfo,
};

use crate::{AccountChange, AccountState, StateDiff};

/// Why the store does not answer as a chain's state.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// It cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// What it holds is not what its namespace holds.
    #[error("the {what} of {key} is damaged: {why}")]
    Damaged {
        /// What was read.
        what: &'static str,
        /// Where.
        key: String,
        /// What is wrong.
        why: String,
    },
}

impl DBErrorMarker for StateError {}

fn damaged(what: &'static str, key: &dyn Display, why: &dyn Display) -> StateError {
    StateError::Damaged { what, key: key.to_string(), why: why.to_string() }
}

/// The state and the log of one height, pinned for one block or one call.
#[derive(Debug)]
pub struct StateDb<'s, P: PageStore> {
    pinned: Pinned<'s, P>,
    log: LogReader<'s, P>,
    failure: Mutex<Option<String>>,
}

impl<'s, P: PageStore> StateDb<'s, P> {
    /// Reads what `pinned` holds; `log` is of the same store, as old as it or younger.
    pub const fn new(pinned: Pinned<'s, P>, log: LogReader<'s, P>) -> Self {
        Self { pinned, log, failure: Mutex::new(None) }
    }

    fn blob(
        &self,
        what: &'static str,
        key: &dyn Display,
        hash: &B256,
    ) -> Result<Vec<u8>, StateError> {
        self.pinned.blob(hash)?.ok_or_else(|| damaged(what, key, &format!("no content {hash}")))
    }

    fn read_model(&self, model: &ModelId) -> Result<Option<Manifest>, StateError> {
        let Some(hash) = self.pinned.get(&StatePath::model(model)) else { return Ok(None) };
        let bytes = self.blob("manifest", model, &hash)?;
        Manifest::decode(&bytes).map(Some).map_err(|why| damaged("manifest", model, &why))
    }

    fn read_claim(&self, digest: &ClaimDigest) -> Result<Logged, StateError> {
        let word = self.pinned.get(&StatePath::claim(digest));
        let word = word.ok_or_else(|| damaged("claim", digest, &"its word is missing"))?;
        let word = ClaimWord::from_word(&word).map_err(|why| damaged("claim", digest, &why))?;
        let entry = self.log.entry(word.index)?;
        let signed =
            SignedClaim::from_entry(&entry).map_err(|why| damaged("claim", digest, &why))?;
        Ok(Logged { claim: signed.claim, word })
    }

    fn read_first(&self, path: &StatePath) -> Result<Option<Logged>, StateError> {
        self.pinned.get(path).map(|digest| self.read_claim(&ClaimDigest(digest))).transpose()
    }

    fn read_claim_of(
        &self,
        request: &RequestId,
        worker: &Address,
    ) -> Result<Option<Logged>, StateError> {
        let Some(first) = self.read_first(&StatePath::request(request))? else { return Ok(None) };
        if first.claim.worker == *worker {
            return Ok(Some(first));
        }
        self.read_first(&StatePath::request_of(request, worker))
    }

    fn read_log_root(&self, size: u64) -> Result<Option<B256>, StateError> {
        if size > self.pinned.head().log_size {
            return Ok(None);
        }
        match self.log.checkpoint(size) {
            Ok(checkpoint) => Ok(Some(checkpoint.root)),
            Err(StoreError::NotABlockEnd { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// A precompile's answer; what cannot be read is kept as the failure.
    fn answer<T>(&self, read: Result<Option<T>, StateError>) -> Option<T> {
        read.unwrap_or_else(|error| {
            self.failure.lock().get_or_insert_with(|| error.to_string());
            None
        })
    }
}

impl<P: PageStore> View for StateDb<'_, P> {
    fn model(&self, model: &ModelId) -> Option<Manifest> {
        self.answer(self.read_model(model))
    }

    fn checkpoint(&self) -> Checkpoint {
        let head = self.pinned.head();
        Checkpoint { size: head.log_size, root: head.log_root, height: head.height }
    }

    fn log_root(&self, size: u64) -> Option<B256> {
        self.answer(self.read_log_root(size))
    }

    fn claim(&self, request: &RequestId) -> Option<Logged> {
        self.answer(self.read_first(&StatePath::request(request)))
    }

    fn claim_of(&self, request: &RequestId, worker: &Address) -> Option<Logged> {
        self.answer(self.read_claim_of(request, worker))
    }

    fn failure(&self) -> Option<String> {
        self.failure.lock().clone()
    }
}

impl<P: PageStore> DatabaseRef for StateDb<'_, P> {
    type Error = StateError;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, StateError> {
        let Some(word) = self.pinned.get(&StatePath::account(&address)) else { return Ok(None) };
        let account =
            AccountWord::from_word(&word).map_err(|why| damaged("account", &address, &why))?;
        let code_hash = self.pinned.get(&StatePath::code(&address)).unwrap_or(KECCAK_EMPTY);
        Ok(Some(AccountInfo {
            balance: U256::from(account.balance),
            nonce: account.nonce,
            code_hash,
            code: None,
            account_id: None,
        }))
    }

    fn code_by_hash_ref(&self, code_hash: B256) -> Result<Bytecode, StateError> {
        if code_hash == KECCAK_EMPTY {
            return Ok(Bytecode::default());
        }
        let code = self.blob("code", &code_hash, &code_hash)?;
        Bytecode::new_raw_checked(code.into()).map_err(|why| damaged("code", &code_hash, &why))
    }

    fn storage_ref(&self, address: Address, key: U256) -> Result<U256, StateError> {
        let word = self.pinned.get(&StatePath::storage(&address, &key.into()));
        Ok(word.map_or(U256::ZERO, Into::into))
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, StateError> {
        if number > self.pinned.head().height {
            return Ok(B256::ZERO);
        }
        Ok(self.log.record(number)?.entry.block_hash)
    }
}

/// A block's changes as the store takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Words by path; `None` removes.
    pub diff: Vec<(StatePath, Option<Word>)>,
    /// Code, by the keccak-256 that a word names.
    pub blobs: Vec<Vec<u8>>,
}

/// Why a change cannot be kept as words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// A balance above what a chain may hold in all.
    #[error("{address} has {balance} wei, a chain holds less than 2^128 in all")]
    Balance {
        /// Whose.
        address: Address,
        /// How much.
        balance: U256,
    },
    /// Code that neither the change nor the parent has.
    #[error("the code {code_hash} of {address} is nowhere")]
    Code {
        /// Whose.
        address: Address,
        /// Which.
        code_hash: B256,
    },
    /// The parent's word of an account is none.
    #[error("the parent's word of {address} is no account")]
    Parent {
        /// Whose.
        address: Address,
    },
}

impl StateDiff {
    /// The changes as words; `parent` reads the state that they were made on.
    ///
    /// # Errors
    ///
    /// When a balance does not fit, or the parent is not the state that the changes were made on.
    pub fn words(&self, parent: impl Fn(&StatePath) -> Option<Word>) -> Result<Words, WordsError> {
        let mut words = Words::default();
        for (address, change) in &self.accounts {
            let (account_path, code_path) = (StatePath::account(address), StatePath::code(address));
            match &change.account {
                AccountChange::Same => {}
                AccountChange::Gone => {
                    words.diff.push((account_path, None));
                    words.diff.push((code_path, None));
                }
                AccountChange::Is(account) => {
                    let before = parent(&account_path);
                    let code_before = parent(&code_path).unwrap_or(KECCAK_EMPTY);
                    let code_bytes = self.code_bytes(*address, account, before, code_before)?;
                    words.diff.push((account_path, Some(word(*address, account, code_bytes)?)));
                    if account.code_hash != code_before {
                        let has_code = account.code_hash != KECCAK_EMPTY;
                        words.diff.push((code_path, has_code.then_some(account.code_hash)));
                    }
                }
            }
            for (key, value) in &change.storage {
                let path = StatePath::storage(address, &(*key).into());
                words.diff.push((path, (!value.is_zero()).then(|| (*value).into())));
            }
        }
        words.blobs = self.codes.values().map(|code| code.to_vec()).collect();
        Ok(words)
    }

    fn code_bytes(
        &self,
        address: Address,
        account: &AccountState,
        before: Option<Word>,
        code_before: B256,
    ) -> Result<u32, WordsError> {
        let code_hash = account.code_hash;
        if code_hash == KECCAK_EMPTY {
            return Ok(0);
        }
        if code_hash != code_before {
            let code = self.codes.get(&code_hash).ok_or(WordsError::Code { address, code_hash })?;
            return Ok(u32::try_from(code.len()).expect("code has 24,576 bytes at most"));
        }
        let word = before.ok_or(WordsError::Parent { address })?;
        let before = AccountWord::from_word(&word).map_err(|_| WordsError::Parent { address })?;
        Ok(before.code_bytes)
    }
}

fn word(address: Address, account: &AccountState, code_bytes: u32) -> Result<Word, WordsError> {
    let AccountState { balance, nonce, .. } = *account;
    let balance = u128::try_from(balance).map_err(|_| WordsError::Balance { address, balance })?;
    Ok(AccountWord { code_bytes, nonce, balance }.word())
}
