//! What the host names of the rules mean, asked again and again in the background.
//!
//! Owns the answers and how long they count. A name that stops resolving keeps its last good answer for a
//! day in `allow`; in `deny` it keeps it until there is another, since forgetting would open. The names of
//! `connect` are asked for too, to tell early of those that mean nothing: each dial of a tunnel asks for itself. An
//! address that stands for a peer (`alias`) is this host's own, and no answer.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use crate::config::{Config, ConnectTo};
use crate::policy::{HostAnswers, HostName, List, NetworkRules};
use crate::session::Snapshots;
use crate::transport::host::{self, ResolveError};

/// How long the last good answer of a name counts.
const LAST_GOOD: Duration = Duration::from_secs(24 * 60 * 60);
/// Names that are asked for at one time: each keeps a thread waiting.
const AT_ONCE: usize = 8;
/// How much later than asked for an order may be answered, before its resolver is taken for hung.
const LATE: Duration = Duration::from_secs(1);
/// After this long a question is hopeless, and another name may be asked for beside it.
const HOPELESS: Duration = Duration::from_secs(30);
/// So many hopeless questions, each with its thread, are the most.
const HOPELESS_AT_ONCE: usize = 64;
/// How often it is seen whether a name is due.
const TICK: Duration = Duration::from_millis(250);

/// The names and their answers.
#[derive(Debug)]
pub struct Resolver {
    names: HashMap<Key, Name>,
    snapshots: Snapshots,
    asking: JoinSet<Answer>,
    orders: mpsc::Receiver<Order>,
    /// Orders that wait for answers.
    waiting: Vec<Order>,
}

/// Where a host name stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Use {
    /// In a list, or in the `addresses` of a peer, which are as those of `allow`.
    Rule(List),
    /// In the `connect` of a peer.
    Connect,
}

/// A host name means the same wherever it stands, but what is done when it cannot be resolved differs.
type Key = (Use, HostName);

type Answer = (Key, Result<Vec<IpAddr>, ResolveError>);

/// The way to a [`Resolver`] that runs.
#[derive(Debug, Clone)]
pub struct Names(mpsc::Sender<Order>);

/// What is known of names that were asked for.
#[derive(Debug, Clone, Default)]
pub struct Resolved {
    known: HashMap<Key, Vec<IpAddr>>,
    /// Names that have no answer, not even that they do not exist, and why.
    unanswered: Vec<(Key, String)>,
}

#[derive(Debug)]
struct Order {
    names: Vec<Key>,
    reply: oneshot::Sender<Resolved>,
    /// When it is answered with what is known by then.
    until: Instant,
}

#[derive(Debug)]
struct Name {
    of: Use,
    host: HostName,
    known: Vec<IpAddr>,
    /// The aliases of peers in its last answer, which were told of.
    aliases: Vec<IpAddr>,
    last_good: Instant,
    /// Since when it is being asked for.
    asked: Option<Instant>,
    /// When it is to be asked for again.
    due: Instant,
    /// Whether an answer has come, even that there is no such name.
    answered: bool,
    /// The failure that was told of.
    failing: Option<String>,
}

impl Names {
    /// What the host names of `rules` mean. Those that are not known yet are asked for, `patience` at most;
    /// those that are keep their answers. `None`: the resolver has ended, or hangs.
    pub async fn resolve(&self, rules: &NetworkRules, patience: Duration) -> Option<Resolved> {
        let names: Vec<Key> =
            rules.host_names().map(|(_, list, host)| (Use::Rule(list), host.clone())).collect();
        let (reply, answer) = oneshot::channel();
        let order = Order { names, reply, until: Instant::now() + patience };
        let asked = async {
            self.0.send(order).await.ok()?;
            answer.await.ok()
        };
        tokio::time::timeout(patience + LATE, asked).await.ok().flatten()
    }

    /// Says that what was asked for does not come into force: those names that are in no rule in force are not
    /// asked for any more.
    pub fn forget(&self) {
        let (reply, _) = oneshot::channel();
        let order = Order { names: Vec::new(), reply, until: Instant::now() };
        // Every order has this effect, so that where there is no room for this one others see to it.
        self.0.try_send(order).unwrap_or_default();
    }
}

impl Resolved {
    /// The names without an answer, the list that each stands in, and why.
    pub fn unanswered(&self) -> impl Iterator<Item = (List, &HostName, &str)> {
        self.unanswered.iter().filter_map(|((of, host), why)| match of {
            Use::Rule(list) => Some((*list, host, why.as_str())),
            Use::Connect => None,
        })
    }

    /// The answers for these rules.
    #[must_use]
    pub fn answers(&self, rules: &NetworkRules) -> HostAnswers {
        let mut answers = HostAnswers::default();
        for (rule, list, host) in rules.host_names() {
            match self.known.get(&(Use::Rule(list), host.clone())) {
                Some(ips) => ips.iter().for_each(|ip| answers.insert(list, rule, *ip)),
                None if list == List::Deny => answers.expect_more_of_deny(),
                None => {}
            }
        }
        answers
    }
}

