//! `[[forward]]`

use std::net::IpAddr;

use super::address::Fault;
use super::dist::{Beside, Owner, set as port_set, wide_range};
use super::epmd::report_open_backend;
use super::{Key, address, choice, each, line_of};
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Words, Written, WrittenForward};
use crate::config::text::LineCounter;
use crate::config::{Dist, Forward, ListenOn, PortSet};
use crate::policy::{ForwardKind, PortRule};

// A section that may stand several times has two pairs of brackets.
const KIND: Key = Key("[forward]", "kind");
const PORTS: Key = Key("[forward]", "ports");
const LISTEN: Key = Key("[forward]", "listen");
const BACKEND: Key = Key("[forward]", "backend");

/// Each is asked for each socket that listens on this host, five times a second.
const MOST: usize = 100;

/// What is known so far, and what reading more takes.
struct Reader<'r, 't> {
    dist: &'r Dist,
    beside: Beside<'r>,
    lines: &'r mut LineCounter<'t>,
    problems: &'r mut Problems,
    forwards: Vec<Forward>,
}

/// Builds what is forwarded, and takes its ports out of those that registered nodes may have.
pub(super) fn build(
    written: &Written<'_>,
    dist: &mut Dist,
    beside: Beside<'_>,
    lines: &mut LineCounter<'_>,
    problems: &mut Problems,
) -> Vec<Forward> {
    if let Some(first) = written.forwards.get(MOST) {
        let message = format!("[[forward]]: is one more than the {MOST} that are possible");
        let help = "one table can list many ports of a kind";
        problems.push(Problem::error(first.span.clone(), message).with_help(help));
    }
    let mut reader = Reader { dist, beside, lines, problems, forwards: Vec::new() };
    for written in written.forwards.iter().take(MOST) {
        let forward = reader.forward(written);
        reader.forwards.push(forward);
    }
    let forwards = reader.forwards;
    if let PortRule::Registered { range, .. } = &mut dist.rules.ports {
        let left = range.without(&ports_of(&forwards));
        report_nothing_left(written, (range, &left), problems);
        *range = left;
    }
    forwards
}

/// The ports of all of them.
pub(in crate::config) fn ports_of(forwards: &[Forward]) -> PortSet {
    PortSet::from_ranges(forwards.iter().flat_map(|forward| forward.ports.iter_ranges()))
}

/// A range that is written holds nodes that are to be reached.
fn report_nothing_left(written: &Written<'_>, (range, left): (&PortSet, &PortSet), problems: &mut Problems) {
    let Some(key) = written.dist.range.as_ref().filter(|_| left.is_empty() && !range.is_empty()) else {
        return;
    };
    if !problems.has_error_within(&key.span()) {
        let message =
            format!("[dist] range: {range} is forwarded by [[forward]]: no other node could be reached");
        let help = "leave the key out for 1024-65535; ports = [] is how nothing else is forwarded";
        problems.push(Problem::error(key.span(), message).with_help(help));
    }
}

impl Reader<'_, '_> {
    fn forward(&mut self, written: &WrittenForward<'_>) -> Forward {
        const KINDS: &[(&str, ForwardKind)] =
            &[("dist", ForwardKind::Dist), ("dist-tls", ForwardKind::DistTls), ("tcp", ForwardKind::Tcp)];
        let line = line_of(self.lines, written.span.start);
        let kind = choice(KIND, written.kind.as_ref(), KINDS, self.problems).unwrap_or(ForwardKind::Tcp);
        let ports = self.ports(written);
        let listen = match &written.listen {
            None => self.dist.listen.clone(),
            Some(words) => listen(words, self.problems),
        };
        let backend = match &written.backend {
            None => self.dist.backend.clone(),
            Some(words) => backend(words, self.problems),
        };
        self.report_dialling_itself(written, &listen, &backend);
        Forward { kind, ports, listen, backend, line }
    }

