//! What a reload would change.
//!
//! Owns the comparison of two configurations, key by key. Never says whether a change may be made, and never
//! makes it. Where a rule stands in the file is no part of what it means: comments may come and go.

mod speakers;
mod tunnels;

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Display};
use std::hash::Hash;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use self::speakers::Known;
use super::build::{own_ports, ports_of, size_shown};
use super::{
    Admin, Cluster, CommandCheck, Config, Dist, Epmd, EpmdBackend, Forward, Limits, ListenOn, Log, LogFormat,
    PortSet,
};
use crate::policy::{DistRules, List, NamePatterns, Pattern, PortRule, SelfAt, Target};

/// How many elements of a list are named.
const NAMED: usize = 5;

/// What is made once, when the guard starts, whatever the values are: the log's writer and the sockets of
/// `[admin]`.
const AFTER_RESTART: [&str; 4] = ["[admin] socket", "[admin] group", "[admin] listen", "[log] format"];

/// The differences of two configurations.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Delta {
    /// One for each key, in the order of the shipped file.
    pub changes: Vec<Change>,
}

/// One key that means something else.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key, such as `[log] format` or `[[peer]] h2 addresses`.
    pub key: String,
    /// One clause, such as `text → json` or `+192.0.2.9, -192.0.2.0/24`.
    pub what: String,
    /// When it counts.
    pub applies: Applies,
}

/// When a change counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Applies {
    /// With the reload.
    AtOnce,
    /// Only when the guard is started anew.
    AfterRestart,
}

impl Delta {
    /// What `new` means otherwise than `old`. Each field is named here and below, so that one that is added
    /// and not compared does not compile.
    #[must_use]
    pub fn between(old: &Config, new: &Config) -> Self {
        let Config {
            cluster,
            peers,
            epmd,
            dist,
            forwards,
            nodes,
            cookie_files,
            cookies,
            tls,
            limits,
            ban,
            admin,
            log,
            places: _,
        } = old;
        let mut delta = Self::default();
        delta.compare_cluster(cluster, &new.cluster);
        delta.compare_nodes((nodes, cluster.mode), (&new.nodes, new.cluster.mode));
        delta
            .compare_peers(Known::of(peers, cluster, nodes), Known::of(&new.peers, &new.cluster, &new.nodes));
        delta.compare_epmd(epmd, &new.epmd);
        let own = [
            own_ports(epmd, admin, tls),
            own_ports(&new.epmd, &new.admin, &new.tls),
            ports_of(forwards),
            ports_of(&new.forwards),
        ];
        delta.compare_dist(dist, &new.dist, &own);
        delta.compare_forwards(forwards, &new.forwards);
        delta.compare_cookies((cookie_files, cookies), (&new.cookie_files, &new.cookies));
        delta.compare_tls(tls, &new.tls);
        delta.compare_limits(limits, &new.limits);
        delta.compare_ban(ban, &new.ban);
        delta.compare_admin(admin, &new.admin);
        delta.compare_log(log, &new.log);
        delta
    }

    /// Whether both mean the same.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// The changes that a reload cannot make.
    pub fn needs_restart(&self) -> impl Iterator<Item = &Change> {
        self.changes.iter().filter(|change| change.applies == Applies::AfterRestart)
    }

    fn compare_cluster(&mut self, old: &Cluster, new: &Cluster) {
        let Cluster { network: _, resolve_every, mode: _ } = old;
        for (key, list) in [("[cluster] allow", List::Allow), ("[cluster] deny", List::Deny)] {
            self.set(key, &targets(old, list), &targets(new, list));
        }
        self.value("[cluster] resolve_every", resolve_every, &new.resolve_every, duration);
    }

