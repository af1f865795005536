//! Metrics in the text form of OpenMetrics. The series are listed in `docs/metrics.md`.
//!
//! Counters are raised as things happen; what can be looked at is given with each question. Labels are
//! words of ours or names from the configuration, never text from a peer, so the series are bounded.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

use super::process::Process;
use crate::policy::{Intake, Mode};

/// What was counted since the start.
#[derive(Debug)]
pub struct Metrics {
    connections: Family<[Label; 2], Counter>,
    refusals: Family<[Label; 2], Counter>,
    reloads: Family<[Label; 1], Counter>,
    credentials: Family<[Label; 1], Counter>,
    links_cut: Counter,
    handshakes: Family<[Label; 1], Counter>,
    overlooked: Mutex<BTreeMap<Overlooked, u64>>,
    bans: Counter,
    slowed: Counter,
    /// Of the links that have ended.
    ended: Mutex<Traffic>,
}

/// A label whose value is a word of ours.
type Label = (&'static str, &'static str);

/// What observe mode has let pass: the reason, and the stage that would have said no.
type Overlooked = (&'static str, &'static str);

/// How a handshake can end, as `outcome` has it.
pub const HANDSHAKE_OUTCOMES: [&str; 7] =
    ["up", "wrong_cookie", "refused_by_node", "refused", "abandoned", "timed_out", "malformed"];

/// What links carried. "Up" is towards the node behind the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Bytes that were passed on upwards.
    pub bytes_up: u64,
    /// Bytes that were passed on downwards.
    pub bytes_down: u64,
    /// For how long bytes waited, since the upper end did not take them.
    pub blocked_up: Duration,
    /// For how long bytes waited, since the lower end did not take them.
    pub blocked_down: Duration,
}

/// What all links carried since the start, those that have ended and those that are up. Only
/// [`Metrics::traffic`] makes it, so that neither part can be forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Totals(Traffic);

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// The new configuration is in force.
    Applied,
    /// It was refused, and nothing changed.
    Refused,
}

/// The reload that came last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LastReload {
    /// When, in seconds of Unix time.
    pub at: u64,
    /// How it ended.
    pub outcome: ReloadOutcome,
}

/// Whether the guard does what it is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Readiness {
    /// Yes.
    Ready,
    /// Not yet, or not any more.
    NotReady,
}

/// A peer of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerObserved {
    /// Its name in the configuration, and no other: it becomes a label.
    pub name: String,
    /// Links that it dialled. Those that this host dialled go through its own guard.
    pub links: u64,
    /// The longest silence among its links. `None`: it has none.
    pub idle: Option<Duration>,
}

/// The files of `[tls]`, and what is in force of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsObserved {
    /// What is in force and when it ends, in seconds of Unix time: `certificate`, `ca` (the one that ends first), `crl`.
    pub expires: Vec<(&'static str, u64)>,
    /// Whether the files hold what is in force.
    pub files: TlsFilesState,
}

/// Whether what the files of `[tls]` hold is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsFilesState {
    /// It is.
    InForce,
    /// It cannot be used, or not yet.
    Refused,
}

