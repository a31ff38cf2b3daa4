//! What no compiler checks. Each rule prints every place it dislikes; any place fails the run.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

/// Runs every rule.
pub(crate) fn run() -> Result<()> {
    let root = crate::root();
    let mut complaints = Vec::new();
    arrows(&root, &mut complaints)?;
    stems(&root, &mut complaints)?;
    walls(&root, &mut complaints)?;
    links(&root, &mut complaints)?;
    if complaints.is_empty() {
        println!("tidy: nothing to complain about");
        return Ok(());
    }
    for complaint in &complaints {
        println!("{complaint}");
    }
    bail!("tidy: {} places", complaints.len());
}

/// The table of `docs/architecture.md`, "Crates", is what every manifest keeps.
fn arrows(root: &Path, complaints: &mut Vec<String>) -> Result<()> {
    let table = crate_table(root)?;
    let known: BTreeSet<&str> = table.keys().map(String::as_str).collect();
    for directory in folders(&root.join("crates"))? {
        let name = file_name(&directory);
        let Some(allowed) = table.get(&name) else {
            complaints.push(format!("crates/{name}: no row in docs/architecture.md, \"Crates\""));
            continue;
        };
        let manifest: toml::Table = read(&directory.join("Cargo.toml"))?.parse()?;
        let empty = toml::Table::new();
        let dependencies =
            manifest.get("dependencies").and_then(|d| d.as_table()).unwrap_or(&empty);
        let ours = dependencies.keys().filter_map(|key| key.strip_prefix("hyperion-"));
        for target in ours {
            if !allowed.contains("all") && !allowed.contains(target) {
                complaints.push(format!(
                    "crates/{name}: may not depend on `{target}` (docs/architecture.md)"
                ));
            }
        }
    }
    for name in known {
        if !root.join("crates").join(name).is_dir() {
            complaints.push(format!("docs/architecture.md: crate `{name}` does not exist"));
        }
    }
    Ok(())
}

/// Crate → crates it may depend on, from the table whose header begins with `| crate |`.
fn crate_table(root: &Path) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let text = read(&root.join("docs/architecture.md"))?;
    let rows = text
        .lines()
        .skip_while(|line| !line.starts_with("| crate | owns | may depend on"))
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    let table: BTreeMap<_, _> = rows
        .filter_map(|row| {
            let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
            let name = cells.first()?.trim_matches('`').to_owned();
            let allowed =
                cells.get(2)?.split_whitespace().map(|word| word.trim_matches('`').to_owned());
            Some((name, allowed.collect()))
        })
        .collect();
    if table.is_empty() {
        bail!("docs/architecture.md has no table of crates");
    }
    Ok(table)
}

/// One stem per operator: a section in `conformance.toml` has its file, its heading and its kernels' folders.
fn stems(root: &Path, complaints: &mut Vec<String>) -> Result<()> {
    let ops = root.join("crates/ops");
    let pinned: toml::Table = read(&ops.join("conformance.toml"))?.parse()?;
    let stems: BTreeSet<&str> =
        pinned.iter().filter(|(_, value)| value.is_table()).map(|(key, _)| key.as_str()).collect();
    let numerics = read(&root.join("docs/exact-inference.md"))?;
    for stem in stems.iter().filter(|stem| !stem.starts_with("program_")) {
        if !ops.join(format!("src/{stem}.rs")).is_file() {
            complaints.push(format!(
                "crates/ops/src/{stem}.rs is missing: conformance.toml has `[{stem}]`"
            ));
        }
        let heading = numerics.lines().any(|line| {
            line.strip_prefix("## ")
                .is_some_and(|title| title.split_whitespace().next() == Some(stem))
        });
        if !heading {
            complaints.push(format!("docs/exact-inference.md has no heading `## {stem}`"));
        }
    }
    for folder in ["shaders", "kernels"] {
        for file in files(&root.join(folder), &["wgsl", "cu"])? {
            let stem = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            // What several kernels of a folder share has a name of its own.
            let is_shared = ["cap", "common", "device", "keccak", "table"].contains(&stem.as_str());
            if !is_shared && !stems.contains(stem.as_str()) {
                complaints
                    .push(format!("{folder}/{}: no operator has this stem", file_name(&file)));
            }
        }
    }
    Ok(())
}

/// Names that may stand in one place only, and words that may stand nowhere.
fn walls(root: &Path, complaints: &mut Vec<String>) -> Result<()> {
    for file in files(&root.join("crates"), &["rs"])? {
        let at = file.strip_prefix(root).unwrap_or(&file).display().to_string();
        let text = read(&file)?;
        let mut forbid = |needle: &str, why: &str| {
            for (line, _) in text.lines().enumerate().filter(|(_, line)| line.contains(needle)) {
                complaints.push(format!("{at}:{}: `{needle}` {why}", line + 1));
            }
        };
        if at.starts_with("crates/xtask/") {
            continue;
        }
        // `lib.rs` gives out the wall's own types; in every other file the word can only mean the crate.
        if at != "crates/store/src/lmdb.rs" && at != "crates/store/src/lib.rs" {
            forbid("lmdb::", "is named in crates/store/src/lmdb.rs only");
            forbid("lmdb_sys::", "is named in crates/store/src/lmdb.rs only");
        }
        if !at.starts_with("crates/backend-wgpu/") {
            forbid(" wgpu::", "is named in crates/backend-wgpu only");
        }
        if !at.starts_with("crates/backend-cuda/") {
            forbid("cudarc::", "is named in crates/backend-cuda only");
        }
        if !["crates/rpc/", "crates/node/"].iter().any(|home| at.starts_with(home)) {
            forbid("tokio::", "is named in rpc and node only");
        }
        forbid("todo!(", "has no place on main");
        forbid("unimplemented!(", "has no place on main");
        forbid("#[ignore", "hides a test; make it skip with a printed reason instead");
    }
    Ok(())
}

/// Relative links in Markdown lead to files that exist.
fn links(root: &Path, complaints: &mut Vec<String>) -> Result<()> {
    let mut pages = files(&root.join("docs"), &["md"])?;
    pages.extend(
        ["README.md", "CONTRIBUTING.md"]
            .map(|name| root.join(name))
            .into_iter()
            .filter(|p| p.is_file()),
    );
    for page in pages {
        let text = read(&page)?;
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let target = target.split('#').next().unwrap_or_default();
            let outside = target.is_empty() || target.contains("://") || target.contains(' ');
            if !outside && !page.with_file_name(target).exists() {
                let at = page.strip_prefix(root).unwrap_or(&page).display().to_string();
                complaints.push(format!("{at}: link to `{target}` leads nowhere"));
            }
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn folders(path: &Path) -> Result<Vec<PathBuf>> {
    let mut all: Vec<_> =
        fs::read_dir(path)?.filter_map(|e| Some(e.ok()?.path())).filter(|p| p.is_dir()).collect();
    all.sort();
    Ok(all)
}

/// All files below `path` with one of the extensions, in path order; none when the folder is absent.
fn files(path: &Path, extensions: &[&str]) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    if !path.is_dir() {
        return Ok(found);
    }
    let mut entries: Vec<_> = fs::read_dir(path)?.filter_map(|e| Some(e.ok()?.path())).collect();
    entries.sort();
    for entry in entries {
        if entry.is_dir() {
            found.extend(files(&entry, extensions)?);
        } else if entry.extension().is_some_and(|e| extensions.iter().any(|want| e == *want)) {
            found.push(entry);
        }
    }
    Ok(found)
}
