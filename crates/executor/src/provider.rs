//! How revm reaches the precompiles: a [`Plan`] in revm's terms.

use hyperion_precompile::{Call, InferCall, Plan, Precompile, Rules, View, plan};
use revm::{
    context_interface::{Cfg, ContextTr},
    handler::{EthPrecompiles, PrecompileProvider, precompile_output_to_interpreter_result},
    interpreter::{CallInputs, InterpreterResult},
    precompile::{PrecompileHalt, PrecompileOutput},
    primitives::{Address, AddressSet, hardfork::SpecId},
};

/// Ethereum's precompiles of the fork, and ours.
///
/// A call that needs a model's answer returns at once, with its final gas and no bytes, and leaves what is to be run
/// for [`take_deferred`](Self::take_deferred).
pub(crate) struct Provider<'v> {
    ethereum: EthPrecompiles,
    warm: AddressSet,
    view: &'v (dyn View + Sync),
    rules: Rules,
    deferred: Option<InferCall>,
}

impl<'v> Provider<'v> {
    pub(crate) fn new(spec: SpecId, view: &'v (dyn View + Sync), rules: Rules) -> Self {
        let mut provider = Self {
            ethereum: EthPrecompiles::new(spec),
            warm: AddressSet::default(),
            view,
            rules,
            deferred: None,
        };
        provider.renew();
        provider
    }

    /// What the call that just returned left behind.
    pub(crate) const fn take_deferred(&mut self) -> Option<InferCall> {
        self.deferred.take()
    }

    fn renew(&mut self) {
        self.warm.clone_from(self.ethereum.warm_addresses());
        self.warm.extend(Precompile::ALL.map(Precompile::address));
    }

    /// The plan in revm's terms. The reservoir is the caller's gas and goes back to it.
    fn output(&mut self, planned: Plan, reservoir: u64) -> PrecompileOutput {
        match planned {
            Plan::Done { gas, output } => PrecompileOutput::new(gas, output.into(), reservoir),
            Plan::Refuse { gas, revert_data } => {
                PrecompileOutput::revert(gas, revert_data.into(), reservoir)
            }
            Plan::OutOfGas => PrecompileOutput::halt(PrecompileHalt::OutOfGas, reservoir),
            Plan::Infer { gas, call } => {
                self.deferred = Some(call);
                PrecompileOutput::new(gas, revm::primitives::Bytes::new(), reservoir)
            }
        }
    }
}

impl<C: ContextTr<Cfg: Cfg<Spec = SpecId>>> PrecompileProvider<C> for Provider<'_> {
    type Output = InterpreterResult;

    fn set_spec(&mut self, spec: SpecId) -> bool {
        let is_new = PrecompileProvider::<C>::set_spec(&mut self.ethereum, spec);
        if is_new {
            self.renew();
        }
        is_new
    }

    fn run(
        &mut self,
        context: &mut C,
        inputs: &CallInputs,
    ) -> Result<Option<InterpreterResult>, String> {
        // Under DELEGATECALL and CALLCODE the target is the caller; the code's address is the one called.
        let Some(precompile) = Precompile::at(&inputs.bytecode_address) else {
            return PrecompileProvider::<C>::run(&mut self.ethereum, context, inputs);
        };
        let planned = {
            // Borrowed from the shared memory, not copied: nothing is paid for yet.
            let input = inputs.input.as_bytes(context);
            let value = inputs.transfer_value().unwrap_or_default();
            let call = Call { precompile, input: &input, gas_limit: inputs.gas_limit, value };
            plan(self.view, &self.rules, &call)
        };
        // Not the caller's doing: the node cannot read its own state, so the block ends here.
        if let Some(failure) = self.view.failure() {
            return Err(failure);
        }
        let output = self.output(planned, inputs.reservoir);
        Ok(Some(precompile_output_to_interpreter_result(output, inputs.gas_limit)))
    }

    fn warm_addresses(&self) -> &AddressSet {
        &self.warm
    }

    fn contains(&self, address: &Address) -> bool {
        self.warm.contains(address)
    }
}