    /// A peer is who has its name, whatever its place in the file.
    fn compare_peers(&mut self, before: Vec<Known<'_>>, after: Vec<Known<'_>>) {
        let earlier: HashMap<&str, &Known<'_>> = before.iter().map(|known| (known.name, known)).collect();
        for known in &after {
            let name = known.name;
            match earlier.get(name) {
                Some(earlier) => self.compare_peer(earlier, known),
                None => self.push(format!("[[peer]] {name}"), format!("added, with {}", known.told())),
            }
        }
        let kept: HashSet<&str> = after.iter().map(|known| known.name).collect();
        for Known { name, addresses, .. } in before.iter().filter(|known| !kept.contains(known.name)) {
            self.push(format!("[[peer]] {name}"), format!("removed, with {}", few(addresses)));
        }
    }

    fn compare_epmd(&mut self, old: &Epmd, new: &Epmd) {
        let Epmd { listen, backend, register_from, command_check, self_at } = old;
        let places = |listen: &[(ListenOn, u16)]| listen.iter().copied().map(Place).collect::<Vec<_>>();
        self.set("[epmd] listen", &places(listen), &places(&new.listen));
        self.compare_backend(*backend, new.backend);
        let networks = |nets: &[IpNet]| nets.iter().copied().map(Target::Net).collect::<Vec<_>>();
        self.set("[epmd] register_from", &networks(register_from), &networks(&new.register_from));
        self.value("[epmd] relaxed_command_check", command_check, &new.command_check, |check| {
            (*check == CommandCheck::Relaxed).to_string()
        });
        self.value("[epmd] self", self_at, &new.self_at, self_places);
    }

    /// The names of the one epmd are not those of the other, and the nodes are registered at the one.
    fn compare_backend(&mut self, old: EpmdBackend, new: EpmdBackend) {
        let shown = |backend: EpmdBackend| match backend {
            EpmdBackend::Embedded => "embedded".to_owned(),
            EpmdBackend::At(addr) => addr.to_string(),
        };
        if old != new {
            let change = Change {
                key: "[epmd] backend".to_owned(),
                what: format!("{} → {}", shown(old), shown(new)),
                applies: match (old, new) {
                    (EpmdBackend::At(_), EpmdBackend::At(_)) => Applies::AtOnce,
                    (EpmdBackend::Embedded, _) | (_, EpmdBackend::Embedded) => Applies::AfterRestart,
                },
            };
            self.changes.push(change);
        }
    }

    /// `own` are the ports of epmd, of the guard and of what is forwarded besides, before and now.
    fn compare_dist(&mut self, old: &Dist, new: &Dist, own: &[PortSet]) {
        let Dist { listen, rules, backend, self_at } = old;
        let DistRules { ports, names } = rules;
        self.set("[dist] listen", listen, &new.listen);
        self.compare_ports(ports, &new.rules.ports, own);
        self.set("[dist] names", &patterns(names), &patterns(&new.rules.names));
        // In this order they are tried.
        self.value("[dist] backend", backend, &new.backend, |ips| few(ips));
        self.value("[dist] self", self_at, &new.self_at, self_places);
    }

    fn compare_ports(&mut self, old: &PortRule, new: &PortRule, own: &[PortSet]) {
        match (old, new) {
            (PortRule::Listed(old), PortRule::Listed(new)) => self.ports("[dist] ports", old, new),
            (
                PortRule::Registered { range, outside },
                PortRule::Registered { range: new_range, outside: new_outside },
            ) => {
                // Where these move, the range is written as before and only what is taken out of it differs.
                let written = |range: &PortSet| own.iter().fold(range.clone(), |left, own| left.without(own));
                self.ports("[dist] range", &written(range), &written(new_range));
                match (outside, new_outside) {
                    (Some(old), Some(new)) => self.ports("[dist] outside", old, new),
                    (None, _) | (_, None) => {
                        let shown = |set: &Option<PortSet>| {
                            set.as_ref().map_or("the nodes' own".to_owned(), |set| few(&ranges(set)))
                        };
                        self.value("[dist] outside", outside, new_outside, shown);
                    }
                }
            }
            (PortRule::Registered { .. }, PortRule::Listed(_))
            | (PortRule::Listed(_), PortRule::Registered { .. }) => {
                self.value("[dist] ports", old, new, |ports| match ports {
                    PortRule::Registered { .. } => "registered".to_owned(),
                    PortRule::Listed(ports) => few(&ranges(ports)),
                });
            }
        }
    }

