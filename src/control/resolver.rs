//! What the host names of the rules mean, asked again and again in the background.
//!
//! Owns the answers and how long they count. A name that stops resolving keeps its last good answer for a
//! day in `allow`; in `deny` it keeps it until there is another, since forgetting would open.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};

use crate::policy::{HostAnswers, HostName, List, Policy, RuleId};
use crate::transport::host::{self, ResolveError};

/// How long the last good answer of a name counts.
const LAST_GOOD: Duration = Duration::from_secs(24 * 60 * 60);
/// Names that are asked for at one time: each keeps a thread waiting.
const AT_ONCE: usize = 8;
/// After this long a question is hopeless, and another name may be asked for beside it.
const HOPELESS: Duration = Duration::from_secs(30);
/// So many hopeless questions, each with its thread, are the most.
const HOPELESS_AT_ONCE: usize = 64;
/// How often it is seen whether a name is due.
const TICK: Duration = Duration::from_millis(250);

/// The names and their answers.
#[derive(Debug)]
pub struct Resolver {
    names: Vec<Name>,
    every: Duration,
    policy: watch::Sender<Arc<Policy>>,
    asking: JoinSet<Answer>,
}

#[derive(Debug)]
struct Name {
    rule: RuleId,
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

type Answer = (usize, Result<Vec<IpAddr>, ResolveError>);

impl Resolver {
    /// A resolver of the names of `policy`'s rules.
    #[must_use]
    pub fn new(policy: watch::Sender<Arc<Policy>>, every: Duration) -> Self {
        let name = |(rule, list, host): (RuleId, List, &HostName)| Name::new(rule, list, host.clone());
        let names = policy.borrow().network().host_names().map(name).collect();
        Self { names, every, policy, asking: JoinSet::new() }
    }

    /// Asks for ever; `first` is told when every name has been answered once.
    pub async fn run(mut self, first: oneshot::Sender<()>) {
        let mut first = Some(first);
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if self.names.iter().all(|name| name.answered || name.failing.is_some())
                && let Some(first) = first.take()
            {
                // Nobody waits any more: it took too long.
                first.send(()).unwrap_or_default();
            }
            tokio::select! {
                Some(answer) = self.asking.join_next() => self.take(answer),
                _ = ticks.tick() => self.expire(),
            }
            for at in self.what_to_ask(Instant::now()) {
                self.ask(at);
            }
        }
    }

    /// The names to ask for now. The one that has waited longest comes first, so that none is asked for
    /// twice while another was not asked for once; among the new ones `deny` comes first, which keeps
    /// everybody out until it is known.
    fn what_to_ask(&self, now: Instant) -> Vec<usize> {
        let waited_for = self.names.iter().filter(|name| name.is_waited_for()).count();
        let hopeless = self.asking.len().saturating_sub(waited_for);
        let free = if hopeless < HOPELESS_AT_ONCE { AT_ONCE.saturating_sub(waited_for) } else { 0 };
        let due = |(_, name): &(usize, &Name)| name.asked.is_none() && name.due <= now;
        let mut due: Vec<(usize, &Name)> = self.names.iter().enumerate().filter(due).collect();
        due.sort_by_key(|(_, name)| (name.due, name.list == List::Allow));
        due.into_iter().take(free).map(|(at, _)| at).collect()
    }

    fn ask(&mut self, at: usize) {
        // A name that is still being asked for is not asked for twice.
        if let Some(name) = self.names.get_mut(at) {
            name.asked = Some(Instant::now());
            let host = name.host.clone();
            self.asking.spawn_blocking(move || (at, host::resolve(host.as_str())));
        }
    }

    fn take(&mut self, answer: Result<Answer, JoinError>) {
        match answer {
            Ok((at, answer)) => {
                let Some(name) = self.names.get_mut(at) else { return };
                name.asked = None;
                name.due = Instant::now() + self.every;
                if name.take(answer) {
                    self.publish();
                }
            }
            // A panic in the system's resolver does not say whose; all may be asked for again.
            Err(_) => self.names.iter_mut().for_each(|name| name.asked = None),
        }
    }

