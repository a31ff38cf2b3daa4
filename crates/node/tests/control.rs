//! What `hyperion log` asks of a node that runs.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
};

use common::{Home, text};

const ASK: [&str; 8] =
    ["infer", "digits", "--input", "seven.i32", "--wait", "logged", "--receipt", "r.json"];

#[test]
fn a_running_node_tells_where_it_stands_and_is_copied() {
    let home = Home::new();
    let arguments = ["--dev", "--data-dir", "data"];
    let node = home.node(&arguments);
    assert!(node.banner[0].contains(" data data "), "{:?}", node.banner);
    let url = node.grpc_url();
    home.ok(&[&ASK[..], &["--node", &url]].concat());
    let head = home.ok(&["log", "head", "--data-dir", "data"]);
    let size: u64 = head.split(' ').next().unwrap().parse().unwrap();
    assert!(size > 0 && head.contains(" height "), "{head}");

    let copied = home.ok(&["log", "backup", "--data-dir", "data", "--to", "copy"]);
    assert!(copied.contains(" entries copied to /"), "{copied}");
    // The node goes on, and does not copy over what is there.
    home.ok(&[&ASK[..], &["--node", &url]].concat());
    let again = home.run(&["log", "backup", "--data-dir", "data", "--to", "copy"]);
    assert_eq!(again.status.code(), Some(2));
    assert!(text(&again.stderr).contains("the running node says"), "{}", text(&again.stderr));
    // Deriving a log anew is for one that stands still.
    let fsck = home.run(&["log", "fsck", "--data-dir", "data"]);
    assert!(text(&fsck.stderr).contains("open already"), "{}", text(&fsck.stderr));
    let grown = home.ok(&["log", "head", "--data-dir", "data"]);
    assert!(node.terminate().success());
    assert!(!home.file("data/control.sock").exists());

    let stood: u64 = grown.split(' ').next().unwrap().parse().unwrap();
    let ended = home.ok(&["log", "head", "--data-dir", "data"]);
    assert!(ended.split(' ').next().unwrap().parse::<u64>().unwrap() >= stood);
    fs::create_dir(home.file("restored")).unwrap();
    fs::rename(home.file("copy"), home.file("restored/log")).unwrap();
    assert!(home.ok(&["log", "fsck", "--data-dir", "restored"]).starts_with("ok "));
    let restored = home.ok(&["log", "head", "--data-dir", "restored"]);
    let restored: u64 = restored.split(' ').next().unwrap().parse().unwrap();
    assert!((size..=stood).contains(&restored), "{size}, {restored}, {stood}");
}

#[test]
fn the_socket_is_its_owners_and_nonsense_is_answered() {
    let home = Home::new();
    let mut node = home.node(&["--dev", "--data-dir", "data"]);
    let path = home.file("data/control.sock");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let said = |line: &[u8]| {
        let mut stream = UnixStream::connect(&path).unwrap();
        // A node that has heard enough hangs up.
        let _ = stream.write_all(line);
        let mut told = String::new();
        let _ = BufReader::new(stream).read_line(&mut told);
        told
    };
    for line in [
        &b"\n"[..],
        b"head\n",
        b"{\"do\":\"halt\"}\n",
        b"{\"do\":\"backup\"}\n",
        b"{\"do\":\"backup\",\"to\":\"here\"}\n",
    ] {
        assert!(said(line).starts_with("{\"Err\":"), "{}", String::from_utf8_lossy(line));
    }
    // Neither a line without an end nor bytes that are no text harm anybody.
    said(&b"x".repeat(1 << 20));
    said(b"\xff\xfe\n");
    let silent: Vec<UnixStream> = (0..7).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert!(said(b"{\"do\":\"head\"}\n").starts_with("{\"Ok\":{\"size\":"));
    drop(silent);

    // What a killed node leaves is in nobody's way.
    node.child.kill().unwrap();
    node.child.wait().unwrap();
    assert!(path.exists());
    home.ok(&["log", "head", "--data-dir", "data"]);
    let node = home.node(&["--dev", "--data-dir", "data"]);
    home.ok(&["log", "head", "--data-dir", "data"]);
    assert!(node.terminate().success());
}
