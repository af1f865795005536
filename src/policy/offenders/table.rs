//! The sources that are remembered, bounded: where there is no room, what matters least is forgotten.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use ipnet::IpNet;

use super::names::Names;
use super::pace::Pace;
use super::sentence::Sentence;
use super::{Ban, BanRules, Moment, Offence};

/// What is remembered of an address or of a /64; only an address has a pace.
#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) names: Names,
    pub(super) pace: Pace,
    pub(super) sentence: Sentence,
    place: Place,
}

/// Where a record stands in the order of those that go first.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// It is not banned; since when nothing has been heard of it.
    Quiet(Moment, u64),
    /// Until when it is banned.
    Banned(Moment, u64),
}

impl Default for Place {
    fn default() -> Self {
        Self::Quiet(Moment::default(), 0)
    }
}

/// Of a table that is full, bans may have three quarters. Otherwise who holds as many bans as there is room for would
/// have no other offence remembered, so that nobody else could be banned.
fn share_of_bans(most: usize) -> usize {
    most - most / 4
}

/// The sources. Each step takes as long as a tree of them is deep, whoever fills it with what.
#[derive(Debug)]
pub(super) struct Table {
    most: usize,
    /// For so long after it was last heard of a source that was never banned means anything.
    meaningful: Duration,
    /// For so long after its ban a source does.
    remembered: Duration,
    /// Another number where [`Table::bans`] gives something else.
    pub(super) changed: u64,
    next: u64,
    records: HashMap<IpNet, Record>,
    quiet: BTreeMap<(Moment, u64), IpNet>,
    banned: BTreeMap<(Moment, u64), IpNet>,
}

impl Table {
    pub(super) fn new(rules: &BanRules) -> Self {
        let mut table = Self {
            most: 0,
            meaningful: Duration::ZERO,
            remembered: Duration::ZERO,
            changed: 0,
            next: 0,
            records: HashMap::new(),
            quiet: BTreeMap::new(),
            banned: BTreeMap::new(),
        };
        table.set_bounds(rules);
        table
    }

    fn set_bounds(&mut self, rules: &BanRules) {
        self.most = usize::try_from(rules.entries).unwrap_or(usize::MAX).max(1);
        // What was counted by parts of `within` is of one part more.
        self.meaningful = rules.within.saturating_mul(2).max(rules.names_within);
        self.remembered = rules.most;
    }

