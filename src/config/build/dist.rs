//! `[dist]`

use std::collections::HashSet;
use std::net::IpAddr;
use std::ops::{Range, RangeInclusive};

use toml::Spanned;

use super::address::Fault;
use super::epmd::report_open_backend;
use super::names::{self, Nothing};
use super::self_at::{self, Listeners};
use super::{Key, LOOPBACKS, address, each};
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Ports, Words, WrittenDist};
use crate::config::text::LineCounter;
use crate::config::{Admin, Dist, Epmd, EpmdBackend, ListenOn, PortSet, PortSetFault, Tls};
use crate::policy::{DistRules, NamePatterns, PortRule, SelfAt};
use crate::proto::epmd::DEFAULT_PORT;

const LISTEN: Key = Key("dist", "listen");
const PORTS: Key = Key("dist", "ports");
const NAMES: Key = Key("dist", "names");
const RANGE: Key = Key("dist", "range");
const OUTSIDE: Key = Key("dist", "outside");
const BACKEND: Key = Key("dist", "backend");
const SELF: Key = Key("dist", "self");

/// What `range` is when it is left out: all but the ports that only root may take.
const DEFAULT_RANGE: RangeInclusive<u16> = 1024..=u16::MAX;
/// A range of more ports than this is hardly meant for nodes alone.
const WIDE: u16 = 1000;

/// Where to listen, and where that is written unless it is a default.
type Placed = (ListenOn, Option<Range<usize>>);

/// What else has ports on this host.
#[derive(Debug, Clone, Copy)]
pub(super) struct Beside<'a> {
    pub(super) epmd: &'a Epmd,
    pub(super) admin: &'a Admin,
    pub(super) tls: &'a Tls,
}

pub(super) fn build(
    written: &WrittenDist<'_>,
    beside: Beside<'_>,
    lines: &mut LineCounter<'_>,
    problems: &mut Problems,
) -> Dist {
    let ports = ports(written, beside, problems);
    let names = match &written.names {
        None => NamePatterns::default(),
        Some(words) => names(words, &ports, lines, problems),
    };
    let rules = DistRules { ports, names };
    let listen = match &written.listen {
        None => beside_epmd(beside.epmd),
        Some(words) => listen(words, problems),
    };
    let backend = match &written.backend {
        None => LOOPBACKS.to_vec(),
        Some(words) => backend(words, problems),
    };
    // Without ports no address is ever listened at.
    if !rules.ports.is_empty() {
        let elsewhere = written.backend.as_ref().or(written.listen.as_ref()).map(Spanned::span);
        let asked_there = |ip: &IpAddr| beside.epmd.backend == EpmdBackend::Embedded && ip.is_loopback();
        let dialled: Vec<&Placed> = listen
            .iter()
            // The embedded epmd may serve loopback, and no node's port is opened where the nodes are.
            .filter(|(on, span)| span.is_some() || !on.ip().as_ref().is_some_and(asked_there))
            .collect();
        report_dialling_itself(elsewhere, &dialled, &backend, problems);
    }
    let listen: Vec<ListenOn> = listen.into_iter().map(|(on, _)| on).collect();
    let self_at = self_at(written, &listen, beside, problems);
    Dist { listen, rules, backend, self_at }
}

/// Where this host is known at epmd it is known at the nodes' ports too.
fn self_at(
    written: &WrittenDist<'_>,
    listen: &[ListenOn],
    beside: Beside<'_>,
    problems: &mut Problems,
) -> SelfAt {
    let Some(written_self) = &written.self_at else { return beside.epmd.self_at.clone() };
    let is_broken = written.listen.as_ref().is_some_and(|words| problems.has_error_within(&words.span()));
    let listeners = Listeners { listen: listen.to_vec(), behind: Some("the node"), is_broken };
    self_at::build(SELF, written_self, &listeners, problems)
}

/// Where peers reach epmd they reach the nodes too.
fn beside_epmd(epmd: &Epmd) -> Vec<Placed> {
    let mut seen = HashSet::new();
    let ons = epmd.listen.iter().map(|(on, _)| *on).filter(|on| seen.insert(*on));
    let listen: Vec<Placed> = ons.map(|on| (on, None)).collect();
    if listen.is_empty() { vec![(ListenOn::Everywhere, None)] } else { listen }
}

fn listen(words: &Words<'_>, problems: &mut Problems) -> Vec<Placed> {
    let listen = each(LISTEN, words, problems, |text| match address::listen(text)? {
        (on, None) => Ok(on),
        (_, Some(_)) => Err(Fault::new("has a port", "the ports are [dist] ports: leave it out here")),
    });
    if words.get_ref().is_empty() && !problems.has_error_within(&words.span()) {
        let message = format!("{LISTEN}: is empty: nothing could reach [dist] ports");
        let help = "leave the key out to listen where [epmd] listens, or write listen = [\"*\"]";
        problems.push(Problem::error(words.span(), message).with_help(help));
    }
    listen.into_iter().map(|(on, span)| (on, Some(span))).collect()
}

