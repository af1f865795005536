//! Which nodes have spoken from where: what the smallest rules must let in.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use super::denial::Denial;
use super::offenders::Moment;
use crate::proto::dist::{Claim, Flags, Version};

/// How many nodes are remembered: each name at each address is one.
const MOST: usize = 4096;

/// How a handshake that was seen ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The link came up: the node knows the cookie.
    Up,
    /// It did not.
    Failed,
}

/// One node at one address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// From where.
    pub ip: IpAddr,
    /// The name, or `?@host` of a node that asked for one.
    pub claimed: String,
    /// All flags that were ever missing are missing here; what was never told counts as there.
    pub flags: Flags,
    /// The least version that it spoke.
    pub version: Version,
    /// What `enforce` refuses, or would.
    pub denial: Option<Denial>,
    /// How many links came up.
    pub up: u64,
    /// How many did not.
    pub failed: u64,
    /// When it spoke last.
    pub last: Moment,
}

/// What was seen. Its size is bounded: where there is no room, those without a good link go first, and of them
/// the one that was not seen for the longest time.
#[derive(Debug, Default)]
pub struct Observations {
    seen: HashMap<Place, Entry>,
    /// The same by what goes first.
    order: BTreeMap<Worth, Place>,
    /// Counts what was noted, and tells which of two was seen later.
    turns: u64,
    since: Option<Moment>,
    forgotten: u64,
}

/// An address, and what was claimed there.
type Place = (IpAddr, String);

#[derive(Debug)]
struct Entry {
    observation: Observation,
    worth: Worth,
}

/// What a node is worth remembering for; the least goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Worth {
    link: Link,
    turn: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Link {
    Never,
    CameUp,
}

impl Observations {
    /// Takes in how a handshake ended, and what `enforce` refuses of it, or would.
    pub fn note(&mut self, ip: IpAddr, claim: &Claim, (how, denial): (Seen, Option<Denial>), now: Moment) {
        self.since.get_or_insert(now);
        self.turns = self.turns.saturating_add(1);
        let place = (ip.to_canonical(), claim.claimed.to_string());
        let turn = self.turns;
        let entry = self.seen.entry(place.clone()).or_insert_with(|| Entry {
            observation: Observation {
                ip: place.0,
                claimed: place.1.clone(),
                flags: known_flags(claim),
                version: claim.version,
                denial,
                up: 0,
                failed: 0,
                last: now,
            },
            worth: Worth { link: Link::Never, turn },
        });
        self.order.remove(&entry.worth);
        entry.observation.add(claim, denial, (how, now));
        let link = if entry.observation.up > 0 { Link::CameUp } else { Link::Never };
        entry.worth = Worth { link, turn };
        self.order.insert(entry.worth, place);
        self.forget_least();
    }

    /// The one that was just noted may be the one that is worth least.
    fn forget_least(&mut self) {
        if self.seen.len() > MOST
            && let Some((_, least)) = self.order.pop_first()
        {
            self.seen.remove(&least);
            self.forgotten = self.forgotten.saturating_add(1);
        }
    }

    /// All of them, by address and name.
    #[must_use]
    pub fn all(&self) -> Vec<Observation> {
        let mut all: Vec<Observation> = self.seen.values().map(|entry| entry.observation.clone()).collect();
        all.sort_unstable_by(|one, other| (one.ip, &one.claimed).cmp(&(other.ip, &other.claimed)));
        all
    }

    /// How many handshakes were noted.
    #[must_use]
    pub fn handshakes(&self) -> u64 {
        self.turns
    }

    /// When the first one was; `None`: there was none.
    #[must_use]
    pub fn since(&self) -> Option<Moment> {
        self.since
    }

    /// How many nodes had to go since there was no room.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

impl Observation {
    fn add(&mut self, claim: &Claim, denial: Option<Denial>, (how, now): (Seen, Moment)) {
        self.flags = Flags(self.flags.0 & known_flags(claim).0);
        self.version = self.version.min(claim.version);
        self.denial = denial;
        match how {
            Seen::Up => self.up = self.up.saturating_add(1),
            Seen::Failed => self.failed = self.failed.saturating_add(1),
        }
        self.last = now;
    }

