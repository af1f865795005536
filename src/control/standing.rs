//! What the service manager shows of a guard that runs: its ports, whether it drains, how the last reload went.
//!
//! Owns the one line that is made of that. Says nothing before the guard is ready: READY has words of its own.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::documents::timestamp;
use super::reload::LastReload;
use super::{FrontView, Notifier};
use crate::policy::{Intake, Mode};
use crate::session::Snapshot;
use crate::telemetry::ReloadOutcome;

/// How often a manager that was busy, or did not wait for a status yet, is told again.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// What the line is made of.
#[derive(Debug)]
pub struct Standing {
    /// The ports.
    pub front: watch::Receiver<FrontView>,
    /// The generations.
    pub generations: watch::Receiver<Arc<Snapshot>>,
    /// The reload that came last.
    pub reloads: watch::Receiver<Option<LastReload>>,
}

impl Standing {
    /// Tells the line whenever it changes, for as long as there are ports to tell of.
    pub async fn tell(mut self, notifier: Arc<Notifier>) {
        let mut retries = tokio::time::interval(RETRY_EVERY);
        let mut told = String::new();
        loop {
            let line = self.line();
            if line != told && notifier.status(&line).is_ok() {
                told = line;
            }
            let changed = tokio::select! {
                changed = self.front.changed() => changed,
                changed = self.generations.changed() => changed,
                changed = self.reloads.changed() => {
                    // The READY that ended it had other words.
                    told.clear();
                    changed
                }
                _ = retries.tick() => {
                    notifier.retry();
                    Ok(())
                }
            };
            if changed.is_err() {
                return;
            }
        }
    }

    fn line(&mut self) -> String {
        let front = self.front.borrow_and_update();
        let blocked = front.listeners.iter().filter(|view| view.blocked.is_some()).count();
        let mut parts = vec![format!("{} port(s) open", front.listeners.len() - blocked)];
        if blocked > 0 {
            parts.push(format!("{blocked} BLOCKED"));
        }
        if self.generations.borrow_and_update().policy.intake() == Intake::Draining {
            parts.push("DRAINING: nothing new of peers is let in".to_owned());
        }
        if self.generations.borrow().policy.mode() == Mode::Observe {
            parts.push("OBSERVING: what the rules of who speaks refuse is let through".to_owned());
        }
        if let Some(last) = self.reloads.borrow_and_update().as_ref()
            && last.outcome == ReloadOutcome::Refused
        {
            parts.push(format!("LAST RELOAD REFUSED at {}", timestamp(last.at)));
        }
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::control::{Blocked, ListenerView};
    use crate::policy::Audience;
    use crate::session::{Role, Snapshots};

    fn port(blocked: Option<&str>) -> ListenerView {
        ListenerView {
            role: Role::Epmd,
            addr: "192.0.2.1:4369".parse().unwrap(),
            audience: Audience::Peers,
            inside: 4369,
            node: None,
            nodes: Arc::default(),
            toward: None,
            blocked: blocked.map(|why| Blocked::Otherwise(why.to_owned())),
        }
    }

    #[test]
    fn one_line_has_the_ports_the_drain_and_a_reload_that_was_refused() {
        let config = crate::config::from_text("test", "", &Default::default()).unwrap().config;
        let snapshots = Snapshots::new(Snapshot::new(1, Arc::new(config)));
        let (front, ports) = watch::channel(FrontView::default());
        let (last, reloads) = watch::channel(None);
        let mut standing = Standing { front: ports, generations: snapshots.subscribe(), reloads };
        front.send_modify(|view| view.listeners = vec![port(None)]);
        assert_eq!(standing.line(), "1 port(s) open");
        front.send_modify(|view| view.listeners.push(port(Some("taken"))));
        snapshots.set_intake(Intake::Draining);
        snapshots.set_mode(Some(Mode::Observe));
        let (at, detail) = (SystemTime::UNIX_EPOCH, Some("line 3".to_owned()));
        last.send_replace(Some(LastReload { at, outcome: ReloadOutcome::Refused, detail }));
        let expected = "1 port(s) open, 1 BLOCKED, DRAINING: nothing new of peers is let in, \
                        OBSERVING: what the rules of who speaks refuse is let through, \
                        LAST RELOAD REFUSED at 1970-01-01T00:00:00Z";
        assert_eq!(standing.line(), expected);
    }
}
