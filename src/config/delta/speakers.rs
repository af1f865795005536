//! What changes for those who speak: the names of nodes, cookies, and who is slowed down or banned.

use std::fmt::{self, Display};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::tunnels::Way;
use super::{Delta, duration, few};
use crate::config::{Ban, Cluster, CookieFiles, Peer};
use crate::policy::{BanRules, CookieOf, Cookies, Mode, NodePatterns, NodeRules, Pattern, Stance, Target};

/// What a key of a peer is when it is left out.
const AS_CLUSTER: &str = "as the cluster";

/// What is known of a peer.
pub(super) struct Known<'c> {
    pub(super) name: &'c str,
    pub(super) addresses: Vec<&'c Target>,
    reach: Option<Vec<&'c Pattern>>,
    nodes: Option<Vec<&'c Pattern>>,
    hidden: Option<Stance>,
    dynamic: Option<Stance>,
    way: Way<'c>,
}

impl<'c> Known<'c> {
    /// The peers with their addresses and what they may claim.
    pub(super) fn of(peers: &'c [Peer], cluster: &'c Cluster, nodes: &'c NodeRules) -> Vec<Self> {
        let mut all: Vec<Self> = peers
            .iter()
            .enumerate()
            .map(|(at, peer)| {
                let Peer { name, may_reach, .. } = peer;
                let own = nodes.peers.get(at);
                Known {
                    name,
                    addresses: Vec::new(),
                    reach: may_reach.0.as_ref().map(super::patterns),
                    nodes: own.and_then(|own| own.nodes.as_ref()).map(patterns),
                    hidden: own.and_then(|own| own.hidden),
                    dynamic: own.and_then(|own| own.dynamic),
                    way: Way::of(peer),
                }
            })
            .collect();
        for (_, rule) in cluster.network.book().iter() {
            if let Some(known) = rule.peer.and_then(|id| all.get_mut(usize::from(id.0))) {
                known.addresses.push(&rule.target);
            }
        }
        all
    }

    /// What it is added with.
    pub(super) fn told(&self) -> String {
        let mut told = few(&self.addresses);
        for (what, list) in [("may reach", &self.reach), ("may be", &self.nodes)] {
            if let Some(list) = list {
                told.push_str(&format!(", {what} {}", few(list)));
            }
        }
        for (what, stance) in [("hidden nodes", self.hidden), ("dynamic nodes", self.dynamic)] {
            if let Some(stance) = stance {
                told.push_str(&format!(", {what}: {}", shown(stance)));
            }
        }
        told.push_str(&self.way.told());
        told
    }
}

impl Delta {
    pub(super) fn compare_nodes(&mut self, old: (&NodeRules, Mode), new: (&NodeRules, Mode)) {
        let (NodeRules { nodes, hidden, dynamic, least_version, required, peers: _ }, mode) = old;
        let (new, new_mode) = new;
        self.list("[cluster] nodes", &nodes.as_ref().map(patterns), &new.nodes.as_ref().map(patterns), "all");
        self.value("[cluster] hidden_nodes", hidden, &new.hidden, |stance| shown(*stance).to_owned());
        self.value("[cluster] dynamic_nodes", dynamic, &new.dynamic, |stance| shown(*stance).to_owned());
        self.value("[cluster] min_handshake", least_version, &new.least_version, |version| {
            version.number().to_string()
        });
        self.value("[cluster] require_flags", required, &new.required, |flags| match flags.to_string() {
            none if none.is_empty() => "none".to_owned(),
            some => some,
        });
        self.value("[cluster] mode", &mode, &new_mode, Mode::to_string);
    }

    pub(super) fn compare_peer(&mut self, old: &Known<'_>, new: &Known<'_>) {
        let Known { name, addresses, reach, nodes, hidden, dynamic, way } = new;
        let key = |key| format!("[[peer]] {name} {key}");
        self.set(&key("addresses"), &old.addresses, addresses);
        self.list(&key("may_reach"), &old.reach, reach, "all");
        self.list(&key("nodes"), &old.nodes, nodes, AS_CLUSTER);
        let own = |stance: &Option<Stance>| stance.map_or(AS_CLUSTER, shown).to_owned();
        self.value(&key("hidden_nodes"), &old.hidden, hidden, own);
        self.value(&key("dynamic_nodes"), &old.dynamic, dynamic, own);
        self.compare_way(name, &old.way, way);
    }

