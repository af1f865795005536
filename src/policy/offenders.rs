//! Who has spoken wrongly lately: slowed down, or banned.
//!
//! Owns what is remembered of those who speak, and what follows from it for their next try. Three things follow,
//! by three measures:
//!
//! - **Wrong proofs of one address and name** make its next try wait, longer each time. Everybody but this host
//!   itself is slowed; nobody who waits is turned away, but for those who would wait longer than the longest wait.
//! - **Names without a good link** are counted by address and by /64, since a node makes an atom of each for ever.
//! - **Offences of any kind** ban an address, or its /64, for a time that grows. A peer that a rule names is never
//!   banned, nor an address that had a good link within a day: a stale tool must not lock a real node out.
//!
//! All of it is bounded. A source (an address or a /64) takes some hundred bytes, and 16 more for each name that is
//! counted: 4 KiB in all for a /64 that has claimed as many as it may by default. If all 16,384 sources were such
//! ones, that would be 64 MiB, for which four million names would have to be claimed within an hour. Names themselves
//! are not kept, only what they hash to with a seed that no peer knows. The good addresses have a table of their own,
//! which only who knows the cookie can fill: 2 KiB each at most.

mod good;
mod names;
mod pace;
mod sentence;
mod table;
#[cfg(test)]
mod tests;

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::time::Duration;

use ipnet::{IpNet, Ipv6Net};

use self::good::GoodAddresses;
use self::names::Budget;
use self::table::Table;
use super::decide::Standing;
use super::network::PeerId;
use super::prefix::canonical;

/// Milliseconds since 1970, by a clock that never goes back while the process lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub u64);

impl Moment {
    /// So much later.
    #[must_use]
    pub fn after(self, wait: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long it is from `earlier` to this; zero where it is before.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

/// `[ban]`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BanRules {
    /// `slow_after`: wrong proofs of one address and name that cost nothing.
    pub slow_after: u32,
    /// `slow_first`: the wait that the next one costs; each further one doubles it.
    pub slow_first: Duration,
    /// `slow_most`: the longest wait.
    pub slow_most: Duration,
    /// `after`: offences of one address `within` which it is banned; 0: nobody is banned.
    pub after: u32,
    /// `within`
    pub within: Duration,
    /// `first`: how long the first ban lasts; each further one lasts four times as long.
    pub first: Duration,
    /// `most`: how long a ban lasts at most, and how long it is remembered.
    pub most: Duration,
    /// `names`: names without a good link that one source may claim `names_within`.
    pub names: u32,
    /// `names_within`
    pub names_within: Duration,
    /// `entries`: how many sources are remembered.
    pub entries: u32,
}

impl Default for BanRules {
    fn default() -> Self {
        Self {
            slow_after: 3,
            slow_first: Duration::from_millis(500),
            slow_most: Duration::from_secs(5),
            after: 10,
            within: Duration::from_mins(10),
            first: Duration::from_mins(1),
            most: Duration::from_hours(24),
            names: 64,
            names_within: Duration::from_hours(1),
            entries: 16_384,
        }
    }
}

/// A connection whose node has spoken, as far as offences are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Source {
    /// Its address.
    pub ip: IpAddr,
    /// What it is to us: this host itself is no offender, and a peer that a rule names is never banned.
    pub standing: Standing,
    /// Whether it is of a `[[peer]]`, which is never banned either, also where its addresses are a network.
    pub is_peer: IsPeer,
}

/// Whether a connection is of a `[[peer]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IsPeer {
    /// It is.
    Yes,
    /// It is let in by `allow` alone.
    No,
}

impl From<Option<PeerId>> for IsPeer {
    fn from(peer: Option<PeerId>) -> Self {
        if peer.is_some() { Self::Yes } else { Self::No }
    }
}

/// What it has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offence {
    /// A proof of another cookie than the node's.
    WrongCookie,
    /// A proof that the node answered by closing, on a handshake that might have ended so for another reason too.
    /// It slows down, and is a quarter of an offence that bans: the node closes so on whoever claims a name that it has
    /// a link of, so that a guesser with enough addresses would never be kept out otherwise.
    Unsettled,
    /// A step of the handshake that never came: a quarter of an offence that bans, since a node may hang. It does not
    /// slow down.
    Stalled,
    /// Bytes that are no handshake.
    Malformed,
    /// More names than a source may claim.
    TooManyNames,
}

