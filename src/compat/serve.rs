//! Serving as epmd does, until it is killed.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use procfs::process::Process;
use rustix::process::Signal as Number;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::arguments::Settings;
use super::daemon::Ready;
use super::listeners::{Bound, NotServed, bind};
use super::meaning::Meaning;
use crate::config::{Config, Source};
use crate::control::{
    Capacity, Each, ManagerSays, Notifier, Resolver, Signal, Signals, tell_of_quiet_refusals,
};
use crate::policy::{Audience, Role};
use crate::session::{Context, ContextParts, Habits, OnKill, Post, Service, Snapshot, Snapshots, accept};
use crate::telemetry::{self, Sink, describe};
use crate::transport::Listener;

/// How long answers that are under way may take when the process ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
/// How long host names may take before the port opens without their answers: a node waits for it.
const FIRST_ANSWERS: Duration = Duration::from_millis(200);
/// How often a service manager is told again what it has not taken.
const TELL_AGAIN: Duration = Duration::from_secs(1);
/// The runtime, the signals, a listener, and some connections.
const LEAST_DESCRIPTORS: u64 = 32;

/// Where a process that is called `epmd` finds what it needs.
#[derive(Debug)]
pub struct Surroundings {
    /// Where the configuration is.
    pub source: Source,
    /// The sockets that systemd passed.
    pub passed: Vec<std::net::TcpListener>,
    /// The service manager that waits to hear from it; with `-systemd` only, as with epmd.
    pub manager: ManagerSays,
}

/// Serves as `settings` say until the process is told to end, and tells `ready` once it listens, or why it does not.
///
/// Returns the exit code: 0 also where another epmd has the port, as with epmd.
#[must_use]
pub fn serve(settings: &Settings, surroundings: Surroundings, ready: Ready) -> ExitCode {
    let Surroundings { source, passed, manager } = surroundings;
    let Meaning { config, places, alone } = Meaning::of(settings, &source);
    let capacity = Capacity::raise();
    let bound = run_time(capacity).and_then(|runtime| {
        let bound = {
            let _inside = runtime.enter();
            if settings.systemd { adopt(passed)? } else { bind(&places, settings.port)? }
        };
        Ok((bound, runtime))
    });
    let (Bound { listeners, missing }, runtime) = match bound {
        Ok(bound) => bound,
        Err(NotServed::Taken) => {
            if settings.debug > 0 && !settings.daemon {
                ready.failed(&format!("port {} is served already", settings.port));
            } else {
                ready.taken();
            }
            return ExitCode::SUCCESS;
        }
        Err(NotServed::Failed(why)) => {
            ready.failed(&why);
            return ExitCode::FAILURE;
        }
    };
    let log = telemetry::init(&config.log, if settings.daemon { Sink::Syslog } else { Sink::StandardError });
    telemetry::log_panics();
    for why in &missing {
        ready.remark(why);
        if settings.daemon {
            tracing::warn!(why, "address_left_out");
        }
    }
    if let Some(why) = &alone {
        ready.remark(why);
        if settings.daemon {
            tracing::warn!(why, "serving_this_host_only");
        }
    }
    let notifier = Arc::new(Notifier::new(&manager));
    let code = runtime.block_on(run(settings, (config, capacity), listeners, ready, notifier));
    runtime.shutdown_background();
    drop(log);
    code
}

