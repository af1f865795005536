//! The composition root: a configuration becomes a running guard, and a running guard ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Source};
use crate::control::admin::{AdminSettings, Claim, serve};
use crate::control::credentials::{Found, Keyring, Lookout};
use crate::control::mesh::{Mesh, follow_mesh};
use crate::control::{
    Capacity, Console, ConsoleParts, Each, Front, FrontChannels, FrontView, Modes, Notifier, ReloadParts,
    Reloader, Resolver, Standing, end_orders, explain_strangers, keep_bans, recall_bans, tell_captured,
    tell_of_quiet_refusals,
};
use crate::policy::Caps;
use crate::session::{Context, ContextParts, Habits, Ports, Snapshot, Snapshots};
use crate::telemetry::{DroppedLines, LevelHandle};
use crate::transport::activation::Inherited;

/// How long host names may take before ports open without their answers.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);
/// How long the admin socket may take to be removed.
const LAST_DOOR: Duration = Duration::from_millis(500);
/// How long questions that are under way may take when the guard ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// Refused addresses that wait for an explanation; more are dropped.
const STRANGERS: usize = 16;
/// Names, and ports at aliases, that were looked up and wait for the front. All who may ask epmd at one time fit in.
const SIGHTINGS: usize = 128;

/// What a guard is started with.
#[derive(Debug)]
pub struct Start {
    /// The first configuration.
    pub config: Config,
    /// What the files of its `[tls]` hold.
    pub credentials: Found,
    /// Where it comes from.
    pub source: Source,
    /// What it is called.
    pub label: String,
    /// The level of the log.
    pub level: LevelHandle,
    /// Lines that the log has lost.
    pub dropped: DroppedLines,
    /// Sockets that systemd passed.
    pub inherited: Arc<[Inherited]>,
    /// The right to the admin socket; `None`: there is none.
    pub claim: Option<Claim>,
    /// The service manager.
    pub notifier: Arc<Notifier>,
}

/// A guard that is running.
#[derive(Debug)]
pub struct Guard {
    context: Arc<Context>,
    reloader: Arc<Reloader>,
    /// Everything that is no connection: the ports, the resolver, the log's helpers. None ends by itself.
    helpers: JoinSet<()>,
    /// What SIGHUP asked for. One that panics is no reason to end anything else.
    reloads: JoinSet<()>,
    stop: CancellationToken,
    /// When the admin socket is gone.
    doors_closed: CancellationToken,
    /// When the bans are in their file.
    bans_kept: CancellationToken,
    notifier: Arc<Notifier>,
}

impl Guard {
    /// Raises the descriptor limit, and begins to open ports.
    pub async fn start(start: Start) -> Self {
        let Start { config, credentials, source, label, level, dropped, inherited, claim, notifier } = start;
        let capacity = Capacity::raise();
        let admin =
            AdminSettings { claim, group: config.admin.group.clone(), listen: config.admin.listen.clone() };
        let caps = capacity.caps(&config.limits, Each::Two);
        let (keyring, snapshots) = begin(config, credentials);
        let (strangers, refused) = mpsc::channel(STRANGERS);
        let (view, front) = watch::channel(FrontView::default());
        let (orders, ordered) = mpsc::channel(1);
        let (ports, teller) = Ports::new(SIGHTINGS);
        let habits = Habits::default();
        let parts =
            ContextParts { snapshots: snapshots.clone(), caps, ports: Some(ports), strangers, habits };
        let context = Arc::new(Context::new(parts));
        let mut helpers = JoinSet::new();

        let (resolver, names) = Resolver::new(snapshots.clone());
        helpers.spawn(resolver.run());
        // A peer whose name is answered later is let in later; names of `deny` keep all peers out until
        // they are answered.
        let first = snapshots.current();
        drop(names.resolve(first.policy.network(), FIRST_ANSWERS).await);

        helpers.spawn(explain_strangers(refused, snapshots.clone()));
        helpers.spawn(tell_of_quiet_refusals(Arc::clone(&context)));
        tell_started(caps, capacity, &snapshots.current());
        let stop = CancellationToken::new();
        // Whoever was banned finds no port that is open to him for a moment.
        recall_bans(&context).await;
        let bans_kept = spawn_told(keep_bans(Arc::clone(&context), stop.clone()), &mut helpers);
        let channels =
            FrontChannels { ports: teller, view, orders: ordered, notifier: Arc::clone(&notifier) };
        helpers.spawn(Front::new(channels, Arc::clone(&context), Arc::clone(&inherited)).run(stop.clone()));
        let parts = ReloadParts {
            source,
            snapshots: snapshots.clone(),
            names,
            front: orders,
            capacity,
            level,
            notifier: Arc::clone(&notifier),
            inherited: Arc::clone(&inherited),
            keyring: Arc::clone(&keyring),
        };
        let reloader = Arc::new(Reloader::new(parts, label, Arc::clone(&context)));
        let mesh = follow_all(&context, (&snapshots, &front, &reloader), &notifier, &mut helpers);
        let lookout = Lookout::new(snapshots.clone(), Arc::clone(&context), Arc::clone(&keyring));
        helpers.spawn(lookout.run());
        let modes = Arc::new(Modes::new(snapshots.clone()));
        helpers.spawn(end_orders(Arc::clone(&modes)));
        let console = Console::new(ConsoleParts {
            context: Arc::clone(&context),
            snapshots,
            front,
            mesh,
            reloader: Arc::clone(&reloader),
            keyring,
            modes,
            dropped,
        });
        let doors_closed = spawn_told(serve(admin, Arc::new(console), stop.clone()), &mut helpers);
        Self { context, reloader, helpers, reloads: JoinSet::new(), stop, doors_closed, bans_kept, notifier }
    }

