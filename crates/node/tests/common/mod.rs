//! The real binary, started in a folder of its own with a cleared environment.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a fixture that cannot be made fails its test")]

#[cfg(feature = "candle-float")]
pub(crate) mod tiny;
pub(crate) mod tx;

use std::{
    env,
    fs::{self, File},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use tempfile::TempDir;

/// A folder that is home, configuration and work of the programs started in it.
pub(crate) struct Home(TempDir);

impl Home {
    pub(crate) fn new() -> Self {
        let home = Self(tempfile::tempdir().unwrap());
        fs::write(home.file("seven.i32"), hyperion_node::served::embedded::SEVEN).unwrap();
        home
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// `hyperion` with nothing of the environment but this folder.
    pub(crate) fn hyperion(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hyperion"));
        command.args(arguments).current_dir(self.0.path()).env_clear();
        command.env("HOME", self.0.path()).env("TMPDIR", self.0.path()).stdin(Stdio::null());
        // Else Mesa's device-select layer complains that there is no desktop (docs/gpu.md).
        command.env("NODEVICE_SELECT", "1");
        command
    }

    /// Runs to the end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.hyperion(arguments).output().unwrap()
    }

    /// Runs to a good end; returns what was printed.
    #[track_caller]
    pub(crate) fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{arguments:?}: {}\n{out}{err}", output.status);
        out
    }

    /// A node on free ports, ready.
    pub(crate) fn node(&self, arguments: &[&str]) -> Node {
        let ports = ["grpc", "http", "metrics"].map(|door| format!("{door}.listen=127.0.0.1:0"));
        let mut all = vec!["run", "--set", "trace.filter=warn"];
        for port in &ports {
            all.extend(["--set", port]);
        }
        all.extend(arguments);
        let log = File::create(self.file("node.stderr")).unwrap();
        let mut command = self.hyperion(&all);
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        let mut node = Node { child, banner: Vec::new(), lines };
        loop {
            let mut line = String::new();
            if node.lines.read_line(&mut line).unwrap() == 0 {
                let log = fs::read_to_string(self.file("node.stderr")).unwrap();
                panic!("the node ended before it was ready: {:?}\n{log}", node.banner);
            }
            node.banner.push(line.trim_end().to_owned());
            if line.starts_with("ready") {
                return node;
            }
        }
    }
}

/// A running node; killed when it goes out of scope.
pub(crate) struct Node {
    pub(crate) child: Child,
    /// The lines it printed until it was ready.
    pub(crate) banner: Vec<String>,
    /// Held open, so that a node that prints more does not meet a closed pipe.
    lines: BufReader<ChildStdout>,
}

impl Node {
    fn door(&self, name: &str) -> String {
        let line = self.banner.iter().find(|line| line.starts_with("grpc ")).unwrap();
        let mut words = line.split_whitespace();
        words.find(|word| *word == name).unwrap();
        words.next().unwrap().to_owned()
    }

    pub(crate) fn grpc(&self) -> String {
        self.door("grpc")
    }

    pub(crate) fn grpc_url(&self) -> String {
        format!("http://{}", self.grpc())
    }

    pub(crate) fn http(&self) -> String {
        self.door("http")
    }

    pub(crate) fn metrics(&self) -> String {
        self.door("metrics")
    }

    /// Public key of its log.
    pub(crate) fn log_key(&self) -> String {
        let key = self.banner.iter().find_map(|line| line.strip_prefix("log key "));
        key.unwrap().to_owned()
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn terminate(mut self) -> std::process::ExitStatus {
        let killed = Command::new("kill").arg(self.child.id().to_string()).status().unwrap();
        assert!(killed.success());
        self.child.wait().unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// Compares lines with patterns, in which `…` stands for anything.
#[track_caller]
pub(crate) fn same_shape(lines: &str, want: &[&str]) {
    let got: Vec<_> = lines.lines().collect();
    assert_eq!(got.len(), want.len(), "{lines}");
    for (line, pattern) in got.iter().zip(want) {
        assert!(fits(line, pattern), "got  {line}\nwant {pattern}");
    }
}

fn fits(line: &str, pattern: &str) -> bool {
    let mut parts = pattern.split('…');
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let mut parts: Vec<_> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// The folder of all-MiniLM-L6-v2, or why the test is skipped.
pub(crate) fn minilm() -> Option<PathBuf> {
    let folder = fixtures().join("minilm");
    if folder.join("model.safetensors").is_file() {
        return Some(folder);
    }
    eprintln!(
        "skipped: all-MiniLM-L6-v2 is not in {}; scripts/setup.sh fetches it",
        folder.display()
    );
    None
}

/// The Python of the tests, or why the test is skipped.
pub(crate) fn python() -> Option<PathBuf> {
    let python = fixtures().join("venv/bin/python");
    if python.is_file() {
        return Some(python);
    }
    eprintln!("skipped: {} is not there; `scripts/setup.sh tests` makes it", python.display());
    None
}

fn fixtures() -> PathBuf {
    let home = || Path::new(&env::var_os("HOME").unwrap_or_default()).join(".cache/hyperion");
    env::var_os("HYPERION_FIXTURES").map_or_else(home, PathBuf::from)
}
