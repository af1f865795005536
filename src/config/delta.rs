//! What a reload would change.
//!
//! Owns the comparison of two configurations, key by key. Never says whether a change may be made, and never
//! makes it. Where a rule stands in the file is no part of what it means: comments may come and go.

use std::collections::{HashMap, HashSet};
use std::fmt::{self, Display};
use std::hash::Hash;
use std::net::SocketAddr;
use std::time::Duration;

use ipnet::IpNet;

use super::build::own_ports;
use super::{
    Admin, Cluster, CommandCheck, Config, Dist, Epmd, EpmdBackend, Limits, ListenOn, Log, LogFormat, Peer,
    PortSet,
};
use crate::policy::{DistRules, List, NamePatterns, Pattern, PortRule, Reach, SelfAt, Target};

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
        let Config { cluster, peers, epmd, dist, limits, admin, log, places: _ } = old;
        let mut delta = Self::default();
        delta.compare_cluster(cluster, &new.cluster);
        delta.compare_peers((peers, cluster), (&new.peers, &new.cluster));
        delta.compare_epmd(epmd, &new.epmd);
        let own = [own_ports(epmd, admin), own_ports(&new.epmd, &new.admin)];
        delta.compare_dist(dist, &new.dist, &own);
        delta.compare_limits(limits, &new.limits);
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
        let Cluster { network: _, resolve_every } = old;
        for (key, list) in [("[cluster] allow", List::Allow), ("[cluster] deny", List::Deny)] {
            self.set(key, &targets(old, list), &targets(new, list));
        }
        self.value("[cluster] resolve_every", resolve_every, &new.resolve_every, duration);
    }

    /// A peer is who has its name, whatever its place in the file.
    fn compare_peers(&mut self, old: (&[Peer], &Cluster), new: (&[Peer], &Cluster)) {
        let (before, after) = (known(old), known(new));
        let earlier: HashMap<&str, &Known<'_>> = before.iter().map(|known| (known.name, known)).collect();
        for Known { name, addresses, reach } in &after {
            match earlier.get(name) {
                Some(earlier) => {
                    self.set(&format!("[[peer]] {name} addresses"), &earlier.addresses, addresses);
                    self.compare_reach(&format!("[[peer]] {name} may_reach"), earlier.reach, reach);
                }
                None => {
                    let bound = match reach {
                        Reach(None) => String::new(),
                        Reach(Some(_)) => format!(", may reach {}", reachable(reach)),
                    };
                    self.push(format!("[[peer]] {name}"), format!("added, with {}{bound}", few(addresses)));
                }
            }
        }
        let kept: HashSet<&str> = after.iter().map(|known| known.name).collect();
        for Known { name, addresses, reach: _ } in before.iter().filter(|known| !kept.contains(known.name)) {
            self.push(format!("[[peer]] {name}"), format!("removed, with {}", few(addresses)));
        }
    }

    fn compare_reach(&mut self, key: &str, old: &Reach, new: &Reach) {
        match (old, new) {
            (Reach(Some(before)), Reach(Some(after))) => self.set(key, &patterns(before), &patterns(after)),
            (Reach(None), _) | (_, Reach(None)) => self.value(key, old, new, reachable),
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

    /// `own` are the ports of epmd and of the guard, before and now.
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

/// What is known of a peer.
struct Known<'c> {
    name: &'c str,
    addresses: Vec<&'c Target>,
    reach: &'c Reach,
}

/// The peers with their addresses.
fn known<'c>((peers, cluster): (&'c [Peer], &'c Cluster)) -> Vec<Known<'c>> {
    let known =
        |Peer { name, may_reach, line: _ }: &'c Peer| Known { name, addresses: Vec::new(), reach: may_reach };
    let mut all: Vec<Known<'_>> = peers.iter().map(known).collect();
    for (_, rule) in cluster.network.book().iter() {
        if let Some(known) = rule.peer.and_then(|id| all.get_mut(usize::from(id.0))) {
            known.addresses.push(&rule.target);
        }
    }
    all
}

/// The patterns of a list, without the lines in which they stand.
fn patterns(names: &NamePatterns) -> Vec<&Pattern> {
    names.iter().map(|(pattern, _)| pattern).collect()
}

fn reachable(reach: &Reach) -> String {
    reach.0.as_ref().map_or("all".to_owned(), |names| few(&patterns(names)))
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
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::config::schema::SECTIONS;
    use crate::config::{Overrides, defaults, from_text};
    use crate::policy::{NetworkRules, Rule, RuleBook};

    fn config(text: &str) -> Config {
        from_text("test", text, &Overrides::default()).unwrap().config
    }

    /// Each change as `key: what`, with a mark where it waits for a restart.
    fn told(old: &str, new: &str) -> Vec<String> {
        let delta = Delta::between(&config(old), &config(new));
        let mark = |applies| if applies == Applies::AfterRestart { " (restart)" } else { "" };
        let shown = |change: &Change| format!("{}: {}{}", change.key, change.what, mark(change.applies));
        delta.changes.iter().map(shown).collect()
    }

    const H2: &str = "[[peer]]\nname = \"h2\"\naddresses = [\"h2\", \"192.0.2.2\"]\n";

    /// The same peer, which may not reach every name.
    const BOUND: &str =
        "[[peer]]\nname = \"h2\"\naddresses = [\"h2\", \"192.0.2.2\"]\nmay_reach = [\"web-*\", \"!web-9\"]\n";

    /// A section and a key of it, two texts, and what is told of going from one to the other.
    const EACH_KEY: &[(&str, &str, &str, &str)] = &[
        (
            "[cluster] allow",
            "cluster.allow = [\"192.0.2.0/24\", \"h2\"]",
            "cluster.allow = [\"192.0.2.9\", \"h2\"]",
            "[cluster] allow: +192.0.2.9, -192.0.2.0/24",
        ),
        ("[cluster] deny", "", "cluster.deny = [\"2001:db8::/32\"]", "[cluster] deny: +2001:db8::/32"),
        (
            "[cluster] resolve_every",
            "",
            "cluster.resolve_every = \"90s\"",
            "[cluster] resolve_every: 30s → 1m 30s",
        ),
        ("[[peer]] name", "", H2, "[[peer]] h2: added, with h2, 192.0.2.2"),
        ("[[peer]] name", H2, "", "[[peer]] h2: removed, with h2, 192.0.2.2"),
        (
            "[[peer]] addresses",
            H2,
            "[[peer]]\nname = \"h2\"\naddresses = [\"2001:db8::2\", \"192.0.2.2\"]",
            "[[peer]] h2 addresses: +2001:db8::2, -h2",
        ),
        ("[[peer]] may_reach", H2, BOUND, "[[peer]] h2 may_reach: all → web-*, !web-9"),
        ("[[peer]] may_reach", BOUND, H2, "[[peer]] h2 may_reach: web-*, !web-9 → all"),
        (
            "[[peer]] may_reach",
            BOUND,
            "[[peer]]\nname = \"h2\"\nmay_reach = [\"ejabberd\", \"!web-9\"]\naddresses = [\"h2\", \"192.0.2.2\"]",
            "[[peer]] h2 may_reach: +ejabberd, -web-*",
        ),
        ("[[peer]] may_reach", "", BOUND, "[[peer]] h2: added, with h2, 192.0.2.2, may reach web-*, !web-9"),
        (
            "[epmd] listen",
            "dist.listen = [\"*\"]",
            "dist.listen = [\"*\"]\nepmd.listen = [\"2001:db8::2\", \"192.0.2.2\"]",
            "[epmd] listen: +[2001:db8::2]:4369, +192.0.2.2:4369, -*:4369",
        ),
        (
            "[epmd] backend",
            "epmd.backend = \"127.0.0.1\"",
            "epmd.backend = \"127.0.0.2\"",
            "[epmd] backend: 127.0.0.1:4369 → 127.0.0.2:4369",
        ),
        (
            "[epmd] register_from",
            "epmd.register_from = [\"172.17.0.0/16\", \"192.0.2.9\"]",
            "epmd.register_from = [\"192.0.2.8\", \"172.17.0.0/16\"]",
            "[epmd] register_from: +192.0.2.8, -192.0.2.9",
        ),
        (
            "[epmd] relaxed_command_check",
            "",
            "epmd.relaxed_command_check = true",
            "[epmd] relaxed_command_check: false → true",
        ),
        (
            "[epmd] self",
            "dist.self = \"all\"",
            "dist.self = \"all\"\nepmd.self = [\"::1\", \"127.0.0.1\"]",
            "[epmd] self: all → 127.0.0.1, ::1",
        ),
        (
            "[epmd] self",
            "dist.self = \"all\"\nepmd.self = []",
            "dist.self = \"all\"\nepmd.self = [\"127.0.0.1\"]",
            "[epmd] self: none → 127.0.0.1",
        ),
        ("[dist] listen", "", "dist.listen = [\"192.0.2.2\"]", "[dist] listen: +192.0.2.2, -*"),
        (
            "[dist] ports",
            "",
            "dist.ports = [9100, \"9200-9205\"]",
            "[dist] ports: registered → 9100, 9200-9205",
        ),
        ("[dist] ports", "dist.ports = []", "", "[dist] ports: none → registered"),
        (
            "[dist] ports",
            "dist.ports = [\"9100-9105\", 9200]",
            "dist.ports = [\"9100-9102\", 9200, 9300]",
            "[dist] ports: +9300, -9103-9105",
        ),
        ("[dist] names", "dist.names = [\"*\"]", "dist.names = [\"!b\", \"*\"]", "[dist] names: +!b"),
        (
            "[dist] range",
            "dist.range = \"9000-9100\"",
            "dist.range = \"9000-9110\"",
            "[dist] range: +9101-9110",
        ),
        ("[dist] outside", "", "dist.outside = 20000", "[dist] outside: the nodes' own → 20000"),
        ("[dist] outside", "dist.outside = 20000", "dist.outside = 20001", "[dist] outside: +20001, -20000"),
        (
            "[dist] backend",
            "",
            "dist.backend = [\"::1\", \"127.0.0.1\"]",
            "[dist] backend: 127.0.0.1, ::1 → ::1, 127.0.0.1",
        ),
        ("[dist] self", "", "dist.self = \"none\"", "[dist] self: all → none"),
        ("[limits] connections", "", "limits.connections = 900", "[limits] connections: auto → 900"),
        ("[limits] reserve", "", "limits.reserve = 65", "[limits] reserve: 64 → 65"),
        ("[limits] per_address", "", "limits.per_address = 513", "[limits] per_address: 512 → 513"),
        ("[limits] per_subnet", "", "limits.per_subnet = 2049", "[limits] per_subnet: 2048 → 2049"),
        ("[limits] names", "", "limits.names = 100", "[limits] names: 16384 → 100"),
        (
            "[limits] request_timeout",
            "",
            "limits.request_timeout = \"6s\"",
            "[limits] request_timeout: 5s → 6s",
        ),
        (
            "[limits] backend_timeout",
            "",
            "limits.backend_timeout = \"6s\"",
            "[limits] backend_timeout: 5s → 6s",
        ),
        (
            "[limits] half_close_timeout",
            "",
            "limits.half_close_timeout = \"1h\"",
            "[limits] half_close_timeout: 5m → 1h",
        ),
        (
            "[admin] socket",
            "",
            "admin.socket = \"\"",
            "[admin] socket: /run/epmd-guard/admin.sock → none (restart)",
        ),
        ("[admin] group", "", "admin.group = \"adm\"", "[admin] group: none → adm (restart)"),
        ("[admin] listen", "", "admin.listen = [\"[::1]:443\"]", "[admin] listen: +[::1]:443 (restart)"),
        ("[admin] reload_may_cut", "", "admin.reload_may_cut = 7", "[admin] reload_may_cut: 0 → 7"),
        ("[log] format", "", "log.format = \"json\"", "[log] format: text → json (restart)"),
        ("[log] level", "log.level = \"debug\"", "", "[log] level: debug → info"),
    ];

    #[test]
    fn each_key_is_compared_and_told() {
        for (key, old, new, expected) in EACH_KEY {
            assert_eq!(told(old, new), [*expected], "{key}");
            for same in [old, new] {
                assert!(Delta::between(&config(same), &config(same)).is_empty(), "{same}");
            }
        }
        for section in &SECTIONS {
            for key in section.keys {
                let key = format!("{section} {key}");
                assert!(EACH_KEY.iter().any(|(compared, ..)| *compared == key), "{key} is not compared here");
            }
        }
    }

    #[test]
    fn a_port_of_epmd_or_of_the_guard_that_moves_is_no_change_of_the_range() {
        let moved = "[epmd]\nlisten = [\"192.0.2.1:5000\"]\n[dist]\nlisten = [\"192.0.2.1\"]\n";
        let before = moved.replace("5000", "4999");
        let change = "[epmd] listen: +192.0.2.1:5000, -192.0.2.1:4999";
        assert_eq!(told(&before, moved), [change]);
        let change = "[admin] listen: +127.0.0.1:9001 (restart)";
        assert_eq!(told("", "admin.listen = [\"127.0.0.1:9001\"]"), [change]);
        let wider = format!("{moved}range = \"1024-6000\"\n");
        let changes = ["[epmd] listen: +192.0.2.1:5000, -192.0.2.1:4999", "[dist] range: -6001-65535"];
        assert_eq!(told(&before, &wider), changes);
    }

    #[test]
    fn what_needs_a_restart_is_told_apart() {
        let new =
            "[admin]\nsocket = \"/run/a\"\nreload_may_cut = 1\n[log]\nformat = \"json\"\nlevel = \"warn\"";
        let delta = Delta::between(&config(""), &config(new));
        let late: Vec<_> = delta.needs_restart().map(|change| change.key.as_str()).collect();
        assert_eq!(late, ["[admin] socket", "[log] format"]);
        assert_eq!(delta.changes.len(), 4);
    }

    #[test]
    fn the_embedded_epmd_takes_the_place_of_another_one_only_when_the_guard_starts() {
        let at = |port| format!("epmd.backend = \"127.0.0.1:{port}\"");
        let told = |old: &str, new: &str| told(old, new).join("; ");
        assert_eq!(told("", &at(4369)), "[epmd] backend: embedded → 127.0.0.1:4369 (restart)");
        assert_eq!(told(&at(4369), ""), "[epmd] backend: 127.0.0.1:4369 → embedded (restart)");
        assert_eq!(told(&at(4369), &at(4370)), "[epmd] backend: 127.0.0.1:4369 → 127.0.0.1:4370");
        let moved = "dist.listen = [\"*\"]\nepmd.listen = [\"*:4370\"]";
        assert_eq!(told("", moved), "[epmd] listen: +*:4370, -*:4369");
    }

    #[test]
    fn comments_and_the_order_of_what_has_none_are_no_change() {
        let old = "[cluster]\nallow = [\"192.0.2.1\", \"h2\"]\ndeny = [\"h3\", \"192.0.2.9\"]\n[epmd]\n\
             listen = [\"192.0.2.1\", \"192.0.2.2\"]\nregister_from = [\"192.0.2.5\", \"::2\"]\n\
             self = [\"127.0.0.1\", \"::1\"]\n[dist]\nnames = [\"!b\", \"*\"]\nrange = [1, 2]\n\
             [[peer]]\nname = \"h4\"\naddresses = [\"h4\"]\n[[peer]]\nname = \"h5\"\naddresses = [\"h5\"]\n";
        let new = "# One\n[[peer]]\nname = \"h5\"\naddresses = [\"h5\"]\n# more\n[[peer]]\nname = \"h4\"\n\
             addresses = [\"h4\"]\n[cluster]\nallow = [\"H2.\",\n\"192.0.2.1\"]\ndeny = [\"192.0.2.9\", \"h3\"]\n\
             [epmd]\nlisten = [\"192.0.2.2\", \"192.0.2.1\"]\nregister_from = [\"::2\", \"192.0.2.5/32\"]\n\
             self = [\"::1\", \"127.0.0.1\"]\nbackend = \"embedded\"\n[dist]\nrange = \"1-2\"\nnames = [\"*\", \"!b\"]\n";
        assert_eq!(told(old, new), [""; 0]);
        assert_eq!(told("", "[dist]\nports = \"registered\"\n[cluster]\nallow = []"), [""; 0]);
        assert_eq!(told("epmd.self = \"none\"", "epmd.self = []"), [""; 0]);
    }

    #[test]
    fn an_address_that_becomes_a_peers_is_told_of_both() {
        let told = told("cluster.allow = [\"192.0.2.2\", \"h2\"]", H2);
        assert_eq!(told, ["[cluster] allow: -192.0.2.2, -h2", "[[peer]] h2: added, with h2, 192.0.2.2"]);
    }

    #[test]
    fn rules_of_the_command_line_are_compared_too() {
        let added = Overrides { allow: vec!["192.0.2.9".parse().unwrap()] };
        let delta = Delta::between(&defaults(&Overrides::default()).config, &defaults(&added).config);
        assert_eq!(delta.changes.len(), 1);
        assert_eq!(delta.changes[0].what, "+192.0.2.9");
        assert!(
            Delta::between(&config("cluster.allow = [\"192.0.2.9\"]"), &defaults(&added).config).is_empty()
        );
    }

    #[test]
    fn long_lists_are_told_in_part() {
        let new = "cluster.allow = [\"h1\", \"h2\", \"h3\", \"h4\", \"h5\", \"h6\", \"h6\", \"h7\"]";
        assert_eq!(told("", new), ["[cluster] allow: +h1, +h2, +h3, +h4, +h5 and 2 more"]);
    }

    #[test]
    fn a_million_rules_are_compared_in_a_moment() {
        const COUNT: u32 = 1_000_000;
        let with = |first: u32| {
            let target = |bits| {
                Target::Net(ipnet::IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from_bits(bits))))
            };
            let rule = |bits| Rule { list: List::Allow, target: target(bits), line: 1, peer: None };
            let rules = (first..first + COUNT).map(rule).collect();
            let mut config = config("");
            config.cluster.network = Arc::new(NetworkRules::new(RuleBook::new(rules)));
            config
        };
        let (old, new) = (with(1 << 24), with((1 << 24) + 10));
        let start = Instant::now();
        let delta = Delta::between(&old, &new);
        println!("{COUNT} rules against as many: {:?}", start.elapsed());
        let expected = "+1.15.66.64, +1.15.66.65, +1.15.66.66, +1.15.66.67, +1.15.66.68 and 15 more";
        assert_eq!(delta.changes[0].what, expected);
    }
}
