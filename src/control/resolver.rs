//! What the host names of the rules mean, asked again and again in the background.
//!
//! Owns the answers and how long they count. A name that stops resolving keeps its last good answer for a
//! day in `allow`; in `deny` it keeps it until there is another, since forgetting would open.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

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

/// A host name means the same in both lists, but what is done when it cannot be resolved differs.
type Key = (List, HostName);

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
    list: List,
    host: HostName,
    known: Vec<IpAddr>,
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
        let names: Vec<Key> = rules.host_names().map(|(_, list, host)| (list, host.clone())).collect();
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
        self.unanswered.iter().map(|((list, host), why)| (*list, host, why.as_str()))
    }

    /// The answers for these rules.
    #[must_use]
    pub fn answers(&self, rules: &NetworkRules) -> HostAnswers {
        let mut answers = HostAnswers::default();
        for (rule, list, host) in rules.host_names() {
            match self.known.get(&(list, host.clone())) {
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
        let in_force = snapshot.policy.network().host_names().map(|(_, list, host)| (list, host.clone()));
        let waited_for = self.waiting.iter().flat_map(|order| order.names.iter().cloned());
        let wanted: HashSet<Key> = in_force.chain(waited_for).collect();
        self.names.retain(|key, _| wanted.contains(key));
        for key in wanted {
            self.names.entry(key).or_insert_with_key(|(list, host)| Name::new(*list, host.clone()));
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
        due.sort_by_key(|(_, name)| (name.due, name.list == List::Allow));
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
            Ok((key, answer)) => {
                let every = self.snapshots.current().config.cluster.resolve_every;
                let Some(name) = self.names.get_mut(&key) else { return };
                name.asked = None;
                name.due = Instant::now() + every;
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
            if name.list == List::Allow && !name.known.is_empty() && name.last_good.elapsed() > LAST_GOOD {
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
    fn new(list: List, host: HostName) -> Self {
        let now = Instant::now();
        Self {
            list,
            host,
            known: Vec::new(),
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
            self.fail(format!(
                "none of its {all} addresses can be a peer's: loopback and multicast are ignored"
            ));
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
        let help = match (self.list, self.known.is_empty(), self.answered) {
            (List::Allow, true, _) => "nobody is let in by this rule until the name resolves",
            (List::Allow, false, _) => "the last good answer counts for a day",
            (List::Deny, _, false) => {
                "no peer is let in until the resolver answers: nobody can be told from this host"
            }
            (List::Deny, true, true) => "nobody is kept out by this rule until the name resolves",
            (List::Deny, false, true) => "the last good answer counts until there is another",
        };
        tracing::warn!(name = %self.host, known = ?self.known, error, help, "name_not_resolved");
        self.failing = Some(error);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::from_text;
    use crate::session::Snapshot;

    fn snapshots(text: &str) -> Snapshots {
        let config = from_text("test", text, &Default::default()).unwrap().config;
        Snapshots::new(Snapshot::new(1, Arc::new(config)))
    }

    fn key(list: List, host: &str) -> Key {
        (list, host.parse().unwrap())
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    const NO_NAME: Result<Vec<IpAddr>, ResolveError> = Err(ResolveError::NoSuchName);

    #[tokio::test]
    async fn a_name_that_means_loopback_lets_nobody_in() {
        let snapshots = snapshots("cluster.allow = [\"localhost\"]");
        let (resolver, names) = Resolver::new(snapshots.clone());
        let rules = snapshots.current();
        tokio::select! {
            () = resolver.run() => {}
            resolved = names.resolve(rules.policy.network(), Duration::from_secs(9)) => {
                assert_eq!(resolved.unwrap().answers(rules.policy.network()), HostAnswers::default());
            }
        }
        assert_eq!(snapshots.current().policy.answers(), &HostAnswers::default());
    }

    #[tokio::test]
    async fn the_last_good_answer_counts_when_a_name_stops_resolving() {
        let mut name = Name::new(List::Allow, "h2.test".parse().unwrap());
        assert!(name.take(Ok(vec![ip("192.0.2.2")])));
        assert!(!name.take(Ok(vec![ip("192.0.2.2")])));
        assert!(!name.take(NO_NAME));
        assert!(!name.take(Err(ResolveError::Failed("timed out".into()))));
        assert!(!name.take(Ok(vec![ip("127.0.0.1")])));
        assert_eq!(name.known, [ip("192.0.2.2")]);
        assert!(name.failing.is_some());
        assert!(name.take(Ok(vec![ip("192.0.2.9")])));
        assert!(name.failing.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_without_an_answer_forgets_it_in_allow_and_not_in_deny() {
        let snapshots = snapshots("cluster.allow = [\"h2.test\"]\ncluster.deny = [\"h2.test\"]");
        let (mut resolver, _names) = Resolver::new(snapshots.clone());
        for name in resolver.names.values_mut() {
            assert!(name.take(Ok(vec![ip("192.0.2.2")])));
        }
        resolver.publish();
        let known = |list| snapshots.current().policy.answers().find(list, ip("192.0.2.2"));
        tokio::time::advance(LAST_GOOD - Duration::from_secs(1)).await;
        resolver.expire();
        assert!(known(List::Allow).is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        resolver.expire();
        assert_eq!(known(List::Allow), None);
        assert!(known(List::Deny).is_some());
    }

    #[tokio::test]
    async fn nobody_is_let_in_until_each_name_of_deny_is_answered_and_a_missing_name_is_an_answer() {
        let snapshots =
            snapshots("cluster.allow = [\"192.0.2.0/24\"]\ncluster.deny = [\"a.test\", \"b.test\"]");
        let (mut resolver, _names) = Resolver::new(snapshots.clone());
        let is_pending = || snapshots.current().policy.answers().is_deny_pending();
        let failed = || Err(ResolveError::Failed("timed out".into()));
        assert!(is_pending());
        resolver.take(Ok((key(List::Deny, "a.test"), Ok(vec![ip("192.0.2.3")]))));
        assert!(is_pending());
        resolver.take(Ok((key(List::Deny, "b.test"), failed())));
        assert!(is_pending());
        resolver.take(Ok((key(List::Deny, "b.test"), NO_NAME)));
        assert!(!is_pending());
        // Later failures forget nothing.
        resolver.take(Ok((key(List::Deny, "a.test"), failed())));
        assert!(!is_pending());
        assert!(snapshots.current().policy.answers().find(List::Deny, ip("192.0.2.3")).is_some());
    }

    #[tokio::test]
    async fn a_name_that_stays_a_rule_keeps_its_answer_and_one_that_goes_is_forgotten() {
        let snapshots = snapshots("cluster.allow = [\"a.test\", \"b.test\"]");
        let (mut resolver, _names) = Resolver::new(snapshots.clone());
        resolver.take(Ok((key(List::Allow, "a.test"), Ok(vec![ip("192.0.2.3")]))));
        resolver.take(Ok((key(List::Allow, "b.test"), Ok(vec![ip("192.0.2.4")]))));
        let text = "cluster.allow = [\"c.test\", \"192.0.2.99\", \"a.test\"]";
        let config = Arc::new(from_text("test", text, &Default::default()).unwrap().config);
        let resolved = resolver.resolved(&[key(List::Allow, "a.test"), key(List::Allow, "c.test")]);
        let rules = &config.cluster.network;
        assert!(resolved.answers(rules).find(List::Allow, ip("192.0.2.3")).is_some());
        snapshots.publish(|_| Snapshot::new(2, config));
        resolver.follow_rules();
        resolver.publish();
        let policy = Arc::clone(&snapshots.current().policy);
        assert!(policy.allows(ip("192.0.2.3")) && !policy.allows(ip("192.0.2.4")));
        assert_eq!(resolver.names.len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn every_name_is_asked_for_once_before_any_is_asked_for_twice_and_deny_comes_first() {
        let all: Vec<String> = (0..100).map(|n| format!("\"h{n}.test\"")).collect();
        // Shorter than asking for all of them takes.
        let text =
            format!("[cluster]\nresolve_every = \"1s\"\nallow = [{}]\ndeny = [\"bad.test\"]", all.join(", "));
        let (mut resolver, _names) = Resolver::new(snapshots(&text));
        let mut asked = Vec::new();
        for _ in 0..300 {
            tokio::time::advance(Duration::from_millis(100)).await;
            let now = resolver.what_to_ask(Instant::now());
            assert!(now.len() <= AT_ONCE);
            for key in now {
                asked.push(key.clone());
                resolver.take(Ok((key, NO_NAME)));
            }
        }
        assert_eq!(asked[0], key(List::Deny, "bad.test"), "the name of deny is not the first");
        let first: HashSet<&Key> = asked[..101].iter().collect();
        assert_eq!(first.len(), 101);
    }
}