    /// Reloads as SIGHUP asks for it, beside everything else.
    pub fn reload_soon(&mut self) {
        // A panic is in the log.
        while self.reloads.try_join_next().is_some() {}
        let reloader = Arc::clone(&self.reloader);
        self.reloads.spawn(async move { reloader.reload_for_hangup().await });
    }

    /// Ends everything that is no connection, and waits for the admin socket to be removed, since the next guard
    /// would have to find out first that nobody has it any more, and for the bans to be written, which bounds itself.
    async fn end_helpers(&mut self) {
        self.stop.cancel();
        self.reloads.shutdown().await;
        let closed = tokio::time::timeout(LAST_DOOR, self.doors_closed.cancelled());
        let (closed, ()) = tokio::join!(closed, self.bans_kept.cancelled());
        if closed.is_err() {
            tracing::debug!("admin_not_closed");
        }
        self.helpers.shutdown().await;
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
        self.end_helpers().await;
        // Last, as a reload that ends here has words of its own.
        self.notifier.unwatched("a fault: nothing new is let in, and the links that are up live on");
        // Their nodes register anew, with whoever is the epmd then.
        self.context.disown.cancel();
        self.context.sessions.close();
        self.context.sessions.wait().await;
    }

    /// Closes the ports, ends the links and waits for what is under way, 2 s at most.
    pub async fn stop(mut self, cause: &'static str) {
        tracing::info!(cause, connections = self.context.connections(), "stopping");
        self.notifier.stopping();
        self.end_helpers().await;
        self.context.stop.cancel();
        self.context.sessions.close();
        if tokio::time::timeout(LAST_ANSWERS, self.context.sessions.wait()).await.is_err() {
            tracing::warn!(connections = self.context.connections(), "connections_abandoned");
        }
        self.notifier.retry();
        tracing::info!("stopped");
    }
}

/// The first generation, and what is known of the files of its `[tls]`.
fn begin(config: Config, found: Found) -> (Arc<Keyring>, Snapshots) {
    let (keyring, credentials) = Keyring::begin(found);
    let first = Snapshot::new(1, Arc::new(config)).with_credentials(credentials);
    (Arc::new(keyring), Snapshots::new(first))
}

/// Follows what the service manager is told, and whether peers let us in too.
fn follow_all(
    context: &Arc<Context>,
    (snapshots, front, reloader): (&Snapshots, &watch::Receiver<FrontView>, &Reloader),
    notifier: &Arc<Notifier>,
    helpers: &mut JoinSet<()>,
) -> watch::Receiver<Mesh> {
    let (generations, reloads) = (snapshots.subscribe(), reloader.subscribe());
    let standing = Standing { front: front.clone(), generations, reloads };
    helpers.spawn(standing.tell(Arc::clone(notifier)));
    helpers.spawn(tell_captured(front.clone(), snapshots.subscribe()));
    let (sender, mesh) = watch::channel(Mesh::new());
    helpers.spawn(follow_mesh(Arc::clone(context), snapshots.clone(), sender));
    mesh
}

fn tell_started(caps: Caps, capacity: Capacity, snapshot: &Snapshot) {
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        connections = caps.total,
        reserve = caps.reserve,
        names = caps.names(snapshot.config.limits.names),
        descriptors = capacity.descriptors,
        mode = %snapshot.policy.mode(),
        "started"
    );
}