    fn ports(&mut self, written: &WrittenForward<'_>) -> PortSet {
        // That they are missing has been reported.
        let Some(ports) = &written.ports else { return PortSet::default() };
        let (dist, beside, earlier) = (self.dist, self.beside, &self.forwards);
        let set = port_set(PORTS, ports, self.problems, |set| {
            let taken = beside.port_in(set).map(|(port, owner)| format!("{port} is a port {}", whose(owner)));
            let taken = taken.or_else(|| within_dist(dist, set)).or_else(|| within_others(earlier, set));
            match taken {
                Some(taken) => Some(Problem::error(None, format!("{PORTS}: {taken}"))),
                None => wide_range(PORTS, "list no more than the service uses", set),
            }
        });
        if set.is_empty() && !self.problems.has_error_within(&ports.span()) {
            let message = format!("{PORTS}: is empty: nothing would be forwarded");
            let help = "list the ports, or take the whole table out";
            self.problems.push(Problem::error(ports.span(), message).with_help(help));
        }
        set
    }

    fn report_dialling_itself(
        &mut self,
        written: &WrittenForward<'_>,
        listen: &[ListenOn],
        backend: &[IpAddr],
    ) {
        // What is taken over from [dist] has been looked at there; loopback in it may be meant for epmd alone.
        if written.listen.is_none() && written.backend.is_none() {
            return;
        }
        let is_meant = |ip: &IpAddr| written.listen.is_some() || !ip.is_loopback();
        let own = |on: &ListenOn| on.ip().filter(|ip| backend.contains(ip) && is_meant(ip));
        let Some(ip) = listen.iter().find_map(own) else { return };
        let help = match &written.listen {
            Some(_) => "listen where peers reach this host, and let the service listen on 127.0.0.1",
            None => "the guard listens there by [dist] listen: write listen in this table too",
        };
        let span = written.backend.as_ref().or(written.listen.as_ref()).map(toml::Spanned::span);
        let message = format!("{BACKEND}: the guard listens at {ip}, so that it would dial itself");
        self.problems.push(Problem::error(span, message).with_help(help));
    }
}

fn whose(owner: Owner) -> &'static str {
    match owner {
        Owner::EpmdListen => "of [epmd] listen",
        Owner::Epmd => "of epmd, which peers would reach unchecked",
        Owner::AdminListen => "of [admin] listen, which peers would reach",
        Owner::TlsListen => "of [tls] listen",
    }
}

/// The first port that `[dist]` lists or offers nodes at, too. Those of registered nodes give way.
fn within_dist(dist: &Dist, set: &PortSet) -> Option<String> {
    let (listed, key) = match &dist.rules.ports {
        PortRule::Listed(listed) => (listed, "[dist] ports"),
        PortRule::Registered { outside, .. } => (outside.as_ref()?, "[dist] outside"),
    };
    Some(format!("{} is in {key} too: a port is one of the two", listed.first_common(set)?))
}

fn within_others(earlier: &[Forward], set: &PortSet) -> Option<String> {
    earlier.iter().find_map(|other| {
        let port = other.ports.first_common(set)?;
        Some(format!("{port} is a port of the [[forward]] in line {} too", other.line))
    })
}

fn listen(words: &Words<'_>, problems: &mut Problems) -> Vec<ListenOn> {
    let listen = each(LISTEN, words, problems, |text| match address::listen(text)? {
        (on, None) => Ok(on),
        (_, Some(_)) => Err(Fault::new("has a port", "the ports are those of this table: leave it out here")),
    });
    if words.get_ref().is_empty() && !problems.has_error_within(&words.span()) {
        let message = format!("{LISTEN}: is empty: nothing could reach the ports");
        let help = "leave the key out to listen where [dist] does, or write listen = [\"*\"]";
        problems.push(Problem::error(words.span(), message).with_help(help));
    }
    listen.into_iter().map(|(on, _)| on).collect()
}

fn backend(words: &Words<'_>, problems: &mut Problems) -> Vec<IpAddr> {
    let backend = each(BACKEND, words, problems, |text| match address::dial(text)? {
        (ip, None) => Ok(ip),
        (_, Some(_)) => Err(Fault::new("has a port", "each port is dialled as it is: leave it out")),
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
