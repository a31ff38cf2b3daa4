use hyperion_precompile::Rules;
use revm::{
    context::{BlockEnv, CfgEnv},
    context_interface::block::BlobExcessGasAndPrice,
    primitives::{
        Address, B256, U256, eip4844::BLOB_BASE_FEE_UPDATE_FRACTION_PRAGUE, hardfork::SpecId,
    },
};

use crate::ExecutorError;

/// What a block is executed under: the chain's own configuration, never revm's default.
#[derive(Clone, Debug)]
pub struct ExecEnv {
    /// Fork, chain id and limits.
    pub cfg: CfgEnv,
    /// The block's header as contracts see it.
    pub block: BlockEnv,
    /// What the precompiles cost and which signatures they take.
    pub rules: Rules,
}

/// What is particular to one block.
#[derive(Clone, Copy, Debug)]
pub struct BlockFacts {
    /// Height.
    pub number: u64,
    /// Unix seconds.
    pub timestamp: u64,
    /// Who gets the tips.
    pub beneficiary: Address,
    /// Most gas of all transactions together.
    pub gas_limit: u64,
    /// Wei that each gas burns.
    pub base_fee: u64,
    /// `PREVRANDAO`; known before the block is made, so not random.
    pub prevrandao: B256,
}

impl Default for BlockFacts {
    /// Height 1, 50,000,000 gas (one second of the slowest validator allowed), no base fee.
    fn default() -> Self {
        Self {
            number: 1,
            timestamp: 1,
            beneficiary: Address::ZERO,
            gas_limit: 50_000_000,
            base_fee: 0,
            prevrandao: B256::ZERO,
        }
    }
}

impl ExecEnv {
    /// A block of a chain whose id is that of the rules' domain, under the fork OSAKA.
    pub fn new(rules: Rules, facts: &BlockFacts) -> Self {
        let mut cfg = CfgEnv::default();
        cfg.set_spec_and_mainnet_gas_params(SpecId::OSAKA);
        cfg.chain_id = rules.domain.chain_id;
        let block = BlockEnv {
            number: U256::from(facts.number),
            beneficiary: facts.beneficiary,
            timestamp: U256::from(facts.timestamp),
            gas_limit: facts.gas_limit,
            basefee: facts.base_fee,
            difficulty: U256::ZERO,
            prevrandao: Some(facts.prevrandao),
            blob_excess_gas_and_price: Some(BlobExcessGasAndPrice::new(
                0,
                BLOB_BASE_FEE_UPDATE_FRACTION_PRAGUE,
            )),
            slot_num: 0,
        };
        Self { cfg, block, rules }
    }

    /// Accepts an environment that a chain of ours can run under.
    pub(crate) fn check(&self) -> Result<(), ExecutorError> {
        let unfit = |what| Err(ExecutorError::Header { what });
        let spec = self.cfg.spec;
        // From Cancun on a destroyed account was created in the same transaction, so no storage of the parent is wiped.
        if !spec.is_enabled_in(SpecId::CANCUN) {
            return unfit("the fork is older than Cancun");
        }
        if self.block.prevrandao.is_none() {
            return unfit("prevrandao is missing");
        }
        if self.block.blob_excess_gas_and_price.is_none() {
            return unfit("the excess blob gas is missing");
        }
        if self.cfg.chain_id != self.rules.domain.chain_id {
            return unfit("the chain id is not that of the signing domain");
        }
        Ok(())
    }
}
