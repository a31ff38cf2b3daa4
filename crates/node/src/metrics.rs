//! `/metrics`: the engine's, the store's and the doors' numbers in the words of Prometheus.
//!
//! Labels come from closed sets: configured models, the error table, devices. Engine and store are read when
//! somebody scrapes; only answered calls are counted here.

use std::{fmt, sync::Arc, time::Duration};

use hyperion_engine::{Engine, Histogram};
use hyperion_rpc::door::Observer;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet, text},
    metrics::{MetricType, counter::Counter, family::Family, histogram},
    registry::{Registry, Unit},
};

use crate::ledger::Ledger;

/// Upper bounds of the duration histograms, in seconds: 1 ms to 65 s by doublings.
const DURATION_BUCKETS: u16 = 17;

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Call {
    surface: &'static str,
    model: String,
    code: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Served {
    surface: &'static str,
    model: String,
}

/// Everything that `/metrics` shows.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    calls: Family<Call, Counter>,
    durations: Family<Served, histogram::Histogram, fn() -> histogram::Histogram>,
}

impl Metrics {
    /// Metrics of a node.
    pub fn new(engine: Engine, ledger: Arc<Ledger>, backend: String) -> Self {
        let mut registry = Registry::with_prefix("hyperion");
        let calls = Family::default();
        registry.register("requests", "Answered calls", calls.clone());
        let buckets: fn() -> histogram::Histogram = || {
            histogram::Histogram::new(histogram::exponential_buckets(0.001, 2.0, DURATION_BUCKETS))
        };
        let durations = Family::new_with_constructor(buckets);
        registry.register_with_unit(
            "request_duration",
            "From arrival to the answer",
            Unit::Seconds,
            durations.clone(),
        );
        let build = prometheus_client::metrics::info::Info::new(vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("opset", hyperion_ops::OPSET.to_string()),
            ("backend", backend),
        ]);
        registry.register("build", "What runs here", build);
        registry.register_collector(Box::new(Running { engine, ledger }));
        Self { registry, calls, durations }
    }

    /// The page, in the text format of `OpenMetrics`.
    ///
    /// # Errors
    ///
    /// When a collector fails.
    pub fn page(&self) -> Result<String, fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

impl Observer for Metrics {
    fn answered(&self, surface: &'static str, model: &str, code: &'static str, took: Duration) {
        let model = model.to_owned();
        self.durations
            .get_or_create(&Served { surface, model: model.clone() })
            .observe(took.as_secs_f64());
        self.calls.get_or_create(&Call { surface, model, code }).inc();
    }
}

/// What engine and store say when they are asked.
struct Running {
    engine: Engine,
    ledger: Arc<Ledger>,
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Running").finish_non_exhaustive()
    }
}

impl Collector for Running {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut out = Out(encoder);
        self.engine(&mut out)?;
        self.store(&mut out)
    }
}

