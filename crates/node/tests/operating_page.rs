//! `docs/operating.md` says what the program does.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::fs;

use common::Home;
use hyperion_node::config::{ChainSpec, NodeConfig};

const PAGE: &str = include_str!("../../../docs/operating.md");

#[test]
fn its_chain_is_a_chain() {
    let (_, after) = PAGE.split_once("```toml\n").unwrap();
    let (example, _) = after.split_once("```").unwrap();
    let home = Home::new();
    fs::write(home.file("chain.toml"), example).unwrap();
    let spec = ChainSpec::load(&home.file("chain.toml")).unwrap();
    let said = home.ok(&["config", "check", "--set", "chain_file=chain.toml"]);
    assert_eq!(said, format!("ok   chain 7331   spec {}\n", spec.digest()));
    // Both spellings of a thousand coins.
    let coins: Vec<_> = spec.alloc.values().map(ToString::to_string).collect();
    assert_eq!(coins, ["1000000000000000000000"; 2]);

    let default = ChainSpec::default();
    assert_eq!((default.base_fee, spec.base_fee), (1_000_000_000, 1_000_000_000));
    assert_eq!(spec, ChainSpec { chain_id: 7331, alloc: spec.alloc.clone(), ..default });
    let rows = ["| `alloc` |", "| `base_fee` |", "| `block_gas_max` |"];
    assert!(rows.iter().all(|row| PAGE.contains(row)));
}

#[test]
fn a_key_that_is_trusted_is_a_line_of_known_logs() {
    let home = Home::new();
    let node = home.node(&["--dev"]);
    let key = node.log_key();
    drop(node);
    let file = home.file(".config/hyperion/known_logs");
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{key}\n"), "of one's own node");
    // A dev node's next key takes the place of the last.
    let next = home.node(&["--dev"]).log_key();
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{next}\n"));
    home.ok(&["log", "trust", &key]);
    home.ok(&["log", "trust", &key]);
    assert_eq!(fs::read_to_string(&file).unwrap(), format!("{next}\n{key}\n"), "once");
    let shape = PAGE.lines().find(|line| line.starts_with("localhost/hyperion/31337+")).unwrap();
    assert_eq!(shape.matches('+').count(), 2);
    assert_eq!(home.run(&["log", "trust", "nonsense"]).status.code(), Some(2));
}

/// A file that could not be read counted as empty, and the next key took the place of all that were trusted.
#[test]
fn known_logs_that_cannot_be_read_stay_as_they_are() {
    let home = Home::new();
    let node = home.node(&["--dev"]);
    let key = node.log_key();
    drop(node);
    let file = home.file(".config/hyperion/known_logs");
    let not_text = [key.as_bytes(), b"\n\xff\n"].concat();
    fs::write(&file, &not_text).unwrap();
    let refused = home.run(&["log", "trust", &key]);
    let said = common::text(&refused.stderr);
    assert!(!refused.status.success() && said.contains("known_logs"), "{said}");
    assert_eq!(fs::read(&file).unwrap(), not_text);
}

#[test]
fn its_limit_of_connections_is_the_default() {
    assert_eq!(NodeConfig::default().admission.connections_max, 4096);
    assert!(PAGE.contains("`admission.connections_max` connections at once, 4 096"));
}