/// Spawns a helper that is waited for. The token says when it has ended, however it came.
fn spawn_told(
    helper: impl Future<Output = ()> + Send + 'static,
    helpers: &mut JoinSet<()>,
) -> CancellationToken {
    let ended = CancellationToken::new();
    let at_the_end = ended.clone().drop_guard();
    helpers.spawn(async move {
        helper.await;
        drop(at_the_end);
    });
    ended
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use tokio::sync::oneshot;

    use super::*;
    use crate::control::credentials::{certificate_time, read_credentials};
    use crate::control::{Act, Consent, Request, Verdict};
    use crate::policy::{Ban, Offence, Record};
    use crate::telemetry;
    use crate::transport::tls::testing::{Ca, DAY, Host};

    async fn a_guard() -> Guard {
        a_guard_that_keeps_bans(None).await
    }

    async fn a_guard_that_keeps_bans(file: Option<PathBuf>) -> Guard {
        let text = "[epmd]\nlisten = []\n[dist]\nports = 1\n[admin]\nsocket = \"\"";
        let mut config = crate::config::from_text("test", text, &Default::default()).unwrap().config;
        config.ban.file = file;
        let log = telemetry::init(&config.log, telemetry::Sink::StandardError);
        Guard::start(Start {
            config,
            credentials: Found::None,
            source: Source::default(),
            label: "test".to_owned(),
            level: log.level(),
            dropped: log.dropped_lines(),
            inherited: Arc::new([]),
            claim: None,
            notifier: Arc::new(Notifier::new(&Default::default())),
        })
        .await
    }

    /// A guard with a certificate, and the file of its configuration.
    async fn a_guard_with_tunnels(host: &Host) -> (Guard, PathBuf) {
        let file = host.path("guard.toml");
        let of = |name: &str| host.path(name).display().to_string();
        let text = format!(
            "[epmd]\nlisten = []\n[dist]\nports = 1\n[admin]\nsocket = \"\"\n[tls]\ncert = {:?}\nkey = {:?}\nca = {:?}\n",
            of("cert.pem"),
            of("key.pem"),
            of("ca.pem")
        );
        std::fs::write(&file, text).unwrap();
        let source = Source { path: Some(file.clone()), ..Source::default() };
        let (loaded, label) = source.load().unwrap();
        let credentials = read_credentials(&loaded.config.tls, None, certificate_time()).unwrap();
        let log = telemetry::init(&loaded.config.log, telemetry::Sink::StandardError);
        let guard = Guard::start(Start {
            config: loaded.config,
            credentials,
            source,
            label,
            level: log.level(),
            dropped: log.dropped_lines(),
            inherited: Arc::new([]),
            claim: None,
            notifier: Arc::new(Notifier::new(&Default::default())),
        });
        (guard.await, file)
    }

    #[tokio::test]
    async fn a_reload_takes_credentials_that_are_new_keeps_those_that_are_the_same_and_refuses_bad_ones() {
        let ca = Ca::new("ca");
        let host = Host::new(&ca.issue("h1.test", 1, (-DAY, DAY)), &ca);
        let (guard, file) = a_guard_with_tunnels(&host).await;
        let in_force = || guard.context.snapshot().credentials().cloned().unwrap();
        let order = |act| Request { text: None, consent: Consent::Ask, act };
        let first = in_force();

        std::fs::write(&file, std::fs::read_to_string(&file).unwrap() + "warn_before = \"9d\"\n").unwrap();
        let report = guard.reloader.reload(order(Act::Reload)).await;
        assert_eq!((report.verdict, report.generation), (Verdict::Reloaded, 2));
        assert!(Arc::ptr_eq(&first, &in_force()), "sessions would not be resumed");

        let second = ca.issue("h1.test", 2, (-DAY, DAY));
        host.write("cert.pem", &second.cert);
        let checked = guard.reloader.reload(order(Act::Check)).await;
        let Verdict::Refused(reasons) = checked.verdict else { panic!("{:?}", checked.verdict) };
        assert!(reasons[0].full.contains("key.pem is not the key of the certificate: name the key"));
        let report = guard.reloader.reload(order(Act::Reload)).await;
        assert!(matches!(report.verdict, Verdict::Refused(_)));
        assert!(Arc::ptr_eq(&first, &in_force()) && guard.context.snapshot().generation == 2);

        host.write("key.pem", &second.key);
        let report = guard.reloader.reload(order(Act::Reload)).await;
        assert_eq!(report.verdict, Verdict::Reloaded);
        assert_eq!(in_force().own().serial, "02");
        let change = &report.delta.changes[0];
        assert_eq!(change.key, "[tls] cert");
        assert!(change.what.contains("another certificate: CN=h1.test (serial 02)"), "{}", change.what);
        guard.stop("test").await;
    }

    #[tokio::test]
    async fn a_fault_of_a_reload_ends_nothing_else() {
        let mut guard = a_guard().await;
        guard.reloads.spawn(async { panic!("a fault") });
        guard.reload_soon();
        assert!(tokio::time::timeout(Duration::from_millis(200), guard.died()).await.is_err());
        guard.stop("test").await;
    }

    #[tokio::test]
    async fn bans_are_written_before_the_guard_ends_and_known_before_the_next_one_opens_ports() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bans");
        let guard = a_guard_that_keeps_bans(Some(file.clone())).await;
        let now = guard.context.speakers.now();
        let ban = Ban {
            net: "192.0.2.7/32".parse().unwrap(),
            since: now,
            until: now.after(Duration::from_mins(1)),
            times: 1,
            offence: Offence::WrongCookie,
        };
        guard.context.speakers.offenders().restore([Record::Ban(ban)], now);
        guard.stop("test").await;
        assert!(file.exists());
        let guard = a_guard_that_keeps_bans(Some(file)).await;
        assert_eq!(guard.context.speakers.offenders().bans(guard.context.speakers.now()), [ban]);
        guard.stop("test").await;
    }

    #[tokio::test]
    async fn a_fault_of_a_part_takes_nothing_new_and_cuts_no_link() {
        let mut guard = a_guard().await;
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
}
