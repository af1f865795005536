//! A `[[peer]]` as TOML.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use super::Lesson;
use super::fold::patterns;
use super::group::{Group, is_dynamic};
use crate::config::Peer;
use crate::policy::{NameVerdict, NodePatterns, Pattern, PeerId, PeerNodes, Stance};

/// So many `[[peer]]`s may a configuration have.
const MOST_PEERS: usize = 1000;
/// The longest name of a peer.
const LONGEST_NAME: usize = 63;

/// The tables, and what must not be the same in two of them.
#[derive(Debug)]
pub(super) struct Tables<'l> {
    lesson: &'l Lesson<'l>,
    /// The names of peers.
    names: HashSet<String>,
    /// The full names of nodes that a peer lists, and which one does: a second one would be an error.
    owned: HashMap<String, String>,
    told: HashSet<PeerId>,
    /// How many more peers there may be.
    left: usize,
}

/// What a table says of nodes.
#[derive(Debug, Default)]
struct Nodes {
    all: Vec<String>,
    added: Vec<String>,
    /// What is another peer's: a line for each.
    left_out: Vec<String>,
}

impl<'l> Tables<'l> {
    pub(super) fn new(lesson: &'l Lesson<'l>) -> Self {
        let peers = &lesson.config.peers;
        Self {
            lesson,
            names: peers.iter().map(|peer| peer.name.clone()).collect(),
            owned: owned(lesson),
            told: HashSet::new(),
            left: MOST_PEERS.saturating_sub(peers.len()),
        }
    }

    /// For how many more peers there is room.
    pub(super) fn room(&self) -> usize {
        self.left
    }

    /// The table of a host, and what is new in it.
    pub(super) fn peer(&mut self, group: &Group<'_>) -> String {
        if let Some((id, peer)) = group.peer.and_then(|id| Some((id, self.configured(id)?))) {
            self.told.insert(id);
            return self.changed(id, peer, group);
        }
        let addresses: Vec<String> = group.addresses.iter().map(ToString::to_string).collect();
        if self.left == 0 {
            let names: Vec<&str> = group.names.iter().copied().collect();
            return format!(
                "# No room for another [[peer]]: {} from {}: add them to one of the others.",
                names.join(", "),
                addresses.join(", ")
            );
        }
        self.left -= 1;
        let name = self.name_of(group);
        let nodes = self.nodes(&name, None, group);
        let mut lines = vec![counted(group)];
        lines.extend(nodes.left_out);
        lines.extend(["[[peer]]".to_owned(), format!("name = {}", quoted(&name))]);
        lines.push(list("addresses", &addresses));
        if !nodes.all.is_empty() {
            lines.push(list("nodes", &nodes.all));
        }
        lines.extend(stances(group, &PeerNodes::default()));
        lines.join("\n")
    }

    /// A table in the place of the one that the configuration has.
    fn changed(&mut self, id: PeerId, peer: &Peer, group: &Group<'_>) -> String {
        let of_nodes = PeerNodes::default();
        let of_nodes = self.lesson.config.nodes.peers.get(usize::from(id.0)).unwrap_or(&of_nodes);
        let nodes = self.nodes(&peer.name, of_nodes.nodes.as_ref(), group);
        let book = self.lesson.policy.network().book();
        let mut addresses: Vec<String> = book.of_peer(id).map(|(_, rule)| rule.target.to_string()).collect();
        let fresh: Vec<String> = group.addresses.iter().map(ToString::to_string).collect();
        addresses.extend(fresh.iter().cloned());
        let mut lines =
            vec![counted(group), format!("# In the place of [[peer]] {} (line {}).", peer.name, peer.line)];
        if !fresh.is_empty() {
            lines.push(format!("# New addresses, where the same names were seen: {}.", fresh.join(", ")));
        }
        if !nodes.added.is_empty() {
            lines.push(format!("# add to [[peer]] {}: nodes = [{}]", peer.name, quoted_list(&nodes.added)));
        }
        lines.extend(nodes.left_out);
        lines.push("[[peer]]".to_owned());
        lines.push(format!("name = {}", quoted(&peer.name)));
        lines.push(list("addresses", &addresses));
        if let Some(reach) = &peer.may_reach.0 {
            let patterns: Vec<String> = reach.iter().map(|(pattern, _)| pattern.to_string()).collect();
            lines.push(list("may_reach", &patterns));
        }
        if of_nodes.nodes.is_some() || !nodes.all.is_empty() {
            lines.push(list("nodes", &nodes.all));
        }
        lines.extend(stances(group, of_nodes));
        lines.join("\n")
    }

    /// The peers of the configuration of which nothing was seen.
    pub(super) fn others(&self) -> Option<String> {
        let peers = (0..).map(PeerId).zip(&self.lesson.config.peers);
        let is_told = |id: &PeerId| self.told.contains(id);
        let has_nodes = |id: &PeerId| {
            self.lesson.config.nodes.peers.get(usize::from(id.0)).is_some_and(|of| of.nodes.is_some())
        };
        let line = |(id, peer): (PeerId, &Peer)| {
            let but =
                if has_nodes(&id) { "" } else { ", and has no nodes of its own: it may claim none then" };
            format!("#   {} (line {}){but}", peer.name, peer.line)
        };
        let unseen: Vec<String> = peers.filter(|(id, _)| !is_told(id)).map(line).collect();
        super::told("# No link of these came up; each [[peer]] stays as it is:", unseen)
    }