    /// Compares lists that may be left out, which is called `absent`.
    fn list(&mut self, key: &str, old: &Option<Vec<&Pattern>>, new: &Option<Vec<&Pattern>>, absent: &str) {
        match (old, new) {
            (Some(before), Some(after)) => self.set(key, before, after),
            (None, _) | (_, None) => {
                self.value(key, old, new, |list| list.as_ref().map_or(absent.to_owned(), |list| few(list)))
            }
        }
    }

    /// A cookie that has changed is told as that; nothing of it is.
    pub(super) fn compare_cookies(&mut self, old: (&CookieFiles, &Cookies), new: (&CookieFiles, &Cookies)) {
        let (CookieFiles { default, each }, cookies) = old;
        let (files, new) = new;
        self.value("[dist] cookie_file", default, &files.default, |path| {
            path.as_deref().map_or("none".to_owned(), path_shown)
        });
        if default == &files.default && cookies.default != new.default {
            self.push("[dist] cookie_file", CHANGED.to_owned());
        }
        let (before, after) = (tables(each, &cookies.each), tables(&files.each, &new.each));
        if before != after {
            let told = self.changes.len();
            self.set("[[cookie]]", &before, &after);
            if self.changes.len() == told {
                self.push("[[cookie]]", "in another order, or one of them more than once".to_owned());
            }
            return;
        }
        for ((table, old), new) in after.iter().zip(&cookies.each).zip(&new.each) {
            if old.cookie != new.cookie {
                self.push(format!("[[cookie]] {}", path_shown(table.file)), CHANGED.to_owned());
            }
        }
    }

    pub(super) fn compare_ban(&mut self, old: &Ban, new: &Ban) {
        let Ban { rules, file } = old;
        let BanRules {
            slow_after,
            slow_first,
            slow_most,
            after,
            within,
            first,
            most,
            names,
            names_within,
            entries,
        } = rules;
        let now = &new.rules;
        let count = |delta: &mut Self, key: &str, old: &u32, new: &u32| {
            delta.value(&format!("[ban] {key}"), old, new, u32::to_string);
        };
        let time = |delta: &mut Self, key: &str, old: &Duration, new: &Duration| {
            delta.value(&format!("[ban] {key}"), old, new, duration);
        };
        count(self, "slow_after", slow_after, &now.slow_after);
        time(self, "slow_first", slow_first, &now.slow_first);
        time(self, "slow_most", slow_most, &now.slow_most);
        count(self, "after", after, &now.after);
        time(self, "within", within, &now.within);
        time(self, "first", first, &now.first);
        time(self, "most", most, &now.most);
        count(self, "names", names, &now.names);
        time(self, "names_within", names_within, &now.names_within);
        count(self, "entries", entries, &now.entries);
        self.value("[ban] file", file, &new.file, |path| {
            path.as_deref().map_or("none".to_owned(), path_shown)
        });
    }
}

/// All that is said of a cookie whose file holds another one.
const CHANGED: &str = "the cookie has changed";

/// A `[[cookie]]` as it is written, without its lines.
#[derive(PartialEq, Eq, Hash)]
struct Table<'c> {
    file: &'c Path,
    nodes: Option<Vec<&'c Pattern>>,
    at: Option<Vec<&'c Pattern>>,
}

impl Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&path_shown(self.file))?;
        for (what, list) in [("of", &self.nodes), ("at", &self.at)] {
            if let Some(list) = list {
                write!(f, " {what} {}", few(list))?;
            }
        }
        Ok(())
    }
}

fn tables<'c>(files: &'c [PathBuf], cookies: &'c [CookieOf]) -> Vec<Table<'c>> {
    let table = |(file, of): (&'c PathBuf, &'c CookieOf)| Table {
        file,
        nodes: of.nodes.as_ref().map(patterns),
        at: of.at.as_ref().map(super::patterns),
    };
    files.iter().zip(cookies).map(table).collect()
}

/// The patterns of a list, without the lines in which they stand.
fn patterns(nodes: &NodePatterns) -> Vec<&Pattern> {
    nodes.iter().map(|(pattern, _)| pattern).collect()
}

fn path_shown(path: &Path) -> String {
    path.display().to_string()
}

fn shown(stance: Stance) -> &'static str {
    match stance {
        Stance::Allow => "allow",
        Stance::Deny => "deny",
    }
}
