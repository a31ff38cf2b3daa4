//! Kill −9 torture of the store: `store_torture [--rounds N] [--seed S] [DIR]` prints what N rounds found.
//!
//! The rounds themselves stand beside the store's tests, which run a few of them.

#[path = "../../../crates/store/tests/torture/mod.rs"]
mod torture;

use std::{env, fs, path::PathBuf, process::Command};

use serde_json::json;

fn main() {
    let mut dir = env::temp_dir();
    let (mut rounds, mut seed) = (1_000, 1);
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().expect("every option has a value");
        match argument.as_str() {
            "--child" => {
                let dir = PathBuf::from(value());
                return torture::child(&dir, &value());
            }
            "--rounds" => rounds = value().parse().expect("a number of rounds"),
            "--seed" => seed = value().parse().expect("a seed"),
            _ => dir = PathBuf::from(argument),
        }
    }
    let dir = dir.join(format!("hyperion-torture-{}", std::process::id()));
    fs::create_dir_all(&dir).expect("a writable folder");
    let outcome = torture::run(&dir, seed, rounds, |dir, orders| {
        let mut command = Command::new(env::current_exe().expect("this program"));
        command.arg("--child").arg(dir).arg(orders);
        command
    });
    fs::remove_dir_all(&dir).expect("the torture's own folder");
    let report = json!({
        "seed": seed,
        "rounds": outcome.rounds,
        "blocks_acknowledged": outcome.blocks,
        "claims_acknowledged": outcome.claims,
        "lost": outcome.lost,
        "wrong_roots": outcome.wrong_roots,
        "fsck_faults": outcome.faults,
        "blocks_durable_but_not_acknowledged": outcome.unacknowledged,
        "rounds_killed_inside_a_commit": outcome.stopped_inside_commit,
    });
    println!("{report:#}");
    let bad = outcome.lost + outcome.wrong_roots + outcome.faults;
    std::process::exit(i32::from(bad > 0));
}
