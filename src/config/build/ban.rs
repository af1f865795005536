//! `[ban]`

use std::path::PathBuf;
use std::time::Duration;

use toml::Spanned;

use super::limits::count;
use super::path::{self, Wanted};
use super::{Key, SECOND_TO_DAY, Span, duration};
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Word, Written, WrittenBan};
use crate::config::{Ban, Limits};
use crate::policy::BanRules;

const FILE: Key = Key("ban", "file");

/// Where bans are kept unless the file says otherwise.
const DEFAULT_FILE: &str = "/var/lib/epmd-guard/bans.jsonl";
/// How many sources can be remembered: some hundred MiB of them.
const MOST_ENTRIES: u32 = 1 << 20;

/// A node gives each step of a handshake 7 s (`net_setuptime`), of which a wait must leave enough.
const WAIT: Span =
    Span { least: Duration::from_millis(10), most: Duration::from_secs(5), shown: "10ms to 5s" };
const BANNED: Span =
    Span { least: Duration::from_secs(1), most: Duration::from_hours(30 * 24), shown: "1s to 30d" };

pub(super) fn build(file: &Written<'_>, limits: &Limits, problems: &mut Problems) -> Ban {
    let written = &file.ban;
    let default = BanRules::default();
    let at = |name| Key("ban", name);
    let mut number = |name, written: &Option<Spanned<i64>>, range, default| {
        count(at(name), written.as_ref(), range, problems).unwrap_or(default)
    };
    let slow_after = number("slow_after", &written.slow_after, 0..=u32::MAX, default.slow_after);
    let after = number("after", &written.after, 0..=u32::MAX, default.after);
    let names = number("names", &written.names, 1..=u32::MAX, default.names);
    let entries = number("entries", &written.entries, 64..=MOST_ENTRIES, default.entries);
    let mut time = |name, written: &Option<Word<'_>>, bounds, default| {
        duration(at(name), written.as_ref(), bounds, problems).unwrap_or(default)
    };
    let rules = BanRules {
        slow_after,
        slow_first: time("slow_first", &written.slow_first, WAIT, default.slow_first),
        slow_most: time("slow_most", &written.slow_most, WAIT, default.slow_most),
        after,
        within: time("within", &written.within, SECOND_TO_DAY, default.within),
        first: time("first", &written.first, BANNED, default.first),
        most: time("most", &written.most, BANNED, default.most),
        names,
        names_within: time("names_within", &written.names_within, SECOND_TO_DAY, default.names_within),
        entries,
    };
    report_disagreement(written, &rules, problems);
    report_impatience(file, &rules, limits, problems);
    report_without_effect(written, &rules, problems);
    let kept = match &written.file {
        None => Some(DEFAULT_FILE.into()),
        Some(word) => kept_at(word, problems),
    };
    Ban { rules, file: kept }
}

fn kept_at(word: &Word<'_>, problems: &mut Problems) -> Option<PathBuf> {
    if word.get_ref().is_empty() {
        return None;
    }
    path::read(FILE, word, Wanted::file(DEFAULT_FILE)).map_err(|problem| problems.push(problem)).ok()
}

/// Reports a first wait or ban that is longer than the longest.
fn report_disagreement(written: &WrittenBan<'_>, rules: &BanRules, problems: &mut Problems) {
    let pairs = [
        (
            "slow_first",
            &written.slow_first,
            rules.slow_first,
            "slow_most",
            &written.slow_most,
            rules.slow_most,
        ),
        ("first", &written.first, rules.first, "most", &written.most, rules.most),
    ];
    for (first, first_written, least, most, most_written, longest) in pairs {
        let spans = [first_written, most_written].into_iter().flatten().map(Word::span);
        let is_broken = spans.clone().any(|span| problems.has_error_within(&span));
        if least <= longest || is_broken {
            continue;
        }
        let shown = humantime::format_duration;
        let message =
            format!("{}: {} is more than {most} ({})", Key("ban", first), shown(least), shown(longest));
        let help = format!("write a shorter {first}, or a longer {most}");
        problems.push(Problem::error(spans.into_iter().next(), message).with_help(help));
    }
}

/// Reports waits that outlast what the nodes give a step.
fn report_impatience(file: &Written<'_>, rules: &BanRules, limits: &Limits, problems: &mut Problems) {
    let patience = limits.handshake_timeout;
    if rules.slow_most >= patience {
        let message = format!(
            "[ban] slow_most: {} is not less than [limits] handshake_timeout ({}): who waits so long is given up",
            humantime::format_duration(rules.slow_most),
            humantime::format_duration(patience)
        );
        let span = file.ban.slow_most.as_ref().or(file.limits.handshake_timeout.as_ref()).map(Word::span);
        problems.push(Problem::warning(span, message).with_help("write a shorter slow_most"));
    }
}

/// Reports what counts only where somebody is banned.
fn report_without_effect(written: &WrittenBan<'_>, rules: &BanRules, problems: &mut Problems) {
    if rules.after > 0 {
        return;
    }
    let keys = [("within", &written.within), ("first", &written.first), ("most", &written.most)];
    for (key, word) in keys {
        let Some(word) = word else { continue };
        let message =
            format!("{}: has no effect: [ban] after is 0, so that nobody is banned", Key("ban", key));
        problems.push(Problem::warning(word.span(), message).with_help("take it out"));
    }
}
