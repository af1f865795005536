//! The composition root: a configuration becomes a running guard, and a running guard ends.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Limits};
use crate::control::{Front, FrontSettings, Resolver, explain_strangers};
use crate::policy::{Caps, Policy};
use crate::session::{Context, Ports, Settings};
use crate::transport::{Backends, Dialer};

/// Descriptors for listeners, the log, the resolver and the like.
const OVERHEAD: u64 = 256;
/// A connection and the one that it leads to.
const DESCRIPTORS_EACH: u64 = 2;
/// More connections than this are not opened unless `[limits] connections` says so.
const MOST_BY_ITSELF: u32 = 100_000;
/// How long host names may take before ports open without their answers.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);
/// How long questions that are under way may take when the guard ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How often refusals that were not shown are counted out.
const SWEEP_EVERY: Duration = Duration::from_secs(10);
/// Refused addresses that wait for an explanation; more are dropped.
const STRANGERS: usize = 16;

/// A guard that is running.
#[derive(Debug)]
pub struct Guard {
    context: Arc<Context>,
    /// Everything that is no connection: the ports, the resolver, the log's helpers. None ends by itself.
    helpers: JoinSet<()>,
    stop: CancellationToken,
}

impl Guard {
    /// Raises the descriptor limit, and begins to open ports.
    pub async fn start(config: Config) -> Self {
        let descriptors = raise_descriptor_limit();
        let caps = caps(&config.limits, descriptors);
        let (policy_sender, policy) = watch::channel(Arc::new(Policy::new(config.cluster.network.clone())));
        let (strangers, refused) = mpsc::channel(STRANGERS);
        let (ports, known) = watch::channel(HashMap::new());
        let (hurry, hurried) = mpsc::channel(1);
        let dialer = dialer(&config);
        let forwarded = Ports { forwarded: config.dist.ports.clone(), known, hurry };
        let settings = settings(&config.limits, caps);
        let context = Arc::new(Context::new(policy.clone(), settings, dialer.clone(), forwarded, strangers));
        let mut guard = Self { context, helpers: JoinSet::new(), stop: CancellationToken::new() };

        let resolver = Resolver::new(policy_sender, config.cluster.resolve_every);
        let (first, asked) = oneshot::channel();
        guard.helpers.spawn(resolver.run(first));
        // A peer whose name is answered later is let in later; names of `deny` keep all peers out until
        // they are answered.
        tokio::time::timeout(FIRST_ANSWERS, asked).await.map(drop).unwrap_or_default();

        guard.helpers.spawn(explain_strangers(refused, policy));
        guard.helpers.spawn(tell_of_quiet_refusals(Arc::clone(&guard.context)));
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            connections = caps.total,
            reserve = caps.reserve,
            descriptors,
            "started"
        );
        let settings = FrontSettings { config, dialer, ports, hurry: hurried };
        let front = Front::new(settings, Arc::clone(&guard.context));
        guard.helpers.spawn(front.run(guard.stop.clone()));
        guard
    }

    /// Ends when a part of the guard has died, which nothing but a fault of ours can do.
    pub async fn died(&mut self) {
        while let Some(ended) = self.helpers.join_next().await {
            if let Err(error) = ended {
                tracing::error!(%error, help = "this is a fault of the guard: please report it", "guard_died");
                return;
            }
        }
        // All have ended well, which they do only when they are told to.
        std::future::pending().await
    }

    /// Takes nothing new and waits until the last link has ended by itself: a fault of ours is no reason to
    /// cut a cluster. Whoever runs the guard starts it again after that, or sooner if new links matter more.
    pub async fn outlive_its_links(&mut self) {
        let help =
            "nothing new is let in; the guard ends with its last link, or restart it now, which cuts them";
        tracing::error!(connections = self.context.connections(), help, "guard_crippled");
        self.stop.cancel();
        self.helpers.shutdown().await;
        self.context.sessions.close();
        self.context.sessions.wait().await;
    }

    /// Closes the ports, ends the links and waits for what is under way, 2 s at most.
    pub async fn stop(mut self, cause: &'static str) {
        tracing::info!(cause, connections = self.context.connections(), "stopping");
        self.stop.cancel();
        self.helpers.shutdown().await;
        self.context.stop.cancel();
        self.context.sessions.close();
        if tokio::time::timeout(LAST_ANSWERS, self.context.sessions.wait()).await.is_err() {
            tracing::warn!(connections = self.context.connections(), "connections_abandoned");
        }
        tracing::info!("stopped");
    }
}

