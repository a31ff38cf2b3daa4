//! A language model in the real binary: asked, talked to, its receipts checked with the node gone.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    io::Write as _,
    process::{Command, Stdio},
};

use common::{Home, python};

#[test]
fn an_answer_is_kept_and_checked_by_one_prefill() {
    let home = Home::new();
    let node = home.node(&["--dev"]);
    let url = node.grpc_url();
    let mut receipts = Vec::new();
    let narrow = ["--temperature", "0.8", "--min-p", "0.05", "--repetition-penalty", "1.2"];
    for (name, more) in [
        ("greedy.json", &["--chat"][..]),
        ("drawn.json", &["--temperature", "0.8"][..]),
        ("narrow.json", &narrow[..]),
        ("stopped.json", &["--stop", "th a", "--stop", "he "][..]),
    ] {
        let mut asked = vec!["infer", "pydoc", "--text", "What is the with statement?"];
        asked.extend(["--tokens", "40", "--node", &url, "--receipt", name]);
        asked.extend(more);
        let said = home.ok(&asked);
        assert!(said.contains("answer   ") && said.contains("tokens   "), "{said}");
        receipts.push(name);
    }
    for wrong in [
        ["--min-p", "1.1"],
        ["--min-p", "nan"],
        ["--repetition-penalty", "0.1"],
        ["--repetition-penalty", "8.01"],
        ["--temperature", "101"],
        ["--stop", ""],
    ] {
        let asked = ["infer", "pydoc", "--text", "A", "--node", &url];
        let output = home.run(&[&asked[..], &wrong[..]].concat());
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(wrong[0]), "{said}");
    }
    let (key, _) = (node.log_key(), drop(node));
    let verify = ["--recompute", "--log-key", &key];
    for name in receipts {
        let said = home.ok(&[&["verify", name][..], &verify].concat());
        let lines: Vec<&str> = said.lines().map(|line| line.split(' ').next().unwrap()).collect();
        let want = ["signature", "request", "log", "input", "sampling", "output", "recompute"];
        assert_eq!(lines, want, "{said}");
        assert!(said.contains("recompute  ok   equal, "), "{said}");
    }
    // An answer that would have gone on, and one that has.
    let stopped = fs::read_to_string(home.file("stopped.json")).unwrap();
    let texts = r#""stopTexts":["he ","th a"]"#;
    assert!(stopped.contains(texts) && !stopped.contains(r#""outTokens":40"#), "{stopped}");
    // With the model from a file: by the tokenizer beside it, and not without.
    let source = std::path::absolute("../../fixtures/pydoc").unwrap();
    home.ok(&["model", "import", source.to_str().unwrap(), "--out", "pydoc.hyp"]);
    let with_file = [&["verify", "stopped.json", "--model", "pydoc.hyp"][..], &verify].concat();
    assert!(home.ok(&with_file).contains("recompute  ok   equal, "));
    fs::remove_file(home.file("pydoc.tokenizer.json")).unwrap();
    let output = home.run(&with_file);
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("recompute  FAILED") && said.contains("pydoc.tokenizer.json"), "{said}");
    let other = stopped.replace(texts, r#""stopTexts":["he "]"#);
    fs::write(home.file("other.json"), other).unwrap();
    let output = home.run(&[&["verify", "other.json"][..], &verify].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("sampling   FAILED"), "{said}");
    // Settings that were not those of the answer.
    let text = fs::read_to_string(home.file("drawn.json")).unwrap();
    let other = text.replace("\"tokensMax\":40", "\"tokensMax\":41");
    assert_ne!(other, text);
    fs::write(home.file("other.json"), other).unwrap();
    let output = home.run(&[&["verify", "other.json"][..], &verify].concat());
    let said = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("sampling   FAILED"), "{said}");
}

#[test]
fn weights_of_every_precision_are_imported_served_and_checked() {
    let home = Home::new();
    let source = std::path::absolute("../../fixtures/pydoc").unwrap();
    let (mut ids, mut arguments) = (Vec::new(), vec!["--dev".to_owned()]);
    for weights in ["4bit", "8bit", "16bit"] {
        let file = format!("w{weights}.hyp");
        let import = ["model", "import", source.to_str().unwrap(), "--weights", weights];
        let said = home.ok(&[&import[..], &["--out", &file]].concat());
        ids.push(said.split_whitespace().next().unwrap().to_owned());
        arguments.extend(["--model".to_owned(), format!("w{weights}={file}")]);
    }
    assert!(ids[0] != ids[1] && ids[1] != ids[2], "{ids:?}");
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let node = home.node(&arguments);
    let url = node.grpc_url();
    for weights in ["4bit", "8bit", "16bit"] {
        let alias = format!("w{weights}");
        let asked = ["infer", &alias, "--text", "The list type", "--tokens", "16", "--node", &url];
        home.ok(&[&asked[..], &["--receipt", &format!("{alias}.json")]].concat());
    }
    let (key, _) = (node.log_key(), drop(node));
    for weights in ["4bit", "8bit", "16bit"] {
        let (receipt, model) = (format!("w{weights}.json"), format!("w{weights}.hyp"));
        let verify = ["verify", &receipt, "--model", &model, "--recompute", "--log-key", &key];
        assert!(home.ok(&verify).contains("recompute  ok   equal, "));
    }
}

#[test]
fn a_conversation_in_the_terminal_leaves_a_receipt() {
    let home = Home::new();
    let node = home.node(&["--dev"]);
    let url = node.grpc_url();
    let arguments = ["chat", "pydoc", "--tokens", "24", "--node", &url];
    let mut command = home.hyperion(&arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    writeln!(input, "What is a list?\nAnd a tuple?\n/receipt last.json\n/quit").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    assert_eq!(said.matches(", claim 0x").count(), 2, "{said}");
    let key = node.log_key();
    let checked = home.ok(&["verify", "last.json", "--recompute", "--log-key", &key]);
    assert!(checked.contains("recompute  ok"), "{checked}");
}

#[test]
fn the_openai_client_completes_and_chats() {
    let Some(python) = python() else { return };
    let home = Home::new();
    let node = home.node(&["--dev"]);
    let output = Command::new(python)
        .arg("../../tests/python/test_openai.py")
        .args(["--base-url", &format!("http://{}/v1", node.http())])
        .output()
        .unwrap();
    let (out, err) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
}