impl Resolver {
    /// A resolver of the names of the rules in force, and the way to it.
    #[must_use]
    pub fn new(snapshots: Snapshots) -> (Self, Names) {
        let (sender, orders) = mpsc::channel(4);
        let mut resolver =
            Self { names: HashMap::new(), snapshots, asking: JoinSet::new(), orders, waiting: Vec::new() };
        resolver.follow_rules();
        (resolver, Names(sender))
    }

    /// Asks for ever.
    pub async fn run(mut self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rules = self.snapshots.subscribe();
        let mut generation = rules.borrow_and_update().generation;
        loop {
            tokio::select! {
                Some(answer) = self.asking.join_next() => self.take(answer),
                Some(order) = self.orders.recv() => self.accept(order),
                Ok(()) = rules.changed() => {
                    let now = rules.borrow_and_update().generation;
                    if std::mem::replace(&mut generation, now) != now {
                        self.follow_rules();
                        self.publish();
                    }
                }
                _ = ticks.tick() => self.expire(),
            }
            self.fill_orders();
            for key in self.what_to_ask(Instant::now()) {
                self.ask(key);
            }
        }
    }

    /// Knows the names of the rules in force and those that somebody waits for, and no others.
    fn follow_rules(&mut self) {
        let snapshot = self.snapshots.current();
        let rules = snapshot.policy.network().host_names();
        let in_force = rules.map(|(_, list, host)| (Use::Rule(list), host.clone()));
        let waited_for = self.waiting.iter().flat_map(|order| order.names.iter().cloned());
        let mut wanted: HashSet<Key> = in_force.chain(waited_for).collect();
        for connect in snapshot.config.peers.iter().flat_map(|peer| &peer.connect) {
            let ConnectTo::Host(host) = &connect.host else { continue };
            // What is wrong with a name of both is told once.
            if !wanted.contains(&(Use::Rule(List::Allow), host.clone())) {
                wanted.insert((Use::Connect, host.clone()));
            }
        }
        self.names.retain(|key, _| wanted.contains(key));
        for key in wanted {
            self.names.entry(key).or_insert_with_key(|(of, host)| Name::new(*of, host.clone()));
        }
        // Where the rules are new, an answer may have become an alias.
        for name in self.names.values_mut() {
            let mut known = std::mem::take(&mut name.known);
            name.take_aliases_out(&mut known, &snapshot.config);
            name.known = known;
        }
    }

    fn accept(&mut self, order: Order) {
        self.waiting.push(order);
        self.follow_rules();
    }

    /// Answers the orders whose names have been asked for or whose time has come, and forgets those that nobody
    /// waits for.
    fn fill_orders(&mut self) {
        let (names, now) = (&self.names, Instant::now());
        let is_asked = |key: &Key| names.get(key).is_none_or(|name| name.answered || name.failing.is_some());
        let (ready, waiting) =
            std::mem::take(&mut self.waiting).into_iter().partition::<Vec<_>, _>(|order: &Order| {
                order.reply.is_closed() || order.until <= now || order.names.iter().all(is_asked)
            });
        self.waiting = waiting;
        for order in ready {
            let resolved = self.resolved(&order.names);
            // Whoever does not wait any more took too long.
            order.reply.send(resolved).map_or_else(drop, drop);
        }
    }

    fn resolved(&self, wanted: &[Key]) -> Resolved {
        let mut resolved = Resolved::default();
        for key in wanted {
            match self.names.get(key) {
                Some(name) if name.answered => {
                    resolved.known.insert(key.clone(), name.known.clone());
                }
                Some(name) => {
                    let why = name.failing.clone().unwrap_or_else(|| "no answer yet".to_owned());
                    resolved.unanswered.push((key.clone(), why));
                }
                None => {}
            }
        }
        resolved
    }

    /// The names to ask for now. The one that has waited longest comes first, so that none is asked for
    /// twice while another was not asked for once; among the new ones `deny` comes first, which keeps
    /// everybody out until it is known.
    fn what_to_ask(&self, now: Instant) -> Vec<Key> {
        let waited_for = self.names.values().filter(|name| name.is_waited_for()).count();
        let hopeless = self.asking.len().saturating_sub(waited_for);
        let free = if hopeless < HOPELESS_AT_ONCE { AT_ONCE.saturating_sub(waited_for) } else { 0 };
        let due = |(_, name): &(&Key, &Name)| name.asked.is_none() && name.due <= now;
        let mut due: Vec<(&Key, &Name)> = self.names.iter().filter(due).collect();
        due.sort_by_key(|(_, name)| (name.due, name.of != Use::Rule(List::Deny)));
        due.into_iter().take(free).map(|(key, _)| key.clone()).collect()
    }

    fn ask(&mut self, key: Key) {
        // A name that is still being asked for is not asked for twice.
        if let Some(name) = self.names.get_mut(&key) {
            name.asked = Some(Instant::now());
            self.asking.spawn_blocking(move || {
                let answer = host::resolve(key.1.as_str());
                (key, answer)
            });
        }
    }

