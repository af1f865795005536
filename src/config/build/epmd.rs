//! `[epmd]`

use std::net::{IpAddr, SocketAddr};
use std::ops::Range;

use ipnet::IpNet;
use toml::Spanned;

use super::cluster::Denied;
use super::self_at::{self, Listeners};
use super::{Key, LOOPBACKS, address, each};
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Word, Words, WrittenEpmd};
use crate::config::text::quoted;
use crate::config::{CommandCheck, Epmd, EpmdBackend, ListenOn};
use crate::policy::SelfAt;
use crate::proto::epmd::DEFAULT_PORT;

const LISTEN: Key = Key("epmd", "listen");
const BACKEND: Key = Key("epmd", "backend");
const REGISTER_FROM: Key = Key("epmd", "register_from");
const RELAXED_COMMAND_CHECK: Key = Key("epmd", "relaxed_command_check");
const SELF: Key = Key("epmd", "self");

/// Networks with shorter prefixes are hardly meant.
const WIDE_V4: u8 = 8;
const WIDE_V6: u8 = 16;

pub(super) fn build(written: &WrittenEpmd<'_>, problems: &mut Problems) -> Epmd {
    let listen = match &written.listen {
        None => vec![((ListenOn::Everywhere, DEFAULT_PORT), 0..0)],
        Some(words) => each(LISTEN, words, problems, |text| {
            address::listen(text).map(|(on, port)| (on, port.unwrap_or(DEFAULT_PORT)))
        }),
    };
    let backend = written.backend.as_ref().and_then(|word| backend(word, problems));
    let backend = backend.unwrap_or(EpmdBackend::Embedded);
    if let EpmdBackend::At(addr) = backend {
        report_dialling_itself(&listen, addr, problems);
    }
    let relaxed = written.relaxed_command_check.as_ref().is_some_and(|relaxed| *relaxed.get_ref());
    let mut epmd = Epmd {
        listen: listen.into_iter().map(|(place, _)| place).collect(),
        backend,
        register_from: Vec::new(),
        command_check: if relaxed { CommandCheck::Relaxed } else { CommandCheck::Strict },
        self_at: SelfAt::Everywhere,
    };
    epmd.self_at = self_at(written, &epmd, problems);
    if let Some(words) = &written.register_from {
        epmd.register_from = register_from(words, &epmd.self_at, problems);
    }
    report_without_effect(written, &epmd, problems);
    report_no_way_to_register(written, &epmd, problems);
    epmd
}

fn backend(word: &Word<'_>, problems: &mut Problems) -> Option<EpmdBackend> {
    let text = *word.get_ref();
    if text == "embedded" {
        return Some(EpmdBackend::Embedded);
    }
    match address::dial(text) {
        Err(fault) => {
            let mut problem = fault.at(BACKEND, word);
            // "Embedded", "none" and the like: a word, and no address that is misspelt.
            if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphabetic()) {
                let help = "write \"embedded\" for the epmd of the guard, or where another one listens: \"127.0.0.1\"";
                problem = problem.with_help(help);
            }
            problems.push(problem);
            None
        }
        Ok((ip, port)) => {
            report_open_backend(BACKEND, ip, word, problems);
            Some(EpmdBackend::At(SocketAddr::new(ip, port.unwrap_or(DEFAULT_PORT))))
        }
    }
}

/// A backend that is not on loopback has an address of its own, which no guard stands in front of.
pub(super) fn report_open_backend(key: Key, ip: IpAddr, word: &Word<'_>, problems: &mut Problems) {
    if !ip.is_loopback() {
        let text = quoted(word.get_ref());
        let message = format!("{key}: {text} is not loopback, so it can be reached around the guard");
        problems.push(Problem::warning(word.span(), message).with_help("let it listen on 127.0.0.1 only"));
    }
}

fn report_dialling_itself(
    listen: &[((ListenOn, u16), Range<usize>)],
    backend: SocketAddr,
    problems: &mut Problems,
) {
    for ((on, port), span) in listen {
        if *on == ListenOn::Ip(backend.ip()) && *port == backend.port() {
            let message = format!("{LISTEN}: {backend} is [epmd] backend too: the guard would dial itself");
            let help = "listen where peers reach this host, and let epmd listen on 127.0.0.1";
            problems.push(Problem::error(span.clone(), message).with_help(help));
        }
    }
}

/// Whether `listen` is empty because that is written, and not for its mistakes.
fn is_not_served(written: &WrittenEpmd<'_>, problems: &Problems) -> bool {
    let is_meant = |words: &&Words<'_>| !problems.has_error_within(&words.span());
    written.listen.as_ref().filter(is_meant).is_some_and(|words| words.get_ref().is_empty())
}

