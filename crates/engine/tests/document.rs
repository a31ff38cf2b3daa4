//! `docs/engine.md` says what the code does.

use hyperion_engine::EngineConfig;

const TEXT: &str = include_str!("../../../docs/engine.md");

#[test]
fn the_table_of_settings_is_the_defaults() {
    let table: Vec<(&str, &str)> = TEXT
        .lines()
        .skip_while(|line| *line != "| setting | default |")
        .skip(2)
        .map_while(|line| line.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | "))
        .collect();
    let defaults = format!("{:?}", EngineConfig::default());
    let said: Vec<String> = table.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    assert_eq!(defaults, format!("EngineConfig {{ {} }}", said.join(", ")));
}

#[test]
fn the_states_are_drawn_alike_in_text_and_code() {
    let drawing: Vec<&str> = TEXT
        .lines()
        .skip_while(|line| !line.starts_with("Queued --take-->"))
        .take_while(|line| !line.starts_with("```"))
        .collect();
    let head: Vec<&str> = include_str!("../src/machine.rs")
        .lines()
        .map_while(|line| line.strip_prefix("//!"))
        .map(|line| line.strip_prefix(' ').unwrap_or(line))
        .collect();
    assert!(drawing.len() > 6 && head.join("\n").contains(&drawing.join("\n")));
}