    /// Whether the node knows the cookie: a link of it came up.
    #[must_use]
    pub fn is_proven(&self) -> bool {
        self.up > 0
    }
}

/// Of a version 5 claim the upper half comes with its complement; until then nothing says that it lacks any of it.
fn known_flags(claim: &Claim) -> Flags {
    let is_whole = claim.version == Version::V6 || claim.creation.is_some();
    if is_whole { claim.flags } else { claim.flags.with_high(u32::MAX) }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;
    use crate::proto::dist::{Claimed, FullName, HostPart};

    const USUAL: Flags = Flags(0xd_07df_7fbd);

    fn claim(name: &str) -> Claim {
        let claimed = match name.strip_prefix("?@") {
            Some(host) => Claimed::Dynamic(HostPart::new(host.as_bytes()).unwrap()),
            None => Claimed::Name(FullName::new(name.as_bytes()).unwrap()),
        };
        Claim { claimed, flags: USUAL, version: Version::V6, creation: Some(1) }
    }

    fn ip(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    #[test]
    fn a_node_at_an_address_is_one_with_its_least_abilities() {
        let mut seen = Observations::default();
        assert_eq!((seen.since(), seen.handshakes()), (None, 0));
        let mapped = "::ffff:192.0.2.2".parse().unwrap();
        seen.note(mapped, &claim("a@h2"), (Seen::Failed, Some(Denial::NodeName)), Moment(5));
        let hidden = Claim { flags: Flags(USUAL.0 & !1), ..claim("a@h2") };
        seen.note("192.0.2.2".parse().unwrap(), &hidden, (Seen::Up, None), Moment(7));
        // A claim whose upper half has not come lacks nothing of it.
        let half = Claim { version: Version::V5, creation: None, flags: Flags(0x7df_7fbd), ..claim("a@h2") };
        seen.note(mapped, &half, (Seen::Up, None), Moment(9));
        seen.note(mapped, &claim("?@h2"), (Seen::Up, None), Moment(9));
        let [dynamic, a] = seen.all().try_into().unwrap();
        assert_eq!(dynamic.claimed, "?@h2");
        assert!(a.flags.is_hidden() && a.flags.has(Flags(USUAL.0 & !1 & !0xffff_ffff)), "{a:?}");
        let found = (a.ip.to_string(), a.version, a.denial, a.up, a.failed, a.last);
        assert_eq!(found, ("192.0.2.2".into(), Version::V5, None, 2, 1, Moment(9)));
        assert!(a.is_proven());
        assert_eq!((seen.since(), seen.handshakes(), seen.forgotten()), (Some(Moment(5)), 4, 0));
    }

    #[test]
    fn a_flood_of_names_drives_out_no_node_that_had_a_link() {
        let mut seen = Observations::default();
        for good in 0..100 {
            seen.note(ip(good), &claim("good@h"), (Seen::Up, None), Moment(1));
        }
        seen.note(ip(7), &claim("early@h"), (Seen::Failed, None), Moment(2));
        for bad in 0..10_000u64 {
            seen.note(ip(7), &claim(&format!("bad{bad}@h")), (Seen::Failed, None), Moment(3 + bad));
        }
        let all = seen.all();
        assert_eq!(all.len(), MOST);
        assert_eq!(all.iter().filter(|one| one.is_proven()).count(), 100);
        assert!(all.iter().all(|one| one.claimed != "early@h" && one.claimed != "bad0@h"));
        assert!(all.iter().any(|one| one.claimed == "bad9999@h"));
        assert_eq!(seen.forgotten(), 100 + 1 + 10_000 - 4096);
        // Where all are good, a stranger finds no room, and the good one that was not seen for longest gives way.
        for good in 0..5000 {
            seen.note(ip(good), &claim("good@h"), (Seen::Up, None), Moment(20_000));
        }
        seen.note(ip(9), &claim("bad@h"), (Seen::Failed, None), Moment(30_000));
        let all = seen.all();
        assert!(all.iter().all(Observation::is_proven) && all.len() == MOST);
        assert!(all.iter().all(|one| one.ip >= ip(5000 - 4096)), "{:?}", all.first());
    }

    proptest! {
        #[test]
        fn the_order_and_the_table_never_part(
            noted in proptest::collection::vec((0u32..5, 0usize..4, any::<bool>(), 0u64..50), 0..200)
        ) {
            let mut seen = Observations::default();
            for (at, name, up, now) in noted {
                let how = if up { Seen::Up } else { Seen::Failed };
                let name = ["a@h", "b@h", "c@h", "?@h"][name];
                seen.note(ip(at), &claim(name), (how, None), Moment(now));
                prop_assert_eq!(seen.order.len(), seen.seen.len());
                for (worth, place) in &seen.order {
                    prop_assert_eq!(seen.seen[place].worth, *worth);
                    let proven = seen.seen[place].observation.is_proven();
                    prop_assert_eq!(worth.link == Link::CameUp, proven);
                }
            }
        }
    }
}