fn self_at(written: &WrittenEpmd<'_>, epmd: &Epmd, problems: &mut Problems) -> SelfAt {
    let Some(written_self) = &written.self_at else { return SelfAt::Everywhere };
    let listeners = Listeners {
        listen: epmd.listen.iter().map(|(on, _)| *on).collect(),
        behind: epmd.backend.addr().map(|_| "epmd"),
        is_broken: written.listen.as_ref().is_some_and(|words| problems.has_error_within(&words.span())),
    };
    self_at::build(SELF, written_self, &listeners, problems)
}

fn register_from(words: &Words<'_>, self_at: &SelfAt, problems: &mut Problems) -> Vec<IpNet> {
    let networks = each(REGISTER_FROM, words, problems, address::network);
    for (net, span) in &networks {
        if !net.addr().is_loopback() && !LOOPBACKS.iter().any(|ip| net.contains(ip)) {
            report_wide(net, span, problems);
            continue;
        }
        let why = match self_at {
            SelfAt::Everywhere => "this host may register anyway",
            SelfAt::Only(_) => "whoever reaches epmd through another relay of this host could register",
        };
        let message = format!("{REGISTER_FROM}: {net} has loopback in it: {why}");
        let help = "write the addresses and networks of other hosts and of containers alone";
        problems.push(Problem::warning(span.clone(), message).with_help(help));
    }
    networks.into_iter().map(|(net, _)| net).collect()
}

/// Reports a network that is hardly one of containers: who writes two halves means everybody.
fn report_wide(net: &IpNet, span: &Range<usize>, problems: &mut Problems) {
    let narrowest = if net.addr().is_ipv4() { WIDE_V4 } else { WIDE_V6 };
    if net.prefix_len() < narrowest {
        let message =
            format!("{REGISTER_FROM}: {net} is wide: whoever reaches epmd from there could register names");
        let help = "write the network that is meant, such as \"172.17.0.0/16\"";
        problems.push(Problem::warning(span.clone(), message).with_help(help));
    }
}

/// Reports those of `register_from` that one network of `deny` covers wholly: a denial comes first.
pub(super) fn report_denied_registrants(written: &WrittenEpmd<'_>, denied: &Denied, problems: &mut Problems) {
    for word in written.register_from.iter().flat_map(|words| words.get_ref()) {
        let Ok(net) = address::network(word.get_ref()) else { continue };
        if let Some((outer, line)) = denied.covering(&net) {
            let message = format!("{REGISTER_FROM}: {net} can never match: {outer} is denied (line {line})");
            problems.push(Problem::warning(word.span(), message).with_help("take one of the two away"));
        }
    }
}

/// Reports what counts only where the guard is epmd, or serves one.
fn report_without_effect(written: &WrittenEpmd<'_>, epmd: &Epmd, problems: &mut Problems) {
    let is_not_served = is_not_served(written, problems);
    let mut report = |key: Key, span: Range<usize>, why: &str, help: &str| {
        let message = format!("{key}: has no effect: {why}");
        problems.push(Problem::warning(span, message).with_help(help));
    };
    let relaxed = written.relaxed_command_check.as_ref().map(Spanned::span);
    if is_not_served {
        let networks = written.register_from.as_ref().filter(|words| !words.get_ref().is_empty());
        let keys = [(REGISTER_FROM, networks.map(Spanned::span)), (RELAXED_COMMAND_CHECK, relaxed)];
        for (key, span) in keys {
            let Some(span) = span else { continue };
            report(key, span, "[epmd] listen is empty, so that epmd is not served", "take it out");
        }
    } else if let (EpmdBackend::At(addr), Some(span)) = (epmd.backend, relaxed) {
        let why = format!("the epmd at {addr} decides that itself");
        let help = "take it out, and start that epmd with -relaxed_command_check or without";
        report(RELAXED_COMMAND_CHECK, span, &why, help);
    }
}

/// Nodes register at 127.0.0.1 or ::1, whatever their names are.
fn report_no_way_to_register(written: &WrittenEpmd<'_>, epmd: &Epmd, problems: &mut Problems) {
    let Some(span) = written.self_at.as_ref().map(self_at::span_of) else { return };
    let networks = written.register_from.as_ref().is_some_and(|words| !words.get_ref().is_empty());
    let is_known = LOOPBACKS.into_iter().any(|ip| epmd.self_at.covers(ip));
    let matters = epmd.backend == EpmdBackend::Embedded && !is_not_served(written, problems);
    if matters && !is_known && !networks && !problems.has_error_within(&span) {
        let message = format!(
            "{SELF}: leaves out 127.0.0.1 and ::1, where nodes register, and [epmd] register_from is empty: \
             no node could register"
        );
        let help = "write self = [\"127.0.0.1\", \"::1\"] and add where this host's own names lead, such as 127.0.1.1";
        problems.push(Problem::warning(span, message).with_help(help));
    }
}
