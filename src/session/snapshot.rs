//! One generation of everything that a reload may change.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::config::Config;
use crate::policy::{HostAnswers, Intake, Mode, Policy};
use crate::transport::{Backends, Dialer};

/// One generation. Readers take it as a whole and keep it for as long as they decide by it.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Counts the configurations that were in force, from 1.
    pub generation: u64,
    /// The configuration.
    pub config: Arc<Config>,
    /// What follows from it for connections, with what the resolver last said.
    pub policy: Arc<Policy>,
    /// To what it has behind us.
    pub dialer: Dialer,
}

impl Snapshot {
    /// The generation that `config` makes, with no host name resolved yet.
    #[must_use]
    pub fn new(generation: u64, config: Arc<Config>) -> Self {
        let backends = Backends {
            epmd: config.epmd.backend.addr(),
            dist: config.dist.backend.clone(),
            forwards: config.forwards.clone(),
        };
        let policy = Policy::new(config.rules());
        let dialer = Dialer::new(backends, config.limits.backend_timeout);
        Self { generation, config, policy: Arc::new(policy), dialer }
    }

    /// For one whole epmd request.
    pub(super) fn request_timeout(&self) -> Duration {
        self.config.limits.request_timeout
    }

    /// For epmd's whole answer, and for a peer to take it.
    pub(super) fn backend_timeout(&self) -> Duration {
        self.config.limits.backend_timeout
    }

    /// The same with another policy, which decides by the same rules.
    fn with_policy(&self, policy: Policy) -> Self {
        Self { policy: Arc::new(policy), ..self.clone() }
    }
}

/// The generation in force, to be read and to be replaced.
#[derive(Debug, Clone)]
pub struct Snapshots(Arc<watch::Sender<Arc<Snapshot>>>);

impl Snapshots {
    /// With the first generation in force.
    #[must_use]
    pub fn new(first: Snapshot) -> Self {
        Self(Arc::new(watch::Sender::new(Arc::new(first))))
    }

    /// The one in force.
    #[must_use]
    pub fn current(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.borrow())
    }

    /// Puts the next generation in force; `make` is given the one before, which nothing replaces meanwhile.
    pub fn publish(&self, make: impl FnOnce(&Snapshot) -> Snapshot) {
        self.0.send_modify(|current| *current = Arc::new(make(current)));
    }

    /// Takes what the resolver says; `answers` is given the policy whose names were asked for, and that
    /// does not change meanwhile.
    pub fn answer(&self, answers: impl FnOnce(&Policy) -> HostAnswers) {
        self.publish(|current| current.with_policy(current.policy.with_answers(answers(&current.policy))));
    }

    /// Takes new connections of peers, or no more.
    pub fn set_intake(&self, intake: Intake) {
        self.publish(|current| current.with_policy(current.policy.with_intake(intake)));
    }

    /// Has this mode in the place of the configured one; `None`: that one again.
    pub fn set_mode(&self, mode: Option<Mode>) {
        self.publish(|current| current.with_policy(current.policy.with_mode(mode)));
    }

    /// Ends when another one is in force, or the same with other answers.
    pub fn subscribe(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.0.subscribe()
    }
}
