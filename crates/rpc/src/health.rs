//! What load balancers and supervisors ask: is it up, is it ready, is this model ready.
//!
//! `grpc.health.v1` answers for `""`, for each service by its full name, and for `hyperion.model.<alias>`; HTTP
//! answers `/livez` and `/readyz`. All of it is one question to the node, [`Readiness`], asked once a second and
//! whenever a drain begins.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;
use tonic_health::{ServingStatus, server::HealthReporter};

use crate::door::Door;

/// The node's own word on whether it can serve: store open, a model resident, the canary passed, not draining.
pub trait Readiness: Send + Sync + 'static {
    /// Nothing, or the part that fails, in words.
    ///
    /// # Errors
    ///
    /// When the node cannot serve.
    fn ready(&self) -> Result<(), String>;
}

/// Full names of what health answers for besides `""` and the models.
const SERVICES: [&str; 4] = [
    "hyperion.v1.InferenceService",
    "hyperion.v1.LogService",
    "hyperion.v1.WorkerService",
    "inference.GRPCInferenceService",
];

/// How old an answer of the health service may be.
const PERIOD: Duration = Duration::from_secs(1);

/// Keeps the health service up to date until `stop`. Once `drain` fires, nothing serves any more.
pub(crate) async fn report(
    door: Arc<Door>,
    mut reporter: HealthReporter,
    drain: CancellationToken,
    stop: CancellationToken,
) {
    let mut told: BTreeMap<String, bool> = BTreeMap::new();
    loop {
        let draining = drain.is_cancelled();
        let now = statuses(&door);
        for gone in told.keys().filter(|name| !now.contains_key(*name)) {
            reporter.clear_service_status(gone).await;
        }
        // A watcher hears whatever is set, so only changes are.
        for (name, serving) in now.iter().filter(|(name, serving)| told.get(*name) != Some(serving))
        {
            let status = if *serving { ServingStatus::Serving } else { ServingStatus::NotServing };
            reporter.set_service_status(name, status).await;
        }
        told = now;
        tokio::select! {
            () = stop.cancelled() => return,
            () = drain.cancelled(), if !draining => {}
            () = tokio::time::sleep(PERIOD) => {}
        }
    }
}

/// Name → whether it serves, of everything health answers for.
fn statuses(door: &Door) -> BTreeMap<String, bool> {
    let ready = door.ready().is_ok();
    let services = SERVICES.into_iter().chain([""]).map(|name| (name.to_owned(), ready));
    let mut all: BTreeMap<_, _> = services.collect();
    for model in door.engine.models() {
        let serving = ready && model.ready.is_ok();
        let names = model.aliases.iter().map(|alias| format!("hyperion.model.{alias}"));
        all.extend(names.map(|name| (name, serving)));
    }
    all
}
