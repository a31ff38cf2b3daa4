//! `cargo xtask show ID`: measures a line of an issue anew and says whether it holds.
//!
//! A line is a function from a fresh measurement to [`Check`]s. What was measured goes to
//! `bench/results/<id>.json` with date, hardware and commit; nothing is ever read back from there, except
//! for lines that need hardware this machine has not got.

mod lines;

use std::{
    fs,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

/// Which line.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Id of the line, such as `M1`; without it the lines are listed.
    id: Option<String>,
    /// A short form of long measurements, for a first look; writes no result.
    #[arg(long)]
    short: bool,
}

/// One line that the product must show.
pub(crate) struct Line {
    id: &'static str,
    says: &'static str,
    measure: fn(&Bench) -> Result<Measured>,
}

/// What a line's measurement gave.
pub(crate) struct Measured {
    /// The raw figures, as they are written to the result file.
    figures: Value,
    checks: Vec<Check>,
}

/// One figure beside its goal.
pub(crate) struct Check {
    what: String,
    figure: String,
    goal: String,
    holds: bool,
}

impl Check {
    /// A figure that must reach `goal`.
    pub(crate) fn at_least(what: impl Into<String>, figure: f64, goal: f64) -> Self {
        let holds = figure >= goal;
        Self {
            what: what.into(),
            figure: round(figure),
            goal: format!(">= {}", round(goal)),
            holds,
        }
    }

    /// A figure that must not exceed `goal`.
    pub(crate) fn at_most(what: impl Into<String>, figure: f64, goal: f64) -> Self {
        let holds = figure <= goal;
        Self {
            what: what.into(),
            figure: round(figure),
            goal: format!("<= {}", round(goal)),
            holds,
        }
    }

    /// A figure that is to be known and has no goal.
    pub(crate) fn told(what: impl Into<String>, figure: f64) -> Self {
        Self { what: what.into(), figure: round(figure), goal: "none".to_owned(), holds: true }
    }

    /// A count that must be exactly `goal`.
    pub(crate) fn equal(what: impl Into<String>, figure: u64, goal: u64) -> Self {
        Self {
            what: what.into(),
            figure: figure.to_string(),
            goal: format!("= {goal}"),
            holds: figure == goal,
        }
    }
}

fn round(figure: f64) -> String {
    if figure.abs() >= 1000.0 { format!("{figure:.0}") } else { format!("{figure:.4}") }
}

/// Runs one line, or lists them.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let Some(id) = &arguments.id else {
        for line in lines::LINES {
            println!("{:4} {}", line.id, line.says);
        }
        return Ok(());
    };
    let Some(line) = lines::LINES.iter().find(|line| line.id.eq_ignore_ascii_case(id)) else {
        bail!("no line is called `{id}`; `cargo xtask show` lists them");
    };
    let bench = Bench { short: arguments.short };
    let measured = (line.measure)(&bench)?;
    println!("{} {}", line.id, line.says);
    for check in &measured.checks {
        let verdict = if check.holds { "holds" } else { "falls short" };
        println!("  {:<62} {:>14}   goal {:<12} {verdict}", check.what, check.figure, check.goal);
    }
    let all = measured.checks.iter().all(|check| check.holds);
    println!("{}", if all { "holds" } else { "falls short" });
    if !arguments.short {
        write(line, &measured)?;
    }
    Ok(())
}

/// Writes `bench/results/<id>.json`.
fn write(line: &Line, measured: &Measured) -> Result<()> {
    let checks: Vec<Value> = measured
        .checks
        .iter()
        .map(|c| json!({ "what": c.what, "figure": c.figure, "goal": c.goal, "holds": c.holds }))
        .collect();
    let result = json!({
        "line": line.id,
        "says": line.says,
        "date": output("date", &["-u", "+%F"])?,
        "commit": commit()?,
        "hardware": hardware()?,
        "checks": checks,
        "figures": measured.figures,
    });
    let path = crate::root().join("bench/results").join(format!("{}.json", line.id));
    fs::create_dir_all(path.parent().expect("a file lies in a folder"))?;
    fs::write(&path, format!("{result:#}\n"))
        .with_context(|| format!("writing {}", path.display()))?;
    println!("written to {}", path.strip_prefix(crate::root()).unwrap_or(&path).display());
    Ok(())
}

