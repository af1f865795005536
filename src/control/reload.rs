//! Taking a new configuration, all of it or nothing.
//!
//! The order is that of the promises: whatever can fail comes before the new generation is published, and
//! changes nothing; what comes after cannot fail.

mod credentials;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::{AbortHandle, JoinHandle, spawn_blocking};

use super::Notifier;
use super::advice::advise_missing;
use super::capacity::{Capacity, Each};
use super::credentials::{
    CredentialFault, Found, Judged, Keyring, certificate_time, has_secrets, read_credentials,
};
use super::front::{FrontOrder, Unopened};
use super::resolver::{Names, Resolved};
use crate::config::{Color, Config, Delta, LoadError, Loaded, Source};
use crate::policy::{Denial, HostName, List, NetworkRules};
use crate::session::{Context, Cut, Role, Snapshot, Snapshots, half_open_caps};
use crate::telemetry::{LevelHandle, ReloadOutcome, describe};
use crate::transport::activation::{self, Inherited};
use crate::transport::cores::{Secrets, Withheld};

/// For reading the file, which may lie on a file system that hangs.
const READING: Duration = Duration::from_secs(10);
/// For the answers to host names that are new.
const RESOLVING: Duration = Duration::from_secs(5);
/// For the front, which answers at once.
const BINDING: Duration = Duration::from_secs(5);

/// Whether a reload may cut more links than `[admin] reload_may_cut`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consent {
    /// It may not; the report tells which links it would cut.
    Ask,
    /// It may cut all that the new configuration no longer permits.
    Yes,
}

/// How far a reload goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// To the last step that changes nothing.
    Check,
    /// To the end.
    Reload,
}

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Another configuration, to be checked in the place of the guard's own file.
    pub text: Option<String>,
    /// See [`Consent`].
    pub consent: Consent,
    /// See [`Act`].
    pub act: Act,
}

/// What became of a reload.
#[derive(Debug)]
pub struct Report {
    /// How it ended.
    pub verdict: Verdict,
    /// The generation in force afterwards.
    pub generation: u64,
    /// What the new configuration changes.
    pub delta: Delta,
    /// The links that were cut, or would be.
    pub cut: Vec<Ending>,
    /// The generation whose rules these links were under.
    pub before: Arc<Snapshot>,
    /// What is hardly meant so.
    pub warnings: Vec<String>,
}

/// How a reload ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The new configuration is in force.
    Reloaded,
    /// It could be put in force; only that was asked for.
    Checked,
    /// It would cut more links than it may without consent.
    NeedsYes(String),
    /// It was refused, for these reasons.
    Refused(Vec<Reason>),
}

/// Why a reload was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// All of it, maybe with lines of the file: for who asked for the reload.
    pub full: String,
    /// The gist in one line, without any line of the file: for the log and for all who may see the status.
    pub brief: String,
}

impl From<String> for Reason {
    fn from(text: String) -> Self {
        Self { full: text.clone(), brief: text }
    }
}

/// A link that a configuration ends.
#[derive(Debug)]
pub struct Ending {
    /// The link, and the leave that it had.
    pub cut: Cut,
    /// Why, in a word, and by which rule if there is one.
    pub why: String,
}

/// The reload that came last.
#[derive(Debug, Clone)]
pub struct LastReload {
    /// When.
    pub at: SystemTime,
    /// How it ended.
    pub outcome: ReloadOutcome,
    /// Why it was refused, in one line.
    pub detail: Option<String>,
}

/// What a reload works with.
#[derive(Debug)]
pub struct ReloadParts {
    /// Where the configuration is.
    pub source: Source,
    /// Where it is published.
    pub snapshots: Snapshots,
    /// The way to the resolver.
    pub names: Names,
    /// The way to the front.
    pub front: mpsc::Sender<FrontOrder>,
    /// The descriptors there are.
    pub capacity: Capacity,
    /// The log's level.
    pub level: LevelHandle,
    /// The service manager.
    pub notifier: Arc<Notifier>,
    /// The sockets that it passed.
    pub inherited: Arc<[Inherited]>,
    /// What is known of the files of `[tls]`.
    pub keyring: Arc<Keyring>,
}

