//! What is remembered of those who speak: how fast they come, who offends, and which nodes were seen.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use tokio::time::Instant;

use super::snapshot::Snapshot;
use crate::config::Limits;
use crate::policy::{
    Admission, Ban, BanRules, Caps, Consequence, Denial, Full, Held, Moment, Observations, Offence,
    Offenders, RateTable, Rates, Record, Seen, Source, Standing,
};
use crate::proto::dist::Claim;

/// Bans of observe mode that are told of at one time; where there are more, all are taken back.
const MOST_TOLD: usize = 4096;

/// What is remembered of those who speak. Each table is bounded and has a lock of its own, held for one step.
#[derive(Debug)]
pub struct Speakers {
    clock: Clock,
    rates: Mutex<RateTable>,
    offenders: Mutex<Offenders>,
    observations: Mutex<Observations>,
    /// What observe mode has banned, [`MOST_TOLD`] at most; and whether there is any.
    only_told: Mutex<HashSet<IpNet>>,
    has_only_told: AtomicBool,
}

/// Tells moments: the time of day when the guard began, and what has passed since by the clock that nobody sets.
#[derive(Debug, Clone, Copy)]
struct Clock {
    begun: Instant,
    then: Moment,
}

impl Clock {
    fn start() -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { begun: Instant::now(), then: Moment(0).after(since) }
    }

    fn now(self) -> Moment {
        self.then.after(self.begun.elapsed())
    }
}

impl Speakers {
    /// Nobody yet.
    pub(super) fn new(limits: &Limits, rules: BanRules) -> Self {
        Self {
            clock: Clock::start(),
            rates: Mutex::new(RateTable::new(rates(limits))),
            offenders: Mutex::new(Offenders::new(rules, RandomState::new().hash_one(()))),
            observations: Mutex::default(),
            only_told: Mutex::default(),
            has_only_told: AtomicBool::new(false),
        }
    }

    /// What a reload changes.
    pub fn follow(&self, limits: &Limits, rules: BanRules) {
        lock(&self.rates).set_rates(rates(limits));
        lock(&self.offenders).set_rules(rules);
    }

    /// This moment.
    #[must_use]
    pub fn now(&self) -> Moment {
        self.clock.now()
    }

    /// One more connection: does it come too fast?
    pub(super) fn pace(&self, admission: &Admission) -> Result<(), Full> {
        let (ip, now) = (admission.peer().ip(), self.now());
        match admission.standing() {
            Standing::Itself => Ok(()),
            Standing::NamedPeer(_) => lock(&self.rates).take_for_named(ip, now),
            Standing::NetworkPeer(_) | Standing::Registrant => lock(&self.rates).take(ip, now),
        }
    }

    /// What an admitted connection is to us as far as places are concerned: an address that had a good link of late is
    /// kept one as a named peer is, so that a network peer's real nodes are not shut out by the others of its network.
    pub(super) fn rank(&self, admission: &Admission) -> Standing {
        let standing = admission.standing();
        if let Standing::NetworkPeer(rule) = standing
            && self.is_good(admission)
        {
            return Standing::NamedPeer(rule);
        }
        standing
    }

    fn is_good(&self, admission: &Admission) -> bool {
        lock(&self.offenders).is_good(admission.peer().ip(), self.now())
    }

    /// The ban that keeps a source out, if one does.
    #[must_use]
    pub fn ban_of(&self, source: &Source) -> Option<Ban> {
        lock(&self.offenders).ban_of(source, self.now())
    }

    /// How long this claim waits before it goes to a node.
    pub(super) fn claim(&self, source: &Source, name: &str) -> Result<Duration, Held> {
        lock(&self.offenders).claim(source, name, self.now())
    }

    /// A link came up.
    pub(super) fn commend(&self, source: &Source, name: &str) {
        lock(&self.offenders).commend(source, name, self.now());
    }

    /// A link of its address lives.
    pub(super) fn keep_good(&self, source: &Source) {
        lock(&self.offenders).keep_good(source, self.now());
    }

    /// An offence.
    pub(super) fn offend(&self, source: &Source, name: &str, what: Offence) -> Consequence {
        lock(&self.offenders).offend(source, name, what, self.now())
    }

    /// A ban that observe mode only tells of. It must not come into force when that ends.
    pub(super) fn only_told(&self, net: IpNet) {
        let mut told = lock(&self.only_told);
        told.insert(net);
        self.has_only_told.store(true, Relaxed);
        if told.len() > MOST_TOLD {
            drop(told);
            self.take_back();
        }
    }

    /// Whether this is such a ban, which nothing must keep.
    #[must_use]
    pub fn is_only_told(&self, record: &Record) -> bool {
        match record {
            Record::Ban(ban) => lock(&self.only_told).contains(&ban.net),
            Record::Good { .. } => false,
        }
    }

    /// Takes the bans back that were only told of.
    pub(super) fn take_back(&self) {
        if self.has_only_told.swap(false, Relaxed) {
            let nets = std::mem::take(&mut *lock(&self.only_told));
            let mut offenders = lock(&self.offenders);
            for net in nets {
                offenders.pardon(net, self.now());
            }
        }
    }

    /// The table of offenders, while the value is held.
    pub fn offenders(&self) -> MutexGuard<'_, Offenders> {
        lock(&self.offenders)
    }

    /// Takes in how a handshake ended.
    pub(super) fn observe(&self, ip: IpAddr, claim: &Claim, denial: Option<Denial>, how: Seen) {
        lock(&self.observations).note(ip, claim, (how, denial), self.now());
    }

    /// The table of what was seen, while the value is held.
    pub fn observations(&self) -> MutexGuard<'_, Observations> {
        lock(&self.observations)
    }
}

fn lock<T>(table: &Mutex<T>) -> MutexGuard<'_, T> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rates(limits: &Limits) -> Rates {
    Rates { per_address: limits.rate_per_address, per_subnet: limits.rate_per_subnet }
}

/// How many handshakes that are not done there may be: a share of them is kept as of connections.
#[must_use]
pub fn half_open_caps(snapshot: &Snapshot) -> Caps {
    let Limits { half_open, half_open_per_address, .. } = snapshot.config.limits;
    Caps {
        total: half_open,
        reserve: half_open / 4,
        per_address: half_open_per_address,
        per_subnet: half_open_per_address.saturating_mul(4),
    }
}
