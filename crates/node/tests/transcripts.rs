//! What people see in their first five minutes: each command against the real binary, line by line.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::{Home, minilm, same_shape, text};

#[test]
fn an_agent_asks_keeps_the_receipt_and_checks_it_with_the_node_gone() {
    let home = Home::new();
    let node = home.node(&["--dev"]);
    same_shape(
        &node.banner.join("\n"),
        &[
            "hyperion 0.1.0   chain 31337   data <temporary>   devices cpu … (… threads)",
            "grpc 127.0.0.1:…   http 127.0.0.1:…   metrics 127.0.0.1:…",
            "log key localhost/hyperion/31337+…+…",
            "model digits  0x…  native  6464 MAC a row  known answer ok",
            "model pydoc  0x…  native  …",
            "ready in … s",
        ],
    );
    let asked = home.ok(&[
        "infer",
        "digits",
        "--input",
        "seven.i32",
        "--wait",
        "logged",
        "--receipt",
        "r.json",
        "--node",
        &node.grpc_url(),
    ]);
    same_shape(
        &asked,
        &[
            "output   i32[1,10]  argmax 7",
            "claim    0x…  macs 6464  worker 0x…",
            "log      entry … of …  checkpoint localhost/hyperion/31337",
            "tier     T1 reached",
        ],
    );
    assert!(node.terminate().success());

    let checked = [
        "signature  ok   worker 0x…",
        "request    ok   the claim answers it",
        "log        ok   entry … of …, checkpoint localhost/hyperion/31337",
        "input      ok   inputHash 0x…",
        "output     ok   outputHash 0x…",
        "recompute  ok   equal, 6464 MAC, … ms on cpu …",
    ];
    same_shape(&home.ok(&["verify", "r.json", "--recompute"]), &checked);
    same_shape(&home.ok(&["verify", "r.json"]), &checked[..5]);
}

#[test]
fn a_receipt_that_was_changed_fails_by_the_first_thing_that_is_wrong() {
    let home = Home::new();
    let node = home.node(&["--dev"]);
    let (url, key) = (node.grpc_url(), node.log_key());
    home.ok(&["infer", "digits", "--input", "seven.i32", "--receipt", "r.json", "--node", &url]);
    drop(node);
    let receipt = fs::read_to_string(home.file("r.json")).unwrap();
    let digits = |name: &str, receipt: &str| {
        let at = receipt.find(name).unwrap() + name.len();
        receipt[at..at + 64].to_owned()
    };
    let other_output = receipt.replacen("\"outputHash\":\"0x", "\"outputHash\":\"0x00", 1);
    assert_ne!(other_output, receipt);
    let output = digits("\"data\":\"0x", &receipt);
    let flipped = format!("{}{}", if output.starts_with('0') { '1' } else { '0' }, &output[1..]);
    let cases = [
        (
            receipt.replace("\"macs\":\"6464\"", "\"macs\":\"6465\""),
            "signature  FAILED  recovered 0x…",
        ),
        (receipt.replacen(&output, &flipped, 1), "input      FAILED  …"),
    ];
    for (changed, want) in cases {
        assert_ne!(changed, receipt);
        fs::write(home.file("changed.json"), changed).unwrap();
        let output = home.run(&["verify", "changed.json", "--log-key", &key]);
        assert_eq!(output.status.code(), Some(1), "a check said no");
        same_shape(text(&output.stdout).lines().last().unwrap(), &[want]);
    }
    // Nobody is trusted by default.
    let stranger = Home::new();
    fs::write(stranger.file("r.json"), &receipt).unwrap();
    let output = stranger.run(&["verify", "r.json"]);
    assert_eq!(output.status.code(), Some(1));
    let last = text(&output.stdout).lines().last().unwrap().to_owned();
    same_shape(&last, &["log        FAILED  nobody whose key is known signed …--log-key…"]);
    stranger.ok(&["log", "trust", &key]);
    stranger.ok(&["verify", "r.json"]);
}

#[test]
fn a_text_becomes_a_receipt_that_anyone_with_the_model_can_recompute() {
    let Some(source) = minilm() else { return };
    let home = Home::new();
    let source = source.to_str().unwrap();
    let imported = home.ok(&["model", "import", source, "--out", "minilm.hyp"]);
    same_shape(&imported, &["0x…  minilm.hyp"]);
    let node = home.node(&["--dev", "--model", "minilm=minilm.hyp"]);
    let url = node.grpc_url();
    let asked = home.ok(&[
        "infer",
        "minilm",
        "--text",
        "the same bytes everywhere",
        "--receipt",
        "t.json",
        "--node",
        &url,
    ]);
    same_shape(asked.lines().next().unwrap(), &["output   i16[1,384]"]);
    assert!(node.terminate().success());
    let checked = home.ok(&["verify", "t.json", "--recompute", "--model", "minilm.hyp"]);
    same_shape(checked.lines().last().unwrap(), &["recompute  ok   equal, … MAC, … ms on cpu …"]);
}

#[test]
fn the_demo_runs_from_import_to_payment() {
    let Some(source) = minilm() else { return };
    let home = Home::new();
    let told = home.ok(&["demo", "--minilm", source.to_str().unwrap()]);
    let has = |start: &str| told.lines().any(|line| line.starts_with(start));
    for start in [
        "deploy    0x",
        "tell      \"Explain str.join\": ",
        "text      ",
        "equal     to the answer over gRPC",
        "ask       5 coins",
        "refused   ",
        "accepted  ",
        "paid      5 coins to 0x7099",
    ] {
        assert!(has(start), "no line starts with {start:?}:\n{told}");
    }
    let recomputed = told.lines().filter(|line| line.starts_with("recompute  ok")).count();
    assert_eq!(recomputed, 4, "{told}");
    assert!(told.ends_with("Everything held.\n"), "{told}");
}

#[test]
fn doctor_runs_every_kernel_set_of_the_machine() {
    let home = Home::new();
    for line in home.ok(&["doctor"]).lines() {
        let wanted = match line.split_once([' ', ':']) {
            Some(("cpu", _)) => "cpu    …, … threads   conformance ok",
            Some(("cuda", rest)) if rest.contains("not usable") => {
                "cuda   not usable: CUDA's driver library libcuda was not found; …"
            }
            Some(("cuda", _)) => "cuda:… …, sm_…, cuda-…, … GiB   conformance ok",
            _ => "wgpu:… …, wgsl-vulkan, 4 GiB   conformance ok",
        };
        same_shape(line, &[wanted]);
    }
    assert!(home.ok(&["doctor", "--conformance"]).contains("[program_decoder]"));
}