/// What is true at the moment of the question.
#[derive(Debug, Clone)]
pub struct Observed {
    /// Of the guard.
    pub version: &'static str,
    /// How many configurations have been in force, this one included.
    pub generation: u64,
    /// `None`: there was no reload yet.
    pub last_reload: Option<LastReload>,
    /// See [`Readiness`].
    pub readiness: Readiness,
    /// See [`Intake`].
    pub intake: Intake,
    /// Whether the rules of who speaks are enforced.
    pub mode: Mode,
    /// `None`: there is no tunnel.
    pub tls: Option<TlsObserved>,
    /// Handshakes that are not done.
    pub half_open: u64,
    /// Bans that are in force.
    pub bans: u64,
    /// Connections that are open.
    pub connections: u64,
    /// Links that are up.
    pub links: u64,
    /// See [`Totals`].
    pub traffic: Totals,
    /// One for each peer of the configuration.
    pub peers: Vec<PeerObserved>,
    /// The bounded tables in memory, and how many entries each has.
    pub tables: Vec<(&'static str, u64)>,
    /// The roles of listeners, and how many ports of each are open.
    pub ports_open: Vec<(&'static str, u64)>,
    /// Nodes of this host that can be reached around the guard.
    pub nodes_exposed: u64,
    /// Of the guard itself.
    pub process: Process,
    /// Log lines that nobody took in time, or that could not be written.
    pub log_lines_dropped: u64,
}

impl Default for Metrics {
    fn default() -> Self {
        let [reloads, credentials] = [(); 2].map(|()| Family::<_, Counter>::default());
        for outcome in [ReloadOutcome::Applied, ReloadOutcome::Refused] {
            // From the start, so that the first one is seen as a rise.
            reloads.get_or_create(&outcome.labels()).inc_by(0);
            credentials.get_or_create(&outcome.labels()).inc_by(0);
        }
        let handshakes = Family::<[Label; 1], Counter>::default();
        for outcome in HANDSHAKE_OUTCOMES {
            handshakes.get_or_create(&[("outcome", outcome)]).inc_by(0);
        }
        Self {
            connections: Family::default(),
            refusals: Family::default(),
            reloads,
            credentials,
            links_cut: Counter::default(),
            handshakes,
            overlooked: Mutex::default(),
            bans: Counter::default(),
            slowed: Counter::default(),
            ended: Mutex::default(),
        }
    }
}

impl Metrics {
    /// What an HTTP answer with [`Self::render`]'s text is called.
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An admitted connection has ended.
    pub fn connection(&self, role: &'static str, outcome: &'static str) {
        self.connections.get_or_create(&[("role", role), ("outcome", outcome)]).inc();
    }

    /// Somebody was refused.
    pub fn refusal(&self, reason: &'static str, stage: &'static str) {
        self.refusals.get_or_create(&[("reason", reason), ("stage", stage)]).inc();
    }

    /// A reload was asked for and has ended.
    pub fn reload(&self, outcome: ReloadOutcome) {
        self.reloads.get_or_create(&outcome.labels()).inc();
    }

    /// The files of `[tls]` held something else, which was taken or refused.
    pub fn credentials(&self, outcome: ReloadOutcome) {
        self.credentials.get_or_create(&outcome.labels()).inc();
    }

    /// A reload has ended so many links, whose peers are not allowed any more.
    pub fn links_cut(&self, count: u64) {
        self.links_cut.inc_by(count);
    }

    /// A handshake has ended so: one of [`HANDSHAKE_OUTCOMES`].
    pub fn handshake(&self, outcome: &'static str) {
        debug_assert!(HANDSHAKE_OUTCOMES.contains(&outcome), "{outcome} is on no page");
        self.handshakes.get_or_create(&[("outcome", outcome)]).inc();
    }

    /// How many handshakes have ended in which way, in the order of [`HANDSHAKE_OUTCOMES`].
    #[must_use]
    pub fn handshakes(&self) -> Vec<(&'static str, u64)> {
        let count = |outcome| self.handshakes.get_or_create(&[("outcome", outcome)]).get();
        HANDSHAKE_OUTCOMES.into_iter().map(|outcome| (outcome, count(outcome))).collect()
    }

    /// Observe mode let something pass that is refused otherwise, for this reason and at this stage.
    pub fn would_refuse(&self, reason: &'static str, stage: &'static str) {
        let mut overlooked = self.overlooked.lock().unwrap_or_else(PoisonError::into_inner);
        let count = overlooked.entry((reason, stage)).or_default();
        *count = count.saturating_add(1);
    }

    /// What observe mode has let pass, by reason and stage.
    #[must_use]
    pub fn would_have_refused(&self) -> BTreeMap<(&'static str, &'static str), u64> {
        self.overlooked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// A source was banned.
    pub fn banned(&self) {
        self.bans.inc();
    }

    /// A claim was held back, or turned away, since its address and name had shown too many wrong proofs.
    pub fn slowed(&self) {
        self.slowed.inc();
    }

    /// A link has ended and carried this in all.
    ///
    /// Call it in the same critical section in which the link leaves the table of links that are up, after
    /// it has moved its last byte: see [`Self::traffic`].
    pub fn link_ended(&self, traffic: Traffic) {
        *self.ended.lock().unwrap_or_else(PoisonError::into_inner) += traffic;
    }

    /// What all links carried, given what each of those that are up has carried until now.
    ///
    /// Call it while the table of links is locked, and read the table in that same critical section. Then
    /// each link is either in the table or among the ended ones, never both and never neither: nothing is
    /// counted twice, and no total ever falls. The lock may be released before the text is rendered. Lock
    /// order: the table's lock first; no other lock is ever taken in here.
    #[must_use]
    pub fn traffic(&self, up: impl IntoIterator<Item = Traffic>) -> Totals {
        let mut total = Traffic::default();
        up.into_iter().for_each(|link| total += link);
        total += *self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        Totals(total)
    }

    /// All series as text. Those of which nothing is known are left out.
    #[must_use]
    pub fn render(&self, observed: &Observed) -> String {
        let mut registry = Registry::with_prefix("epmd_guard");
        self.register(&mut registry);
        observed.register_guard(&mut registry);
        observed.register_links(&mut registry);
        observed.process.register(&mut registry);
        let mut text = String::new();
        let encoded = encode(&mut text, &registry);
        debug_assert!(encoded.is_ok(), "only a gauge beyond i64 fails, which `gauge` does not make");
        text
    }

    fn register(&self, into: &mut Registry) {
        into.register(
            "connections",
            "Connections that were admitted and have ended, by role and by why they ended",
            self.connections.clone(),
        );
        into.register("refusals", "Connections and requests that were refused", self.refusals.clone());
        into.register("reloads", "Reloads of the configuration", self.reloads.clone());
        let help = "Changes of what the files of [tls] hold";
        into.register("credential_changes", help, self.credentials.clone());
        into.register(
            "links_cut",
            "Links that a reload ended since they are not allowed any more",
            self.links_cut.clone(),
        );
        let help = "Handshakes of links that have ended, by how; up: the link came up";
        into.register("handshakes", help, self.handshakes.clone());
        let overlooked = Family::<[Label; 2], Counter>::default();
        for ((reason, stage), count) in self.would_have_refused() {
            overlooked.get_or_create(&[("reason", reason), ("stage", stage)]).inc_by(count);
        }
        into.register("would_refuse", "What observe mode let pass and enforce refuses", overlooked);
        into.register("banned", "Bans that were imposed", self.bans.clone());
        let help = "Claims that were held back or turned away after too many wrong proofs";
        into.register("slowed", help, self.slowed.clone());
    }
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, other: Self) {
        self.bytes_up = self.bytes_up.saturating_add(other.bytes_up);
        self.bytes_down = self.bytes_down.saturating_add(other.bytes_down);
        self.blocked_up = self.blocked_up.saturating_add(other.blocked_up);
        self.blocked_down = self.blocked_down.saturating_add(other.blocked_down);
    }
}

impl ReloadOutcome {
    /// As it stands in the metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Applied => "ok",
            Self::Refused => "refused",
        }
    }

