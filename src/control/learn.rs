//! The smallest rules that fit what was seen, as TOML that can be pasted into the configuration.
//!
//! Decides nothing: it reads what was seen and the configuration, and writes text. Rules come of nodes whose links
//! came up, which know the cookie; of all others it only tells. What is written stays, and is only added to.

mod fold;
mod group;
mod table;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::SystemTime;

use self::group::{bounded, groups, rule_of};
use self::table::{Tables, quoted};
use super::documents::timestamp;
use crate::config::Config;
use crate::policy::{List, Mode, Observation, Policy, Rule, RuleId, SelfAt, Stance, Target};
use crate::proto::dist::Flags;

/// So many lines of a kind are told in comments.
const MOST_TOLD: usize = 50;

/// What the rules are made of.
#[derive(Debug, Clone, Copy)]
pub struct Lesson<'l> {
    /// Which nodes spoke from where.
    pub seen: &'l [Observation],
    /// The configuration in force.
    pub config: &'l Config,
    /// The rules, with what the resolver said.
    pub policy: &'l Policy,
    /// The addresses of this host, whose own nodes need no rules.
    pub own: &'l [IpAddr],
    /// How it was seen.
    pub account: Account,
}

/// How something was seen.
#[derive(Debug, Clone, Copy)]
pub struct Account {
    /// Since when; `None`: nothing was seen.
    pub since: Option<SystemTime>,
    /// How many handshakes.
    pub handshakes: u64,
    /// How many nodes are not remembered, since there was no room.
    pub forgotten: u64,
    /// In which mode the guard is.
    pub mode: Mode,
}

/// The rules, as text that `check` accepts.
#[must_use]
pub fn rules(lesson: &Lesson<'_>) -> String {
    let peers: Vec<&Observation> = lesson.seen.iter().filter(|seen| !is_own(lesson, seen.ip)).collect();
    let is_let_in = |seen: &&Observation| lesson.policy.allows(seen.ip);
    let (proven, failed): (Vec<&Observation>, Vec<&Observation>) =
        peers.iter().partition(|seen| seen.is_proven() && is_let_in(seen));
    let mut parts = vec![head(lesson)];
    if proven.is_empty() {
        parts.push("# No link of another host came up: there is nothing to write yet.".to_owned());
    } else {
        let mut tables = Tables::new(lesson);
        let groups = bounded(groups(lesson, &proven), tables.room());
        parts.extend(groups.iter().map(|group| tables.peer(group)));
        parts.extend(tables.others());
        parts.push(cluster(lesson, &proven));
    }
    parts.extend(unseen_rules(lesson, &peers));
    parts.extend(without_link(&failed));
    parts.join("\n\n") + "\n"
}

/// This host's own nodes are never judged, unless they are not told from peers.
fn is_own(lesson: &Lesson<'_>, ip: IpAddr) -> bool {
    let is_here = ip.is_loopback() || lesson.own.contains(&ip);
    is_here && lesson.config.dist.self_at == SelfAt::Everywhere
}

fn head(lesson: &Lesson<'_>) -> String {
    let Account { since, handshakes, forgotten, mode } = lesson.account;
    let since = since.map_or_else(|| "nothing yet".to_owned(), |since| format!("since {}", timestamp(since)));
    let mut lines = vec![
        format!("# The smallest rules that fit what was seen: {since}, {handshakes} handshakes; the mode is"),
        format!("# {mode} now. Put each [[peer]] in the place of the one of the same name, if there is one, and the"),
        "# keys of [cluster] into that table; its allow and deny stay as they are. What was not seen is refused"
            .to_owned(),
        "# then. A link is seen by the guard of the host that was dialled alone: add by hand the nodes that this host"
            .to_owned(),
        "# dials, or restart them once, so that they dial. Try it with `epmd-guard check --against-running`."
            .to_owned(),
    ];
    if forgotten > 0 {
        lines.push(format!(
            "# {forgotten} more nodes were seen than are remembered: what is below may lack some."
        ));
    }
    lines.join("\n")
}

