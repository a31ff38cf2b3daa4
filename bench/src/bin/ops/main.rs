//! The CPU backend's figures: linear steps as a share of the machine's multiply-add peak, every other operator
//! by the element, and a whole forward pass of MiniLM's shape on random weights.
//!
//! `ops [--only peak|gemm|elements|forward] [--seconds 2] [--kernels avx2]` prints one JSON object. Every result
//! is compared with the definition's before it is timed.
//!
//! The peak is what registers alone sustain: `vpdpbusd` with AVX-512 VNNI; with AVX2 `vpmaddwd` and an addition,
//! the multiply that is exact for any codes. The AVX2 kernel multiplies bytes in groups where a row's codes allow
//! it, which needs fewer instructions, so its share may exceed 1; `peak.grouped` is the peak of that mix.
#![expect(clippy::disallowed_methods, reason = "a bench reads the clock")]

mod elements;
mod forward;
mod gemm;
mod peak;
mod rig;

use std::time::{Duration, Instant};

use hyperion_ops::KernelSet;
use serde_json::{Map, Value};

/// What the command line asks for.
#[derive(Clone, Debug)]
struct Options {
    only: Option<String>,
    seconds: f64,
    kernels: KernelSet,
}

fn main() {
    let options = Options::parse();
    let mut report = Map::new();
    report.insert("kernels".into(), options.kernels.name().into());
    type Section = fn(&Options) -> Vec<(&'static str, Value)>;
    let sections: [(&str, Section); 4] = [
        ("peak", peak::run),
        ("gemm", gemm::run),
        ("elements", elements::run),
        ("forward", forward::run),
    ];
    for (name, section) in sections {
        if options.only.as_deref().is_none_or(|only| only == name) {
            report
                .extend(section(&options).into_iter().map(|(key, value)| (key.to_owned(), value)));
        }
    }
    println!("{:#}", Value::Object(report));
}

impl Options {
    fn parse() -> Self {
        let mut options = Self { only: None, seconds: 2.0, kernels: KernelSet::best() };
        let mut arguments = std::env::args().skip(1);
        while let Some(name) = arguments.next() {
            let value = arguments.next().expect("every option has a value");
            match name.as_str() {
                "--only" => options.only = Some(value),
                "--seconds" => options.seconds = value.parse().expect("--seconds is a number"),
                "--kernels" => {
                    let named = KernelSet::available().into_iter().find(|set| set.name() == value);
                    options.kernels = named.expect("--kernels is a set of this machine");
                }
                _ => panic!("unknown option {name}"),
            }
        }
        options
    }

    /// Times of `work` over the time given: the least and the median, in seconds.
    fn time(&self, share: f64, mut work: impl FnMut()) -> (f64, f64) {
        let end = Instant::now() + Duration::from_secs_f64(self.seconds * share);
        work();
        let mut times = Vec::new();
        while times.len() < 5 || Instant::now() < end {
            let start = Instant::now();
            work();
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        (times[0], times[times.len() / 2])
    }
}
