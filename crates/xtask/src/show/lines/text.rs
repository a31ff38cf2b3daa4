//! The lines about language models.

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

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

pub(super) fn decoders(bench: &Bench) -> Result<Measured> {
    let tokens = if bench.short { "256" } else { "4096" };
    let fixtures = crate::root().join("fixtures/pydoc");
    let text = fixtures.join("heldout.txt");
    let (lm, held_out) = (fixtures.display().to_string(), text.display().to_string());
    let mut arguments = vec!["--tokens", tokens];
    if text.is_file() {
        arguments.extend(["--lm", &lm, "--text", &held_out]);
    }
    let figures = bench.rust("decoders", &arguments)?;
    let mut checks = Vec::new();
    for (family, found) in figures["families"].as_object().context("`decoders` names no family")? {
        for precision in ["8bit", "16bit"] {
            let found = &found[precision];
            let (cosine, agreement) = (number(&found["cosine"])?, number(&found["agreement"])?);
            let of = |what| format!("{family}, {precision}: {what}");
            checks.push(Check::at_least(of("mean cosine of logits"), cosine, 0.995));
            checks.push(Check::at_least(of("same next token"), agreement, 0.97));
        }
    }
    let trained = &figures["trained"];
    checks.push(Check::equal("trained model: missing", u64::from(trained.is_null()), 0));
    if !trained.is_null() {
        let float = number(&trained["perplexity_float"])?;
        for precision in ["8bit", "16bit"] {
            let more = 100.0 * (number(&trained[precision]["perplexity"])? / float - 1.0);
            let what = format!("trained model, {precision}: perplexity over float, %");
            checks.push(Check::at_most(what, more, 1.0));
        }
    }
    Ok(Measured { figures, checks })
}

pub(super) fn speed(bench: &Bench) -> Result<Measured> {
    let seconds = if bench.short { "0.5" } else { "5" };
    let narrow = bench.rust("narrow", &["--seconds", seconds])?;
    let mut checks = Vec::new();
    let mut shapes = serde_json::Map::new();
    for shape in if bench.short { &["1.1B"][..] } else { &["1.1B", "8B-quarter"] } {
        shapes.insert((*shape).to_owned(), decoder(bench, shape, &mut checks)?);
    }
    for (shape, found) in narrow["shapes"].as_object().context("`narrow` names no shape")? {
        let ratio = number(&found["over_eight_bits"])?;
        checks.push(Check::at_least(format!("{shape}, one row: four bits over eight"), ratio, 1.7));
    }
    Ok(Measured { figures: json!({ "narrow": narrow, "decoders": shapes }), checks })
}

/// One shape, ours and llama.cpp's twice in turns, and candle's where its weights in f32 fit.
fn decoder(bench: &Bench, shape: &str, checks: &mut Vec<Check>) -> Result<Value> {
    let file = bench.rust("generation", &["--gguf", "--shape", shape])?;
    let file = file["path"].as_str().context("`generation --gguf` names no file")?.to_owned();
    let rounds = if bench.short { "3" } else { "5" };
    let (mut ours, mut llama) = (Vec::new(), Vec::new());
    for _ in 0..if bench.short { 1 } else { 2 } {
        ours.push(bench.rust("generation", &["--shape", shape, "--rounds", rounds])?);
        llama.push(bench.peer("llama", "decoder_llama.py", &[&file])?);
    }
    let best = |runs: &[Value], key: &str| -> Result<f64> {
        let figures: Vec<f64> = runs.iter().map(|run| number(&run[key])).collect::<Result<_>>()?;
        Ok(figures.into_iter().fold(0.0, f64::max))
    };
    for (what, key, goal) in [
        ("decode of one", "decode_1_tokens_per_s", 1.0),
        ("prefill of 512", "prefill_tokens_per_s", 1.5),
    ] {
        let ratio = best(&ours, key)? / best(&llama, key)?;
        checks.push(Check::at_least(format!("{shape}: {what} over llama.cpp Q8_0"), ratio, goal));
    }
    let together = best(&ours, "decode_16_tokens_per_s")?;
    let theirs = best(&llama, "decode_together_tokens_per_s")?;
    let name = format!("{shape}: decode of sixteen over llama.cpp Q8_0");
    checks.push(Check::told(name, together / theirs));
    for (what, key, goal) in [
        ("decode of one over the memory-read floor", "share_of_read_floor", 0.85),
        ("sixteen answers at once over one", "decode_16_over_1", 5.0),
    ] {
        let figure = best(&ours, key)?;
        checks.push(Check::at_least(format!("{shape}: {what}"), figure, goal));
    }
    let candle = (shape == "1.1B").then(|| bench.rust("candle_llama", &[&file])).transpose()?;
    if let Some(candle) = &candle {
        let theirs = number(&candle["prefill_tokens_per_s"])?;
        let ratio = best(&ours, "prefill_tokens_per_s")? / theirs;
        checks.push(Check::at_least(format!("{shape}: prefill over candle f32"), ratio, 2.5));
    }
    Ok(json!({ "ours": ours, "llama_cpp": llama, "candle": candle }))
}

pub(super) fn checking(bench: &Bench) -> Result<Measured> {
    let tokens = if bench.short { "64" } else { "256" };
    let figures = bench.rust("generation", &["--answer", tokens])?;
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