    fn labels(self) -> [Label; 1] {
        [("result", self.label())]
    }
}

impl Observed {
    fn register_guard(&self, into: &mut Registry) {
        // A gauge, since readers of the older text form refuse the type `info`.
        into.register("build_info", "The version that runs", labelled("version", &[(self.version, 1)]));
        into.register(
            "config_generation",
            "How many configurations have been in force",
            gauge(self.generation),
        );
        if let Some(last) = self.last_reload {
            let help = "When a reload came last, in Unix time";
            into.register_with_unit("last_reload_timestamp", help, Unit::Seconds, gauge(last.at));
            let success = gauge(u64::from(last.outcome == ReloadOutcome::Applied));
            into.register(
                "last_reload_success",
                "Whether the last reload changed the configuration",
                success,
            );
        }
        let ready = gauge(u64::from(self.readiness == Readiness::Ready));
        into.register("ready", "Whether the guard does its work", ready);
        let draining = gauge(u64::from(self.intake == Intake::Draining));
        into.register("draining", "Whether nothing new of peers is taken", draining);
        let modes = [Mode::Enforce, Mode::Observe];
        let modes = modes.map(|mode| (mode.label(), u64::from(mode == self.mode)));
        into.register("mode", "Which mode is in force", labelled("mode", &modes));
        if let Some(tls) = &self.tls {
            tls.register(into);
        }
        into.register("bans", "Bans that are in force", gauge(self.bans));
        into.register("ports_open", "Ports that are open", labelled("role", &self.ports_open));
        into.register("table_entries", "Entries of a table in memory", labelled("table", &self.tables));
        into.register(
            "nodes_exposed",
            "Nodes of this host that can be reached around the guard",
            gauge(self.nodes_exposed),
        );
        into.register(
            "log_lines_dropped",
            "Log lines that were lost since standard error was not read or could not be written",
            ConstCounter::new(self.log_lines_dropped),
        );
    }