impl Running {
    fn engine(&self, out: &mut Out<'_>) -> fmt::Result {
        let stats = self.engine.stats();
        out.counter("jobs", "Jobs taken", None, [([("end", "accepted")], stats.accepted)])?;
        out.counter(
            "jobs_ended",
            "Jobs ended without an answer",
            None,
            [
                ([("reason", "deadline")], stats.deadline),
                ([("reason", "cancelled")], stats.cancelled),
                ([("reason", "failed")], stats.failed),
            ],
        )?;
        out.counter(
            "pushed_back",
            "Submissions pushed back",
            None,
            [([("", ""); 0], stats.pushed_back)],
        )?;
        out.counter(
            "memo_hits",
            "Jobs answered without a run",
            None,
            [([("", ""); 0], stats.memo_hits)],
        )?;
        out.counter(
            "replayed",
            "Stored answers given again",
            None,
            [([("", ""); 0], stats.replayed)],
        )?;
        out.counter("claims", "Claims signed", None, [([("", ""); 0], stats.claimed)])?;
        out.counter("claims_logged", "Claims in the log", None, [([("", ""); 0], stats.logged)])?;
        out.counter(
            "results_mismatch",
            "Results of one job that differed",
            None,
            [([("", ""); 0], stats.results_mismatch)],
        )?;
        out.counter(
            "leases_ended",
            "Jobs taken back from workers on other hosts",
            None,
            [([("", ""); 0], stats.leases_ended)],
        )?;
        out.gauge(
            "leases",
            "Jobs at workers on other hosts",
            None,
            [([("", ""); 0], stats.leases)],
        )?;
        out.gauge(
            "workers",
            "Workers on other hosts that are attached",
            None,
            [([("", ""); 0], stats.workers)],
        )?;
        out.gauge(
            "claims_waiting",
            "Signed claims that wait for a block",
            None,
            [([("", ""); 0], stats.claims_waiting)],
        )?;
        out.gauge(
            "queued",
            "Inputs that wait",
            Some(&Unit::Bytes),
            [([("", ""); 0], stats.queued_bytes)],
        )?;
        out.gauge(
            "memo",
            "Outputs kept by content",
            Some(&Unit::Bytes),
            [([("", ""); 0], stats.memo_bytes)],
        )?;
        out.histogram(
            "answer",
            "From acceptance to the answer",
            [([("", ""); 0], &stats.answer_us)],
        )?;
        out.histogram("sign", "Hashing and signing, per claim", [([("", ""); 0], &stats.sign_us)])?;

        let alias = |id| {
            let info = self.engine.models().into_iter().find(|info| info.id == id);
            info.and_then(|info| info.aliases.into_iter().next())
                .unwrap_or_else(|| "other".to_owned())
        };
        let models: Vec<_> = stats.models.iter().map(|model| (alias(model.id), model)).collect();
        let depth = models.iter().flat_map(|(name, model)| {
            let classes = ["chain", "paid", "free"].into_iter().zip(model.queued);
            classes.map(move |(class, jobs)| ([("model", name.as_str()), ("class", class)], jobs))
        });
        out.gauge("queue_depth", "Jobs that wait", None, depth)?;
        let batches =
            models.iter().map(|(name, model)| ([("model", name.as_str())], model.batches));
        out.counter("batches", "Batches run", None, batches)?;
        let rows = models.iter().map(|(name, model)| ([("model", name.as_str())], model.rows));
        out.counter("batch_rows", "Rows of those batches", None, rows)?;
        let tokens = models.iter().map(|(name, model)| ([("model", name.as_str())], model.tokens));
        out.counter("tokens", "Tokens generated", None, tokens)?;
        let proposed =
            models.iter().map(|(name, model)| ([("model", name.as_str())], model.proposed));
        out.counter("draft_tokens", "Tokens that a draft model proposed", None, proposed)?;
        let accepted =
            models.iter().map(|(name, model)| ([("model", name.as_str())], model.accepted));
        out.counter("draft_tokens_accepted", "Of these, the right ones", None, accepted)?;
        let waits =
            models.iter().map(|(name, model)| ([("model", name.as_str())], &model.queue_us));
        out.histogram("queue_wait", "From acceptance to the start of the run", waits)?;
        let runs = models.iter().map(|(name, model)| ([("model", name.as_str())], &model.run_us));
        out.histogram("batch_run", "On the device, per batch", runs)?;

        let devices =
            || stats.devices.iter().map(|device| ([("device", device.info.name.as_str())], device));
        out.gauge(
            "device_out",
            "1: the device is out of service",
            None,
            devices().map(|(label, device)| (label, u64::from(!device.in_service))),
        )?;
        out.counter(
            "canary",
            "Known questions answered rightly",
            None,
            devices().map(|(label, device)| (label, device.probes)),
        )?;
        out.counter(
            "device_busy",
            "Time spent on batches",
            Some(&Unit::Seconds),
            devices().map(|(label, device)| (label, device.busy_us / 1_000_000)),
        )
    }

    fn store(&self, out: &mut Out<'_>) -> fmt::Result {
        let head = self.ledger.store().head();
        out.gauge("log_size", "Entries of the log", None, [([("", ""); 0], head.log_size)])?;
        out.gauge(
            "block_height",
            "Height of the newest block",
            None,
            [([("", ""); 0], head.height)],
        )?;
        out.counter(
            "blocks_refused",
            "Tries of a block for which the disk was too full",
            None,
            [([("", ""); 0], self.ledger.refusals())],
        )?;
        let Ok(stats) = self.ledger.store().stats() else { return Ok(()) };
        out.gauge("state_words", "Words of the state", None, [([("", ""); 0], stats.leaves)])?;
        out.counter(
            "commits",
            "Blocks made durable",
            None,
            [([("into", "tail")], stats.tail_commits), ([("into", "tables")], stats.log_commits)],
        )
    }
}

/// Writes metrics of one kind with few words.
struct Out<'e>(DescriptorEncoder<'e>);

impl Out<'_> {
    fn counter<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = ([(&'a str, &'a str); N], u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Counter)?;
        for (labels, value) in values {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }

    fn gauge<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        unit: Option<&Unit>,
        values: impl IntoIterator<Item = ([(&'a str, &'a str); N], u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in values {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn histogram<'a, const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = ([(&'a str, &'a str); N], &'a Histogram)>,
    ) -> fmt::Result {
        let mut metric =
            self.0.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (labels, times) in values {
            let (sum, buckets) = seconds(times);
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                sum,
                times.count(),
                &buckets,
                None,
            )?;
        }
        Ok(())
    }
}

/// Sum and cumulative-ready buckets of a histogram in microseconds, as seconds.
#[expect(
    clippy::cast_precision_loss,
    reason = "metrics are for people; 53 bits of microseconds are 285 years"
)]
fn seconds(times: &Histogram) -> (f64, Vec<(f64, u64)>) {
    let last = times.counts.len() - 1;
    let bounds = times.counts.iter().enumerate().map(|(i, count)| {
        let bound = if i == last { f64::MAX } else { (1_u64 << i) as f64 / 1e6 };
        (bound, *count)
    });
    (times.sum_us as f64 / 1e6, bounds.collect())
}