fn run_time(Capacity { descriptors }: Capacity) -> Result<Runtime, NotServed> {
    // Without some of its own the runtime does not come up, and says so in many lines.
    if descriptors < LEAST_DESCRIPTORS {
        return Err(NotServed::Failed(format!(
            "the limit on open files is {descriptors}, and at least {LEAST_DESCRIPTORS} are needed: raise it (ulimit -Hn)"
        )));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.map_err(|error| NotServed::Failed(describe(&error)))
}

/// What systemd listens on, wherever that is.
fn adopt(passed: Vec<std::net::TcpListener>) -> Result<Bound, NotServed> {
    if passed.is_empty() {
        return Err(NotServed::Failed("systemd provides no sockets".to_owned()));
    }
    match passed.into_iter().map(Listener::from_std).collect() {
        Ok(listeners) => Ok(Bound { listeners, missing: Vec::new() }),
        Err(error) => {
            Err(NotServed::Failed(format!("what systemd passed cannot be served: {}", describe(&error))))
        }
    }
}

async fn run(
    settings: &Settings,
    (config, capacity): (Config, Capacity),
    listeners: Vec<Listener>,
    ready: Ready,
    notifier: Arc<Notifier>,
) -> ExitCode {
    // Before they are caught: that makes an end of it.
    let ignored = Ignored::now(settings);
    let signals = match Signals::catch() {
        Ok(signals) => signals,
        Err(error) => {
            ready.failed(&describe(&error));
            return ExitCode::FAILURE;
        }
    };
    let caps = capacity.caps(&config.limits, Each::One);
    let snapshots = Snapshots::new(Snapshot::new(1, Arc::new(config)));
    // Nobody explains who a stranger is: the log of an epmd is for what is wrong with it.
    let (strangers, _) = mpsc::channel(1);
    let parts = ContextParts {
        snapshots: snapshots.clone(),
        caps,
        ports: None,
        strangers,
        habits: habits(settings, &snapshots),
    };
    let context = Arc::new(Context::new(parts));
    let mut helpers = JoinSet::new();
    let (resolver, names) = Resolver::new(snapshots.clone());
    helpers.spawn(resolver.run());
    drop(names.resolve(snapshots.current().policy.network(), FIRST_ANSWERS).await);
    helpers.spawn(tell_of_quiet_refusals(Arc::clone(&context)));
    let stop = CancellationToken::new();
    let service = Service { audience: Audience::Peers, inside: 0, nodes: Arc::default(), toward: None };
    let (service, served) = watch::channel(service);
    for listener in listeners {
        let post = Post { role: Role::Epmd, service: served.clone() };
        helpers.spawn(accept(listener, post, Arc::clone(&context), stop.clone()));
    }
    if let Err(error) = ready.listening() {
        tracing::warn!(error = describe(&error), "streams_kept");
    }
    notifier.ready("answers for the names of this host");
    helpers.spawn(tell_again(Arc::clone(&notifier)));
    let code = tokio::select! {
        () = context.killed.cancelled() => ExitCode::SUCCESS,
        () = told_to_end(signals, ignored) => ExitCode::SUCCESS,
        Some(_) = helpers.join_next() => {
            tracing::error!(help = "this is a fault of the guard: please report it", "guard_died");
            ExitCode::FAILURE
        }
    };
    notifier.stopping();
    drop(service);
    stop.cancel();
    helpers.shutdown().await;
    context.stop.cancel();
    context.sessions.close();
    // Whoever has not been answered by then has to ask the next epmd.
    drop(tokio::time::timeout(LAST_ANSWERS, context.sessions.wait()).await);
    code
}

/// A manager that was busy takes it later.
async fn tell_again(notifier: Arc<Notifier>) {
    loop {
        tokio::time::sleep(TELL_AGAIN).await;
        notifier.retry();
    }
}

fn habits(settings: &Settings, snapshots: &Snapshots) -> Habits {
    let relaxed = snapshots.current().config.epmd.command_check == crate::config::CommandCheck::Relaxed;
    Habits {
        on_kill: if relaxed { OnKill::End } else { OnKill::EndWhenEmpty },
        delay_accept: settings.delay_accept.unwrap_or_default(),
        delay_write: settings.delay_write.unwrap_or_default(),
    }
}

/// The signals of a terminal that mean nothing to it.
#[derive(Debug, Clone, Copy)]
struct Ignored {
    hangup: bool,
    interrupt: bool,
}

impl Ignored {
    /// A daemon has no terminal whose end could mean anything. What it was started to ignore stays so, as with epmd:
    /// `nohup epmd`, and `epmd &` in a script.
    fn now(settings: &Settings) -> Self {
        let mask = Process::myself().and_then(|own| own.status()).map_or(0, |status| status.sigign);
        let is_ignored = |signal: Number| mask >> (signal.as_raw() - 1) & 1 == 1;
        Self { hangup: settings.daemon || is_ignored(Number::HUP), interrupt: is_ignored(Number::INT) }
    }
}

async fn told_to_end(mut signals: Signals, ignored: Ignored) {
    loop {
        match signals.next().await {
            Signal::Reload if ignored.hangup => {}
            Signal::Stop("SIGINT") if ignored.interrupt => {}
            Signal::Reload | Signal::Stop(_) => return,
        }
    }
}