    fn register_links(&self, into: &mut Registry) {
        into.register("open_connections", "Connections that are open", gauge(self.connections));
        into.register("half_open", "Handshakes that are not done", gauge(self.half_open));
        into.register("links", "Distribution links that are up", gauge(self.links));
        self.traffic.register(into);
        let (links, idle) = (Family::<_, Gauge>::default(), Family::<_, Gauge<f64, AtomicU64>>::default());
        for peer in &self.peers {
            let label = [("peer", Escaped(peer.name.clone()))];
            links.get_or_create(&label).set(clamped(peer.links));
            if let Some(silence) = peer.idle {
                idle.get_or_create(&label).set(silence.as_secs_f64());
            }
        }
        into.register("peer_links", "Links that a peer dialled and that are up", links);
        let help = "For how long the quietest link of a peer has carried nothing";
        into.register_with_unit("peer_idle", help, Unit::Seconds, idle);
    }
}

impl TlsObserved {
    fn register(&self, into: &mut Registry) {
        let help = "When what tunnels are made by ends, in Unix time";
        let expires = labelled("what", &self.expires);
        into.register_with_unit("certificate_expires", help, Unit::Seconds, expires);
        let refused = gauge(u64::from(self.files == TlsFilesState::Refused));
        into.register("credentials_refused", "Whether the files of [tls] hold what cannot be used", refused);
    }
}

impl Totals {
    fn register(self, into: &mut Registry) {
        let Self(Traffic { bytes_up, bytes_down, blocked_up, blocked_down }) = self;
        let (up, down) = ([("direction", "up")], [("direction", "down")]);
        let bytes = Family::<[Label; 1], Counter>::default();
        bytes.get_or_create(&up).inc_by(bytes_up);
        bytes.get_or_create(&down).inc_by(bytes_down);
        into.register_with_unit("link", "Bytes that links carried", Unit::Bytes, bytes);
        let blocked = Family::<[Label; 1], Counter<f64, AtomicU64>>::default();
        blocked.get_or_create(&up).inc_by(blocked_up.as_secs_f64());
        blocked.get_or_create(&down).inc_by(blocked_down.as_secs_f64());
        let help = "For how long bytes of links waited for the end that was to take them";
        into.register_with_unit("backpressure", help, Unit::Seconds, blocked);
    }
}

impl Process {
    fn register(&self, into: &mut Registry) {
        if let Some(open) = self.open_descriptors {
            into.register("open_descriptors", "Descriptors that the guard has open", gauge(open));
        }
        if let Some(max) = self.max_descriptors {
            into.register("max_descriptors", "Descriptors that the guard may have open", gauge(max));
        }
        if let Some(bytes) = self.resident_bytes {
            let help = "Memory of the guard that is in RAM";
            into.register_with_unit("resident_memory", help, Unit::Bytes, gauge(bytes));
        }
        if let Some(seconds) = self.cpu_seconds {
            let help = "Time that the guard spent on processors";
            into.register_with_unit("cpu", help, Unit::Seconds, ConstCounter::new(seconds));
        }
        if let Some(start) = self.start_time_seconds {
            let help = "When the guard was started, in Unix time";
            into.register_with_unit("start_time", help, Unit::Seconds, gauge(start));
        }
    }
}