    fn expire(&mut self) {
        let mut changed = false;
        for name in &mut self.names {
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
        let mut answers = HostAnswers::default();
        for name in &self.names {
            for ip in &name.known {
                answers.insert(name.list, name.rule, *ip);
            }
        }
        if self.names.iter().any(|name| name.list == List::Deny && !name.answered) {
            answers.expect_more_of_deny();
        }
        self.policy.send_modify(|policy| *policy = Arc::new(policy.with_answers(answers)));
    }
}

impl Name {
    fn new(rule: RuleId, list: List, host: HostName) -> Self {
        let now = Instant::now();
        Self {
            rule,
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
    use super::*;
    use crate::policy::{NetworkRules, Rule, RuleBook};

    fn rules() -> Policy {
        let rule = Rule { list: List::Allow, target: "localhost".parse().unwrap(), line: 1 };
        Policy::new(NetworkRules::new(RuleBook::new(vec![rule])))
    }

    fn name() -> Name {
        let (sender, _) = watch::channel(Arc::new(rules()));
        Resolver::new(sender, Duration::from_secs(30)).names.pop().unwrap()
    }

    #[tokio::test]
    async fn a_name_that_means_loopback_lets_nobody_in() {
        let (sender, policy) = watch::channel(Arc::new(rules()));
        let (first, asked) = oneshot::channel();
        let resolver = Resolver::new(sender, Duration::from_secs(30));
        tokio::select! {
            () = resolver.run(first) => {}
            asked = asked => asked.unwrap(),
        }
        assert_eq!(policy.borrow().answers(), &HostAnswers::default());
    }

    #[tokio::test]
    async fn the_last_good_answer_counts_when_a_name_stops_resolving() {
        let mut name = name();
        let ip: IpAddr = "192.0.2.2".parse().unwrap();
        assert!(name.take(Ok(vec![ip])));
        assert!(!name.take(Ok(vec![ip])));
        assert!(!name.take(Err(ResolveError::NoSuchName)));
        assert!(!name.take(Err(ResolveError::Failed("timed out".into()))));
        assert!(!name.take(Ok(vec!["127.0.0.1".parse().unwrap()])));
        assert_eq!(name.known, [ip]);
        assert!(name.failing.is_some());
        assert!(name.take(Ok(vec!["192.0.2.9".parse().unwrap()])));
        assert!(name.failing.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_day_without_an_answer_forgets_it_in_allow_and_not_in_deny() {
        let rule = |list| Rule { list, target: "h2.test".parse().unwrap(), line: 1 };
        let rules = NetworkRules::new(RuleBook::new(vec![rule(List::Allow), rule(List::Deny)]));
        let (sender, policy) = watch::channel(Arc::new(Policy::new(rules)));
        let mut resolver = Resolver::new(sender, Duration::from_secs(30));
        let ip: IpAddr = "192.0.2.2".parse().unwrap();
        for name in &mut resolver.names {
            assert!(name.take(Ok(vec![ip])));
        }
        resolver.publish();
        tokio::time::advance(LAST_GOOD - Duration::from_secs(1)).await;
        resolver.expire();
        assert!(policy.borrow().answers().find(List::Allow, ip).is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        resolver.expire();
        assert_eq!(policy.borrow().answers().find(List::Allow, ip), None);
        assert!(policy.borrow().answers().find(List::Deny, ip).is_some());
    }

    #[tokio::test]
    async fn nobody_is_let_in_until_each_name_of_deny_is_answered_and_a_missing_name_is_an_answer() {
        let rule = |list, text: &str| Rule { list, target: text.parse().unwrap(), line: 1 };
        let rules =
            vec![rule(List::Allow, "192.0.2.0/24"), rule(List::Deny, "a.test"), rule(List::Deny, "b.test")];
        let (sender, policy) = watch::channel(Arc::new(Policy::new(NetworkRules::new(RuleBook::new(rules)))));
        let mut resolver = Resolver::new(sender, Duration::from_secs(30));
        let is_pending = || policy.borrow().answers().is_deny_pending();
        assert!(is_pending());
        resolver.take(Ok((0, Ok(vec!["192.0.2.3".parse().unwrap()]))));
        assert!(is_pending());
        resolver.take(Ok((1, Err(ResolveError::Failed("timed out".into())))));
        assert!(is_pending());
        resolver.take(Ok((1, Err(ResolveError::NoSuchName))));
        assert!(!is_pending());
        // Later failures forget nothing.
        resolver.take(Ok((0, Err(ResolveError::Failed("timed out".into())))));
        assert!(!is_pending());
        assert!(policy.borrow().answers().find(List::Deny, "192.0.2.3".parse().unwrap()).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn every_name_is_asked_for_once_before_any_is_asked_for_twice_and_deny_comes_first() {
        let mut rules: Vec<Rule> = (0..100)
            .map(|n| Rule { list: List::Allow, target: format!("h{n}.test").parse().unwrap(), line: n })
            .collect();
        rules.push(Rule { list: List::Deny, target: "bad.test".parse().unwrap(), line: 100 });
        let (sender, _policy) =
            watch::channel(Arc::new(Policy::new(NetworkRules::new(RuleBook::new(rules)))));
        // Shorter than asking for all of them takes.
        let mut resolver = Resolver::new(sender, Duration::from_secs(1));
        let mut asked = Vec::new();
        for _ in 0..300 {
            tokio::time::advance(Duration::from_millis(100)).await;
            let now = resolver.what_to_ask(Instant::now());
            assert!(now.len() <= AT_ONCE);
            for at in now {
                asked.push(at);
                resolver.take(Ok((at, Err(ResolveError::NoSuchName))));
            }
        }
        assert_eq!(asked[0], 100, "the name of deny is not the first");
        let mut first: Vec<usize> = asked[..101].to_vec();
        first.sort_unstable();
        assert_eq!(first, (0..101).collect::<Vec<_>>());
    }
}
