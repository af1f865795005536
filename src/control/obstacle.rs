//! Why a port cannot be opened: who has it, what to do, and when it is worth a line.

use std::collections::HashSet;
use std::io;
use std::mem::Discriminant;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::field::display;

use super::advice::{advise, advise_alias, advise_missing};
use super::takeover::{Squatter, take_over};
use crate::config::EpmdBackend;
use crate::proto::epmd::NodeName;
use crate::session::{Role, Service, Snapshot};
use crate::telemetry::describe;
use crate::transport::holder::{self, Holder};

/// How long a port that could not be opened is left alone, doubled up to the longest.
const FIRST_RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(5);
/// How often a port that stays taken is told of again.
const REMIND_EVERY: Duration = Duration::from_secs(600);
/// How long the look for the holder may take: user names may come from a directory that does not answer.
const LOOK: Duration = Duration::from_secs(3);

/// A port that could not be opened.
#[derive(Debug)]
pub(super) struct Obstacle {
    role: Role,
    addr: SocketAddr,
    /// The node that is to be reached there.
    node: Option<NodeName>,
    /// The peer for whom it is to stand, where it is at an alias.
    toward: Option<Arc<str>>,
    retry_at: Instant,
    wait: Duration,
    told: Option<(Cause, Instant)>,
    /// Who holds it, as long as the same sockets are in the way.
    holders: Vec<Holder>,
    /// What is known of the holder, and the kernel's number of its socket.
    squatter: Option<(u64, Squatter)>,
    /// Bounds how many looks for holders may hang at one time, for all obstacles together.
    looks: Arc<Semaphore>,
}

/// Why a port could not be opened.
#[derive(Debug, Default)]
struct Cause {
    error: String,
    /// The kernel's numbers of the sockets in the way.
    sockets: HashSet<u64>,
    /// What their owner turned out to be.
    squatter: Option<Discriminant<Squatter>>,
    holder: String,
    help: String,
}

impl Obstacle {
    pub(super) fn new(role: Role, addr: SocketAddr, looks: Arc<Semaphore>) -> Self {
        Self {
            role,
            addr,
            node: None,
            toward: None,
            retry_at: Instant::now(),
            wait: FIRST_RETRY,
            told: None,
            holders: Vec::new(),
            squatter: None,
            looks,
        }
    }

    /// Whether the port is worth another try.
    pub(super) fn is_due(&self) -> bool {
        Instant::now() >= self.retry_at
    }

    /// What is in the way and what to do, once it is worth a word.
    pub(super) fn summary(&self) -> Option<String> {
        let (cause, _) = self.told.as_ref()?;
        let Cause { error, holder, help, .. } = cause;
        let holder = if holder.is_empty() { String::new() } else { format!(" ({holder})") };
        Some(format!("{error}{holder}: {help}"))
    }

