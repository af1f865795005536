//! `[cluster]`

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::peers::Peers;
use super::{Key, SECOND_TO_DAY, choice, duration, line_of};
use crate::config::Cluster;
use crate::config::load::Overrides;
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Words, WrittenCluster};
use crate::config::text::{LineCounter, quoted};
use crate::policy::{HostName, List, Mode, NetworkRules, Rule, RuleBook, Target};

const ALLOW: Key = Key("cluster", "allow");
const DENY: Key = Key("cluster", "deny");
const MODES: &[(&str, Mode)] = &[("enforce", Mode::Enforce), ("observe", Mode::Observe)];

/// A rule, and where it stands unless it is of the command line.
pub(super) type Placed = (Rule, Option<Range<usize>>);

/// Takes the rules of `peers` too, and leaves the peers themselves.
pub(super) fn build(
    written: &WrittenCluster<'_>,
    peers: &mut Peers,
    lines: &mut LineCounter<'_>,
    overrides: &Overrides,
    problems: &mut Problems,
) -> Cluster {
    let mut allow = rules(List::Allow, written.allow.as_ref(), lines, problems);
    let deny = rules(List::Deny, written.deny.as_ref(), lines, problems);
    // A broken list is not one that is meant to be empty.
    let broken = written.allow.as_ref().is_some_and(|list| problems.has_error_within(&list.span()));
    allow.extend(
        overrides
            .allow
            .iter()
            .map(|target| (Rule { list: List::Allow, target: target.clone(), line: 0, peer: None }, None)),
    );
    report_twice(&allow, problems);
    report_everybody(&allow, problems);
    report_denied_names(&deny, problems);
    report_never_matching(allow.iter().chain(&peers.rules), &deny, peers, problems);
    if allow.is_empty() && peers.list.is_empty() && !broken {
        let span = written.allow.as_ref().map(toml::Spanned::span);
        let message = format!("{ALLOW}: is empty: only this host itself may connect");
        let help = "name the other hosts of the cluster: allow = [\"192.0.2.0/24\", \"h2.example.net\"]";
        problems.push(Problem::warning(span, message).with_help(help));
    }
    let all = allow.into_iter().chain(std::mem::take(&mut peers.rules)).chain(deny);
    let book = RuleBook::new(all.map(|(rule, _)| rule).collect());
    let every =
        duration(Key("cluster", "resolve_every"), written.resolve_every.as_ref(), SECOND_TO_DAY, problems);
    Cluster {
        network: Arc::new(NetworkRules::new(book)),
        resolve_every: every.unwrap_or(Duration::from_secs(30)),
        mode: choice(Key("cluster", "mode"), written.mode.as_ref(), MODES, problems).unwrap_or_default(),
    }
}

fn rules(
    list: List,
    written: Option<&Words<'_>>,
    lines: &mut LineCounter<'_>,
    problems: &mut Problems,
) -> Vec<Placed> {
    let key = match list {
        List::Allow => ALLOW,
        List::Deny => DENY,
    };
    let words = written.map(toml::Spanned::get_ref).map(Vec::as_slice).unwrap_or_default();
    let mut rules = Vec::with_capacity(words.len());
    for word in words {
        match word.get_ref().parse::<Target>() {
            Ok(target) => {
                let line = line_of(lines, word.span().start);
                rules.push((Rule { list, target, line, peer: None }, Some(word.span())));
            }
            Err(fault) => {
                let message = format!("{key}: {} {fault}", quoted(word.get_ref()));
                problems.push(Problem::error(word.span(), message));
            }
        }
    }
    rules
}

/// Where a rule of no peer comes from, as messages call it.
fn source(rule: &Rule) -> String {
    if rule.line == 0 { "--allow".to_owned() } else { ALLOW.to_string() }
}