    /// One is what carries the same at the same ports, whatever its place in the file.
    fn compare_forwards(&mut self, old: &[Forward], new: &[Forward]) {
        let is_same = |a: &Forward, b: &Forward| a.kind == b.kind && a.ports == b.ports;
        let key = |forward: &Forward| {
            format!("[[forward]] {} {}", forward.kind.label(), few(&ranges(&forward.ports)))
        };
        for after in new {
            match old.iter().find(|before| is_same(before, after)) {
                Some(before) => {
                    let Forward { kind: _, ports: _, listen, backend, line: _ } = before;
                    self.set(&format!("{} listen", key(after)), listen, &after.listen);
                    // In this order they are tried.
                    let name = format!("{} backend", key(after));
                    self.value(&name, backend, &after.backend, |ips| few(ips));
                }
                None => self.push(key(after), "added".to_owned()),
            }
        }
        for before in old.iter().filter(|before| !new.iter().any(|after| is_same(before, after))) {
            self.push(key(before), "removed".to_owned());
        }
    }

    fn compare_limits(&mut self, old: &Limits, new: &Limits) {
        let Limits {
            connections,
            reserve,
            per_address,
            per_subnet,
            names,
            request_timeout,
            backend_timeout,
            half_close_timeout,
            rate_per_address,
            rate_per_subnet,
            half_open,
            half_open_per_address,
            handshake_timeout,
            replay_per_link,
            replay,
        } = old;
        self.value("[limits] connections", connections, &new.connections, |count| {
            count.map_or("auto".to_owned(), |count| count.to_string())
        });
        self.value("[limits] reserve", reserve, &new.reserve, u32::to_string);
        self.value("[limits] per_address", per_address, &new.per_address, u32::to_string);
        self.value("[limits] per_subnet", per_subnet, &new.per_subnet, u32::to_string);
        self.value("[limits] names", names, &new.names, u32::to_string);
        self.value("[limits] request_timeout", request_timeout, &new.request_timeout, duration);
        self.value("[limits] backend_timeout", backend_timeout, &new.backend_timeout, duration);
        self.value("[limits] half_close_timeout", half_close_timeout, &new.half_close_timeout, duration);
        self.value("[limits] rate_per_address", rate_per_address, &new.rate_per_address, u32::to_string);
        self.value("[limits] rate_per_subnet", rate_per_subnet, &new.rate_per_subnet, u32::to_string);
        self.value("[limits] half_open", half_open, &new.half_open, u32::to_string);
        let (per_address, new_per_address) = (half_open_per_address, &new.half_open_per_address);
        self.value("[limits] half_open_per_address", per_address, new_per_address, u32::to_string);
        self.value("[limits] handshake_timeout", handshake_timeout, &new.handshake_timeout, duration);
        let bytes = |bytes: &u64| size_shown(*bytes);
        self.value("[limits] replay_per_link", replay_per_link, &new.replay_per_link, bytes);
        self.value("[limits] replay", replay, &new.replay, bytes);
    }

    fn compare_admin(&mut self, old: &Admin, new: &Admin) {
        let Admin { socket, group, listen, reload_may_cut } = old;
        self.value("[admin] socket", socket, &new.socket, |path| {
            path.as_ref().map_or("none".to_owned(), |path| path.display().to_string())
        });
        self.value("[admin] group", group, &new.group, |group| group.clone().unwrap_or("none".to_owned()));
        self.set("[admin] listen", listen, &new.listen);
        self.value("[admin] reload_may_cut", reload_may_cut, &new.reload_may_cut, u32::to_string);
    }