    /// Finds out about a failure, tells of it, and sets the time of the next try.
    pub(super) async fn meet(&mut self, error: io::Error, service: &Service, snapshot: &Snapshot) {
        (self.node, self.toward) = (service.node().cloned(), service.toward.clone());
        let backend = snapshot.config.epmd.backend;
        let mut cause = Cause { error: describe(&error), ..Cause::default() };
        let event = if error.kind() == io::ErrorKind::AddrInUse {
            self.look_for_holders().await;
            let squatter = self.ask_to_end(snapshot).await;
            cause.sockets = self.holders.iter().map(|holder| holder.socket.inode).collect();
            cause.squatter = squatter.as_ref().map(std::mem::discriminant);
            cause.holder = holder::describe(&self.holders);
            cause.help = match &self.toward {
                // Whoever has epmd's port at an alias has it at our other addresses too.
                Some(peer) if self.role != Role::Epmd => {
                    advise_alias(peer, self.role, self.addr, &self.holders)
                }
                Some(_) | None => advise((self.role, backend), self.addr, &self.holders, squatter.as_ref()),
            };
            Event::Taken
        } else {
            cause.help = match &self.toward {
                Some(peer) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                    advise_missing(peer, self.addr.ip())
                }
                Some(_) | None => {
                    "this host does not have the address (yet), or may not use the port; it is tried again"
                        .to_owned()
                }
            };
            Event::NotOpened
        };
        self.tell(cause, event);
        self.retry_at = Instant::now() + self.wait;
        self.wait = (self.wait * 2).min(LONGEST_RETRY);
    }

    /// Who holds the port does not change as long as the same sockets do: all of /proc is gone through
    /// for new ones only.
    async fn look_for_holders(&mut self) {
        let Ok(place) = Arc::clone(&self.looks).try_acquire_owned() else { return };
        let (addr, known) = (self.addr, std::mem::take(&mut self.holders));
        let looking = tokio::task::spawn_blocking(move || {
            let holders = holder::of(addr, known);
            drop(place);
            holders
        });
        self.holders =
            tokio::time::timeout(LOOK, looking).await.map(Result::unwrap_or_default).unwrap_or_default();
    }

    /// An epmd that holds no name is asked to end.
    async fn ask_to_end(&mut self, snapshot: &Snapshot) -> Option<Squatter> {
        let holder = self.holders.first()?.clone();
        if self.role != Role::Epmd || holder.is_likely("epmd-guard") {
            return None;
        }
        let inode = holder.socket.inode;
        let before = self.squatter.take().filter(|(known, _)| *known == inode).map(|(_, squatter)| squatter);
        let squatter = take_over(self.addr, before.clone(), &snapshot.dialer).await;
        self.squatter = Some((inode, squatter.clone()));
        if squatter == Squatter::Ending && before != Some(Squatter::Ending) {
            // The port is free in a moment.
            self.wait = FIRST_RETRY;
            let help = match snapshot.config.epmd.backend {
                EpmdBackend::At(_) => {
                    "nodes that start from now on need ERL_EPMD_ADDRESS=127.0.0.1 in their environment, or they find \
                     no epmd: set it for whatever starts epmd on this host"
                }
                EpmdBackend::Embedded => {
                    "this guard is the epmd of this host now; nothing else is to be done"
                }
            };
            tracing::warn!(
                listener = %self.addr, holder = holder.to_string(), help, "took_over_from_idle_epmd"
            );
        }
        Some(squatter)
    }

    /// Tells of a new cause, and of an old one now and then. What is gone within three tries, such as an
    /// epmd that ends, is not worth a word.
    fn tell(&mut self, cause: Cause, event: Event) {
        let known = self.told.as_ref().is_some_and(|(told, at)| {
            told.error == cause.error
                && told.sockets == cause.sockets
                && told.squatter == cause.squatter
                && at.elapsed() < REMIND_EVERY
        });
        if known || self.wait < FIRST_RETRY * 4 {
            return;
        }
        let (Self { role, addr, .. }, node) = (&*self, self.node.as_ref().map(display));
        let (Cause { error, holder, help, .. }, toward) = (&cause, self.toward.as_deref());
        match event {
            Event::Taken => {
                tracing::warn!(%role, listener = %addr, toward, node, error, holder, help, "port_taken");
            }
            Event::NotOpened => {
                tracing::warn!(%role, listener = %addr, toward, node, error, help, "port_not_opened");
            }
        }
        self.told = Some((cause, Instant::now()));
    }
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Taken,
    NotOpened,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Audience;
    use crate::transport::Listener;

    #[tokio::test]
    async fn an_alias_that_this_host_does_not_have_is_told_of_with_the_line_that_adds_it() {
        let config = crate::config::from_text("test", "", &Default::default()).unwrap().config;
        let snapshot = Snapshot::new(1, Arc::new(config));
        let addr = "[2001:db8:ffff::12]:9100".parse().unwrap();
        let mut obstacle = Obstacle::new(Role::Dist, addr, Arc::new(Semaphore::new(1)));
        let toward = Some("h2".into());
        let service = Service { audience: Audience::ItselfOnly, inside: 9100, nodes: Arc::default(), toward };
        for _ in 0..3 {
            assert_eq!(obstacle.summary(), None);
            obstacle.meet(Listener::bind(addr).unwrap_err(), &service, &snapshot).await;
        }
        let told = obstacle.summary().unwrap();
        assert!(told.contains("stand for h2: `ip addr add 2001:db8:ffff::12/128 dev lo`"), "{told}");
    }
}