fn report_twice(allow: &[Placed], problems: &mut Problems) {
    let mut nets: HashMap<&IpNet, u32> = HashMap::with_capacity(allow.len());
    let mut names: HashMap<&HostName, u32> = HashMap::new();
    for (rule, span) in allow {
        let earlier = match &rule.target {
            Target::Net(net) => nets.insert(net, rule.line),
            Target::Host(name) => names.insert(name, rule.line),
        };
        let Some(earlier) = earlier else { continue };
        let place = if earlier == 0 { "--allow".to_owned() } else { format!("line {earlier}") };
        let message = format!("{}: {} has been allowed in {place} already", source(rule), rule.target);
        problems.push(Problem::warning(span.clone(), message));
    }
}

fn report_everybody(allow: &[Placed], problems: &mut Problems) {
    for (rule, span) in allow {
        if let Target::Net(net) = &rule.target
            && net.prefix_len() == 0
        {
            let message = format!("{}: {net} lets everybody in", source(rule));
            problems.push(Problem::warning(span.clone(), message));
        }
    }
}

/// Until a name of `deny` is resolved nobody can be told from it, so that nobody is let in: whoever runs
/// its zone, often the one who is denied, decides when that is.
fn report_denied_names(deny: &[Placed], problems: &mut Problems) {
    for (rule, span) in deny {
        if let Target::Host(name) = &rule.target {
            let message =
                format!("{DENY}: {name} is a host name: no peer is let in until it has been resolved");
            let help = "deny addresses and networks: a name's owner can change what it means, or keep it from resolving";
            problems.push(Problem::warning(span.clone(), message).with_help(help));
        }
    }
}

/// Reports those of `allow` that one network of `deny` covers wholly.
fn report_never_matching<'r>(
    allow: impl Iterator<Item = &'r Placed>,
    deny: &[Placed],
    peers: &Peers,
    problems: &mut Problems,
) {
    let denied = Denied::new(deny.iter().map(|(rule, _)| rule));
    for (rule, span) in allow {
        let Target::Net(net) = &rule.target else { continue };
        if let Some((outer, line)) = denied.covering(net) {
            let source = rule.peer.map_or_else(|| source(rule), |id| peers.key(id).to_string());
            let message =
                format!("{source}: {} can never match: {outer} is denied (line {line})", rule.target);
            let problem = Problem::warning(span.clone(), message);
            problems.push(match rule.peer.map(|id| peers.name_of(id)) {
                Some(peer) => problem.with_help(format!(
                    "this host and {peer} would split the cluster, which is a full mesh: take the denial or the \
                     [[peer]] away"
                )),
                None => problem,
            });
        }
    }
}

/// The networks of `deny`, to look up what one of them covers wholly.
#[derive(Debug)]
pub(super) struct Denied(Vec<(IpNet, u32)>);

impl Denied {
    /// Of all rules those of `deny`.
    pub(super) fn new<'r>(rules: impl Iterator<Item = &'r Rule>) -> Self {
        let mut nets: Vec<(IpNet, u32)> = rules
            .filter(|rule| rule.list == List::Deny)
            .filter_map(|rule| match &rule.target {
                Target::Net(net) => Some((*net, rule.line)),
                Target::Host(_) => None,
            })
            .collect();
        // By first address, and the wider one first, a network comes after all that cover it; with the
        // covered ones gone at most one network can cover an address, and the search finds it.
        nets.sort_unstable_by_key(|(net, _)| (net.network(), net.prefix_len()));
        nets.dedup_by(|(inner, _), (outer, _)| outer.contains(&*inner));
        Self(nets)
    }

    /// The one that covers `net`, and its line.
    pub(super) fn covering(&self, net: &IpNet) -> Option<(IpNet, u32)> {
        let after = self.0.partition_point(|(outer, _)| outer.network() <= net.network());
        let candidate = after.checked_sub(1).and_then(|at| self.0.get(at)).copied();
        candidate.filter(|(outer, _)| outer.contains(net))
    }
}
