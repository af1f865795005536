//! From the file as it is written to the configuration as it is meant.
//!
//! Owns the meaning of every value, the defaults and what must agree between keys. Each mistake is
//! reported and passed over, so that all of them come at once.

mod address;
mod admin;
mod ban;
mod cluster;
mod cookies;
mod dist;
mod epmd;
mod forward;
mod limits;
mod names;
mod nodes;
mod path;
mod peers;
mod self_at;
mod size;
mod tls;
mod tunnel;

use std::collections::HashSet;
use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use super::cookie::Files;
use super::load::Overrides;
use super::problem::{Problem, Problems};
use super::schema::{Word, Words, Written, WrittenLog};
use super::text::{LineCounter, quoted};
use super::{Config, EpmdBackend, Log, LogFormat, Places};
use crate::policy::{List, PortRule, Rule, Target};

pub(super) use dist::own_ports;
pub(super) use forward::ports_of;
pub(super) use size::shown as size_shown;

/// Where nodes listen and register, unless they are told otherwise.
const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// A key, as messages call it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Key(&'static str, &'static str);

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}] {}", self.0, self.1)
    }
}

/// What a file is read with.
#[derive(Debug, Clone, Copy)]
pub(super) struct How<'a> {
    /// What the command line adds.
    pub(super) overrides: &'a Overrides,
    /// Whether the files that it names are read.
    pub(super) files: Files,
}

/// Builds the configuration. It counts only when `problems` has no error afterwards.
pub(super) fn build(
    written: &Written<'_>,
    lines: &mut LineCounter<'_>,
    how: How<'_>,
    problems: &mut Problems,
) -> Config {
    let mut peers = peers::build(&written.peers, lines, problems);
    tunnel::read(&written.peers, &mut peers.list, problems);
    let cluster = cluster::build(&written.cluster, &mut peers, lines, how.overrides, problems);
    let nodes = nodes::build(written, &peers.list, lines, problems);
    let epmd = epmd::build(&written.epmd, problems);
    let admin = admin::build(&written.admin, &epmd, problems);
    let tls = tls::build(&written.tls, &epmd, &admin, problems);
    let beside = dist::Beside { epmd: &epmd, admin: &admin, tls: &tls };
    let mut dist = dist::build(&written.dist, beside, lines, problems);
    let forwards = forward::build(written, &mut dist, beside, lines, problems);
    let (cookie_files, cookies) = cookies::build(written, how, lines, problems);
    let limits = limits::build(&written.limits, &epmd, problems);
    let ban = ban::build(written, &limits, problems);
    let config = Config {
        cluster,
        peers: peers.list,
        epmd,
        dist,
        forwards,
        nodes: Arc::new(nodes),
        cookie_files,
        cookies: Arc::new(cookies),
        tls,
        limits,
        ban,
        admin,
        log: log(&written.log, problems),
        places: Places::default(),
    };
    report_nothing_served(written, &config, problems);
    report_out_of_reach(written, &config, problems);
    tunnel::report(written, &config, problems);
    if !config.epmd.register_from.is_empty() {
        let rules = config.cluster.network.book().iter().map(|(_, rule)| rule);
        epmd::report_denied_registrants(&written.epmd, &cluster::Denied::new(rules), problems);
    }
    config
}

/// Reports where epmd is not served and the nodes are not either, or are found by nobody.
fn report_nothing_served(written: &Written<'_>, config: &Config, problems: &mut Problems) {
    let Some(listen) = &written.epmd.listen else { return };
    let keys = [&written.dist.ports, &written.dist.range, &written.dist.outside];
    let spans = keys.into_iter().flatten().map(toml::Spanned::span).chain([listen.span()]);
    // A list that is broken is not one that is meant to be empty.
    let broken = spans.into_iter().any(|span| problems.has_error_within(&span));
    if broken || !config.epmd.listen.is_empty() {
        return;
    }
    report_unknown_names(written, config, problems);
    if config.dist.rules.ports.is_empty() && config.forwards.is_empty() {
        let message = "[epmd] listen: is empty and so is [dist] ports: nothing would be served";
        let help = "name the ports that nodes listen on in [dist] ports, or write listen = [\"*\"]";
        problems.push(Problem::error(listen.span(), message).with_help(help));
    } else if let PortRule::Registered { .. } = config.dist.rules.ports {
        let message = "[epmd] listen: is empty, so that peers cannot look up the nodes of [dist] ports = \"registered\"";
        let help = "list the ports that nodes listen on in [dist] ports, or write listen = [\"*\"]";
        problems.push(Problem::warning(listen.span(), message).with_help(help));
    }
}

/// Reports where peers are let in and epmd is only where none of them can come from.
fn report_out_of_reach(written: &Written<'_>, config: &Config, problems: &mut Problems) {
    let Some(listen) = &written.epmd.listen else { return };
    let on_loopback = config.epmd.listen.iter().all(|(on, _)| on.ip().is_some_and(|ip| ip.is_loopback()));
    let is_meant = !config.epmd.listen.is_empty() && !problems.has_error_within(&listen.span());
    if config.epmd.backend != EpmdBackend::Embedded || !on_loopback || !is_meant {
        return;
    }
    let allowed =
        config.cluster.network.book().iter().map(|(_, rule)| rule).filter(|rule| rule.list == List::Allow);
    // Whoever lets loopback in has another relay in front.
    let is_behind = |rule: &Rule| match &rule.target {
        Target::Net(net) => net.addr().is_loopback(),
        Target::Host(_) => false,
    };
    let (some, behind) = allowed.fold((false, false), |(_, behind), rule| (true, behind || is_behind(rule)));
    if some && !behind {
        let message = "[epmd] listen: has only loopback, so that none of those who are let in can reach epmd";
        let help = "add where they reach this host, or write listen = [\"*\"]";
        problems.push(Problem::warning(listen.span(), message).with_help(help));
    }
}