fn backend(words: &Words<'_>, problems: &mut Problems) -> Vec<IpAddr> {
    let backend = each(BACKEND, words, problems, |text| match address::dial(text)? {
        (ip, None) => Ok(ip),
        (_, Some(_)) => {
            Err(Fault::new("has a port", "each port of [dist] ports is dialled as it is: leave it out"))
        }
    });
    for word in words.get_ref() {
        if let Ok((ip, None)) = address::dial(word.get_ref()) {
            report_open_backend(BACKEND, ip, word, problems);
        }
    }
    if words.get_ref().is_empty() && !problems.has_error_within(&words.span()) {
        problems.push(Problem::error(words.span(), format!("{BACKEND}: names no address")));
    }
    backend.into_iter().map(|(ip, _)| ip).collect()
}

fn report_dialling_itself(
    elsewhere: Option<Range<usize>>,
    listen: &[&Placed],
    backend: &[IpAddr],
    problems: &mut Problems,
) {
    for (on, span) in listen.iter().copied() {
        let ListenOn::Ip(ip) = on else { continue };
        if backend.contains(ip) {
            let message = format!("{LISTEN}: {ip} is in [dist] backend too: the guard would dial itself");
            let help = match span {
                Some(_) => "listen where peers reach this host, and let the nodes listen on 127.0.0.1",
                None => "it is taken over from [epmd] listen: write [dist] listen too, or ports = []",
            };
            let span = span.clone().or_else(|| elsewhere.clone());
            problems.push(Problem::error(span, message).with_help(help));
        }
    }
}

fn ports(written: &WrittenDist<'_>, beside: Beside<'_>, problems: &mut Problems) -> PortRule {
    match written.ports.as_ref().filter(|ports| !is_registered(ports.get_ref())) {
        None => PortRule::Registered {
            range: range(written.range.as_ref(), beside, problems),
            outside: outside(written.outside.as_ref(), beside, problems),
        },
        Some(ports) => {
            let listed = listed(ports, beside, problems);
            if !problems.has_error_within(&ports.span()) {
                report_without_effect(written, problems);
            }
            PortRule::Listed(listed)
        }
    }
}

fn is_registered(ports: &Ports<'_>) -> bool {
    matches!(ports, Ports::One(word) if word.get_ref() == "registered")
}

fn listed(written: &Spanned<Ports<'_>>, beside: Beside<'_>, problems: &mut Problems) -> PortSet {
    set(PORTS, written, problems, |set| {
        let Some((port, owner)) = beside.port_in(set) else {
            let help =
                "write ports = \"registered\", which offers nodes alone, or list no more than the nodes use";
            return wide_range(PORTS, help, set);
        };
        let whose = match owner {
            Owner::EpmdListen => "of [epmd] listen",
            // Also where epmd is not served: a bare relay lets peers register names and end it.
            Owner::Epmd => "of epmd, which peers would reach unchecked",
            Owner::AdminListen => "of [admin] listen, which peers would reach",
            Owner::TlsListen => "of [tls] listen",
        };
        Some(Problem::error(None, format!("{PORTS}: {port} is a port {whose}")))
    })
}

/// Ports of epmd and of the guard are taken out, whoever registers there: what peers reach through a bare
/// relay they reach unchecked.
fn range(written: Option<&Spanned<Ports<'_>>>, beside: Beside<'_>, problems: &mut Problems) -> PortSet {
    let all = match written {
        None => PortSet::from_ranges([DEFAULT_RANGE]),
        Some(written) => set(RANGE, written, problems, |_| None),
    };
    let range = all.without(&beside.ports());
    if let Some(written) = written.filter(|_| range.is_empty())
        && !problems.has_error_within(&written.span())
    {
        let message = if all.is_empty() {
            format!("{RANGE}: is empty: no node could be reached")
        } else {
            format!("{RANGE}: {all} is epmd's or the guard's own: no node could be reached")
        };
        let help = "leave the key out for 1024-65535; ports = [] is how nothing is forwarded";
        problems.push(Problem::error(written.span(), message).with_help(help));
    }
    range
}

fn outside(
    written: Option<&Spanned<Ports<'_>>>,
    beside: Beside<'_>,
    problems: &mut Problems,
) -> Option<PortSet> {
    let outside = set(OUTSIDE, written?, problems, |set| {
        let (port, owner) = beside.port_in(set)?;
        let whose = match owner {
            Owner::EpmdListen => "of [epmd] listen",
            Owner::Epmd => "of epmd, where no peer looks for a node",
            Owner::TlsListen => "of [tls] listen",
            // It is on loopback, and these ports are not.
            Owner::AdminListen => return None,
        };
        Some(Problem::error(None, format!("{OUTSIDE}: {port} is a port {whose}")))
    });
    Some(outside).filter(|set| !set.is_empty())
}

