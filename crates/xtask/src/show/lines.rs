//! The lines themselves: which program of `bench/` measures each, and what its figures must be.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{Bench, Check, Line, Measured};

mod text;

/// Every line, in the order of the issues.
pub(super) const LINES: &[Line] = &[
    Line {
        id: "M1",
        says: "bits: every kernel equals the definition; models give one digest",
        measure: bits,
    },
    Line { id: "M2", says: "accuracy: MiniLM and digits against float", measure: accuracy },
    Line {
        id: "M3",
        says: "speed: MiniLM and GEMM on one and two cores, against onnxruntime",
        measure: speed,
    },
    Line {
        id: "M4",
        says: "serving: what gRPC and claims add, and throughput under 64 clients",
        measure: serving,
    },
    Line { id: "M5", says: "log: append rates, and 1,000 kill -9 rounds", measure: log },
    Line {
        id: "M6",
        says: "abuse: fuzzed decoders, bad requests, random calldata",
        measure: abuse,
    },
    Line { id: "G1", says: "bits: the GPU of this machine against the CPU", measure: gpu_bits },
    Line {
        id: "G2",
        says: "kernels: NVRTC compiles them for sm_80, sm_90 and sm_90a, without a GPU",
        measure: kernels,
    },
    Line {
        id: "G3",
        says: "shaders: int8 products against f32, MiniLM against its products",
        measure: shaders,
    },
    Line {
        id: "G4",
        says: "H200: products, MiniLM, attention and hashing against PyTorch in bf16",
        measure: data_centre,
    },
    Line { id: "G5", says: "faults: a device removed, a weight's bit flipped", measure: faults },
    Line {
        id: "L1",
        says: "text: random schedules of answers against one prefill",
        measure: text::schedules,
    },
    Line {
        id: "L2",
        says: "text: decoders of every family against candle f32",
        measure: text::decoders,
    },
    Line {
        id: "L3",
        says: "text: prefill and decode on the CPU, many at a time, four bits",
        measure: text::speed,
    },
    Line {
        id: "L4",
        says: "text: checking an answer of 256 tokens against generating it, 1.1B shape",
        measure: text::checking,
    },
    Line {
        id: "L5",
        says: "text: first token and time between tokens of 1, 8 and 32 streams",
        measure: text::streams,
    },
    Line {
        id: "L6",
        says: "text: bent models and requests that cannot be answered",
        measure: text::abuse,
    },
];

fn bits(bench: &Bench) -> Result<Measured> {
    let cases = if bench.short { "20000" } else { "1000000" };
    let minilm = bench.minilm()?;
    let figures = bench.rust("bits", &["--cases", cases, "--minilm", &minilm])?;
    let mut checks = Vec::new();
    let ops = figures["ops"].as_object().context("`bits` names no operator")?;
    for (stem, found) in ops {
        checks.push(Check::equal(format!("{stem}: differences"), count(&found["differences"])?, 0));
        let want: f64 = cases.parse()?;
        checks.push(Check::at_least(format!("{stem}: cases"), number(&found["cases"])?, want));
    }
    for (model, found) in figures["models"].as_object().context("`bits` names no model")? {
        checks.push(Check::equal(
            format!("{model}: digests over batches and threads"),
            count(&found["digests"])?,
            1,
        ));
    }
    Ok(Measured { figures, checks })
}

fn accuracy(bench: &Bench) -> Result<Measured> {
    let figures = bench.rust("accuracy", &["--minilm", &bench.minilm()?])?;
    let checks = vec![
        Check::at_least("minilm: sentences", number(&figures["minilm"]["sentences"])?, 50.0),
        Check::at_most("minilm: fewest tokens", number(&figures["minilm"]["tokens_min"])?, 3.0),
        Check::at_least("minilm: most tokens", number(&figures["minilm"]["tokens_max"])?, 256.0),
        Check::at_least(
            "minilm: least cosine to candle f32",
            number(&figures["minilm"]["cosine_min"])?,
            0.995,
        ),
        Check::at_least(
            "digits: argmax agreement with float",
            number(&figures["digits"]["agreement"])?,
            0.995,
        ),
    ];
    Ok(Measured { figures, checks })
}

