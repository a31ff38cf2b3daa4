//! A few rounds of the torture that `cargo xtask show M5` runs by the thousand.

#[path = "torture/mod.rs"]
mod torture;

use std::{env, path::PathBuf, process::Command};

const CHILD_DIR: &str = "HYPERION_TORTURE_DIR";
const CHILD_ORDERS: &str = "HYPERION_TORTURE_ORDERS";

/// Not a test of its own: the supervisor below starts this program again with a directory and orders.
#[test]
fn child() {
    if let (Some(dir), Ok(orders)) = (env::var_os(CHILD_DIR), env::var(CHILD_ORDERS)) {
        torture::child(&PathBuf::from(dir), &orders);
    }
}

#[test]
fn twenty_rounds_of_kill_nine_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let seed = u64::from(std::process::id());
    println!("seed {seed}");
    let outcome = torture::run(dir.path(), seed, 20, |dir, orders| {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--exact", "child", "--nocapture"]);
        command.env(CHILD_DIR, dir).env(CHILD_ORDERS, orders);
        command
    });
    println!("{outcome:?}");
    assert_eq!((outcome.lost, outcome.wrong_roots, outcome.faults), (0, 0, 0), "seed {seed}");
    assert_eq!(outcome.rounds, 20);
}
