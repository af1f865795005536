//! Holds the documentation against the code: what stands in one and not in the other.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failed test panics"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use epmd_guard::config::{Color, Files, Overrides, from_text_with};
use epmd_guard::proto::tunnel::{Refusal, Type};

type Words = BTreeSet<String>;

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files below a folder whose names end so.
fn files(folder: &str, ending: &str) -> Vec<PathBuf> {
    let (mut found, mut folders) = (Vec::new(), vec![root().join(folder)]);
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_str().unwrap().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

/// The text of a source file without comments and unit tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The events of the log with their fields, as the code has them.
fn events_of_the_code() -> BTreeMap<String, Words> {
    let mut events: BTreeMap<String, Words> = BTreeMap::new();
    for path in files("src", ".rs").iter().filter(|path| !path.ends_with("admin/tests.rs")) {
        let text = code(&fs::read_to_string(path).unwrap());
        for call in text.split("tracing::").skip(1) {
            let Some((macro_name, rest)) = call.split_once("!(") else { continue };
            if !["error", "warn", "info", "debug", "trace", "$level"].contains(&macro_name) {
                continue;
            }
            let mut arguments = arguments(rest);
            let name = arguments.pop().unwrap();
            let name = name.strip_prefix('"').and_then(|name| name.strip_suffix('"'));
            let name =
                name.unwrap_or_else(|| panic!("{}: an event without a name: {rest:.80}", path.display()));
            events
                .entry(name.to_owned())
                .or_default()
                .extend(arguments.iter().map(|argument| field(argument)));
        }
    }
    events
}

/// The arguments of a macro, up to its closing bracket.
fn arguments(text: &str) -> Vec<String> {
    let (mut found, mut argument, mut depth) = (Vec::new(), String::new(), 0);
    let (mut in_text, mut escaped) = (false, false);
    for char in text.chars() {
        if in_text {
            in_text = escaped || char != '"';
            escaped = !escaped && char == '\\';
        } else {
            match char {
                '"' => in_text = true,
                '(' | '[' | '{' => depth += 1,
                ')' | ']' | '}' if depth == 0 => break,
                ')' | ']' | '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.push(std::mem::take(&mut argument).trim().to_owned());
                    continue;
                }
                _ => {}
            }
        }
        argument.push(char);
    }
    found.push(argument.trim().to_owned());
    found.retain(|argument| !argument.is_empty());
    found
}

/// The field's name of `name = value`, `%name` or `name`.
fn field(argument: &str) -> String {
    let name = argument.split_once(" = ").map_or(argument, |(name, _)| name);
    name.trim_start_matches(['%', '?']).rsplit('.').next().unwrap().to_owned()
}

/// The rows of the tables whose heading begins so, as their columns.
fn rows(page: &str, heading: &str) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        if !line.starts_with('|') {
            inside = false;
        } else if line.starts_with(heading) {
            inside = true;
        } else if inside && !line.starts_with("| ---") {
            // A bar within code is written `\|` where there is one.
            let columns = line.trim_matches('|').split(" | ").map(|column| column.trim().to_owned());
            found.push(columns.collect());
        }
    }
    assert!(!found.is_empty(), "no table {heading}");
    found
}

/// What stands in backquotes.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_event_and_field_of_the_log_stands_on_its_page_and_no_other() {
    let page = read("docs/logs.md");
    let mut told: BTreeMap<String, Words> = BTreeMap::new();
    for row in rows(&page, "| event |") {
        for name in quoted(&row[0]) {
            assert!(
                told.insert(name.clone(), quoted(&row[2]).into_iter().collect()).is_none(),
                "{name} twice"
            );
        }
    }
    let events = events_of_the_code();
    assert!(events.len() > 50, "{events:?}");
    let names = |events: &BTreeMap<String, Words>| events.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&told), names(&events));
    for (name, fields) in &events {
        assert_eq!(&told[name], fields, "the fields of {name}");
    }
}

/// The words that `label` gives for the variants of an enum.
fn labels(path: &str) -> Words {
    texts(path, "label")
}

/// The texts that a function of this name gives for the variants of an enum.
fn texts(path: &str, function: &str) -> Words {
    let text = code(&read(path)).replace("&self", "self").replace("=> Some(\"", "=> \"");
    let named = text.split(&format!("fn {function}(self)")).nth(1);
    let named = named.unwrap_or_else(|| panic!("{path} has no {function}"));
    let body = named.split("\n    }\n").next().unwrap();
    let words = body.lines().filter_map(|line| line.split_once("=> \"")?.1.split('"').next());
    words.map(str::to_owned).collect()
}

