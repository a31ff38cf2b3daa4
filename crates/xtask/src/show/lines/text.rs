//! The lines about language models.

use anyhow::{Context as _, Result};
use serde_json::Value;

use super::{Bench, Check, Measured, count, number};

pub(super) fn schedules(bench: &Bench) -> Result<Measured> {
    let (tokens, wanted) = if bench.short { ("3000", 3_000.0) } else { ("100000", 100_000.0) };
    let figures = bench.rust("schedules", &["--tokens", tokens, "--wgpu-tokens", tokens])?;
    let mut checks = Vec::new();
    for (device, found) in figures["devices"].as_object().context("`schedules` names no device")? {
        let tokens = number(&found["tokens"])?;
        checks.push(Check::at_least(format!("{device}: tokens generated"), tokens, wanted));
        let different = count(&found["answers_that_differ"])?;
        checks.push(Check::equal(format!("{device}: answers that differ"), different, 0));
    }
    Ok(Measured { figures, checks })
}

pub(super) fn checking(bench: &Bench) -> Result<Measured> {
    let figures =
        bench.rust("generation", &["--tokens", if bench.short { "64" } else { "256" }])?;
    let share = number(&figures["check_over_generate"])?;
    let checks = vec![Check::at_most("checking over generating", share, 0.2)];
    Ok(Measured { figures, checks })
}

pub(super) fn streams(bench: &Bench) -> Result<Measured> {
    let figures = bench.rust("streams", &["--answers", if bench.short { "2" } else { "12" }])?;
    let mut checks = Vec::new();
    for row in figures["table"].as_array().context("`streams` has no table")? {
        let reuse = if row["prefix_reuse"] == Value::Bool(true) { "with" } else { "without" };
        let name = format!("{} streams, {reuse} reuse", row["streams"]);
        for (what, key) in
            [("first token", "first_token_ms"), ("between tokens", "between_tokens_ms")]
        {
            for rank in ["p50", "p99"] {
                let figure = number(&row[key][rank])?;
                checks.push(Check::told(format!("{name}: {what}, {rank}, ms"), figure));
            }
        }
    }
    let steps = number(&figures["cancelled"]["steps_ended_afterwards_max"])?;
    checks.push(Check::at_most("steps that a cancelled stream still takes", steps, 1.0));
    Ok(Measured { figures, checks })
}

pub(super) fn abuse(bench: &Bench) -> Result<Measured> {
    let figures = bench.rust("model_abuse", &[])?;
    let of = |key: &str| {
        figures[key].as_array().map(|list| list.len() as u64).context("`model_abuse` has no list")
    };
    let checks = vec![
        Check::at_least("cases", number(&figures["cases"])?, 50.0),
        Check::equal("taken that should not have been", of("taken")?, 0),
        Check::equal("refused without a word", of("mute")?, 0),
        Check::equal("panics", of("panics")?, 0),
    ];
    Ok(Measured { figures, checks })
}