    fn configured(&self, id: PeerId) -> Option<&'l Peer> {
        self.lesson.config.peers.get(usize::from(id.0))
    }

    /// Of the host part of its nodes' names, or of its address.
    fn name_of(&mut self, group: &Group<'_>) -> String {
        let hosts = group.seen.iter().filter_map(|seen| seen.claimed.split('@').nth(1));
        let address = group.addresses.first().map(ToString::to_string).unwrap_or_default();
        let text = hosts.min().unwrap_or(&address);
        let is_plain = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
        let plain = text.chars().map(|char| if is_plain(char) { char } else { '-' });
        // Room for a number behind it.
        let base: String = plain.take(LONGEST_NAME - 6).collect();
        let mut name = base.clone();
        for number in 2.. {
            if self.names.insert(name.clone()) {
                break;
            }
            name = format!("{base}-{number}");
        }
        name
    }

    /// The patterns that are written and those that are missing. One that excludes what was seen goes.
    fn nodes(&mut self, peer: &str, written: Option<&NodePatterns>, group: &Group<'_>) -> Nodes {
        let mut kept: Vec<(Pattern, u32)> = written
            .map(|nodes| nodes.iter().map(|(pattern, line)| (pattern.clone(), line)).collect())
            .unwrap_or_default();
        let mut now = NodePatterns::new(kept.iter().cloned());
        let mut missing = Vec::new();
        for name in &group.names {
            while let NameVerdict::Excluded(by, line) = now.judge(name.as_bytes()) {
                kept.retain(|(pattern, at)| (pattern, *at) != (by, line));
                now = NodePatterns::new(kept.iter().cloned());
            }
            if !now.covers(name.as_bytes()) {
                missing.push(*name);
            }
        }
        let (mut added, mut left_out) = (Vec::new(), Vec::new());
        for pattern in patterns(missing) {
            match self.owned.entry(pattern.clone()) {
                Entry::Occupied(owner) if owner.get() != peer && is_literal(&pattern) => {
                    let owner = owner.get();
                    left_out
                        .push(format!("# {pattern} is a node of {owner} too and left to that: who is it?"));
                }
                Entry::Occupied(_) => added.push(pattern),
                Entry::Vacant(place) => {
                    place.insert(peer.to_owned());
                    added.push(pattern);
                }
            }
        }
        let all = kept.iter().map(|(pattern, _)| pattern.to_string()).chain(added.iter().cloned()).collect();
        Nodes { all, added, left_out }
    }
}

/// What the peers of the configuration list.
fn owned(lesson: &Lesson<'_>) -> HashMap<String, String> {
    let mut owned = HashMap::new();
    for (peer, of) in lesson.config.peers.iter().zip(lesson.config.nodes.peers.iter()) {
        let patterns = of.nodes.iter().flat_map(NodePatterns::iter).map(|(pattern, _)| pattern.to_string());
        owned.extend(patterns.map(|pattern| (pattern, peer.name.clone())));
    }
    owned
}

/// Whether a pattern is one name.
fn is_literal(pattern: &str) -> bool {
    !pattern.contains(['*', '?'])
}

/// What the host needs besides names; what is written so stays.
fn stances(group: &Group<'_>, written: &PeerNodes) -> Vec<String> {
    let is_hidden = group.seen.iter().any(|seen| seen.flags.is_hidden());
    let is_dynamic = group.seen.iter().any(|seen| is_dynamic(seen));
    let stance = |needed, written: Option<Stance>| if needed { Some(Stance::Allow) } else { written };
    let line = |(key, stance): (&str, Option<Stance>)| {
        let word = match stance? {
            Stance::Allow => "allow",
            Stance::Deny => "deny",
        };
        Some(format!("{key} = \"{word}\""))
    };
    let keys = [
        ("hidden_nodes", stance(is_hidden, written.hidden)),
        ("dynamic_nodes", stance(is_dynamic, written.dynamic)),
    ];
    keys.into_iter().filter_map(line).collect()
}

fn counted(group: &Group<'_>) -> String {
    let links: u64 = group.seen.iter().map(|seen| seen.up).sum();
    let times = if links == 1 { "One link".to_owned() } else { format!("{links} links") };
    format!("# {times} came up.")
}

fn list(key: &str, values: &[String]) -> String {
    format!("{key} = [{}]", quoted_list(values))
}

fn quoted_list(values: &[String]) -> String {
    values.iter().map(|value| quoted(value)).collect::<Vec<_>>().join(", ")
}

/// A basic string of TOML. Names of nodes and peers are plain; this is for what is not.
pub(super) fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .map(|char| match char {
            '"' => "\\\"".to_owned(),
            '\\' => "\\\\".to_owned(),
            plain if !plain.is_control() => plain.to_string(),
            control => format!("\\u{:04X}", u32::from(control)),
        })
        .collect();
    format!("\"{escaped}\"")
}