/// The commit measured, with `+` when the tree differs from it.
fn commit() -> Result<String> {
    let head = output("git", &["rev-parse", "--short=12", "HEAD"])?;
    let changed =
        output("git", &["status", "--porcelain", "--", "crates", "bench/src", "Cargo.lock"])?;
    Ok(if changed.is_empty() { head } else { format!("{head}+") })
}

/// Processor, cores and the instruction sets that our kernels choose by.
fn hardware() -> Result<Value> {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    let flags = field("flags").unwrap_or_default();
    let sets: Vec<&str> = flags
        .split(' ')
        .filter(|flag| ["avx2", "avx512f", "avx512_vnni", "avx_vnni"].contains(flag))
        .collect();
    Ok(json!({
        "processor": format!(
            "{} family {} model {}",
            field("model name").unwrap_or_default(),
            field("cpu family").unwrap_or_default(),
            field("model\t").unwrap_or_default()
        ),
        "threads": cpu.lines().filter(|line| line.starts_with("processor")).count(),
        "instruction_sets": sets,
        "kernel": output("uname", &["-sr"])?,
    }))
}

fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(crate::root())
        .output()
        .with_context(|| format!("starting `{program}`"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// How measurements are run.
pub(crate) struct Bench {
    /// Whether a first look is enough.
    pub(crate) short: bool,
}

impl Bench {
    /// Builds and runs a binary of `bench/`; its standard output ends with one JSON object.
    pub(crate) fn rust(&self, binary: &str, arguments: &[&str]) -> Result<Value> {
        let manifest = crate::root().join("bench/Cargo.toml");
        let mut command = Command::new("cargo");
        command
            .args(["run", "--release", "--quiet", "--manifest-path"])
            .arg(manifest)
            .args(["--bin", binary, "--"]);
        json_of(command.args(arguments), binary)
    }

    /// Runs a Python program of `bench/peers` in the environment that `scripts/setup.sh peers` makes for it.
    pub(crate) fn peer(
        &self,
        environment: &str,
        script: &str,
        arguments: &[&str],
    ) -> Result<Value> {
        let python = cache().join(environment).join("bin/python");
        if !python.exists() {
            bail!("the peers are not installed; run `scripts/setup.sh peers` first");
        }
        let mut command = Command::new(python);
        // Debian's and some hosts' OpenBLAS settings slow the peers down; they run with their own defaults.
        command.env_remove("OPENBLAS_CORETYPE").env_remove("OPENBLAS_L2_SIZE");
        command.arg(crate::root().join("bench/peers").join(script));
        json_of(command.args(arguments), script)
    }

    /// NVIDIA's run-time compiler that `scripts/setup.sh tests` fetched.
    pub(crate) fn nvrtc(&self) -> Result<String> {
        let library = cache().join("nvrtc/libnvrtc.so.13");
        if !library.exists() {
            bail!("{} is not there; run `scripts/setup.sh tests` first", library.display());
        }
        Ok(library.display().to_string())
    }

    /// The MiniLM source folder that `scripts/setup.sh` fetched.
    pub(crate) fn minilm(&self) -> Result<String> {
        let folder = cache().join("minilm");
        if !folder.join("model.safetensors").exists() {
            bail!("MiniLM is not in {}; run `scripts/setup.sh` first", folder.display());
        }
        Ok(folder.display().to_string())
    }
}

/// Where fetched things lie, outside the clone.
fn cache() -> PathBuf {
    let home =
        || PathBuf::from(std::env::var_os("HOME").unwrap_or_default()).join(".cache/hyperion");
    std::env::var_os("HYPERION_FIXTURES").map_or_else(home, PathBuf::from)
}

fn json_of(command: &mut Command, name: &str) -> Result<Value> {
    let output = command
        .current_dir(crate::root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .with_context(|| format!("starting {name}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        print!("{text}");
        bail!("{name} failed ({})", output.status);
    }
    // An object may fill one line or many; what lies inside it is indented.
    let start = text.rfind("\n{").map(|at| at + 1).or(text.starts_with('{').then_some(0));
    let last = start.and_then(|start| text.get(start..));
    let last = last.with_context(|| format!("{name} printed no JSON object"))?;
    serde_json::from_str(last).with_context(|| format!("{name} printed no JSON object"))
}
