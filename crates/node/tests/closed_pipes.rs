//! Nobody reads on: `hyperion … | head -1` ends without a word and is not taken for a success.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{fs::File, process::Stdio};

use common::{Home, text};

/// What a shell says of a program that SIGPIPE ended.
const UNREAD: Option<i32> = Some(141);

/// Runs with a pipe as standard output whose reader has gone before the first line.
#[track_caller]
fn unread(home: &Home, arguments: &[&str]) {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = home.hyperion(arguments).stdout(writer).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!((output.status.code(), said.as_str()), (UNREAD, ""), "{arguments:?}");
}

#[test]
fn every_command_ends_quietly() {
    let home = Home::new();
    home.ok(&["key", "new", "--out", "worker.key"]);
    let node = home.node(&["--dev"]);
    let (url, key) = (node.grpc_url(), node.log_key());
    let infer = ["infer", "digits", "--input", "seven.i32", "--node", &url, "--receipt", "r.json"];
    unread(&home, &infer);
    drop(node);
    // The receipt is kept all the same.
    home.ok(&["verify", "r.json", "--log-key", &key]);
    let quiet = ["run", "--dev", "--set", "trace.filter=warn"];
    let free = ["grpc", "http", "metrics"].map(|door| format!("--set={door}.listen=127.0.0.1:0"));
    let run: Vec<&str> = quiet.into_iter().chain(free.iter().map(String::as_str)).collect();
    let commands: [&[&str]; 6] = [
        &["verify", "r.json", "--log-key", &key],
        &["config", "check"],
        &["config", "print"],
        &["key", "address", "worker.key"],
        &["doctor"],
        &run,
    ];
    for arguments in commands {
        unread(&home, arguments);
    }
}

#[test]
fn a_closed_standard_error_does_not_change_the_exit_code() {
    let home = Home::new();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let status = home.hyperion(&["verify", "missing.json"]).stderr(writer).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

#[cfg(target_os = "linux")]
#[test]
fn an_output_that_cannot_be_written_is_an_error_in_words() {
    let home = Home::new();
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut command = home.hyperion(&["config", "print"]);
    let output = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.starts_with("error: writing to standard output: "), "{said}");
}