    fn compare_log(&mut self, old: &Log, new: &Log) {
        let Log { format, level } = old;
        self.value("[log] format", format, &new.format, |format| match format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        });
        self.value("[log] level", level, &new.level, |level| level.to_string().to_ascii_lowercase());
    }

    /// Compares what is replaced as a whole.
    fn value<T: PartialEq>(&mut self, key: &str, old: &T, new: &T, show: impl Fn(&T) -> String) {
        if old != new {
            self.push(key, format!("{} → {}", show(old), show(new)));
        }
    }

    /// Compares what is a set, in whatever order it stands. Lists of a million elements are possible.
    fn set<T: Eq + Hash + Display>(&mut self, key: &str, old: &[T], new: &[T]) {
        if old == new {
            return;
        }
        // Where an element of `old` stands, as long as it has not been seen in `new`. What stands in a list
        // twice is told once.
        let mut places: HashMap<&T, Option<usize>> = old.iter().zip((0..).map(Some)).collect();
        let added: Vec<&T> = new.iter().filter(|element| places.insert(element, None).is_none()).collect();
        let mut removed: Vec<usize> = places.into_values().flatten().collect();
        removed.sort_unstable();
        let removed: Vec<&T> = removed.into_iter().filter_map(|at| old.get(at)).collect();
        self.difference(key, &added, &removed);
    }

    fn ports(&mut self, key: &str, old: &PortSet, new: &PortSet) {
        self.difference(key, &ranges(&new.without(old)), &ranges(&old.without(new)));
    }

    fn difference<T: Display>(&mut self, key: &str, added: &[T], removed: &[T]) {
        let signed = |sign| move |element| Signed(sign, element);
        let all: Vec<Signed<&T>> =
            added.iter().map(signed('+')).chain(removed.iter().map(signed('-'))).collect();
        if !all.is_empty() {
            self.push(key, few(&all));
        }
    }

    fn push(&mut self, key: impl Into<String>, what: String) {
        let key = key.into();
        let late = AFTER_RESTART.contains(&key.as_str());
        let applies = if late { Applies::AfterRestart } else { Applies::AtOnce };
        self.changes.push(Change { key, what, applies });
    }
}

/// Where epmd is served, as it is written.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Place((ListenOn, u16));

impl Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            (ListenOn::Everywhere, port) => write!(f, "*:{port}"),
            (ListenOn::Ip(ip), port) => SocketAddr::new(ip, port).fmt(f),
        }
    }
}

/// An element that comes or goes.
struct Signed<T>(char, T);

impl<T: Display> Display for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.0, self.1)
    }
}

fn self_places(at: &SelfAt) -> String {
    match at {
        SelfAt::Everywhere => "all".to_owned(),
        SelfAt::Only(none) if none.is_empty() => "none".to_owned(),
        SelfAt::Only(listeners) => few(listeners),
    }
}

/// The targets of a list that are no peer's.
fn targets(cluster: &Cluster, list: List) -> Vec<&Target> {
    let rules = cluster.network.book().iter().map(|(_, rule)| rule);
    rules.filter(|rule| rule.list == list && rule.peer.is_none()).map(|rule| &rule.target).collect()
}

/// The patterns of a list, without the lines in which they stand.
fn patterns(names: &NamePatterns) -> Vec<&Pattern> {
    names.iter().map(|(pattern, _)| pattern).collect()
}

fn ranges(set: &PortSet) -> Vec<PortSet> {
    set.iter_ranges().map(|range| PortSet::from_ranges([range])).collect()
}

fn duration(value: &Duration) -> String {
    humantime::format_duration(*value).to_string()
}

/// The first elements, and how many more there are.
fn few<T: Display>(elements: &[T]) -> String {
    let named: Vec<String> = elements.iter().take(NAMED).map(T::to_string).collect();
    match elements.len().saturating_sub(NAMED) {
        0 if named.is_empty() => "none".to_owned(),
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

#[cfg(test)]
mod tests;