impl Offence {
    const ALL: [Self; 5] =
        [Self::WrongCookie, Self::Unsettled, Self::Stalled, Self::Malformed, Self::TooManyNames];

    /// The word for it, as it stands in logs and in the list of bans.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::WrongCookie => "wrong_cookie",
            Self::Unsettled => "closed_after_proof",
            Self::Stalled => "handshake_timeout",
            Self::Malformed => "no_handshake",
            Self::TooManyNames => "too_many_claimed_names",
        }
    }

    /// The one that is called so.
    #[must_use]
    pub fn from_label(label: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|offence| offence.label() == label)
    }
}

/// Why a claim goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// Too many wrong proofs of this address and name, and as many waiting as may.
    Slowed,
    /// The source has claimed too many names.
    TooManyNames,
    /// Others of its /64 have, which is no offence of its own.
    TooManyNamesOfSubnet,
}

/// What an offence led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// Nothing yet.
    None,
    /// The next try of this address and name waits so long.
    Slowed(Duration),
    /// Nothing of the source is taken for so long; it is its ban of this number.
    Banned(Duration, u32),
}

/// A ban that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ban {
    /// Of this network: one address, or a /64.
    pub net: ipnet::IpNet,
    /// Since when.
    pub since: Moment,
    /// Until when.
    pub until: Moment,
    /// How many it has had.
    pub times: u32,
    /// What led to it.
    pub offence: Offence,
}

/// What outlives the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Record {
    /// A ban, in force or remembered because the next one of the same source is to last longer.
    Ban(Ban),
    /// An address that has a good link, and when it last came up.
    Good {
        /// The address.
        ip: IpAddr,
        /// The moment.
        at: Moment,
    },
}

/// How long an address is good for after a link came up.
pub const GOOD_FOR: Duration = Duration::from_hours(24);
/// How many times the offences and the names of one address a /64 may have, since one host commonly has all of it.
const OF_SUBNET: u32 = 4;

/// Who has spoken wrongly lately, and who well. Its size is bounded.
#[derive(Debug)]
pub struct Offenders {
    rules: BanRules,
    /// Nobody who chooses names can know which of them hash to the same.
    seed: u64,
    table: Table,
    good: GoodAddresses,
}

impl Offenders {
    /// Nobody yet. The seed should be one that no peer can know.
    #[must_use]
    pub fn new(rules: BanRules, seed: u64) -> Self {
        Self { rules, seed, table: Table::new(&rules), good: GoodAddresses::new(&rules) }
    }

    /// Other rules from now on; bans that are in force stay. Where `within` changes, offences are counted anew.
    pub fn set_rules(&mut self, rules: BanRules) {
        if rules != self.rules {
            self.table.follow(&self.rules, &rules);
            self.good.follow(&rules);
            self.rules = rules;
        }
    }

    /// The ban that keeps a source out now, if one does.
    #[must_use]
    pub fn ban_of(&self, source: &Source, now: Moment) -> Option<Ban> {
        if self.is_exempt(source, now) {
            return None;
        }
        let ip = source.ip.to_canonical();
        let of = |net: IpNet| self.table.get(&net)?.sentence.ban(net).filter(|ban| ban.until > now);
        of(IpNet::from(ip)).or_else(|| of(subnet(ip)?))
    }

    /// A claim that is about to go to a node: how long it has to wait before. Its turn is taken by that: the next one
    /// of the same address and name comes after it.
    ///
    /// Only wrong proofs that have been told by [`Offenders::offend`] slow down, so that as many tries as may shake
    /// hands at one time pass before the first of them is known to be wrong.
    ///
    /// # Errors
    /// It goes no further. [`Held::TooManyNames`] is an offence besides.
    pub fn claim(&mut self, source: &Source, name: &str, now: Moment) -> Result<Duration, Held> {
        if source.standing == Standing::Itself {
            return Ok(Duration::ZERO);
        }
        let (ip, name) = (source.ip.to_canonical(), self.key(name));
        let address = IpNet::from(ip);
        if let Some(record) = self.table.get(&address) {
            record.pace.wait(name, &self.rules, now)?;
        }
        if !self.good.has_proven(ip, name, now) {
            self.count_name(source, name, now)?;
        }
        let record = self.table.get_mut(&address);
        Ok(record.map_or(Duration::ZERO, |record| record.pace.take_turn(name, &self.rules, now)))
    }