/// Reports who may reach nodes by their names alone, where nothing tells names.
fn report_unknown_names(written: &Written<'_>, config: &Config, problems: &mut Problems) {
    if config.epmd.backend != EpmdBackend::Embedded {
        return;
    }
    for (peer, written) in config.peers.iter().zip(&written.peers) {
        let Some(words) = written.may_reach.as_ref().filter(|words| !words.get_ref().is_empty()) else {
            continue;
        };
        let key = peers::KeyOf { peer: &peer.name, key: "may_reach" };
        let message = format!("{key}: no node's name is known without epmd, so that this peer reaches none");
        let help = "leave the key out: this peer then reaches what [dist] ports lists";
        problems.push(Problem::warning(words.span(), message).with_help(help));
    }
}

fn log(written: &WrittenLog<'_>, problems: &mut Problems) -> Log {
    const FORMATS: &[(&str, LogFormat)] = &[("text", LogFormat::Text), ("json", LogFormat::Json)];
    const LEVELS: &[(&str, tracing::Level)] = &[
        ("error", tracing::Level::ERROR),
        ("warn", tracing::Level::WARN),
        ("info", tracing::Level::INFO),
        ("debug", tracing::Level::DEBUG),
        ("trace", tracing::Level::TRACE),
    ];
    let format = choice(Key("log", "format"), written.format.as_ref(), FORMATS, problems);
    let level = choice(Key("log", "level"), written.level.as_ref(), LEVELS, problems);
    Log { format: format.unwrap_or(LogFormat::Text), level: level.unwrap_or(tracing::Level::INFO) }
}

/// One of some words.
fn choice<T: Copy>(
    key: impl fmt::Display,
    written: Option<&Word<'_>>,
    choices: &[(&str, T)],
    problems: &mut Problems,
) -> Option<T> {
    let word = written?;
    let found = choices.iter().find(|(name, _)| name == word.get_ref());
    if found.is_none() {
        let names: Vec<String> = choices.iter().map(|(name, _)| format!("{name:?}")).collect();
        let message = format!("{key}: must be one of {}, is {}", names.join(", "), quoted(word.get_ref()));
        problems.push(Problem::error(word.span(), message));
    }
    found.map(|(_, value)| *value)
}

/// From when to when a duration may last.
#[derive(Debug, Clone, Copy)]
struct Span {
    least: Duration,
    most: Duration,
    shown: &'static str,
}

const SECOND_TO_DAY: Span =
    Span { least: Duration::from_secs(1), most: Duration::from_hours(24), shown: "1s to 1d" };

/// A duration with its unit, such as "5s".
fn duration(key: Key, written: Option<&Word<'_>>, bounds: Span, problems: &mut Problems) -> Option<Duration> {
    let word = written?;
    let text = *word.get_ref();
    let (message, help) = match humantime::parse_duration(text) {
        Ok(value) if (bounds.least..=bounds.most).contains(&value) => return Some(value),
        Ok(_) => (format!("{key}: {} is out of range: {} is possible", quoted(text), bounds.shown), None),
        Err(humantime::DurationError::UnknownUnit { unit, value, .. }) if unit.is_empty() => {
            let help = format!("write it with its unit: \"{value}s\"");
            (format!("{key}: {} has no unit", quoted(text)), Some(help))
        }
        Err(_) => {
            let help = "write a number and its unit, such as \"500ms\", \"30s\" or \"5m\"";
            (format!("{key}: {} is no duration", quoted(text)), Some(help.to_owned()))
        }
    };
    problems.push(Problem { help, ..Problem::error(word.span(), message) });
    None
}

/// The line in which `offset` is, as rules keep it.
fn line_of(lines: &mut LineCounter<'_>, offset: usize) -> u32 {
    u32::try_from(lines.line_at(offset).0).unwrap_or(u32::MAX)
}

/// Collects what `read` makes of each element. An element that `read` refuses, or that means the
/// same as an earlier one, is reported.
fn each<T: Clone + Eq + Hash>(
    key: impl fmt::Display + Copy,
    written: &Words<'_>,
    problems: &mut Problems,
    read: impl Fn(&str) -> Result<T, address::Fault>,
) -> Vec<(T, Range<usize>)> {
    let mut values = Vec::new();
    let mut seen = HashSet::new();
    for word in written.get_ref() {
        match read(word.get_ref()) {
            Ok(value) if !seen.insert(value.clone()) => {
                let message = format!("{key}: {} is in the list twice", quoted(word.get_ref()));
                problems.push(Problem::error(word.span(), message));
            }
            Ok(value) => values.push((value, word.span())),
            Err(fault) => problems.push(fault.at(key, word)),
        }
    }
    values
}
