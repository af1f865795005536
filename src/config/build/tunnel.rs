//! `connect`, `hosts`, `alias`, `identity` and `tls` of `[[peer]]`: the tunnel to it, and whose it is.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::IpAddr;
use std::ops::Range;

use toml::Spanned;

use super::address::{self, Fault};
use super::peers::KeyOf;
use super::tls::{MODES, NO_CERTIFICATE, has_no_certificate};
use super::{choice, each};
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Word, Words, Written, WrittenPeer};
use crate::config::{Config, Connect, ConnectTo, ListenOn, Peer};
use crate::policy::{List, San, Target, TlsMode};
use crate::proto::dist::HostPart;

/// Reads these keys of each peer.
pub(super) fn read(written: &[WrittenPeer<'_>], peers: &mut [Peer], problems: &mut Problems) {
    let (mut hosts, mut aliases) = (Owners::new("hosts"), Owners::new("alias"));
    for (peer, written) in peers.iter_mut().zip(written) {
        let name = peer.name.clone();
        let at = |key| KeyOf { peer: &name, key };
        peer.connect = list(at("connect"), written.connect.as_ref(), problems, address::connect);
        peer.hosts = list(at("hosts"), written.hosts.as_ref(), problems, host_part);
        peer.alias = list(at("alias"), written.alias.as_ref(), problems, address::alias);
        let identity = list(at("identity"), written.identity.as_ref(), problems, |text| {
            text.parse().map_err(Fault::told)
        });
        peer.identity = if written.identity.is_some() { identity } else { usual_identity(peer) };
        peer.tls = choice(at("tls"), written.tls.as_ref(), MODES, problems);
        hosts.claim(peer, &peer.hosts, written.hosts.as_ref(), problems);
        aliases.claim(peer, &peer.alias, written.alias.as_ref(), problems);
        report_empty(at("identity"), written.identity.as_ref(), problems);
    }
}

fn list<T: Clone + Eq + Hash>(
    key: KeyOf<'_>,
    words: Option<&Words<'_>>,
    problems: &mut Problems,
    read: impl Fn(&str) -> Result<T, Fault>,
) -> Vec<T> {
    let found = words.map(|words| each(key, words, problems, read)).unwrap_or_default();
    found.into_iter().map(|(value, _)| value).collect()
}

/// What stands behind the `@` of a name; names of hosts are compared without regard to capitals.
fn host_part(text: &str) -> Result<String, Fault> {
    match HostPart::new(text.as_bytes()) {
        Ok(host) => Ok(host.as_str().to_ascii_lowercase()),
        Err(_) => Err(Fault::new(
            "is no host part of a node's name",
            "write what stands behind the @, such as \"h2.example.net\"",
        )),
    }
}

/// The names by which a peer is known unless it says others.
fn usual_identity(peer: &Peer) -> Vec<San> {
    let of_hosts = peer.hosts.iter().filter_map(|host| host.parse().ok());
    let mut names: Vec<San> = San::dns(&peer.name).into_iter().chain(of_hosts).collect();
    let mut seen = HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

fn report_empty(key: KeyOf<'_>, words: Option<&Words<'_>>, problems: &mut Problems) {
    let Some(words) = words.filter(|words| words.get_ref().is_empty()) else { return };
    if !problems.has_error_within(&words.span()) {
        let message = format!("{key}: is empty, so that no certificate is this peer's");
        let help = "leave the key out for the peer's name and its hosts";
        problems.push(Problem::warning(words.span(), message).with_help(help));
    }
}

/// Whose a value is that can be one peer's alone.
struct Owners<T> {
    key: &'static str,
    owners: HashMap<T, (String, u32)>,
}

impl<T: Clone + Eq + Hash + std::fmt::Display> Owners<T> {
    fn new(key: &'static str) -> Self {
        Self { key, owners: HashMap::new() }
    }

    /// Notes the values of a peer, and reports those that another one has.
    fn claim(&mut self, peer: &Peer, values: &[T], words: Option<&Words<'_>>, problems: &mut Problems) {
        for value in values {
            let Some((owner, line)) = self.owners.get(value) else {
                self.owners.insert(value.clone(), (peer.name.clone(), peer.line));
                continue;
            };
            let owner = if owner.is_empty() { "another peer" } else { owner };
            let key = KeyOf { peer: &peer.name, key: self.key };
            let message = format!("{key}: {value} is that of {owner} (line {line}) too: who is it?");
            let help = "it can stand for one peer alone: take it out of the other";
            problems.push(Problem::error(words.map(Spanned::span), message).with_help(help));
        }
    }
}

/// Reports what these keys and the rest of the file say against each other.
pub(super) fn report(written: &Written<'_>, config: &Config, problems: &mut Problems) {
    for (peer, own) in config.peers.iter().zip(&written.peers) {
        if peer.tls == Some(TlsMode::Off) {
            report_off(config, (peer, own), problems);
            continue;
        }
        report_no_certificate(written, config, (peer, own), problems);
        report_no_way(config, (peer, own), problems);
        report_no_way_in(written, config, (peer, own), problems);
        report_dialling_itself(config, (peer, own), problems);
    }
    report_shared_identity(written, config, problems);
    if config.peers.iter().any(|peer| !peer.alias.is_empty()) {
        for (peer, own) in config.peers.iter().zip(&written.peers) {
            report_alias_of_ours(config, (peer, own), problems);
        }
        report_literal_aliases(written, config, problems);
    }
    report_no_peer(written, config, problems);
}

/// Its first key that wants a tunnel, and where it stands.
fn wants(peer: &Peer, own: &WrittenPeer<'_>) -> Option<(&'static str, Range<usize>)> {
    let tls = own.tls.as_ref().filter(|_| peer.tls.is_some_and(|mode| mode != TlsMode::Off));
    let alias = own.alias.as_ref().filter(|_| !peer.alias.is_empty());
    alias.map(|words| ("alias", words.span())).or_else(|| Some(("tls", tls?.span())))
}

/// Reports that nodes are led to the peer, and not by a tunnel. Whoever goes back to `"off"` has nodes that find it there.
fn report_off(config: &Config, (peer, own): (&Peer, &WrittenPeer<'_>), problems: &mut Problems) {
    let Some(words) = own.alias.as_ref().filter(|_| !peer.alias.is_empty()) else { return };
    let key = KeyOf { peer: &peer.name, key: "alias" };
    let message = format!("{key}: goes plain: tls = \"off\" lets no tunnel go to this peer");
    let help = "leave the alias for as long as ERL_INETRC leads nodes of this host there: they are carried plain to connect";
    problems.push(Problem::warning(words.span(), message).with_help(help));
    report_no_way(config, (peer, own), problems);
}

fn report_no_certificate(
    written: &Written<'_>,
    config: &Config,
    (peer, own): (&Peer, &WrittenPeer<'_>),
    problems: &mut Problems,
) {
    if !has_no_certificate(&written.tls, &config.tls) {
        return;
    }
    if let Some((key, span)) = wants(peer, own) {
        let key = KeyOf { peer: &peer.name, key };
        let message = format!("{key}: wants a certificate of this host, and [tls] has none");
        problems.push(
            match (key.key, peer.tls) {
                // It comes and goes plain, as it is written.
                ("tls", Some(TlsMode::Optional)) => Problem::warning(span, message),
                _ => Problem::error(span, message),
            }
            .with_help(NO_CERTIFICATE),
        );
    }
}

/// Reports a peer whose tunnel is wanted and that nobody can dial, and one that is dialled by nobody.
fn report_no_way(config: &Config, (peer, own): (&Peer, &WrittenPeer<'_>), problems: &mut Problems) {
    let by_default =
        (config.tls.default == TlsMode::Required && peer.tls.is_none()).then(|| ("tls", own.span.clone()));
    let wanted = wants(peer, own).or(by_default);
    if let Some((key, span)) = wanted.filter(|_| peer.connect.is_empty()) {
        if own.connect.as_ref().is_some_and(|words| problems.has_error_within(&words.span())) {
            return;
        }
        let key = KeyOf { peer: &peer.name, key };
        let message = format!("{key}: wants to know where this peer is, and there is no connect");
        let help = "write connect = \"h2.example.net\", or with a port if that is not 4371";
        problems.push(Problem::error(span, message).with_help(help));
    }
    let words = own.connect.as_ref().filter(|_| !peer.connect.is_empty() && peer.alias.is_empty());
    let broken = own.alias.as_ref().is_some_and(|words| problems.has_error_within(&words.span()));
    if let Some(words) = words.filter(|_| !broken) {
        let key = KeyOf { peer: &peer.name, key: "connect" };
        let message =
            format!("{key}: has no effect without an alias: no node of this host comes by this way");
        let help =
            "write alias = \"127.0.0.12\", another one for each peer, and lead the nodes there by ERL_INETRC";
        problems.push(Problem::warning(words.span(), message).with_help(help));
    }
}

/// Reports a peer that is to come by a tunnel alone where none is taken.
fn report_no_way_in(
    written: &Written<'_>,
    config: &Config,
    (peer, own): (&Peer, &WrittenPeer<'_>),
    problems: &mut Problems,
) {
    let wanted = peer.tls.unwrap_or(config.tls.default) == TlsMode::Required;
    let is_mistaken =
        written.tls.listen.as_ref().is_some_and(|words| problems.has_error_within(&words.span()));
    if !wanted || !config.tls.listen.is_empty() || config.tls.files.is_none() || is_mistaken {
        return;
    }
    let key = KeyOf { peer: &peer.name, key: "tls" };
    let message =
        format!("{key}: is \"required\", and no tunnel is taken here: nothing of this peer comes in");
    let help =
        "write listen in [tls], such as listen = [\"*\"], or the address at which the peers reach this host";
    let span = own.tls.as_ref().map_or(own.span.clone(), Spanned::span);
    problems.push(Problem::warning(span, message).with_help(help));
}

fn report_dialling_itself(config: &Config, (peer, own): (&Peer, &WrittenPeer<'_>), problems: &mut Problems) {
    for Connect { host, port } in &peer.connect {
        let ConnectTo::Ip(ip) = host else { continue };
        if config.tls.listen.contains(&(ListenOn::Ip(*ip), *port)) {
            let key = KeyOf { peer: &peer.name, key: "connect" };
            let message = format!("{key}: {ip} is in [tls] listen too: the guard would dial itself");
            let help = "write where the guard of the peer listens";
            problems.push(Problem::error(own.connect.as_ref().map(Spanned::span), message).with_help(help));
        }
    }
}

/// Reports a name that certificates of two peers may have. Without certificates it does not matter, unless it is
/// written.
fn report_shared_identity(written: &Written<'_>, config: &Config, problems: &mut Problems) {
    let mut owners: HashMap<&San, (&Peer, bool)> = HashMap::new();
    for (peer, own) in config.peers.iter().zip(&written.peers) {
        let is_written = own.identity.is_some();
        for name in &peer.identity {
            let Some((owner, was_written)) = owners.get(name) else {
                owners.insert(name, (peer, is_written));
                continue;
            };
            if config.tls.files.is_none() && !is_written && !was_written {
                continue;
            }
            let key = KeyOf { peer: &peer.name, key: "identity" };
            let called = if owner.name.is_empty() { "another peer" } else { &owner.name };
            let message =
                format!("{key}: {name} is an identity of {called} (line {}) too: who is it?", owner.line);
            let help = "a certificate is one peer's. Where the key is left out it is the peer's name and its hosts: \
                        write it in one of the two";
            let words = own.identity.as_ref().or(own.hosts.as_ref()).map(Spanned::span);
            problems.push(Problem::error(words.unwrap_or(own.span.clone()), message).with_help(help));
        }
    }
}

/// Reports an alias that is something else too.
fn report_alias_of_ours(config: &Config, (peer, own): (&Peer, &WrittenPeer<'_>), problems: &mut Problems) {
    let Some(words) = &own.alias else { return };
    let on = |listen: &[ListenOn]| listen.iter().filter_map(|on| on.ip()).collect::<Vec<_>>();
    let at = |places: &[(ListenOn, u16)]| places.iter().filter_map(|(on, _)| on.ip()).collect::<Vec<_>>();
    let mut ours = vec![
        ("[epmd] listen", at(&config.epmd.listen)),
        ("[epmd] backend", config.epmd.backend.addr().map(|addr| addr.ip()).into_iter().collect()),
        ("[dist] listen", on(&config.dist.listen)),
        ("[dist] backend", config.dist.backend.clone()),
        ("[tls] listen", at(&config.tls.listen)),
        ("[admin] listen", config.admin.listen.iter().map(std::net::SocketAddr::ip).collect()),
    ];
    for forward in &config.forwards {
        ours.push(("[[forward]] listen", on(&forward.listen)));
        ours.push(("[[forward]] backend", forward.backend.clone()));
    }
    for word in words.get_ref() {
        let Ok(ip) = address::alias(word.get_ref()) else { continue };
        if let Some((what, _)) = ours.iter().find(|(_, ips)| ips.contains(&ip)) {
            let key = KeyOf { peer: &peer.name, key: "alias" };
            let message = format!("{key}: {ip} is in {what} too");
            let help = "an alias stands for the peer with every port: write an address that nothing else has, such \
                        as another one of 127.0.0.0/8";
            problems.push(Problem::error(word.span(), message).with_help(help));
        }
    }
}

/// Reports an alias where an address of another host is meant. Whoever has such an address is this host.
fn report_literal_aliases(written: &Written<'_>, config: &Config, problems: &mut Problems) {
    let mut report = |key: &dyn std::fmt::Display, span: Option<Range<usize>>, ip: IpAddr| {
        let Some(stands_for) = config.stands_for(ip) else { return };
        let message = format!("{key}: {ip} is the alias of {}, an address of this host", stands_for.name);
        let help = "write the address that the other host has in the cluster's network";
        problems.push(Problem::error(span, message).with_help(help));
    };
    for (peer, own) in config.peers.iter().zip(&written.peers) {
        let key = KeyOf { peer: &peer.name, key: "connect" };
        for Connect { host, .. } in &peer.connect {
            if let ConnectTo::Ip(ip) = host {
                report(&key, own.connect.as_ref().map(Spanned::span), *ip);
            }
        }
    }
    for (_, rule) in config.cluster.network.book().iter().filter(|(_, rule)| rule.list == List::Allow) {
        let Target::Net(net) = &rule.target else { continue };
        if net.prefix_len() != net.max_prefix_len() || config.stands_for(net.addr()).is_none() {
            continue;
        }
        let own = rule.peer.and_then(|id| {
            let at = usize::from(id.0);
            Some((config.peers.get(at)?, written.peers.get(at)?))
        });
        match own {
            Some((peer, own)) => {
                let key = KeyOf { peer: &peer.name, key: "addresses" };
                report(&key, span_of(own.addresses.as_ref(), &rule.target), net.addr());
            }
            None if rule.line == 0 => report(&"--allow", None, net.addr()),
            None => {
                let span = span_of(written.cluster.allow.as_ref(), &rule.target);
                report(&"[cluster] allow", span, net.addr());
            }
        }
    }
}

/// Where a list has this target.
fn span_of(words: Option<&Words<'_>>, target: &Target) -> Option<Range<usize>> {
    let is_it = |word: &&Word<'_>| word.get_ref().parse::<Target>().is_ok_and(|found| found == *target);
    words?.get_ref().iter().find(is_it).map(Spanned::span)
}

/// Reports a listener for the guards of peers where there is none.
fn report_no_peer(written: &Written<'_>, config: &Config, problems: &mut Problems) {
    let listen = written.tls.listen.as_ref().filter(|_| !config.tls.listen.is_empty());
    let is_meant = |words: &&Words<'_>| !problems.has_error_within(&words.span());
    let alone = written.peers.is_empty() && config.tls.files.is_some();
    if let Some(words) = listen.filter(is_meant).filter(|_| alone) {
        let message = "[tls] listen: there is no [[peer]], so that no certificate is anybody's";
        let help = "write a [[peer]] for each host whose guard is to come by a tunnel";
        problems.push(Problem::warning(words.span(), message).with_help(help));
    }
}
