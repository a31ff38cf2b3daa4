//! An unmodified Triton client against the real binary.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{path::Path, process::Command};

use common::{Home, minilm, python};

#[test]
fn tritonclient_reads_digits_embeddings_and_text_with_their_claims() {
    let Some(python) = python() else { return };
    let home = Home::new();
    let mut arguments = vec!["--dev"];
    let mut text_model = "";
    if let Some(source) = minilm() {
        home.ok(&["model", "import", source.to_str().unwrap(), "--out", "minilm.hyp"]);
        arguments.extend(["--model", "minilm=minilm.hyp"]);
        text_model = "minilm";
    }
    let node = home.node(&arguments);
    let script = Path::new("../../tests/python/test_triton.py");
    let output = Command::new(python)
        .arg(script)
        .args(["--grpc", &node.grpc(), "--digits", "digits", "--minilm", text_model])
        .args(["--text", "pydoc"])
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
}