fn dialer(config: &Config) -> Dialer {
    let backends = Backends { epmd: config.epmd.backend, dist: config.dist.backend.clone() };
    Dialer::new(backends, config.limits.backend_timeout)
}

fn settings(limits: &Limits, caps: Caps) -> Settings {
    Settings {
        request_timeout: limits.request_timeout,
        backend_timeout: limits.backend_timeout,
        half_close_timeout: limits.half_close_timeout,
        caps,
    }
}

/// Raises the soft limit to the hard one: the soft limit is 1024 on most systems, for programs that
/// use select(), which we do not. Returns the limit in force.
fn raise_descriptor_limit() -> u64 {
    let before = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: before.maximum, maximum: before.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(error = %io::Error::from(error), limit = before.current, "descriptor_limit_not_raised");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// The caps that the descriptors carry.
fn caps(limits: &Limits, descriptors: u64) -> Caps {
    let carried = descriptors.saturating_sub(OVERHEAD).max(DESCRIPTORS_EACH) / DESCRIPTORS_EACH;
    let carried = u32::try_from(carried).unwrap_or(u32::MAX);
    let total = match limits.connections {
        Some(wanted) if wanted > carried => {
            tracing::warn!(
                wanted,
                carried,
                descriptors,
                help = "raise LimitNOFILE (ulimit -Hn): each connection takes two descriptors",
                "connections_lowered"
            );
            carried
        }
        Some(wanted) => wanted,
        None => carried.min(MOST_BY_ITSELF),
    };
    // Where the descriptors decide, the reserve must not be all there is.
    let reserve =
        if limits.connections == Some(total) { limits.reserve } else { limits.reserve.min(total / 2) };
    Caps { total, reserve, per_address: limits.per_address, per_subnet: limits.per_subnet }
}

async fn tell_of_quiet_refusals(context: Arc<Context>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        for again in context.refusals.sweep(Instant::now()) {
            let peer = match again.source {
                Some(ip @ IpAddr::V4(_)) => ip.to_string(),
                Some(ip @ IpAddr::V6(_)) => format!("{ip}/64"),
                None => "others".to_owned(),
            };
            tracing::info!(peer, reason = again.reason, count = again.count, "refused_again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fault_of_a_part_takes_nothing_new_and_cuts_no_link() {
        let text = "[epmd]\nlisten = []\n[dist]\nports = 1";
        let config = crate::config::from_text("test", text, &Default::default());
        let mut guard = Guard::start(config.unwrap().config).await;
        // Stands for a link that a peer has.
        let (closes, link) = oneshot::channel::<()>();
        guard.context.sessions.spawn(async move { link.await.unwrap_or_default() });
        guard.helpers.spawn(async { panic!("a fault") });
        guard.died().await;
        let mut outlived = std::pin::pin!(guard.outlive_its_links());
        let soon = tokio::time::timeout(Duration::from_millis(200), &mut outlived).await;
        assert!(soon.is_err(), "it did not wait for the link");
        closes.send(()).unwrap();
        outlived.await;
    }

    fn limits(connections: Option<u32>) -> Limits {
        Limits {
            connections,
            reserve: 64,
            per_address: 512,
            per_subnet: 2048,
            request_timeout: Duration::from_secs(5),
            backend_timeout: Duration::from_secs(5),
            half_close_timeout: Duration::from_secs(300),
        }
    }

    #[test]
    fn the_caps_follow_from_the_descriptors() {
        assert_eq!(caps(&limits(None), 1024).total, 384);
        assert_eq!(caps(&limits(None), u64::MAX).total, MOST_BY_ITSELF);
        assert_eq!(caps(&limits(Some(100)), 1024).total, 100);
        assert_eq!(caps(&limits(Some(1000)), 1024).total, 384);
        let small = caps(&limits(None), 268);
        assert_eq!((small.total, small.reserve), (6, 3));
    }
}
