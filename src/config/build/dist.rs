//! `[dist]`

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::Range;

use toml::Spanned;

use super::address::Fault;
use super::epmd::report_open_backend;
use super::{Key, address, each};
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Words, WrittenDist};
use crate::config::{Dist, Epmd, ListenOn, PortSet, PortSetFault};
use crate::proto::epmd::DEFAULT_PORT;

const LISTEN: Key = Key("dist", "listen");
const PORTS: Key = Key("dist", "ports");
const BACKEND: Key = Key("dist", "backend");

/// A range of more ports than this is hardly meant for nodes alone.
const WIDE: u16 = 1000;

/// Where to listen, and where that is written unless it is a default.
type Placed = (ListenOn, Option<Range<usize>>);

pub(super) fn build(written: &WrittenDist<'_>, epmd: &Epmd, problems: &mut Problems) -> Dist {
    let ports = ports(written, epmd, problems);
    let listen = match &written.listen {
        None => beside_epmd(epmd),
        Some(words) => listen(words, problems),
    };
    let backend = match &written.backend {
        None => vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)],
        Some(words) => backend(words, problems),
    };
    // Without ports an address that was only taken over from [epmd] is never listened at.
    if written.listen.is_some() || !ports.is_empty() {
        let elsewhere = written.backend.as_ref().or(written.listen.as_ref()).map(Spanned::span);
        report_dialling_itself(elsewhere, &listen, &backend, problems);
    }
    Dist { listen: listen.into_iter().map(|(on, _)| on).collect(), ports, backend }
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
    listen: &[Placed],
    backend: &[IpAddr],
    problems: &mut Problems,
) {
    for (on, span) in listen {
        let ListenOn::Ip(ip) = on else { continue };
        if backend.contains(ip) {
            let message = format!("{LISTEN}: {ip} is in [dist] backend too: the guard would dial itself");
            let help = "listen where peers reach this host, and let the nodes listen on 127.0.0.1";
            let span = span.clone().or_else(|| elsewhere.clone());
            problems.push(Problem::error(span, message).with_help(help));
        }
    }
}

fn ports(written: &WrittenDist<'_>, epmd: &Epmd, problems: &mut Problems) -> PortSet {
    let mut sets: Vec<PortSet> = Vec::new();
    for item in written.ports.iter().flat_map(Spanned::get_ref) {
        match item.get_ref().parse::<PortSet>() {
            Ok(set) => {
                report_epmd_port(&set, item.span(), epmd, problems);
                sets.push(set);
            }
            Err(fault) => problems.push(port_problem(item.get_ref(), fault, item.span())),
        }
    }
    PortSet::from_ranges(sets.iter().flat_map(PortSet::iter_ranges))
}

fn port_problem(text: &str, fault: PortSetFault, span: Range<usize>) -> Problem {
    if text == "registered" {
        let message = format!("{PORTS}: \"registered\" is not available in this version");
        return Problem::error(span, message)
            .with_help("list the ports or ranges, such as [\"9100-9105\", 9200]");
    }
    let problem = Problem::error(span, format!("{PORTS}: {fault}"));
    match fault {
        PortSetFault::Reversed { first, last } => problem.with_help(format!("write \"{last}-{first}\"")),
        PortSetFault::NotANumber(_) if text.contains(',') => {
            problem.with_help("write a list: [\"9100-9105\", 9200]")
        }
        PortSetFault::Zero | PortSetFault::NotANumber(_) => problem,
    }
}

/// Peers on a port that is epmd's would either not be served or speak to epmd unchecked, also where epmd
/// is not served: a bare relay lets them register names and end it.
fn report_epmd_port(set: &PortSet, span: Range<usize>, epmd: &Epmd, problems: &mut Problems) {
    let taken = epmd.listen.iter().map(|(_, port)| *port).find(|port| set.contains(*port));
    let epmds = [epmd.backend.port(), DEFAULT_PORT].into_iter().find(|port| set.contains(*port));
    let message = if let Some(port) = taken {
        format!("{PORTS}: {port} is a port of [epmd] listen")
    } else if let Some(port) = epmds {
        format!("{PORTS}: {port} is a port of epmd, which peers would reach unchecked")
    } else {
        return report_wide_range(set, span, problems);
    };
    problems.push(Problem::error(span, message));
}

/// Whatever listens on loopback within a range is offered to peers, a database or a debugger too.
fn report_wide_range(set: &PortSet, span: Range<usize>, problems: &mut Problems) {
    let wide = set.iter_ranges().find(|range| range.end() - range.start() >= WIDE);
    if let Some(range) = wide {
        let (first, last) = range.into_inner();
        let message =
            format!("{PORTS}: {first}-{last} offers whatever listens there on loopback to every peer");
        let help =
            "list the ports that nodes use: inet_dist_listen_min and inet_dist_listen_max keep them together";
        problems.push(Problem::warning(span, message).with_help(help));
    }
}