fn speed(bench: &Bench) -> Result<Measured> {
    let minilm = bench.minilm()?;
    let seconds = if bench.short { "1" } else { "5" };
    let ours = bench.rust("minilm", &["--minilm", &minilm, "--seconds", seconds])?;
    let peer = bench.peer(
        "peers",
        "minilm_onnx.py",
        &[&minilm, "--shapes", "1x128,8x128", "--seconds", seconds],
    )?;
    let again = bench.rust("minilm", &["--minilm", &minilm, "--seconds", seconds])?;
    let gemm = bench.rust("ops", &["--only", "gemm"])?;
    let mut checks = Vec::new();
    for shape in ["1x128", "8x128"] {
        // The peer runs between two of our runs; the better of the two is what a quiet machine gives.
        let key = format!("threads1_{shape}");
        let rate = number(&ours[&key])?.max(number(&again[&key])?);
        let f32_rate = number(&peer[format!("f32_{shape}")])?;
        let int8_rate = number(&peer[format!("int8_{shape}")])?;
        checks.push(Check::at_least(
            format!("minilm {shape}: over onnxruntime int8"),
            rate / int8_rate,
            1.6,
        ));
        checks.push(Check::at_least(
            format!("minilm {shape}: over onnxruntime f32"),
            rate / f32_rate,
            2.8,
        ));
    }
    let one = number(&ours["threads1_8x128"])?.max(number(&again["threads1_8x128"])?);
    let two = number(&ours["threads2_8x128"])?.max(number(&again["threads2_8x128"])?);
    checks.push(Check::at_least("minilm 8x128: two cores over one", two / one, 1.85));
    for (shape, share) in
        gemm["gemm_share_of_peak"].as_object().context("`ops` names no GEMM shape")?
    {
        checks.push(Check::at_least(
            format!("gemm {shape}: share of the multiply-add peak"),
            number(share)?,
            0.93,
        ));
    }
    Ok(Measured { figures: json!({ "ours": [ours, again], "peer": peer, "gemm": gemm }), checks })
}

fn serving(bench: &Bench) -> Result<Measured> {
    let seconds = if bench.short { "2" } else { "10" };
    let figures = bench.rust("serving", &["--minilm", &bench.minilm()?, "--seconds", seconds])?;
    let checks = vec![
        Check::at_most(
            "digits: gRPC over in-process, p50 ms",
            number(&figures["digits"]["added_p50_ms"])?,
            0.3,
        ),
        Check::at_least(
            "minilm: 64 clients over the engine's own batches",
            number(&figures["minilm"]["share_of_engine"])?,
            0.9,
        ),
    ];
    Ok(Measured { figures, checks })
}

fn log(bench: &Bench) -> Result<Measured> {
    let append = bench.rust("store", &[])?;
    let rounds = if bench.short { "50" } else { "1000" };
    let torture = bench.rust("store_torture", &["--rounds", rounds])?;
    let checks = vec![
        Check::at_least(
            "claims/s in batches of 4,096",
            number(&append["claims_per_s"])?,
            500_000.0,
        ),
        Check::at_most(
            "one durable append over a bare 4 KiB write + fdatasync",
            number(&append["append_over_bare"])?,
            2.0,
        ),
        Check::equal("kill -9 rounds", count(&torture["rounds"])?, rounds.parse()?),
        Check::equal("acknowledged claims lost", count(&torture["lost"])?, 0),
        Check::equal("wrong roots", count(&torture["wrong_roots"])?, 0),
    ];
    Ok(Measured { figures: json!({ "append": append, "torture": torture }), checks })
}

