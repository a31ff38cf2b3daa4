//! `hyperion worker --join` and its node as two processes: one dies, the other goes on.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader},
    net::TcpListener,
    path::Path,
    process::{Child, Stdio},
};

use common::{Home, Node, text};

/// Questions to a node that has no worker yet; each is a process, so they take a while.
const TRIES_MAX: usize = 2_000;

/// A running worker; killed when it goes out of scope.
struct Worker {
    child: Child,
    log: std::path::PathBuf,
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A worker's process, past its own tests and on its way to the node.
fn worker(home: &Home, name: &str, node: &str) -> Worker {
    let log = home.file(&format!("{name}.stderr"));
    let key_file = format!("{name}.key");
    let arguments = ["worker", "--join", node, "--key-file", &key_file, "--dev", "--device", "cpu"];
    let mut command = home.hyperion(&arguments);
    command.stdout(Stdio::piped()).stderr(File::create(&log).unwrap());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.any(|line| line.unwrap().starts_with("ready"));
    assert!(ready, "{}", fs::read_to_string(&log).unwrap());
    // Held open, so that the worker's last line finds a reader.
    std::thread::spawn(move || lines.for_each(drop));
    Worker { child, log }
}

/// Makes a worker's key and gives its address.
fn key(home: &Home, name: &str) -> String {
    home.ok(&["key", "new", "--out", &format!("{name}.key")]).trim().to_owned()
}

/// Asks about an image until somebody answers; gives the claim's line.
fn asked(home: &Home, node: &Node, pixel: u8) -> String {
    let image: Vec<u8> = [pixel, 1, 0, 0].repeat(64);
    fs::write(home.file("image.i32"), image).unwrap();
    let url = node.grpc_url();
    let arguments =
        ["infer", "digits", "--input", "image.i32", "--receipt", "r.json", "--node", &url];
    for _ in 0..TRIES_MAX {
        let output = home.run(&arguments);
        if output.status.success() {
            home.ok(&["verify", "r.json", "--log-key", &node.log_key()]);
            let told = text(&output.stdout);
            return told.lines().find(|line| line.starts_with("claim")).unwrap().to_owned();
        }
        let told = text(&output.stderr);
        assert!(told.contains("no device that holds the model is in service"), "{told}");
    }
    panic!("no worker came into service");
}

#[test]
fn a_node_without_devices_serves_through_workers_and_outlives_them() {
    let home = Home::new();
    let (ann, ben) = (key(&home, "ann"), key(&home, "ben"));
    let keys = format!("workers.keys=[\"{ann}\", \"{ben}\"]");
    let node = home.node(&["--dev", "--device", "none", "--set", &keys]);
    assert!(node.banner.iter().any(|line| line.starts_with("workers 2 may attach to node 0x")));
    let mut first = worker(&home, "ann", &node.grpc_url());
    let claim = asked(&home, &node, 1);
    assert!(claim.to_lowercase().ends_with(&ann.to_lowercase()), "{claim} {ann}");

    first.child.kill().unwrap();
    let second = worker(&home, "ben", &node.grpc_url());
    let claim = asked(&home, &node, 2);
    assert!(claim.to_lowercase().ends_with(&ben.to_lowercase()), "{claim} {ben}");
    assert_eq!(terminated(second), Some(0));
    assert!(node.terminate().success());
}

/// Asks a worker to end and gives its exit code.
fn terminated(mut worker: Worker) -> Option<i32> {
    let id = worker.child.id().to_string();
    assert!(std::process::Command::new("kill").arg(id).status().unwrap().success());
    worker.child.wait().unwrap().code()
}

/// The node is killed and comes back: the worker has stayed, and attaches again by itself.
#[test]
fn a_restarted_node_has_its_workers_again() {
    let home = Home::new();
    let digits = Path::new("../../fixtures/digits").canonicalize().unwrap();
    home.ok(&["model", "import", digits.to_str().unwrap(), "--out", "digits.hyp"]);
    let ann = key(&home, "ann");
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (listen, keys) = (format!("grpc.listen={port}"), format!("workers.keys=[\"{ann}\"]"));
    let arguments = [
        "--set",
        &listen,
        "--set",
        &keys,
        "--set",
        "block.interval_ms=20",
        "--data-dir",
        "data",
        "--model",
        "digits=digits.hyp",
        "--device",
        "none",
    ];
    let mut node = home.node(&arguments);
    let mut ann = worker(&home, "ann", &node.grpc_url());
    let before = asked(&home, &node, 1);
    node.child.kill().unwrap();
    drop(node);

    let node = home.node(&arguments);
    let after = asked(&home, &node, 2);
    assert_eq!(before.rsplit(' ').next(), after.rsplit(' ').next(), "the same worker");
    assert!(ann.child.try_wait().unwrap().is_none(), "it never ended");
    let log = fs::read_to_string(&ann.log).unwrap();
    assert_eq!(log.matches("\"attached\"").count(), 2, "{log}");
}

#[test]
fn a_worker_says_why_it_does_not_work() {
    let home = Home::new();
    let ann = key(&home, "ann");
    key(&home, "ben");
    let node = home.node(&["--dev", "--worker", &ann]);
    let url = node.grpc_url();
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let nobody = format!("http://{nobody}");
    let base = ["worker", "--device", "cpu", "--dev", "--patience-s", "0"];
    let elsewhere = "0x0000000000000000000000000000000000000001";
    let cases: [(&str, &[&str], i32, &str); 6] = [
        ("no key", &["--join", &url], 2, "hyperion key new --out worker.key"),
        ("a key that is missing", &["--join", &url, "--key-file", "no.key"], 2, "no.key"),
        ("not listed", &["--join", &url, "--key-file", "ben.key"], 2, "workers.keys"),
        ("nobody there", &["--join", &nobody, "--key-file", "ann.key"], 5, "was not reached"),
        ("no address", &["--join", "nowhere", "--key-file", "ann.key"], 2, "no address of a node"),
        (
            "another node",
            &["--join", &url, "--key-file", "ann.key", "--node-address", elsewhere],
            2,
            "the node says that it is",
        ),
    ];
    for (name, arguments, code, want) in cases {
        let output = home.run(&[&base, arguments].concat());
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{name}: {told}");
        let last = told.lines().find(|line| line.starts_with("error")).unwrap_or_default();
        assert!(last.contains(want), "{name}: {told}");
    }
}