/// What is said of everybody. A key is left out where it says already what it should.
fn cluster(lesson: &Lesson<'_>, proven: &[&Observation]) -> String {
    let now = &lesson.config.nodes;
    let mut lines = vec!["[cluster]".to_owned(), "mode = \"enforce\"".to_owned()];
    if now.nodes.is_none() {
        lines.push("# Whoever is none of the peers above has no node here.".to_owned());
        lines.push("nodes = []".to_owned());
    }
    if now.hidden != Stance::Deny {
        lines.push("hidden_nodes = \"deny\"".to_owned());
    }
    if now.dynamic != Stance::Deny {
        lines.push("dynamic_nodes = \"deny\"".to_owned());
    }
    if let Some(least) = proven.iter().map(|seen| seen.version).min().filter(|v| *v != now.least_version) {
        lines.push(format!("min_handshake = {}", least.number()));
    }
    let missing = proven.iter().fold(Flags::default(), |all, seen| all.and(seen.flags.missing(now.required)));
    if missing != Flags::default() {
        let left = Flags(now.required.0 & !missing.0).to_string();
        let names: Vec<String> = left.split(", ").filter(|name| !name.is_empty()).map(quoted).collect();
        lines.push(format!("# Not of all that were seen: {missing}."));
        lines.push(format!("require_flags = [{}]", names.join(", ")));
    }
    lines.join("\n")
}

/// The rules of `allow` by which nothing came: what is written may shut them out.
fn unseen_rules(lesson: &Lesson<'_>, peers: &[&Observation]) -> Option<String> {
    let came: BTreeSet<IpAddr> = peers.iter().map(|seen| seen.ip).collect();
    let is_quiet = |(id, rule): &(RuleId, &Rule)| match &rule.target {
        _ if rule.list != List::Allow || rule.peer.is_some() => false,
        Target::Net(net) => came.range(net.network()..=net.broadcast()).next().is_none(),
        Target::Host(_) => !came.iter().any(|ip| lesson.policy.find(List::Allow, *ip) == Some(*id)),
    };
    let quiet = lesson.policy.network().book().iter().filter(is_quiet);
    let quiet: Vec<String> = quiet.map(|(_, rule)| format!("#   {rule}")).collect();
    told(
        "# Nothing came from these of [cluster] allow; give each host of theirs the nodes that it may be:",
        quiet,
    )
}

/// What was seen and is no reason for a rule.
fn without_link(failed: &[&Observation]) -> Option<String> {
    let line = |seen: &&Observation| {
        let Observation { ip, claimed, .. } = seen;
        let (times, why) = match (seen.up, seen.denial) {
            (0, Some(denial)) => (seen.failed, denial.label()),
            (0, None) => (seen.failed, "the node said no, or an end left it"),
            (up, _) => (up, "its address is not let in any more, though its links came up"),
        };
        let times = if times == 1 { "once".to_owned() } else { format!("{times} times") };
        format!("# seen, but no link came up: {claimed} from {ip} ({times}, {why})")
    };
    let lines: Vec<String> = failed.iter().map(line).collect();
    told("# No rule is made of these:", lines)
}

/// Lines under a heading, where there are any, and not too many.
fn told(heading: &str, mut lines: Vec<String>) -> Option<String> {
    if lines.is_empty() {
        return None;
    }
    let all = lines.len();
    if all > MOST_TOLD {
        lines.truncate(MOST_TOLD);
        lines.push(format!("# and {} more", all - MOST_TOLD));
    }
    Some(format!("{heading}\n{}", lines.join("\n")))
}

/// What the guard calls an address: the `[[peer]]` that it is of.
#[must_use]
pub fn peer_name(lesson: &Lesson<'_>, ip: IpAddr) -> Option<String> {
    let peer = rule_of(lesson, ip)?.peer?;
    lesson.config.peers.get(usize::from(peer.0)).map(|peer| peer.name.clone())
}

#[cfg(test)]
mod tests;
