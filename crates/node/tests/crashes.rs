//! A node that is killed, or asked to end, has kept every answer that it said was logged.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{fs, path::Path, thread};

use common::{Home, text};

/// Rounds of the kill; `cargo xtask show M5` runs a thousand on the store itself.
const ROUNDS: usize = 3;
const CLIENTS: usize = 4;

#[test]
fn killed_while_clients_ask_it_loses_nothing_that_was_acknowledged() {
    let home = Home::new();
    let digits = Path::new("../../fixtures/digits");
    let digits = digits.canonicalize().unwrap();
    home.ok(&["model", "import", digits.to_str().unwrap(), "--out", "digits.hyp"]);
    let arguments = ["--data-dir", "data", "--model", "digits=digits.hyp"];
    let mut receipts: Vec<(String, String)> = Vec::new();
    let mut keys = Vec::new();
    for round in 0..ROUNDS {
        let mut node = home.node(&arguments);
        keys.push(node.log_key());
        let url = node.grpc_url();
        thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let (home, url) = (&home, &url);
                    scope.spawn(move || {
                        let mut kept = Vec::new();
                        for turn in 0.. {
                            let name = format!("r-{round}-{client}-{turn}.json");
                            let ask = [
                                "infer",
                                "digits",
                                "--input",
                                "seven.i32",
                                "--receipt",
                                &name,
                                "--node",
                                url,
                            ];
                            let output = home.run(&ask);
                            if !output.status.success() {
                                return kept;
                            }
                            let told = text(&output.stdout);
                            let claim = told.split_whitespace().find(|word| word.starts_with("0x"));
                            kept.push((name, claim.unwrap().to_owned()));
                        }
                        kept
                    })
                })
                .collect();
            // Killed once somebody has been answered, in the middle of the next questions.
            while !(0..CLIENTS)
                .any(|client| home.file(&format!("r-{round}-{client}-1.json")).exists())
            {
                thread::yield_now();
            }
            node.child.kill().unwrap();
            receipts.extend(clients.into_iter().flat_map(|client| client.join().unwrap()));
        });
        node.child.wait().unwrap();
    }
    keys.dedup();
    assert_eq!(keys.len(), 1, "the log keeps its key");
    assert!(home.ok(&["log", "fsck", "--data-dir", "data"]).starts_with("ok "));

    let node = home.node(&arguments);
    let url = format!("http://{}", node.http());
    assert!(receipts.len() >= ROUNDS);
    for (name, claim) in &receipts {
        home.ok(&["verify", name]);
        // Still known, at the index that was acknowledged, under a checkpoint of the reopened log.
        let served = get(&format!("{url}/v1/receipts/{claim}"));
        fs::write(home.file("served.json"), served).unwrap();
        home.ok(&["verify", "served.json"]);
    }
    assert!(node.terminate().success());
    assert!(home.ok(&["log", "fsck", "--data-dir", "data"]).starts_with("ok "));
}

#[test]
fn asked_to_end_it_finishes_what_it_took() {
    let home = Home::new();
    let node = home.node(&["--dev"]);
    let url = node.grpc_url();
    let (first, node) = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            home.run(&[
                "infer",
                "digits",
                "--input",
                "seven.i32",
                "--receipt",
                "r.json",
                "--node",
                &url,
            ])
        });
        (asking.join().unwrap(), node)
    });
    assert!(first.status.success());
    assert!(node.terminate().success(), "a drained node ends well");
    home.ok(&["verify", "r.json"]);
}

fn get(url: &str) -> Vec<u8> {
    use std::io::{Read as _, Write as _};
    let rest = url.strip_prefix("http://").unwrap();
    let (host, path) = rest.split_once('/').unwrap();
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    write!(stream, "GET /{path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let head = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
    answer.split_off(head + 4)
}
