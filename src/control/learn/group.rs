//! Which addresses are one host: those of a `[[peer]]`, and those at which the same names were seen.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Lesson;
use super::fold::shape;
use crate::policy::{Denial, List, Observation, PeerId, Rule};
use crate::proto::dist::{Claim, Claimed, Flags, FullName, Version};

/// What was seen of one host.
#[derive(Debug, Default)]
pub(super) struct Group<'s> {
    /// The `[[peer]]` that it is.
    pub(super) peer: Option<PeerId>,
    /// The addresses that no `[[peer]]` has yet.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// The full names of its nodes.
    pub(super) names: BTreeSet<&'s str>,
    /// What of it had a good link.
    pub(super) seen: Vec<&'s Observation>,
}

/// Whose an observation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Peer(PeerId),
    Address(IpAddr),
}

/// The hosts, those of the configuration first.
pub(super) fn groups<'s>(lesson: &Lesson<'_>, proven: &[&'s Observation]) -> Vec<Group<'s>> {
    let owners: Vec<Owner> = proven.iter().map(|seen| owner_of(lesson, seen.ip)).collect();
    let mut same = Same::default();
    let mut by_shape: BTreeMap<String, Owner> = BTreeMap::new();
    for (seen, owner) in proven.iter().zip(&owners) {
        let Some(name) = full_name(seen) else { continue };
        if let Some(peer) = listed_by(lesson, &name) {
            same.join(*owner, Owner::Peer(peer));
        }
        let first = *by_shape.entry(shape(name.as_str())).or_insert(*owner);
        same.join(*owner, first);
    }
    let mut groups: BTreeMap<Owner, Group<'s>> = BTreeMap::new();
    for (seen, owner) in proven.iter().zip(&owners) {
        let root = same.root(*owner);
        let group = groups.entry(root).or_default();
        if let Owner::Peer(peer) = root {
            group.peer = Some(peer);
        }
        if *owner == Owner::Address(seen.ip) {
            group.addresses.insert(seen.ip);
        }
        if full_name(seen).is_some() {
            group.names.insert(&seen.claimed);
        }
        group.seen.push(seen);
    }
    groups.into_values().collect()
}

/// The same with so many new hosts at most: what there is no room for is one with the last of them.
pub(super) fn bounded(groups: Vec<Group<'_>>, most: usize) -> Vec<Group<'_>> {
    let (mut kept, fresh): (Vec<Group<'_>>, Vec<Group<'_>>) =
        groups.into_iter().partition(|group| group.peer.is_some());
    let known = kept.len();
    for group in fresh {
        let is_full = kept.len() - known >= most;
        match kept.last_mut() {
            Some(last) if is_full && last.peer.is_none() => {
                last.addresses.extend(group.addresses);
                last.names.extend(group.names);
                last.seen.extend(group.seen);
            }
            Some(_) | None => kept.push(group),
        }
    }
    kept
}

/// Which owners are one: each points to a lesser one, or is the least itself.
#[derive(Debug, Default)]
struct Same(BTreeMap<Owner, Owner>);

impl Same {
    fn root(&self, mut owner: Owner) -> Owner {
        while let Some(lesser) = self.0.get(&owner) {
            owner = *lesser;
        }
        owner
    }

    /// Two peers of the configuration stay two, whatever they claim.
    fn join(&mut self, one: Owner, other: Owner) {
        let (one, other) = (self.root(one), self.root(other));
        let (lesser, greater) = if one <= other { (one, other) } else { (other, one) };
        if lesser != greater && matches!(greater, Owner::Address(_)) {
            self.0.insert(greater, lesser);
        }
    }
}

fn owner_of(lesson: &Lesson<'_>, ip: IpAddr) -> Owner {
    rule_of(lesson, ip).and_then(|rule| rule.peer).map_or(Owner::Address(ip), Owner::Peer)
}

/// The rule that lets an address in.
pub(super) fn rule_of<'l>(lesson: &Lesson<'l>, ip: IpAddr) -> Option<&'l Rule> {
    lesson.policy.rule(lesson.policy.find(List::Allow, ip)?)
}

pub(super) fn full_name(seen: &Observation) -> Option<FullName> {
    FullName::new(seen.claimed.as_bytes()).ok().filter(|_| !is_dynamic(seen))
}

/// A node that asked for a name.
pub(super) fn is_dynamic(seen: &Observation) -> bool {
    seen.claimed.starts_with('?')
}

/// The `[[peer]]` that lists a name already: whoever else claims it is refused.
fn listed_by(lesson: &Lesson<'_>, name: &FullName) -> Option<PeerId> {
    let claimed = Claimed::Name(name.clone());
    // Whoever can do everything is refused for its name alone.
    let claim = Claim { claimed, flags: Flags(u64::MAX), version: Version::V6, creation: Some(1) };
    match lesson.config.nodes.judge(None, &claim) {
        Err(Denial::NameOfPeer(peer)) => Some(peer),
        Ok(()) | Err(_) => None,
    }
}