/// Reloads, one at a time.
#[derive(Debug)]
pub struct Reloader {
    parts: ReloadParts,
    context: Arc<Context>,
    /// Held by a SIGHUP that waits for its turn. Another one behind it would find the same file.
    hangup: Semaphore,
    /// The last reading of files. One that hangs keeps a thread, so that there is no other beside it.
    reading: Mutex<Option<AbortHandle>>,
    last: watch::Sender<Option<LastReload>>,
    /// What the configuration in force is called.
    label: Mutex<String>,
}

/// Everything that a new configuration needs, ready to be put in force.
struct Prepared {
    next: Snapshot,
    label: String,
    resolved: Resolved,
    judged: Judged,
    delta: Delta,
    cut: Vec<Ending>,
    warnings: Vec<String>,
}

/// A configuration, what it is called, what it changes, and what the files of its `[tls]` hold.
struct Read {
    loaded: Loaded,
    label: String,
    delta: Delta,
    found: Result<Found, Vec<CredentialFault>>,
}

/// Why a reload goes no further, and what else is known by then.
#[derive(Default)]
struct Refused {
    reasons: Vec<Reason>,
    delta: Delta,
    /// Empty where it is not known.
    cut: Vec<Ending>,
    warnings: Vec<String>,
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Self {
        Self { reasons: vec![reason], ..Self::default() }
    }
}

impl Reloader {
    /// A reloader of the configuration that `context` is under, which is called `label`.
    #[must_use]
    pub fn new(parts: ReloadParts, label: String, context: Arc<Context>) -> Self {
        let (last, label, reading) = (watch::Sender::new(None), Mutex::new(label), Mutex::new(None));
        let hangup = Semaphore::new(1);
        Self { parts, context, hangup, reading, last, label }
    }

