//! What stands in for float models where the build has none.

use std::sync::Arc;

use anyhow::{Result, bail};
use hyperion_primitives::ModelId;
use hyperion_rpc::{door::Face, float::FloatServer};

use super::Notary;
use crate::{config::NodeConfig, served::Served};

/// No float model.
pub(crate) struct Lanes;

impl Lanes {
    /// Refuses a configuration that names a float model.
    pub(crate) fn start(config: &NodeConfig, _served: &[Served], _notary: Notary) -> Result<Self> {
        let Some(first) = config.float_models.first() else { return Ok(Self) };
        bail!(
            "float_models names `{}`, and this build serves no model in floating point; build it with \
             `--features candle-float`, or with `candle-cuda` for NVIDIA GPUs (docs/float.md)",
            first.alias
        )
    }

    pub(crate) fn server(&self) -> Option<Arc<dyn FloatServer>> {
        None
    }

    pub(crate) fn faces(&self) -> Vec<(ModelId, Face)> {
        Vec::new()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        Vec::new()
    }

    pub(crate) fn stop(&self) {}
}