    fn take(&mut self, answer: Result<Answer, JoinError>) {
        match answer {
            Ok((key, mut answer)) => {
                let config = Arc::clone(&self.snapshots.current().config);
                let Some(name) = self.names.get_mut(&key) else { return };
                name.asked = None;
                name.due = Instant::now() + config.cluster.resolve_every;
                if let Ok(ips) = &mut answer {
                    name.aliases = name.take_aliases_out(ips, &config);
                }
                if name.take(answer) {
                    self.publish();
                }
            }
            // A panic in the system's resolver does not say whose; all may be asked for again.
            Err(_) => self.names.values_mut().for_each(|name| name.asked = None),
        }
    }

    fn expire(&mut self) {
        let mut changed = false;
        for name in self.names.values_mut() {
            if name.of == Use::Rule(List::Allow)
                && !name.known.is_empty()
                && name.last_good.elapsed() > LAST_GOOD
            {
                tracing::warn!(name = %name.host, old = ?name.known, "name_expired");
                name.known.clear();
                changed = true;
            }
        }
        if changed {
            self.publish();
        }
    }

    fn publish(&self) {
        let all: Vec<Key> = self.names.keys().cloned().collect();
        let resolved = self.resolved(&all);
        self.snapshots.answer(|policy| resolved.answers(policy.network()));
    }
}

impl Name {
    fn new(of: Use, host: HostName) -> Self {
        let now = Instant::now();
        Self {
            of,
            host,
            known: Vec::new(),
            aliases: Vec::new(),
            last_good: now,
            asked: None,
            due: now,
            answered: false,
            failing: None,
        }
    }

    fn is_waited_for(&self) -> bool {
        self.asked.is_some_and(|since| since.elapsed() < HOPELESS)
    }

    /// Takes what stands for a peer on this host out of an answer, and tells of what was not there before.
    fn take_aliases_out(&self, ips: &mut Vec<IpAddr>, config: &Config) -> Vec<IpAddr> {
        let mut found = Vec::new();
        // What is denied may be this host all the same: it is let in anyway.
        if self.of == Use::Rule(List::Deny) {
            return found;
        }
        ips.retain(|ip| {
            let Some(peer) = config.stands_for(*ip) else { return true };
            if !self.aliases.contains(ip) {
                let help = "the resolver of this host leads the guard, and all else here, to itself: show the alias to the \
                            VM alone (ERL_INETRC), or write the address of the other host in the place of the name";
                tracing::error!(name = %self.host, address = %ip, peer = peer.name, help, "resolves_to_alias");
            }
            found.push(*ip);
            false
        });
        found
    }

    /// Takes an answer; `true` if it changes anything.
    fn take(&mut self, answer: Result<Vec<IpAddr>, ResolveError>) -> bool {
        let first = match answer {
            // A name that is not there keeps nobody out; a resolver that fails says nothing.
            Ok(_) | Err(ResolveError::NoSuchName) => !std::mem::replace(&mut self.answered, true),
            Err(ResolveError::Failed(_)) => false,
        };
        let mut ips = match answer {
            Ok(ips) => ips,
            Err(error) => {
                self.fail(error.to_string());
                return first;
            }
        };
        let all = ips.len();
        ips.retain(|ip| HostAnswers::is_usable(*ip));
        ips.sort_unstable();
        if ips.is_empty() {
            self.fail(if all == 0 && !self.aliases.is_empty() {
                "its addresses are of this host, where they stand for peers".to_owned()
            } else {
                format!("none of its {all} addresses can be a peer's: loopback and multicast are ignored")
            });
            return first;
        }
        self.failing = None;
        self.last_good = Instant::now();
        if ips == self.known {
            return first;
        }
        tracing::info!(name = %self.host, old = ?self.known, new = ?ips, "name_resolved");
        self.known = ips;
        true
    }

    /// Tells of a failure, once for each kind.
    fn fail(&mut self, error: String) {
        if self.failing.as_ref() == Some(&error) {
            return;
        }
        let help = match (self.of, self.known.is_empty(), self.answered) {
            (Use::Connect, _, _) => {
                "no tunnel is dialled by this name until it resolves; those that are up stay"
            }
            (Use::Rule(List::Allow), true, _) => "nobody is let in by this rule until the name resolves",
            (Use::Rule(List::Allow), false, _) => "the last good answer counts for a day",
            (Use::Rule(List::Deny), _, false) => {
                "no peer is let in until the resolver answers: nobody can be told from this host"
            }
            (Use::Rule(List::Deny), true, true) => "nobody is kept out by this rule until the name resolves",
            (Use::Rule(List::Deny), false, true) => "the last good answer counts until there is another",
        };
        tracing::warn!(name = %self.host, known = ?self.known, error, help, "name_not_resolved");
        self.failing = Some(error);
    }
}

#[cfg(test)]
mod tests;