/// A label's value from the configuration. The library writes values as they are, so one with a quote in
/// it would end there, and what follows would be read as ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Escaped(String);

impl EncodeLabelValue for Escaped {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let quoted = self.0.replace('\\', r"\\").replace('"', "\\\"").replace('\n', r"\n");
        EncodeLabelValue::encode(&quoted, encoder)
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(clamped(value))
}

/// The library knows no gauge beyond this, and would give no text at all.
fn clamped(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn labelled(key: &'static str, values: &[(&'static str, u64)]) -> Family<[Label; 1], Gauge> {
    let family = Family::default();
    for (label, value) in values {
        let gauge: Gauge = family.get_or_create_owned(&[(key, *label)]);
        gauge.set(clamped(*value));
    }
    family
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::*;

    const PREFIX: &str = "epmd_guard_";

    fn observed(traffic: Totals) -> Observed {
        Observed {
            version: "1.2.3",
            generation: 4,
            last_reload: Some(LastReload { at: 1_700_000_000, outcome: ReloadOutcome::Refused }),
            readiness: Readiness::Ready,
            intake: Intake::Draining,
            mode: Mode::Observe,
            tls: Some(TlsObserved {
                expires: vec![("certificate", 1_800_000_000), ("ca", 1_900_000_000)],
                files: TlsFilesState::Refused,
            }),
            half_open: 8,
            bans: 2,
            connections: 9,
            links: 3,
            traffic,
            peers: vec![
                PeerObserved { name: "h2".into(), links: 2, idle: Some(Duration::from_millis(15_500)) },
                PeerObserved { name: "h3".into(), links: 0, idle: None },
            ],
            tables: vec![("refusals", 17)],
            ports_open: vec![("epmd", 2), ("dist", 1)],
            nodes_exposed: 1,
            process: Process {
                open_descriptors: Some(40),
                max_descriptors: Some(u64::MAX),
                resident_bytes: Some(5_000_000),
                cpu_seconds: Some(1.25),
                start_time_seconds: Some(1_600_000_000),
            },
            log_lines_dropped: 6,
        }
    }

    /// One with each series.
    fn full() -> (Metrics, Observed) {
        let metrics = Metrics::new();
        metrics.connection("epmd", "answered");
        metrics.refusal("not_allowed", "admit");
        metrics.refusal("not_allowed", "admit");
        metrics.reload(ReloadOutcome::Refused);
        metrics.credentials(ReloadOutcome::Refused);
        metrics.links_cut(5);
        metrics.handshake("up");
        metrics.would_refuse("name_not_allowed", "authorize");
        metrics.would_refuse("name_not_allowed", "authorize");
        metrics.banned();
        metrics.slowed();
        metrics.link_ended(carried(100));
        let traffic = metrics.traffic([carried(10), carried(1)]);
        (metrics, observed(traffic))
    }

    fn carried(amount: u64) -> Traffic {
        Traffic {
            bytes_up: amount,
            bytes_down: amount * 2,
            blocked_up: Duration::from_millis(amount * 3),
            blocked_down: Duration::from_millis(amount * 4),
        }
    }

    /// The samples by name and labels. Fails where the text is not as OpenMetrics wants it.
    fn parse(text: &str) -> HashMap<String, f64> {
        let body = text.strip_suffix("# EOF\n").expect("an end");
        let (mut samples, mut types) = (HashMap::new(), HashMap::new());
        for line in body.lines() {
            if let Some(about) = line.strip_prefix("# ") {
                let words: Vec<_> = about.splitn(3, ' ').collect();
                let name = words[1].strip_prefix(PREFIX).expect("the prefix");
                match words[0] {
                    "HELP" => assert!(words[2].ends_with('.') && !words[2].contains(['\\', '"']), "{line}"),
                    "UNIT" => assert!(name.ends_with(&format!("_{}", words[2])), "{line}"),
                    "TYPE" => assert_eq!(types.insert(name.to_owned(), words[2].to_owned()), None, "{line}"),
                    other => panic!("{other}: {line}"),
                }
                continue;
            }
            let (series, value) = line.rsplit_once(' ').expect("a value");
            let name = series.split('{').next().unwrap().strip_prefix(PREFIX).expect("the prefix");
            let family = name.strip_suffix("_total").unwrap_or(name);
            match types.get(family).expect("a type").as_str() {
                "counter" => assert!(name.ends_with("_total"), "{line}"),
                other => assert_eq!((other, family), ("gauge", name), "{line}"),
            }
            assert_eq!(samples.insert(series.to_owned(), value.parse().unwrap()), None, "{line}");
        }
        samples
    }

    fn name_of(series: &str) -> &str {
        series.split('{').next().unwrap()
    }

    #[test]
    fn each_series_has_its_value() {
        let (metrics, observed) = full();
        let mut samples = parse(&metrics.render(&observed));
        for (series, value) in [
            (r#"connections_total{role="epmd",outcome="answered"}"#, 1.0),
            (r#"refusals_total{reason="not_allowed",stage="admit"}"#, 2.0),
            (r#"reloads_total{result="ok"}"#, 0.0),
            (r#"reloads_total{result="refused"}"#, 1.0),
            ("links_cut_total", 5.0),
            (r#"handshakes_total{outcome="up"}"#, 1.0),
            (r#"handshakes_total{outcome="wrong_cookie"}"#, 0.0),
            (r#"handshakes_total{outcome="refused_by_node"}"#, 0.0),
            (r#"handshakes_total{outcome="refused"}"#, 0.0),
            (r#"handshakes_total{outcome="abandoned"}"#, 0.0),
            (r#"handshakes_total{outcome="timed_out"}"#, 0.0),
            (r#"handshakes_total{outcome="malformed"}"#, 0.0),
            (r#"would_refuse_total{reason="name_not_allowed",stage="authorize"}"#, 2.0),
            ("banned_total", 1.0),
            ("slowed_total", 1.0),
            (r#"mode{mode="enforce"}"#, 0.0),
            (r#"mode{mode="observe"}"#, 1.0),
            ("half_open", 8.0),
            ("bans", 2.0),
            (r#"certificate_expires_seconds{what="certificate"}"#, 1_800_000_000.0),
            (r#"certificate_expires_seconds{what="ca"}"#, 1_900_000_000.0),
            ("credentials_refused", 1.0),
            (r#"credential_changes_total{result="ok"}"#, 0.0),
            (r#"credential_changes_total{result="refused"}"#, 1.0),
            (r#"build_info{version="1.2.3"}"#, 1.0),
            ("config_generation", 4.0),
            ("last_reload_timestamp_seconds", 1_700_000_000.0),
            ("last_reload_success", 0.0),
            ("ready", 1.0),
            ("draining", 1.0),
            ("open_connections", 9.0),
            ("links", 3.0),
            (r#"link_bytes_total{direction="up"}"#, 111.0),
            (r#"link_bytes_total{direction="down"}"#, 222.0),
            (r#"backpressure_seconds_total{direction="up"}"#, 0.333),
            (r#"backpressure_seconds_total{direction="down"}"#, 0.444),
            (r#"peer_links{peer="h2"}"#, 2.0),
            (r#"peer_links{peer="h3"}"#, 0.0),
            (r#"peer_idle_seconds{peer="h2"}"#, 15.5),
            (r#"table_entries{table="refusals"}"#, 17.0),
            (r#"ports_open{role="epmd"}"#, 2.0),
            (r#"ports_open{role="dist"}"#, 1.0),
            ("nodes_exposed", 1.0),
            ("open_descriptors", 40.0),
            ("max_descriptors", 9_223_372_036_854_775_807.0),
            ("resident_memory_bytes", 5_000_000.0),
            ("cpu_seconds_total", 1.25),
            ("start_time_seconds", 1_600_000_000.0),
            ("log_lines_dropped_total", 6.0),
        ] {
            assert_eq!(samples.remove(&format!("{PREFIX}{series}")), Some(value), "{series}");
        }
        assert_eq!(samples, HashMap::new());
    }

    #[test]
    fn what_is_not_known_is_left_out() {
        let metrics = Metrics::new();
        let mut little = observed(metrics.traffic([]));
        little.last_reload = None;
        little.process = Process::default();
        little.peers.clear();
        let text = metrics.render(&little);
        parse(&text);
        for absent in ["last_reload", "descriptors", "memory", "cpu", "start_time", "peer_"] {
            assert!(!text.contains(&format!("{PREFIX}{absent}")), "{absent}: {text}");
        }
    }

    #[test]
    fn a_name_cannot_leave_its_label() {
        let metrics = Metrics::new();
        let mut odd = observed(metrics.traffic([]));
        odd.peers[0].name = "a\"} 7\n# EOF\\\n".into();
        let samples = parse(&metrics.render(&odd));
        assert_eq!(samples[r#"epmd_guard_peer_links{peer="a\"} 7\n# EOF\\\n"}"#], 2.0);
    }

    #[test]
    fn the_page_tells_of_each_series_and_of_no_other() {
        let page = include_str!("../../docs/metrics.md");
        let told: HashSet<_> = page
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
            .filter(|name| name.starts_with(PREFIX))
            .map(name_of)
            .collect();
        let (metrics, observed) = full();
        let samples = parse(&metrics.render(&observed));
        assert_eq!(told, samples.keys().map(|series| name_of(series)).collect());
        for word in page.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
            assert!(word == PREFIX || !word.starts_with(PREFIX) || told.contains(word), "{word}");
        }
    }

    #[derive(Debug, Clone)]
    enum Event {
        Open,
        Carry(usize, u64),
        End(usize),
        Ask,
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Open),
            (any::<usize>(), 0..1_000_000u64).prop_map(|(link, amount)| Event::Carry(link, amount)),
            any::<usize>().prop_map(Event::End),
            Just(Event::Ask),
        ]
    }

    proptest! {
        #[test]
        fn counters_never_fall_and_count_each_byte_once(events in proptest::collection::vec(event(), 0..60)) {
            let metrics = Metrics::new();
            let (mut links, mut all) = (Vec::<Traffic>::new(), Traffic::default());
            let mut before = HashMap::<String, f64>::new();
            for event in events.into_iter().chain([Event::Ask]) {
                let up = links.len();
                match event {
                    Event::Open => links.push(Traffic::default()),
                    Event::Carry(link, amount) if up > 0 => {
                        links[link % up] += carried(amount);
                        all += carried(amount);
                    }
                    Event::End(link) if up > 0 => metrics.link_ended(links.remove(link % up)),
                    Event::Carry(..) | Event::End(_) => {}
                    Event::Ask => {
                        let traffic = metrics.traffic(links.iter().copied());
                        prop_assert_eq!(traffic, Totals(all));
                        let now = parse(&metrics.render(&observed(traffic)));
                        for (series, value) in &before {
                            let falls = name_of(series).ends_with("_total") && now[series] < *value;
                            prop_assert!(!falls, "{} falls from {} to {}", series, value, now[series]);
                        }
                        before = now;
                    }
                }
            }
        }
    }

    #[test]
    fn a_link_that_ends_meanwhile_is_counted_once() {
        const EACH: u64 = 1000;
        let (metrics, links) = (Metrics::new(), Mutex::new(vec![carried(EACH); 2000]));
        let all = 2000 * EACH;
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                loop {
                    let mut links = links.lock().unwrap();
                    let Some(link) = links.pop() else { break };
                    metrics.link_ended(link);
                }
                over.store(true, Ordering::Release);
            });
            while !over.load(Ordering::Acquire) {
                let links = links.lock().unwrap();
                assert_eq!(metrics.traffic(links.iter().copied()), Totals(carried(all)));
            }
        });
        assert_eq!(metrics.traffic([]), Totals(carried(all)));
    }
}