fn abuse(bench: &Bench) -> Result<Measured> {
    let seconds = if bench.short { 2_u64 } else { 300 };
    let fuzz = bench.rust("fuzz", &["--seconds", &seconds.to_string()])?;
    let mut checks = Vec::new();
    for (target, found) in fuzz["targets"].as_object().context("`fuzz` names no target")? {
        #[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
        checks.push(Check::at_least(
            format!("{target}: seconds fuzzed"),
            number(&found["seconds"])?,
            seconds as f64,
        ));
        checks.push(Check::equal(format!("{target}: panics"), count(&found["panics"])?, 0));
        checks.push(Check::equal(
            format!("{target}: second encodings"),
            count(&found["second_encodings"])?,
            0,
        ));
    }
    let requests = bench.rust("abuse", &[])?;
    checks.push(Check::equal(
        "bad requests with another status",
        count(&requests["wrong_status"])?,
        0,
    ));
    checks.push(Check::equal(
        "good requests refused in between",
        count(&requests["good_refused"])?,
        0,
    ));
    let calls = if bench.short { "2000" } else { "100000" };
    let calldata = bench.rust("calldata", &["--calls", calls])?;
    for (precompile, found) in
        calldata["precompiles"].as_object().context("`calldata` names no precompile")?
    {
        checks.push(Check::at_least(
            format!("{precompile}: random calldatas"),
            number(&found["calls"])?,
            calls.parse()?,
        ));
        checks.push(Check::equal(
            format!("{precompile}: aborted blocks"),
            count(&found["aborted"])?,
            0,
        ));
    }
    Ok(Measured {
        figures: json!({ "fuzz": fuzz, "requests": requests, "calldata": calldata }),
        checks,
    })
}

/// The first adapter of this machine; on one without a GPU that is Vulkan in software.
fn gpu_bits(bench: &Bench) -> Result<Measured> {
    let batches = if bench.short { "4" } else { "256" };
    let minilm = bench.minilm()?;
    let figures =
        bench.rust("gpu", &["--minilm", &minilm, "--only", "bits", "--batches", batches])?;
    let bits = &figures["bits"];
    let differ = bits["stems_that_differ"].as_array().context("`gpu` names no stem")?;
    let mut checks = vec![
        Check::equal("stems with another conformance hash", differ.len() as u64, 0),
        Check::equal(
            "digits, every batch: differing bytes",
            count(&bits["digits"]["differing_bytes"])?,
            0,
        ),
        Check::equal(
            "minilm, batches to 256: differing bytes",
            count(&bits["minilm"]["differing_bytes"])?,
            0,
        ),
    ];
    // On real hardware the line reads what somebody committed who had it.
    let missing = u64::from(nvidia_run()?.is_none());
    checks.push(Check::equal("committed runs on an NVIDIA GPU: missing", missing, 0));
    Ok(Measured { figures, checks })
}

/// The latest run of `bench/gpu.sh` on an NVIDIA GPU that `bench/results` has: its file's name, and what it says.
fn nvidia_run() -> Result<Option<(String, Value)>> {
    let folder = std::fs::read_dir(crate::root().join("bench/results"))?;
    let names = folder.filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into()));
    // Names end in dates, so the last is the latest.
    let latest: Option<String> = names.filter(|name: &String| name.starts_with("gpu-nvidia")).max();
    let Some(name) = latest else { return Ok(None) };
    let text = std::fs::read_to_string(crate::root().join("bench/results").join(&name))?;
    Ok(Some((name, serde_json::from_str(&text)?)))
}

fn kernels(bench: &Bench) -> Result<Measured> {
    let library = bench.nvrtc()?;
    let figures = bench.rust("nvrtc", &["--library", &library])?;
    let mut checks = Vec::new();
    for (architecture, found) in
        figures["architectures"].as_object().context("`nvrtc` names no architecture")?
    {
        let missing = found["kernels_missing"].as_u64().unwrap_or(u64::MAX);
        checks.push(Check::equal(format!("{architecture}: kernels missing"), missing, 0));
    }
    checks.push(Check::equal(
        "floating-point instructions in the kernels",
        count(&figures["float_lines"])?,
        0,
    ));
    Ok(Measured { figures, checks })
}

