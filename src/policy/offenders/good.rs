//! The addresses that had a good link lately, and the names that had it.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::time::Duration;

use super::{BanRules, GOOD_FOR, Moment};

/// Names that are known as good at one address: short-lived tools have another name each time, so the one whose link
/// came up longest ago goes.
const NAMES: usize = 256;
/// A link of an address that had one so lately is no news.
const SAME: Duration = Duration::from_mins(10);

/// The good addresses, bounded. The one whose last link came up longest ago goes first.
#[derive(Debug)]
pub(super) struct GoodAddresses {
    most: usize,
    /// Another number where [`GoodAddresses::iter`] gives something new.
    pub(super) changed: u64,
    next: u64,
    known: HashMap<IpAddr, Good>,
    order: BTreeMap<(Moment, u64), IpAddr>,
}

#[derive(Debug, Default)]
struct Good {
    place: (Moment, u64),
    /// The last moment that was news.
    told: Moment,
    /// What its names hash to, the one of the last link last.
    names: Vec<u64>,
}

impl GoodAddresses {
    pub(super) fn new(rules: &BanRules) -> Self {
        let most = most(rules);
        Self { most, changed: 0, next: 0, known: HashMap::new(), order: BTreeMap::new() }
    }

    pub(super) fn follow(&mut self, rules: &BanRules) {
        self.most = most(rules);
        while self.known.len() > self.most {
            self.forget_oldest();
        }
    }

    /// A link of the address and the name came up.
    pub(super) fn commend(&mut self, ip: IpAddr, name: u64, now: Moment) {
        let good = self.renew(ip, now, now);
        if let Some(at) = good.names.iter().position(|known| *known == name) {
            good.names.remove(at);
        } else if good.names.len() >= NAMES {
            good.names.remove(0);
        }
        good.names.push(name);
    }

    /// A link came up at the address then, of a name that is not known any more.
    pub(super) fn restore(&mut self, ip: IpAddr, at: Moment, now: Moment) {
        let is_newer = self.known.get(&ip).is_none_or(|good| good.place.0 < at);
        if is_newer && now.since(at) < GOOD_FOR {
            self.renew(ip, at, now);
        }
    }

    pub(super) fn is_good(&self, ip: IpAddr, now: Moment) -> bool {
        self.of(ip, now).is_some()
    }

    pub(super) fn has_proven(&self, ip: IpAddr, name: u64, now: Moment) -> bool {
        self.of(ip, now).is_some_and(|good| good.names.contains(&name))
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Those that are good now, and the moment of each one's last link.
    pub(super) fn iter(&self, now: Moment) -> impl Iterator<Item = (IpAddr, Moment)> {
        let all = self.order.iter().map(|((at, _), ip)| (*ip, *at));
        all.filter(move |(_, at)| now.since(*at) < GOOD_FOR)
    }

    fn of(&self, ip: IpAddr, now: Moment) -> Option<&Good> {
        self.known.get(&ip).filter(|good| now.since(good.place.0) < GOOD_FOR)
    }

    /// The address, good since `at`; its names are forgotten where it was not good any more.
    fn renew(&mut self, ip: IpAddr, at: Moment, now: Moment) -> &mut Good {
        self.forget_old(now);
        if !self.known.contains_key(&ip) && self.known.len() >= self.most {
            self.forget_oldest();
        }
        self.next += 1;
        let good = self.known.entry(ip).or_default();
        if good.names.is_empty() || at.since(good.told) >= SAME {
            good.told = at;
            self.changed = self.changed.wrapping_add(1);
        }
        self.order.remove(&good.place);
        good.place = (at, self.next);
        self.order.insert(good.place, ip);
        good
    }

    fn forget_old(&mut self, now: Moment) {
        while let Some(oldest) =
            self.order.first_entry().filter(|oldest| now.since(oldest.key().0) >= GOOD_FOR)
        {
            self.known.remove(&oldest.remove());
        }
    }

    fn forget_oldest(&mut self) {
        if let Some((_, ip)) = self.order.pop_first() {
            self.known.remove(&ip);
            self.changed = self.changed.wrapping_add(1);
        }
    }
}

fn most(rules: &BanRules) -> usize {
    usize::try_from(rules.entries).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
impl GoodAddresses {
    pub(super) fn is_whole(&self) -> bool {
        let mut all = self.known.iter();
        self.order.len() == self.known.len() && all.all(|(ip, good)| self.order.get(&good.place) == Some(ip))
    }
}