/// Reports the keys that count only where `ports` is "registered".
fn report_without_effect(written: &WrittenDist<'_>, problems: &mut Problems) {
    if let Some(range) = &written.range {
        // Of no effect, but what is wrong with it is said all the same.
        set(RANGE, range, problems, |_| None);
    }
    let names = written.names.as_ref().map(|names| (NAMES, names.span()));
    let range = written.range.as_ref().map(|range| (RANGE, range.span()));
    for (key, span) in [names, range].into_iter().flatten() {
        let message = format!("{key}: has no effect: [dist] ports lists the ports that are offered");
        let help = format!("take it out, or write ports = \"registered\" for {} to count", key.1);
        problems.push(Problem::warning(span, message).with_help(help));
    }
    if let Some(outside) = written.outside.as_ref().filter(|outside| !outside.get_ref().as_slice().is_empty())
    {
        let message = format!("{OUTSIDE}: is possible only with ports = \"registered\"");
        let help = "listed ports have the same numbers outside and inside: take it out";
        problems.push(Problem::error(outside.span(), message).with_help(help));
    }
}

fn names(
    words: &Words<'_>,
    ports: &PortRule,
    lines: &mut LineCounter<'_>,
    problems: &mut Problems,
) -> NamePatterns {
    let patterns = names::patterns(&NAMES, words, lines, problems);
    if let PortRule::Registered { .. } = ports {
        let means = Nothing {
            effect: "so that no name gets a port",
            when_empty: "write names = [\"*\"] for every name, or leave the key out for the default",
            every: "*",
        };
        names::report_nothing(&NAMES, words, means, problems);
    }
    patterns
}

/// Whose a port is that is no node's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner {
    EpmdListen,
    Epmd,
    AdminListen,
    TlsListen,
}

/// The ports of epmd and of the guard, which are no node's whatever `[dist] range` says.
pub(in crate::config) fn own_ports(epmd: &Epmd, admin: &Admin, tls: &Tls) -> PortSet {
    Beside { epmd, admin, tls }.ports()
}

impl Beside<'_> {
    fn owned(self) -> impl Iterator<Item = (u16, Owner)> {
        let listen = self.epmd.listen.iter().map(|(_, port)| (*port, Owner::EpmdListen));
        let behind = self.epmd.backend.addr().map(|addr| addr.port());
        let epmd = behind.into_iter().chain([DEFAULT_PORT]).map(|port| (port, Owner::Epmd));
        let admin = self.admin.listen.iter().map(|addr| (addr.port(), Owner::AdminListen));
        let tls = self.tls.listen.iter().map(|(_, port)| (*port, Owner::TlsListen));
        listen.chain(epmd).chain(admin).chain(tls)
    }

    fn ports(self) -> PortSet {
        PortSet::from_ranges(self.owned().map(|(port, _)| port..=port))
    }

    /// The first port that is in `set` and no node's.
    pub(super) fn port_in(self, set: &PortSet) -> Option<(u16, Owner)> {
        self.owned().find(|(port, _)| set.contains(*port))
    }
}

/// All ports that are written; `check` tells what is wrong with an element, wherever it stands.
pub(super) fn set(
    key: Key,
    written: &Spanned<Ports<'_>>,
    problems: &mut Problems,
    check: impl Fn(&PortSet) -> Option<Problem>,
) -> PortSet {
    let mut sets: Vec<PortSet> = Vec::new();
    for item in written.get_ref().as_slice() {
        let problem = match item.get_ref().parse::<PortSet>() {
            Ok(set) => {
                let problem = check(&set);
                sets.push(set);
                problem
            }
            Err(fault) => Some(port_problem(key, item.get_ref(), fault)),
        };
        if let Some(problem) = problem {
            problems.push(Problem { span: Some(item.span()), ..problem });
        }
    }
    PortSet::from_ranges(sets.iter().flat_map(PortSet::iter_ranges))
}

fn port_problem(key: Key, text: &str, fault: PortSetFault) -> Problem {
    if key == PORTS && text == "registered" {
        let message = format!("{PORTS}: \"registered\" cannot be in a list with ports");
        return Problem::error(None, message).with_help("write it alone: ports = \"registered\"");
    }
    if key.0 == "[forward]" && text == "registered" {
        let message = format!("{key}: \"registered\" is possible in {PORTS} alone");
        return Problem::error(None, message)
            .with_help("list ports and ranges, such as [5370, \"5380-5389\"]");
    }
    let problem = Problem::error(None, format!("{key}: {fault}"));
    match fault {
        PortSetFault::Reversed { first, last } => problem.with_help(format!("write \"{last}-{first}\"")),
        PortSetFault::NotANumber(_) if text.contains(',') => {
            problem.with_help("write a list: [\"9100-9105\", 9200]")
        }
        PortSetFault::NotANumber(_) if key == PORTS => {
            problem.with_help("write \"registered\", or ports and ranges such as [\"9100-9105\", 9200]")
        }
        PortSetFault::Zero | PortSetFault::NotANumber(_) => problem,
    }
}

/// Whatever listens on loopback within a range is offered to peers, a database or a debugger too.
pub(super) fn wide_range(key: Key, help: &str, set: &PortSet) -> Option<Problem> {
    let wide = set.iter_ranges().find(|range| range.end() - range.start() >= WIDE)?;
    let (first, last) = wide.into_inner();
    let message = format!("{key}: {first}-{last} offers whatever listens there on loopback to every peer");
    Some(Problem::warning(None, message).with_help(help))
}