/// The words that the code gives to what stands before a text, such as `LegFailed("`.
fn words_of(folder: &str, before: &str) -> Words {
    let texts = files(folder, ".rs").into_iter().map(|path| code(&fs::read_to_string(path).unwrap()));
    let words = texts.flat_map(|text| {
        let words = text.split(before).skip(1).filter_map(|rest| rest.split('"').next());
        words.map(str::to_owned).collect::<Vec<_>>()
    });
    words.collect()
}

#[test]
fn every_reason_stands_on_the_page_of_the_log_and_no_other() {
    let page = read("docs/logs.md");
    let told = |heading: &str, after: &str| -> Words {
        let part = page.split(after).nth(1).unwrap();
        let part = part.split("\n### ").next().unwrap();
        rows(part, heading).iter().flat_map(|row| quoted(&row[0])).collect()
    };
    assert_eq!(told("| reason |", "### Reasons of `refused`"), labels("src/policy/denial.rs"));
    let mut closed = told("| reason |", "### Reasons of `closed`");
    assert!(closed.remove("refused"), "the row for the reasons of `refused`");
    let all =
        labels("src/session/close.rs").union(&labels("src/session/handshake_end.rs")).cloned().collect();
    assert_eq!(closed, all);
}

#[test]
fn every_reason_why_a_tunnel_came_to_nothing_stands_on_the_page_of_the_log_and_no_other() {
    let page = read("docs/logs.md");
    let part = page.split("### Reasons of tunnels").nth(1).unwrap();
    let part = part.split("\n### ").next().unwrap();
    let told: Words = rows(part, "| reason |").iter().flat_map(|row| quoted(&row[0])).collect();
    let all: Words = [
        labels("src/transport/tls/fault.rs"),
        labels("src/transport/tls/cert_fault.rs"),
        texts("src/transport/tunnel/leg.rs", "reason"),
        texts("src/transport/tunnel/dial.rs", "reason"),
        words_of("src/session", "LegFailed(\""),
    ]
    .into_iter()
    .flatten()
    .collect();
    assert!(all.len() > 20, "{all:?}");
    assert_eq!(told, all);
    // A link that is up has shorter words for why its leg is lost.
    let row = rows(&page, "| event |").into_iter().find(|row| row[0] == "`leg_lost`").unwrap();
    assert_eq!(quoted(&row[3]).into_iter().collect::<Words>(), labels("src/transport/tunnel/leg.rs"));
}

#[test]
fn the_differences_that_the_differential_test_lets_pass_are_those_of_the_page_in_bold() {
    let page = read("docs/epmd-compatibility.md");
    let rows = rows(&page, "| what |");
    assert!(rows.iter().all(|row| row.len() == 4), "{:?}", rows.iter().find(|row| row.len() != 4));
    let bold = rows.iter().filter_map(|row| row[0].strip_prefix("**")?.strip_suffix("**"));
    let told: Words = bold.map(str::to_owned).collect();
    let documented = texts("tests/differential/compare.rs", "row");
    assert!(documented.len() > 9, "{documented:?}");
    assert_eq!(told, documented);
}