    pub(super) fn follow(&mut self, old: &BanRules, rules: &BanRules) {
        self.set_bounds(rules);
        for record in self.records.values_mut() {
            record.names.recount();
            if old.within != rules.within {
                record.sentence.recount();
            }
        }
        while self.records.len() > self.most {
            self.forget_least();
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn get(&self, net: &IpNet) -> Option<&Record> {
        self.records.get(net)
    }

    pub(super) fn get_mut(&mut self, net: &IpNet) -> Option<&mut Record> {
        self.records.get_mut(net)
    }

    /// The last ban of each source that had one; it may have ended.
    pub(super) fn bans(&self) -> impl Iterator<Item = Ban> {
        self.records.iter().filter_map(|(net, record)| record.sentence.ban(*net))
    }

    /// The record of a source that is heard of now, which may be a new one.
    pub(super) fn touch(&mut self, net: IpNet, now: Moment) -> &mut Record {
        self.settle(now);
        if !self.records.contains_key(&net) && self.records.len() >= self.most {
            self.forget_least();
        }
        self.next += 1;
        let record = self.records.entry(net).or_default();
        if let Place::Quiet(at, number) = record.place {
            self.quiet.remove(&(at, number));
            record.place = Place::Quiet(now, self.next);
            self.quiet.insert((now, self.next), net);
        }
        record
    }

    /// An offence of a source that is not banned, and of how many the last one bans it: the ban that follows.
    pub(super) fn offend(
        &mut self,
        net: IpNet,
        offence: (Offence, u32),
        rules: &BanRules,
        now: Moment,
    ) -> Option<Ban> {
        let record = self.touch(net, now);
        if !record.sentence.offend(offence, rules, now) {
            return None;
        }
        self.changed = self.changed.wrapping_add(1);
        self.put_in_place(net, now)
    }

    /// Takes in a ban of an earlier process.
    pub(super) fn restore(&mut self, ban: Ban, now: Moment) {
        self.touch(ban.net, now).sentence.restore(&ban);
        self.changed = self.changed.wrapping_add(1);
        self.put_in_place(ban.net, now);
    }

    /// Forgets the offences and the bans of a source.
    pub(super) fn acquit(&mut self, net: IpNet, now: Moment) {
        let Some(record) = self.records.get_mut(&net) else { return };
        if std::mem::take(&mut record.sentence).ban(net).is_some() {
            self.changed = self.changed.wrapping_add(1);
            self.put_in_place(net, now);
        }
    }

    /// Forgets the sources that are meant: how many of them are banned.
    pub(super) fn pardon(&mut self, is_meant: impl Fn(&IpNet) -> bool, now: Moment) -> usize {
        let meant: Vec<IpNet> = self.records.keys().filter(|net| is_meant(net)).copied().collect();
        let bans = meant.into_iter().filter_map(|net| self.forget(&net)?.sentence.ban(net));
        bans.filter(|ban| ban.until > now).count()
    }

    /// Puts a record where its ban belongs, if it is in force.
    fn put_in_place(&mut self, net: IpNet, now: Moment) -> Option<Ban> {
        let record = self.records.get_mut(&net)?;
        match record.place {
            Place::Quiet(at, number) => self.quiet.remove(&(at, number)),
            Place::Banned(until, number) => self.banned.remove(&(until, number)),
        };
        self.next += 1;
        let ban = record.sentence.ban(net).filter(|ban| ban.until > now);
        if let Some(Ban { until, .. }) = ban {
            record.place = Place::Banned(until, self.next);
            self.banned.insert((until, self.next), net);
        } else {
            record.place = Place::Quiet(now, self.next);
            self.quiet.insert((now, self.next), net);
        }
        ban
    }

    /// Moves bans that have ended among the others, and drops what means nothing any more.
    fn settle(&mut self, now: Moment) {
        while let Some((&(until, _), &net)) = self.banned.first_key_value() {
            if until > now {
                break;
            }
            self.put_in_place(net, until);
        }
        while let Some((&(heard, _), &net)) = self.quiet.first_key_value() {
            let ended =
                self.records.get(&net).and_then(|record| record.sentence.ban(net)).map(|ban| ban.until);
            let is_over = now.since(heard) > self.meaningful
                && ended.is_none_or(|ended| now.since(ended) > self.remembered);
            if !is_over {
                break;
            }
            self.forget(&net);
        }
    }

    /// Forgets who is not banned and was not heard of for longest; or, where all are banned or bans have more than
    /// their share, whose ban ends soonest.
    fn forget_least(&mut self) {
        let ban = self.banned.first_key_value().filter(|_| self.banned.len() > share_of_bans(self.most));
        let least = ban.or(self.quiet.first_key_value()).or(self.banned.first_key_value());
        if let Some((_, &net)) = least {
            self.forget(&net);
        }
    }

    fn forget(&mut self, net: &IpNet) -> Option<Record> {
        let record = self.records.remove(net)?;
        match record.place {
            Place::Quiet(at, number) => self.quiet.remove(&(at, number)),
            Place::Banned(until, number) => self.banned.remove(&(until, number)),
        };
        if record.sentence.ban(*net).is_some() {
            self.changed = self.changed.wrapping_add(1);
        }
        Some(record)
    }
}

#[cfg(test)]
impl Table {
    pub(super) fn is_whole(&self) -> bool {
        self.quiet.len() + self.banned.len() == self.records.len()
            && self.records.iter().all(|(net, record)| match record.place {
                Place::Quiet(at, number) => self.quiet.get(&(at, number)) == Some(net),
                Place::Banned(until, number) => self.banned.get(&(until, number)) == Some(net),
            })
    }
}
