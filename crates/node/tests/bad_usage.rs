//! What is wrong with a command or a configuration is said in words, with the exit code of its kind.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::{Home, text};

#[test]
fn each_mistake_names_itself() {
    let home = Home::new();
    fs::write(home.file("typo.toml"), "data_dir = \"d\"\n[engine]\nbatch_row_max = 7\n").unwrap();
    fs::write(home.file("kind.toml"), "[engine]\nthreads = \"many\"\n").unwrap();
    fs::write(home.file("no.hyp"), b"not a model").unwrap();
    fs::write(
        home.file("chain.toml"),
        "chain_id = 5\n[alloc]\n\"0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266\" = \"0x1\"\n",
    )
    .unwrap();
    fs::write(home.file("macs.toml"), "[gas]\nmacs_per_gas = 0\n").unwrap();
    fs::write(home.file("elements.toml"), "[gas]\nelements_per_gas = 0\n").unwrap();
    fs::write(home.file("open.key"), "11".repeat(32)).unwrap();
    fs::write(home.file("letter.txt"), "Dear reader").unwrap();
    let cases: [(&[&str], i32, &str); 13] = [
        (
            &["config", "check", "--config", "typo.toml"],
            2,
            "the nearest known key is `engine.batch_rows_max`",
        ),
        (&["config", "check", "--config", "typo.toml"], 2, "typo.toml:3"),
        (&["config", "check", "--config", "kind.toml"], 2, "threads"),
        (&["config", "check", "--set", "chain_file=chain.toml"], 2, "public test mnemonic"),
        // Prices divide by them, so the first quote panicked.
        (&["config", "check", "--set", "chain_file=macs.toml"], 2, "[gas] macs_per_gas = 0"),
        (&["config", "check", "--set", "chain_file=elements.toml"], 2, "elements_per_gas = 0"),
        (&["run"], 2, "no model is configured"),
        (&["run", "--dev", "--model", "x=no.hyp"], 2, "no.hyp"),
        (&["run", "--dev", "--model", "x"], 2, "want ALIAS=FILE"),
        (&["verify", "missing.json"], 2, "missing.json"),
        // Its reason was once told twice, by the error and by the error's cause.
        (&["verify", "letter.txt"], 2, "error: not a receipt: expected value at line 1 column 1\n"),
        (&["key", "address", "open.key"], 2, "chmod 600"),
        (
            &["infer", "digits", "--input", "seven.i32", "--node", "http://127.0.0.1:9"],
            5,
            "cannot be reached",
        ),
    ];
    for (arguments, code, want) in cases {
        let output = home.run(arguments);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert!(said.contains(want), "{arguments:?} says {said:?}, not {want:?}");
    }
}

#[test]
fn environment_file_and_flag_override_in_order() {
    let home = Home::new();
    fs::write(home.file("node.toml"), "[engine]\nthreads = 3\nbatch_rows_max = 64\n").unwrap();
    let print = |set: &[&str]| {
        let mut command = home.hyperion(&["config", "print", "--config", "node.toml"]);
        let output = command.args(set).env("HYPERION_ENGINE__THREADS", "5").output().unwrap();
        text(&output.stdout)
    };
    assert!(print(&[]).contains("threads = 5"), "{}", print(&[]));
    assert!(print(&["--set", "engine.threads=7"]).contains("threads = 7"));
    assert!(print(&[]).contains("batch_rows_max = 64"));
}

#[test]
fn keys_are_made_once_and_closed_to_others() {
    use std::os::unix::fs::MetadataExt as _;
    let home = Home::new();
    let address = home.ok(&["key", "new", "--out", "worker.key"]);
    assert_eq!(fs::metadata(home.file("worker.key")).unwrap().mode() & 0o777, 0o600);
    assert_eq!(home.ok(&["key", "address", "worker.key"]), address);
    assert_eq!(home.run(&["key", "new", "--out", "worker.key"]).status.code(), Some(2));
    assert_eq!(home.ok(&["key", "address", "worker.key"]), address, "the key stays as it was");
}
