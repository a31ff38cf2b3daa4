//! The tables of `docs/operating.md` are what the program has: keys with their defaults, metrics with their types.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use common::Home;
use hyperion_node::config::NodeConfig;

const PAGE: &str = include_str!("../../../docs/operating.md");

/// The first two cells of each row of the table with this head; several names in a row share its second cell.
fn rows(head: &str) -> BTreeMap<String, String> {
    let table = PAGE.lines().skip_while(|line| *line != head).skip(2);
    table
        .map_while(|line| line.strip_prefix('|'))
        .flat_map(|line| {
            let (names, rest) = line.split_once('|').unwrap();
            let (value, _) = rest.split_once('|').unwrap();
            let value = value.trim().trim_matches('`');
            let names = names.split(',').map(|name| name.trim().trim_matches('`').to_owned());
            names.map(|name| (name, value.to_owned())).collect::<Vec<_>>()
        })
        .collect()
}

fn flatten(prefix: &str, table: &toml::Table, keys: &mut BTreeMap<String, String>) {
    for (key, value) in table {
        let key = format!("{prefix}{key}");
        match value {
            toml::Value::Table(inner) => flatten(&format!("{key}."), inner, keys),
            _ => drop(keys.insert(key, value.to_string())),
        }
    }
}

#[test]
fn its_keys_are_those_of_the_configuration() {
    let mut keys = BTreeMap::new();
    flatten("", &toml::Table::try_from(NodeConfig::default()).unwrap(), &mut keys);
    let said = rows("| key | default | meaning |");
    let (models, said): (BTreeMap<_, _>, BTreeMap<_, _>) =
        said.into_iter().partition(|(key, _)| key.starts_with("models."));
    assert_eq!(said, keys);
    assert!(models.keys().eq([
        "models.<alias>.draft",
        "models.<alias>.path",
        "models.<alias>.tokenizer"
    ]));
}

#[test]
fn its_metrics_are_those_of_the_page() {
    let home = Home::new();
    let node = home.node(&["--dev"]);
    // Families of calls are there once a call is.
    home.ok(&["infer", "digits", "--input", "seven.i32", "--node", &node.grpc_url()]);
    let mut stream = TcpStream::connect(node.metrics()).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut page = String::new();
    stream.read_to_string(&mut page).unwrap();
    let types = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    let types: BTreeMap<_, _> =
        types.map(|(name, kind)| (name.to_owned(), kind.to_owned())).collect();
    assert_eq!(rows("| metric | type | counts |"), types);
}