    /// A link came up: the address and the name are good for a day.
    pub fn commend(&mut self, source: &Source, name: &str, now: Moment) {
        if source.standing == Standing::Itself {
            return;
        }
        let (ip, name) = (source.ip.to_canonical(), self.key(name));
        self.good.commend(ip, name, now);
        if let Some(record) = self.table.get_mut(&IpNet::from(ip)) {
            record.names.forget(name);
            record.pace.forget(name);
        }
        self.table.acquit(IpNet::from(ip), now);
        if let Some(record) = subnet(ip).and_then(|net| self.table.get_mut(&net)) {
            record.names.forget(name);
        }
    }

    /// A link of the address lives: the address is good for a day from now. What slows a name down stays, since nobody
    /// has proved anything again.
    pub fn keep_good(&mut self, source: &Source, now: Moment) {
        if source.standing == Standing::Itself {
            return;
        }
        let ip = source.ip.to_canonical();
        self.good.restore(ip, now, now);
        self.table.acquit(IpNet::from(ip), now);
    }

    /// An offence. What is done while banned, by connections that were there before, does not count, and nor does
    /// what is done by who cannot be banned count for its /64.
    pub fn offend(&mut self, source: &Source, name: &str, what: Offence, now: Moment) -> Consequence {
        if source.standing == Standing::Itself || self.ban_of(source, now).is_some() {
            return Consequence::None;
        }
        let (ip, name) = (source.ip.to_canonical(), self.key(name));
        let address = IpNet::from(ip);
        let wait = match what {
            Offence::WrongCookie | Offence::Unsettled => {
                self.table.touch(address, now).pace.slow_down(name, &self.rules, now)
            }
            Offence::Stalled | Offence::Malformed | Offence::TooManyNames => Duration::ZERO,
        };
        if !self.is_exempt(source, now) {
            let after = self.rules.after;
            let of_subnet = subnet(ip).and_then(|net| {
                self.table.offend(net, (what, after.saturating_mul(OF_SUBNET)), &self.rules, now)
            });
            let of_address = self.table.offend(address, (what, after), &self.rules, now);
            if let Some(ban) = of_subnet.into_iter().chain(of_address).max_by_key(|ban| ban.until) {
                return Consequence::Banned(ban.until.since(now), ban.times);
            }
        }
        if wait.is_zero() { Consequence::None } else { Consequence::Slowed(wait) }
    }

    /// The bans in force, the one that ends last first.
    #[must_use]
    pub fn bans(&self, now: Moment) -> Vec<Ban> {
        let mut bans: Vec<Ban> = self.table.bans().filter(|ban| ban.until > now).collect();
        bans.sort_unstable_by_key(|ban| (std::cmp::Reverse(ban.until), ban.net));
        bans
    }

    /// Lifts the bans of an address or of a network, also the one of the /64 that it is in, and forgets what led to
    /// them and what slows it down. How many there were.
    pub fn pardon(&mut self, net: IpNet, now: Moment) -> usize {
        let net = canonical(net).trunc();
        self.table.pardon(|known| net.contains(known) || known.contains(&net), now)
    }

    /// The same for everybody.
    pub fn pardon_all(&mut self, now: Moment) -> usize {
        self.table.pardon(|_| true, now)
    }

    /// How many sources are remembered: addresses and /64s that have offended or claimed names, lately or, where they
    /// were banned, within the longest ban. `entries` at most.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// Whether the address had a good link within a day.
    #[must_use]
    pub fn is_good(&self, ip: IpAddr, now: Moment) -> bool {
        self.good.is_good(ip.to_canonical(), now)
    }

    /// How many addresses are remembered as good; `entries` at most.
    #[must_use]
    pub fn good(&self) -> usize {
        self.good.len()
    }