/// The commands that a help lists.
fn commands_in(help: &str) -> Vec<String> {
    let Some(commands) = help.split("Commands:\n").nth(1) else { return Vec::new() };
    let commands = commands.split("\n\n").next().unwrap();
    // A command's name stands behind two blanks, and what it does further right.
    let names = commands.lines().filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn every_command_and_option_is_in_the_manual() {
    let help = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_epmd-guard")).args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let page = read("docs/configuration.md");
    let synopses: Vec<String> = rows(&page, "| command |").iter().flat_map(|row| quoted(&row[0])).collect();
    let mut names = commands_in(&help(&["--help"]));
    assert!(names.contains(&"run".to_owned()), "{names:?}");
    for (at, group) in names.clone().into_iter().enumerate().rev() {
        let within = commands_in(&help(&[&group, "--help"]));
        if !within.is_empty() {
            names.splice(at..=at, within.iter().map(|command| format!("{group} {command}")));
        }
    }
    assert!(names.contains(&"certs init".to_owned()), "{names:?}");
    let elsewhere = read("README.md") + &read("docs/operations.md");
    for name in names {
        let words: Vec<&str> = name.split(' ').collect();
        let own =
            |text: &&String| text.split_whitespace().skip(1).take(words.len()).eq(words.iter().copied());
        let synopsis: String = synopses.iter().filter(own).cloned().collect();
        assert!(!synopsis.is_empty(), "{name} is not in docs/configuration.md");
        assert!(
            elsewhere.contains(&format!("epmd-guard {name}")),
            "{name} is neither in README nor operations"
        );
        let own = help(&[&words[..], &["--help"]].concat());
        // An option stands at the beginning of its line, perhaps behind its letter.
        let lines = own.lines().map(str::trim_start).filter(|line| line.starts_with('-'));
        let options = lines.filter_map(|line| line.split_whitespace().find(|word| word.starts_with("--")));
        for option in options {
            let shared = ["--help", "--config", "--socket"].contains(&option);
            assert!(
                shared || synopsis.contains(option),
                "{option} of {name} is not in docs/configuration.md"
            );
        }
    }
}

#[test]
fn every_key_of_the_configuration_is_explained() {
    let page = read("docs/configuration.md");
    let mut section = String::new();
    let mut count = 0;
    for line in read("config/epmd-guard.toml").lines() {
        let line = line.trim_start_matches('#');
        if line.starts_with('[') {
            section = line.to_owned();
        } else if let Some((key, _)) = line.split_once(" = ")
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            let chapter = page.split(&format!("\n## `{section}`")).nth(1);
            let chapter = chapter.unwrap_or_else(|| panic!("no chapter for {section}"));
            let chapter = chapter.split("\n## ").next().unwrap();
            let told = rows(chapter, "| key |");
            assert!(told.iter().any(|row| row[0] == format!("`{key}`")), "{section} {key}");
            count += 1;
        }
    }
    assert!(count > 25, "{count} keys");
}

#[test]
fn every_path_of_the_admin_socket_is_on_its_page() {
    let routes = read("src/control/admin/routes.rs");
    let table = routes.split("const ROUTES").nth(1).unwrap().split("];").next().unwrap();
    let known: Words = table.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    let page = read("docs/admin.md");
    let told = rows(&page, "| path |").iter().map(|row| quoted(&row[0])[0].clone()).collect::<Vec<_>>();
    let told: Words = told.iter().map(|path| path.split('?').next().unwrap().to_owned()).collect();
    assert_eq!(told, known);
}

#[test]
fn every_example_of_a_configuration_is_one() {
    let mut count = 0;
    for page in ["README.md", "docs/configuration.md", "docs/operations.md", "docs/admin.md"] {
        for example in read(page).split("```toml\n").skip(1) {
            let text = example.split("```").next().unwrap();
            // The files that examples name are not here.
            if let Err(error) = from_text_with(page, text, &Overrides::default(), Files::Leave) {
                panic!("{}", error.render(Color::Plain));
            }
            count += 1;
        }
    }
    assert!(count > 10, "{count} examples");
}

/// What GitHub and others make of a heading.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn the_frames_and_refusals_of_the_tunnel_are_those_of_its_page() {
    let page = read("docs/tunnel.md");
    let told: Vec<(String, String)> =
        rows(&page, "| type | name |").iter().map(|row| (row[0].clone(), row[1].clone())).collect();
    let kind = |kind: &Type| (kind.number().to_string(), format!("{kind:?}").to_uppercase());
    assert_eq!(told, Type::ALL.iter().map(kind).collect::<Vec<_>>());
    let told: Vec<(String, bool)> =
        rows(&page, "| code |").iter().map(|row| (row[0].clone(), row.last().unwrap() == "yes")).collect();
    let refusal = |refusal: &Refusal| (refusal.number().to_string(), refusal.is_temporary());
    assert_eq!(told, Refusal::ALL.iter().map(refusal).collect::<Vec<_>>());
}

fn has_anchor(page: &Path, wanted: &str) -> bool {
    let text = fs::read_to_string(page).unwrap();
    text.lines()
        .filter(|line| line.starts_with('#'))
        .any(|line| anchor(line.trim_start_matches(['#', ' '])) == wanted)
}

#[test]
fn every_link_between_pages_leads_somewhere() {
    let mut pages = files("docs", ".md");
    pages.extend(
        ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "certs/README.md"]
            .map(|p| root().join(p)),
    );
    let mut count = 0;
    for page in pages {
        let text = fs::read_to_string(&page).unwrap();
        for target in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (path, wanted) =
                target.split_once('#').map_or((target, None), |(path, part)| (path, Some(part)));
            let path = if path.is_empty() { page.clone() } else { page.parent().unwrap().join(path) };
            assert!(path.exists(), "{}: {target}", page.display());
            assert!(wanted.is_none_or(|part| has_anchor(&path, part)), "{}: {target}", page.display());
            count += 1;
        }
    }
    assert!(count > 50, "{count} links");
}