    /// What the configuration is called.
    #[must_use]
    pub fn label(&self) -> String {
        self.label.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The reload that came last.
    #[must_use]
    pub fn last(&self) -> Option<LastReload> {
        self.last.borrow().clone()
    }

    /// Changes when a reload has ended, after the service manager has heard of that.
    pub fn subscribe(&self) -> watch::Receiver<Option<LastReload>> {
        self.last.subscribe()
    }

    /// Loads the configuration again and puts it in force, or says why not.
    pub async fn reload(&self, request: Request) -> Report {
        let _turn = self.parts.keyring.turn.lock().await;
        self.perform(request).await
    }

    /// The same as SIGHUP asks for it: without consent to cut more links than the configuration says, and not
    /// at all while one that was asked for so has not begun yet.
    pub async fn reload_for_hangup(&self) {
        let Ok(waits) = self.hangup.try_acquire() else {
            tracing::debug!("reload_waits_already");
            return;
        };
        let _turn = self.parts.keyring.turn.lock().await;
        drop(waits);
        drop(self.perform(Request { text: None, consent: Consent::Ask, act: Act::Reload }).await);
    }

    async fn perform(&self, request: Request) -> Report {
        if request.act == Act::Check {
            return self.attempt(request).await;
        }
        let reloading = self.parts.notifier.reloading();
        let report = self.attempt(request).await;
        let last = self.note(&report);
        reloading.ended(match report.verdict {
            Verdict::Reloaded | Verdict::Checked => "reloaded",
            Verdict::NeedsYes(_) | Verdict::Refused(_) => "a reload was refused: nothing has changed",
        });
        self.last.send_replace(Some(last));
        report
    }

    async fn attempt(&self, request: Request) -> Report {
        let before = self.parts.snapshots.current();
        let report = |verdict| Report {
            verdict,
            generation: before.generation,
            delta: Delta::default(),
            cut: Vec::new(),
            before: Arc::clone(&before),
            warnings: Vec::new(),
        };
        let Request { text, consent, act } = request;
        let prepared = match self.prepare(text, &before).await {
            Ok(prepared) => prepared,
            Err(Refused { reasons, delta, cut, warnings }) => {
                self.abort().await;
                return Report { delta, cut, warnings, ..report(Verdict::Refused(reasons)) };
            }
        };
        let may_cut = usize::try_from(before.config.admin.reload_may_cut).unwrap_or(usize::MAX);
        let verdict = if consent == Consent::Ask && prepared.cut.len() > may_cut {
            Some(Verdict::NeedsYes(format!(
                "it would cut {} of {} links, and [admin] reload_may_cut is {may_cut}: look at them with \
                 `epmd-guard check --against-running`, then run `epmd-guard reload --yes`",
                prepared.cut.len(),
                self.context.links.count()
            )))
        } else {
            (act == Act::Check).then_some(Verdict::Checked)
        };
        if let Some(verdict) = verdict {
            self.abort().await;
            let Prepared { delta, cut, warnings, .. } = prepared;
            return Report { delta, cut, warnings, ..report(verdict) };
        }
        self.put_in_force(prepared, before).await
    }

    /// Everything that can fail. All that is wrong comes at once, as far as one fault does not hide the next.
    async fn prepare(&self, text: Option<String>, before: &Snapshot) -> Result<Prepared, Refused> {
        let Read { loaded, label, mut delta, found } = self.load(text, before).await?;
        let Loaded { config, warnings, .. } = loaded;
        let mut reasons: Vec<Reason> = delta
            .needs_restart()
            .map(|change| format!("{} ({}) needs a restart, which ends all links", change.key, change.what))
            .map(Reason::from)
            .collect();
        if let Err(error) = activation::check(&self.parts.inherited, &config) {
            reasons.push(format!("{}: {}", describe(&error), error.help()).into());
        }
        let mut warnings: Vec<String> = warnings.iter().map(|problem| problem.message.clone()).collect();
        let judged = self.judge(found, before, (&mut delta, &mut reasons, &mut warnings));
        let config = Arc::new(config);
        let resolved = match self.resolve(&config.cluster.network, before).await {
            Ok(resolved) => Some(resolved),
            Err(unknown) => {
                reasons.extend(unknown.into_iter().map(Reason::from));
                None
            }
        };
        let (unopened, refused) = self.bind(&config).await;
        warnings.extend(unopened);
        reasons.extend(refused.into_iter().map(Reason::from));
        // Where a name has no answer nobody knows whose links it permits.
        let next = |resolved| (succeed(before, config, &resolved, &judged), resolved);
        let known = resolved.map(next);
        let cut = known.as_ref().map(|(next, _)| endings(self.context.links.would_cut(next, before), next));
        let cut = cut.unwrap_or_default();
        match known {
            Some((next, resolved)) if reasons.is_empty() => {
                Ok(Prepared { next, label, resolved, judged, delta, cut, warnings })
            }
            Some(_) | None => Err(Refused { reasons, delta, cut, warnings }),
        }
    }

    /// Reads, checks and compares, which takes its time where there are a million rules.
    async fn load(&self, text: Option<String>, before: &Snapshot) -> Result<Read, Reason> {
        let shown = self.label();
        let reading = self.begin_reading(text, before)?;
        match tokio::time::timeout(READING, reading).await {
            Ok(Ok(Ok(loaded))) => Ok(loaded),
            Ok(Ok(Err(error))) => {
                let full = error.render(Color::Plain).trim_end().to_owned();
                Err(Reason { full, brief: error.brief() })
            }
            Ok(Err(panic)) => Err(format!("reading {shown} failed: {panic}").into()),
            Err(_) => Err(format!(
                "{shown}, or a file that it names, could not be read within {}: does its file system hang?",
                humantime::format_duration(READING)
            )
            .into()),
        }
    }

    /// Also a text that was handed in may name files that hang.
    fn begin_reading(
        &self,
        text: Option<String>,
        before: &Snapshot,
    ) -> Result<JoinHandle<Result<Read, LoadError>>, Reason> {
        let (in_force, before) = (before.credentials().cloned(), Arc::clone(&before.config));
        let (source, label) = (self.parts.source.clone(), self.label());
        let mut last = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if last.as_ref().is_some_and(|reading| !reading.is_finished()) {
            return Err(format!(
                "{label}, or a file that it names, is still being read since an earlier reload: does its file system hang?"
            )
            .into());
        }
        let reading = spawn_blocking(move || {
            let cores = Withheld::begin();
            let read = match text {
                Some(text) => source.load_text("the configuration", &text).map(|loaded| (loaded, label)),
                None => source.load_again(&label),
            };
            let held =
                has_secrets(&before) || read.as_ref().is_ok_and(|(loaded, _)| has_secrets(&loaded.config));
            cores.settle(if held { Secrets::Held } else { Secrets::None });
            let (loaded, label) = read?;
            let delta = Delta::between(&before, &loaded.config);
            let found = read_credentials(&loaded.config.tls, in_force.as_ref(), certificate_time());
            Ok(Read { loaded, label, delta, found })
        });
        *last = Some(reading.abort_handle());
        Ok(reading)
    }

    /// A name that the resolver does not know is an answer; a resolver that fails is none, and links must not
    /// be cut for want of one. Names that are rules of the same list already are no news.
    async fn resolve(&self, rules: &NetworkRules, before: &Snapshot) -> Result<Resolved, Vec<String>> {
        let Some(resolved) = self.parts.names.resolve(rules, RESOLVING).await else {
            return Err(vec!["the guard cannot resolve names just now: it stops, or hangs".into()]);
        };
        let known: HashSet<(List, &HostName)> =
            before.policy.network().host_names().map(|(_, list, host)| (list, host)).collect();
        let failed: Vec<String> = resolved
            .unanswered()
            .filter(|(list, host, _)| !known.contains(&(*list, *host)))
            .map(|(_, host, why)| {
                format!(
                    "{host} could not be resolved ({why}): write its address, or reload again when it can be"
                )
            })
            .collect();
        if failed.is_empty() { Ok(resolved) } else { Err(failed) }
    }

    /// A port of epmd's or of tunnels that somebody has is a reason to refuse, unless the configuration in force wants it too:
    /// that must not keep anybody from changing something else. An address that this host does not have yet and a
    /// node's port that cannot be had are none: they come and go, as they do for a guard that starts. Warnings, and
    /// reasons to refuse.
    async fn bind(&self, config: &Arc<Config>) -> (Vec<String>, Vec<String>) {
        let (reply, unopened) = oneshot::channel();
        let asked = async {
            self.parts.front.send(FrontOrder::Prepare(Arc::clone(config), reply)).await.ok()?;
            unopened.await.ok()
        };
        let Ok(Some(unopened)) = tokio::time::timeout(BINDING, asked).await else {
            return (Vec::new(), vec!["the guard cannot open ports just now: it stops, or hangs".into()]);
        };
        let Some(unopened) = unopened else {
            let why = "whether its ports can be opened is not known: the guard cannot see which are in use \
                       (sockets_unreadable in the log); they are opened when it can";
            return (vec![why.to_owned()], Vec::new());
        };
        let (mut refused, mut warnings, mut missing) = (Vec::new(), Vec::new(), HashSet::new());
        for Unopened { role, addr, toward, error, is_new } in unopened {
            let is_missing = error.kind() == std::io::ErrorKind::AddrNotAvailable;
            let text = format!("{role} cannot be served on {addr}: {error}");
            match (toward, role) {
                // Of its ports one is enough.
                (Some(peer), _) if is_missing => {
                    if missing.insert(addr.ip()) {
                        warnings.push(format!("{text}: {}", advise_missing(&peer, addr.ip())));
                    }
                }
                (_, Role::Epmd | Role::Tunnel) if is_new && !is_missing => refused.push(text),
                _ => warnings.push(text),
            }
        }
        (warnings, refused)
    }

    async fn put_in_force(&self, prepared: Prepared, before: Arc<Snapshot>) -> Report {
        let Prepared { next, label, resolved, judged, delta, warnings, .. } = prepared;
        *self.label.lock().unwrap_or_else(PoisonError::into_inner) = label;
        let config = Arc::clone(&next.config);
        // What `drain` has said meanwhile counts; the resolver tells its news again by itself.
        self.parts.snapshots.publish(|current| succeed(current, Arc::clone(&config), &resolved, &judged));
        let next = self.parts.snapshots.current();
        let cut = endings(self.context.links.follow(&next, &before), &next);
        self.context.metrics.links_cut(u64::try_from(cut.len()).unwrap_or(u64::MAX));
        self.tell_credentials(&before, &judged, &cut);
        let caps = self.parts.capacity.caps(&config.limits, Each::Two);
        self.context.slots().set_caps(caps);
        self.context.half_open().set_caps(half_open_caps(&next));
        self.context.speakers.follow(&config.limits, config.ban.rules);
        self.context.mapper.set_limit(caps.names(config.limits.names));
        self.parts.level.set(config.log.level);
        let (reply, done) = oneshot::channel();
        let followed = async {
            self.parts.front.send(FrontOrder::Commit(reply)).await.ok()?;
            done.await.ok()
        };
        // It follows at its next look all the same.
        tokio::time::timeout(BINDING, followed).await.map(drop).unwrap_or_default();
        Report { verdict: Verdict::Reloaded, generation: next.generation, delta, cut, before, warnings }
    }

    /// Gives back what was prepared.
    async fn abort(&self) {
        self.parts.names.forget();
        // A front that is gone holds nothing.
        let ordered = self.parts.front.send(FrontOrder::Abort);
        tokio::time::timeout(BINDING, ordered).await.map(drop).unwrap_or_default();
    }

    /// Tells of a reload in the log and in the metrics.
    fn note(&self, report: &Report) -> LastReload {
        let (outcome, detail) = match &report.verdict {
            Verdict::Reloaded | Verdict::Checked => (ReloadOutcome::Applied, None),
            Verdict::NeedsYes(why) => (ReloadOutcome::Refused, Some(why.clone())),
            Verdict::Refused(reasons) => {
                let brief: Vec<&str> = reasons.iter().map(|reason| reason.brief.as_str()).collect();
                (ReloadOutcome::Refused, Some(brief.join("; ")))
            }
        };
        self.context.metrics.reload(outcome);
        let config = self.label();
        match &detail {
            None => {
                let changes: Vec<String> = report
                    .delta
                    .changes
                    .iter()
                    .map(|change| format!("{}: {}", change.key, change.what))
                    .collect();
                let (generation, changes, cut) = (report.generation, changes.join("; "), report.cut.len());
                tracing::info!(config, generation, changes, links_cut = cut, "reloaded");
            }
            Some(problems) => {
                let help = "nothing has changed: mend it and reload again";
                tracing::error!(config, problems, help, "reload_refused");
            }
        }
        for warning in &report.warnings {
            tracing::warn!(problem = warning, "configuration_warning");
        }
        LastReload { at: SystemTime::now(), outcome, detail }
    }
}

/// The links that `next` ends, and why.
fn endings(cut: Vec<Cut>, next: &Snapshot) -> Vec<Ending> {
    let why = |denial: Denial| {
        let rule = next.policy.rule_of(denial).map_or_else(String::new, |rule| format!(" by {rule}"));
        format!("{}{rule}", denial.label())
    };
    cut.into_iter().map(|cut| Ending { why: why(cut.denial), cut }).collect()
}

/// The generation after `before`.
fn succeed(before: &Snapshot, config: Arc<Config>, resolved: &Resolved, judged: &Judged) -> Snapshot {
    let next = Snapshot::new(before.generation + 1, config).with_credentials(judged.credentials.clone());
    let answers = resolved.answers(next.policy.network());
    let policy = next.policy.with_answers(answers).with_intake(before.policy.intake());
    let policy = policy.with_mode(before.policy.mode_for_a_while());
    Snapshot { policy: Arc::new(policy), ..next }
}