    /// Another number than before where [`Offenders::records`] has changed by more than time.
    #[must_use]
    pub fn changed(&self) -> u64 {
        self.table.changed.wrapping_add(self.good.changed)
    }

    /// What is to outlive the process, in no order.
    #[must_use]
    pub fn records(&self, now: Moment) -> Vec<Record> {
        let bans = self.table.bans().filter(|ban| self.is_remembered(ban, now)).map(Record::Ban);
        bans.chain(self.good.iter(now).map(|(ip, at)| Record::Good { ip, at })).collect()
    }

    /// Takes in what an earlier process left. What is of the future, since the clock was set back, is of now: a ban
    /// then lasts as long as it was to last, and none lasts longer than the rules have it.
    pub fn restore(&mut self, records: impl IntoIterator<Item = Record>, now: Moment) {
        for record in records {
            match record {
                Record::Good { ip, at } => {
                    let ip = ip.to_canonical();
                    self.good.restore(ip, at.min(now), now);
                    if self.good.is_good(ip, now) {
                        self.table.acquit(IpNet::from(ip), now);
                    }
                }
                Record::Ban(ban) => self.restore_ban(ban, now),
            }
        }
    }

    fn restore_ban(&mut self, mut ban: Ban, now: Moment) {
        ban.net = canonical(ban.net).trunc();
        if ban.since > now {
            ban.until = now.after(ban.until.since(ban.since));
            ban.since = now;
        }
        ban.until = ban.until.min(now.after(self.rules.most));
        let whole = if ban.net.addr().is_ipv6() { [64, 128] } else { [32, 32] };
        let is_ours = whole.contains(&ban.net.prefix_len()) && ban.times > 0;
        let is_good = ban.net.prefix_len() != 64 && self.good.is_good(ban.net.addr(), now);
        if is_ours && !is_good && self.rules.after > 0 && self.is_remembered(&ban, now) {
            self.table.restore(ban, now);
        }
    }

    fn is_remembered(&self, ban: &Ban, now: Moment) -> bool {
        now.since(ban.until) <= self.rules.most
    }

    fn is_exempt(&self, source: &Source, now: Moment) -> bool {
        match (source.standing, source.is_peer) {
            (Standing::Itself | Standing::NamedPeer(_), _) | (_, IsPeer::Yes) => true,
            (Standing::NetworkPeer(_) | Standing::Registrant, IsPeer::No) => {
                self.good.is_good(source.ip.to_canonical(), now)
            }
        }
    }

    /// Counts a name that is not proven, for its address and its /64; nothing is counted where it is one too many for
    /// either. Who cannot be banned has the names of its address and no part in those of its /64: others in there must
    /// not use up what it may claim.
    fn count_name(&mut self, source: &Source, name: u64, now: Moment) -> Result<(), Held> {
        let BanRules { names, names_within: within, .. } = self.rules;
        let ip = source.ip.to_canonical();
        let of_subnet = subnet(ip).filter(|_| !self.is_exempt(source, now));
        let sources = [
            Some((IpNet::from(ip), Budget { most: names, within })),
            of_subnet.map(|net| (net, Budget { most: names.saturating_mul(OF_SUBNET), within })),
        ];
        for (net, budget) in sources.into_iter().flatten() {
            let room = self.table.touch(net, now).names.make_room(name, budget, now);
            room.map_err(|held| if Some(net) == of_subnet { Held::TooManyNamesOfSubnet } else { held })?;
        }
        for (net, _) in sources.into_iter().flatten() {
            if let Some(record) = self.table.get_mut(&net) {
                record.names.note(name, now);
            }
        }
        Ok(())
    }

    fn key(&self, name: &str) -> u64 {
        // SipHash; its own keys are no secret, but the seed is.
        let mut hasher = DefaultHasher::new();
        self.seed.hash(&mut hasher);
        name.hash(&mut hasher);
        hasher.finish()
    }
}

/// The /64 that an IPv6 address is in.
fn subnet(ip: IpAddr) -> Option<IpNet> {
    match ip {
        IpAddr::V4(_) => None,
        IpAddr::V6(v6) => Some(IpNet::V6(Ipv6Net::new(v6, 64).ok()?.trunc())),
    }
}