/// Reads a committed run and measures nothing: the machine is not this one.
fn data_centre(_: &Bench) -> Result<Measured> {
    let Some((name, run)) = nvidia_run()? else {
        println!("no run of bench/gpu.sh on an NVIDIA GPU is committed; nobody had one");
        let missing = Check::equal("committed runs on an NVIDIA GPU: missing", 1, 0);
        return Ok(Measured { figures: Value::Null, checks: vec![missing] });
    };
    println!("from bench/results/{name}: {} of commit {}", run["nvidia"][1], run["commit"]);
    let adapters = run["adapters"].as_array().context("the run names no adapter")?;
    let cuda = adapters.iter().find(|adapter| adapter["adapter"]["api"] == "cuda");
    let large = &cuda.context("the run has no CUDA device")?["large"];
    let torch = &run["torch"];
    let ratio = |ours: &Value, theirs: &Value| anyhow::Ok(number(ours)? / number(theirs)?);
    let rate = "tera_operations_per_s";
    let checks = vec![
        Check::at_least(
            "int8 product of 8,192 cubed over torch bf16",
            ratio(&large["gemm"][rate], &torch["gemm_bf16"][rate])?,
            1.5,
        ),
        Check::at_least(
            "minilm, 256 texts of 128 tokens, over torch bf16",
            ratio(&large["minilm"]["tokens_per_s"], &torch["minilm_bf16"]["tokens_per_s"])?,
            1.5,
        ),
        Check::at_least(
            "attention over 2,048 keys over torch's flash attention in bf16",
            ratio(&large["attention"][rate], &torch["attention_bf16"][rate])?,
            1.0,
        ),
        Check::at_most(
            "hashing over the time of a batch",
            number(&large["minilm"]["hashing_share"])?,
            0.01,
        ),
    ];
    Ok(Measured { figures: json!({ "run": name, "large": large, "torch": torch }), checks })
}

fn shaders(bench: &Bench) -> Result<Measured> {
    let minilm = bench.minilm()?;
    let seconds = if bench.short { "0.2" } else { "2" };
    let run =
        |only| bench.rust("gpu", &["--minilm", &minilm, "--seconds", seconds, "--only", only]);
    let (gemm, whole) = (run("gemm")?, run("minilm")?);
    let mut checks = Vec::new();
    for (shape, found) in gemm["gemm"].as_object().context("`gpu` names no GEMM shape")? {
        checks.push(Check::at_least(
            format!("gemm {shape}: int8 over f32"),
            number(&found["over_f32"])?,
            3.0,
        ));
    }
    for (shape, found) in whole["minilm"].as_object().context("`gpu` names no MiniLM shape")? {
        checks.push(Check::at_least(
            format!("minilm {shape}: share of what its products predict"),
            number(&found["share_of_predicted"])?,
            0.9,
        ));
    }
    Ok(Measured { figures: json!({ "gemm": gemm, "minilm": whole }), checks })
}

fn faults(bench: &Bench) -> Result<Measured> {
    let figures = bench.rust("faults", &["--seconds", if bench.short { "2" } else { "8" }])?;
    let (removed, flipped) = (&figures["removed"], &figures["flipped"]);
    let checks = vec![
        Check::at_least(
            "devices that were lost under load",
            number(&removed["devices_lost"])?,
            1.0,
        ),
        Check::equal("64 callers: requests lost", count(&removed["lost"])?, 0),
        Check::equal("64 callers: wrong answers", count(&removed["wrong"])?, 0),
        Check::at_most(
            "a flipped bit: intervals of the canary until it is caught",
            number(&flipped["caught_after_intervals"])?,
            1.1,
        ),
        Check::equal("wrong answers afterwards", count(&flipped["wrong_afterwards"])?, 0),
    ];
    Ok(Measured { figures, checks })
}

/// Random models of every family, and the trained one of `fixtures/text` where it is.
fn number(value: &Value) -> Result<f64> {
    value.as_f64().with_context(|| format!("`{value}` where a figure belongs"))
}

fn count(value: &Value) -> Result<u64> {
    value.as_u64().with_context(|| format!("`{value}` where a count belongs"))
}
