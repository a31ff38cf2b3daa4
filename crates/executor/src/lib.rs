//! Executes blocks over revm, the inference calls of a block in few batches.
//!
//! A transaction that needs a model's answer is *parked* between two frames and *resumed* with it (`run.rs`). Before a
//! block runs in order, its transactions are tried ahead to find out what they will ask, and all of that is asked at
//! once (`gather.rs`). The result is the one of plain sequential execution (`sequential.rs`): trying ahead only decides
//! when an answer is fetched, never what it is. `docs/executor.md` tells it in order.
//!
//! Start with [`Executor`] in `block.rs`. `run.rs` restates revm's transaction so that it can stop; `provider.rs` is how
//! revm reaches the precompiles; `overlay.rs` holds what the block changed; `state.rs` is the store as revm reads it.
#![forbid(unsafe_code)]

mod answers;
mod block;
mod env;
mod error;
mod gather;
mod genesis;
pub mod hostile;
mod outcome;
mod overlay;
mod provider;
mod run;
mod sequential;
mod skip;
mod state;
mod tx;

pub use answers::{Answers, AnswersLost, OnAnswers};
pub use block::{Executor, ExecutorConfig, Mode};
pub use env::{BlockFacts, ExecEnv};
pub use error::ExecutorError;
pub use genesis::{GenesisAccount, genesis};
pub use hyperion_precompile as precompile;
pub use outcome::{
    AccountChange, AccountDiff, AccountState, BlockOutcome, BlockStats, StateDiff, TxOutcome,
};
pub use revm;
pub use skip::SkipReason;
pub use state::{StateDb, StateError, Words, WordsError};
pub use tx::{Candidate, Tx};
