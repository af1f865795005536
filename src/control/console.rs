//! What the running guard says of itself and does when it is told: the content behind the admin socket.

mod credentials;
mod speakers;
mod tunnels;

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use self::credentials::{credential_warnings, of_credentials, tls_document, tls_observed};
use self::speakers::mode_document;
use self::tunnels::{describe_exposed, hinders, of_tunnels};
use super::admin::{ExplainQuery, ModeFault, ModeOrder, Operations, Orderer, Pardon};
use super::credentials::Keyring;
use super::documents::{
    self, Applies, BanDocument, ChangeDocument, GuardState, LastResult, LearnDocument, LinkDocument,
    LinkStanding, ListenerAudience, ListenerDocument, ListenerState, ModeDocument, PeerDocument, Readiness,
    ReloadReport, ReloadResult, Status, Warning, timestamp,
};
use super::explain::{Facts, Question, Running, explain};
use super::front::{Blocked, Exposed, FrontView, ListenerView};
use super::mesh::{Mesh, Way, addresses_of};
use super::modes::Modes;
use super::reload::{Ending, Reloader, Report, Request, Verdict};
use crate::config::{self, EpmdBackend};
use crate::policy::{Admission, Audience, Intake, PeerId, Standing, Target};
use crate::session::{Context, Heard, Link, Role, Snapshot, Snapshots};
use crate::telemetry::{self, DroppedLines, Observed, PeerObserved, ReloadOutcome, process};
use crate::transport::host;

/// What the console looks at.
#[derive(Debug)]
pub struct ConsoleParts {
    /// The connections.
    pub context: Arc<Context>,
    /// The generations.
    pub snapshots: Snapshots,
    /// The ports.
    pub front: watch::Receiver<FrontView>,
    /// The ways to the peers.
    pub mesh: watch::Receiver<Mesh>,
    /// Reloads.
    pub reloader: Arc<Reloader>,
    /// What is known of the files of `[tls]`.
    pub keyring: Arc<Keyring>,
    /// The modes.
    pub modes: Arc<Modes>,
    /// Lines that the log has lost.
    pub dropped: DroppedLines,
}

/// The guard, as it is seen and told from outside.
#[derive(Debug)]
pub struct Console {
    parts: ConsoleParts,
    started: (SystemTime, Instant),
}

impl Console {
    /// The console of a guard that starts now.
    #[must_use]
    pub fn new(parts: ConsoleParts) -> Self {
        Self { parts, started: (SystemTime::now(), Instant::now()) }
    }

    fn state(snapshot: &Snapshot) -> GuardState {
        match snapshot.policy.intake() {
            Intake::Open => GuardState::Open,
            Intake::Draining => GuardState::Draining,
        }
    }

    /// Why the guard does not do all that its configuration asks for.
    fn not_ready(&self, snapshot: &Snapshot, front: &FrontView) -> Vec<String> {
        if !front.looked {
            return vec!["the ports have not been looked at yet".to_owned()];
        }
        let mut reasons = Vec::new();
        if front.is_blind {
            reasons.push("it cannot see which ports are in use (sockets_unreadable in the log)".to_owned());
        }
        if snapshot.policy.intake() == Intake::Draining {
            reasons.push("it drains: nothing new of peers is taken (epmd-guard drain --off)".to_owned());
        }
        if snapshot.policy.answers().is_deny_pending() {
            reasons.push("a name of [cluster] deny has no answer yet, so that no peer is let in".to_owned());
        }
        let epmd: Vec<&ListenerView> =
            front.listeners.iter().filter(|view| view.role == Role::Epmd).collect();
        let served = !snapshot.config.epmd.listen.is_empty();
        if served && !epmd.iter().any(|view| view.audience >= Audience::Peers) {
            reasons.push("this host has no address on which peers could reach epmd".to_owned());
        }
        let embedded = snapshot.config.epmd.backend == EpmdBackend::Embedded;
        // Where nodes register, if we are the epmd.
        let is_needed = |view: &&ListenerView| {
            let is_ours = view.audience >= Audience::Peers || embedded && view.addr.ip().is_loopback();
            is_ours && view.toward.is_none()
        };
        for view in epmd.into_iter().filter(is_needed) {
            if let Some(why) = &view.blocked {
                reasons.push(format!("epmd is not served on {}: {why}", view.addr));
            }
        }
        reasons.extend(of_credentials(snapshot, &self.parts.keyring));
        reasons.extend(of_tunnels(snapshot, front));
        reasons
    }

    fn warnings(&self, snapshot: &Snapshot, front: &FrontView) -> Vec<Warning> {
        let mut warnings: Vec<Warning> = front.exposed.iter().map(exposed_warning).collect();
        warnings.extend(self.observing());
        warnings.extend(credential_warnings(snapshot, &self.parts.keyring));
        let embedded = snapshot.config.epmd.backend == EpmdBackend::Embedded;
        // The others keep the guard from being ready, which is told as that.
        let for_self = |view: &&ListenerView| {
            let is_warned =
                view.audience == Audience::ItselfOnly && !(embedded && view.addr.ip().is_loopback());
            match view.role {
                Role::Epmd => is_warned && view.toward.is_none(),
                Role::Dist | Role::DistTls | Role::Tcp => !hinders(view, &snapshot.config),
                Role::Tunnel => false,
            }
        };
        for view in front.listeners.iter().filter(for_self) {
            // What its own node has is told as that.
            if let Some(Blocked::Otherwise(why)) = &view.blocked {
                let node = view.node.as_ref().map(ToString::to_string);
                let whose = view.toward.as_ref().map_or_else(String::new, |peer| format!(" of {peer}"));
                let message = format!("{}{whose} is not served on {}", view.role, view.addr);
                warnings.push(warn("port_taken", message, why.clone(), (node, Some(view.addr.port()))));
            }
        }
        for (node, port) in &front.unplaced {
            let message = format!("no port of [dist] outside is left for {node}, which is at port {port}");
            let help = "add ports to [dist] outside".to_owned();
            warnings.push(warn("no_outside_port", message, help, (Some(node.to_string()), Some(*port))));
        }
        let registered = matches!(snapshot.policy.dist().ports, crate::policy::PortRule::Registered { .. });
        let asked =
            front.epmd_answers == Some(false) && (registered || !snapshot.config.epmd.listen.is_empty());
        if let Some(epmd) = snapshot.config.epmd.backend.addr().filter(|_| asked) {
            let message = format!("no epmd answers at {epmd}");
            let help = "it comes with the first node; if nodes run already, start epmd with \
                        ERL_EPMD_ADDRESS=127.0.0.1, or correct [epmd] backend"
                .to_owned();
            warnings.push(warn("epmd_silent", message, help, (None, None)));
        }
        let is_peer = |name: &String| snapshot.config.peers.iter().any(|peer| peer.name == *name);
        let mesh = self.parts.mesh.borrow();
        for (peer, way) in mesh.iter().filter(|(peer, way)| way.is_gap() && is_peer(peer)) {
            let message = format!("this host and {peer} would split the cluster: {}", way.label());
            warnings.push(warn("mesh_gap", message, way.help().to_owned(), (None, None)));
        }
        if self.parts.reloader.last().is_some_and(|last| last.detail.is_some()) {
            // Why is in `last_reload`, which is shown beside it.
            let message = "the last reload was refused".to_owned();
            let help =
                "nothing has changed; `epmd-guard status` says why: mend it and run `epmd-guard reload`";
            warnings.push(warn("reload_refused", message, help.to_owned(), (None, None)));
        }
        warnings
    }

    /// Those of the configuration in its order, then the other hosts that have a link.
    fn peers(&self, snapshot: &Snapshot) -> Vec<PeerDocument> {
        let Tally { mut named, others } = self.tally(snapshot);
        let mesh = self.parts.mesh.borrow().clone();
        let peer = |(at, peer): (u16, &config::Peer)| {
            let carried = named.remove(&PeerId(at)).unwrap_or_default();
            let way = mesh.get(&peer.name).copied().map(Way::label).map(Cow::into_owned);
            carried.document(peer.name.clone(), shown_addresses(snapshot, PeerId(at)), way)
        };
        let mut peers: Vec<PeerDocument> = (0..).zip(&snapshot.config.peers).map(peer).collect();
        let other = |(ip, carried): (IpAddr, Carried)| {
            let name = ip.to_string();
            carried.document(name.clone(), vec![name], None)
        };
        peers.extend(others.into_iter().map(other));
        peers
    }

    /// What each host's links carry, in one pass over the links.
    fn tally(&self, snapshot: &Snapshot) -> Tally {
        let mut tally = Tally::default();
        let now = Instant::now();
        for link in self.parts.context.links.all() {
            let admission = link.admission();
            if admission.standing() == Standing::Itself {
                continue;
            }
            let host = match snapshot.policy.peer_of(&admission) {
                Some(peer) => tally.named.entry(peer).or_default(),
                None => tally.others.entry(link.peer().ip()).or_default(),
            };
            host.add(&link, now);
        }
        tally
    }

    fn report(&self, report: Report) -> ReloadReport {
        let Report { verdict, generation, delta, cut, before, warnings } = report;
        let (result, problems) = match verdict {
            Verdict::Reloaded if delta.is_empty() => (ReloadResult::Unchanged, Vec::new()),
            Verdict::Reloaded => (ReloadResult::Reloaded, Vec::new()),
            Verdict::Checked => (ReloadResult::Checked, Vec::new()),
            Verdict::NeedsYes(why) => (ReloadResult::NeedsYes, vec![why]),
            Verdict::Refused(reasons) => {
                (ReloadResult::Refused, reasons.into_iter().map(|reason| reason.full).collect())
            }
        };
        let change = |change: config::Change| ChangeDocument {
            key: change.key,
            what: change.what,
            applies: match change.applies {
                config::Applies::AtOnce => Applies::AtOnce,
                config::Applies::AfterRestart => Applies::AfterRestart,
            },
        };
        let cut = cut.into_iter().map(|Ending { cut, why }| LinkDocument {
            why: Some(why),
            ..link_document(&cut.link, &cut.admission, &before)
        });
        let cut = cut.collect();
        let changes = delta.changes.into_iter().map(change).collect();
        ReloadReport { result, generation, changes, cut, problems, warnings }
    }

    fn observed(&self) -> Observed {
        let ConsoleParts { context, snapshots, front, reloader, dropped, .. } = &self.parts;
        let snapshot = snapshots.current();
        let front = front.borrow().clone();
        let readiness = if self.not_ready(&snapshot, &front).is_empty() {
            telemetry::Readiness::Ready
        } else {
            telemetry::Readiness::NotReady
        };
        let mut tally = self.tally(&snapshot).named;
        let peers = (0..).zip(&snapshot.config.peers).map(|(at, peer)| {
            let Carried { links, idle, .. } = tally.remove(&PeerId(at)).unwrap_or_default();
            PeerObserved { name: peer.name.clone(), links, idle }
        });
        let count =
            |role| front.listeners.iter().filter(|view| view.role == role && view.blocked.is_none()).count();
        let (addresses, subnets) = context.slots().sources();
        let bans = context.speakers.offenders().bans(context.speakers.now()).len();
        let tables = [
            ("addresses", addresses),
            ("subnets", subnets),
            ("links", context.links.count()),
            ("names", context.mapper.count()),
            ("refusals", context.refusals.len()),
            ("rules", snapshot.policy.network().book().len()),
        ];
        Observed {
            version: env!("CARGO_PKG_VERSION"),
            generation: snapshot.generation,
            last_reload: reloader.last().map(|last| telemetry::LastReload {
                at: last.at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs(),
                outcome: last.outcome,
            }),
            readiness,
            intake: snapshot.policy.intake(),
            mode: snapshot.policy.mode(),
            tls: tls_observed(&snapshot, &self.parts.keyring),
            half_open: context.half_open().in_use().into(),
            bans: number(bans),
            connections: context.connections().into(),
            links: number(context.links.count()),
            traffic: context.links.totals(&context.metrics),
            peers: peers.collect(),
            tables: tables.into_iter().map(|(table, entries)| (table, number(entries))).collect(),
            ports_open: [Role::Epmd, Role::Dist, Role::DistTls, Role::Tcp, Role::Tunnel]
                .map(|role| (role.label(), number(count(role))))
                .to_vec(),
            nodes_exposed: number(front.exposed.len()),
            process: process(),
            log_lines_dropped: dropped.count(),
        }
    }
}

impl Operations for Console {
    fn status(&self) -> Status {
        let ConsoleParts { context, snapshots, front, reloader, .. } = &self.parts;
        let snapshot = snapshots.current();
        let front = front.borrow().clone();
        let not_ready = self.not_ready(&snapshot, &front);
        let (started, since) = self.started;
        let is_embedded = snapshot.config.epmd.backend == EpmdBackend::Embedded;
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            started_at: timestamp(started),
            uptime_seconds: since.elapsed().as_secs_f64(),
            config: reloader.label(),
            generation: snapshot.generation,
            last_reload: reloader.last().map(|last| documents::LastReload {
                at: timestamp(last.at),
                result: match last.outcome {
                    ReloadOutcome::Applied => LastResult::Ok,
                    ReloadOutcome::Refused => LastResult::Refused,
                },
                detail: last.detail,
            }),
            state: Self::state(&snapshot),
            mode: Some(self.mode()),
            speakers: Some(self.speakers_document()),
            tls: tls_document(&snapshot, &self.parts.keyring),
            ready: not_ready.is_empty(),
            not_ready,
            warnings: self.warnings(&snapshot, &front),
            connections: context.connections(),
            links: number(context.links.count()),
            names: is_embedded.then(|| number(context.mapper.count())),
            listeners: front.listeners.iter().map(listener_document).collect(),
            peers: self.peers(&snapshot),
        }
    }

    fn links(&self) -> Vec<LinkDocument> {
        let snapshot = self.parts.snapshots.current();
        let links = self.parts.context.links.all();
        links.iter().map(|link| link_document(link, &link.admission(), &snapshot)).collect()
    }

    fn metrics(&self) -> String {
        self.parts.context.metrics.render(&self.observed())
    }

    fn readiness(&self) -> Readiness {
        let snapshot = self.parts.snapshots.current();
        let front = self.parts.front.borrow().clone();
        let reasons = self.not_ready(&snapshot, &front);
        let warnings = self.warnings(&snapshot, &front);
        let sentence = |warning: Warning| {
            let help = if warning.help.is_empty() { String::new() } else { format!(": {}", warning.help) };
            format!("{}{help}", warning.message)
        };
        Readiness {
            ready: reasons.is_empty(),
            reasons,
            warnings: warnings.into_iter().map(sentence).collect(),
        }
    }

    fn explain(&self, query: ExplainQuery) -> Result<serde_json::Value, String> {
        let ExplainQuery { from, as_node, visibility, to } = query;
        let as_node = as_node.as_deref().map(|name| (name, visibility));
        let question = Question::parse(&from, as_node, &to).map_err(|fault| fault.to_string())?;
        let snapshot = self.parts.snapshots.current();
        let front = self.parts.front.borrow().clone();
        let own: Vec<IpAddr> = host::addresses().unwrap_or_default();
        let context = &self.parts.context;
        let room = context.slots().room_of(question.from);
        let half_open = context.half_open().room_of(question.from);
        let speakers = Some(&context.speakers);
        let facts = Facts {
            config: &snapshot.config,
            label: &self.parts.reloader.label(),
            policy: &snapshot.policy,
            own: &own,
            running: Some(Running { room, half_open, speakers, front: &front }),
        };
        serde_json::to_value(explain(&question, facts)).map_err(|error| error.to_string())
    }

    async fn reload(&self, request: Request) -> ReloadReport {
        self.report(self.parts.reloader.reload(request).await)
    }

    fn drain(&self, intake: Intake) {
        let before = self.parts.snapshots.current().policy.intake();
        self.parts.snapshots.set_intake(intake);
        let links = self.parts.context.links.count();
        match intake {
            _ if before == intake => {}
            Intake::Draining => tracing::info!(links, "draining"),
            Intake::Open => tracing::info!(links, "drain_ended"),
        }
    }

    fn mode(&self) -> ModeDocument {
        mode_document(self.parts.modes.state())
    }

    fn set_mode(&self, order: ModeOrder, by: Orderer) -> Result<ModeDocument, ModeFault> {
        self.parts.modes.order(order, by).map(mode_document)
    }

    fn bans(&self) -> Vec<BanDocument> {
        self.bans_in_force()
    }

    fn unban(&self, whom: Pardon, by: Orderer) -> u64 {
        self.lift_bans(whom, by)
    }

    fn learn(&self) -> LearnDocument {
        self.lesson()
    }
}

/// What the links of hosts carry.
#[derive(Debug, Default)]
struct Tally {
    /// Of those that have a name in the configuration.
    named: HashMap<PeerId, Carried>,
    /// Of the others that are not this host itself.
    others: BTreeMap<IpAddr, Carried>,
}

/// What the links of one host carry.
#[derive(Debug, Default)]
struct Carried {
    links: u64,
    bytes_in: u64,
    bytes_out: u64,
    /// The longest silence among them.
    idle: Option<Duration>,
}

impl Carried {
    fn add(&mut self, link: &Link, now: Instant) {
        self.links += 1;
        self.bytes_in += link.traffic.up.bytes();
        self.bytes_out += link.traffic.down.bytes();
        self.idle = self.idle.max(Some(link.traffic.idle(now)));
    }

    fn document(self, name: String, addresses: Vec<String>, mesh: Option<String>) -> PeerDocument {
        let Self { links, bytes_in, bytes_out, idle } = self;
        let idle_seconds = idle.map(|idle| idle.as_secs_f64());
        PeerDocument { name, links, bytes_in, bytes_out, idle_seconds, addresses, mesh }
    }
}

fn warn(what: &str, message: String, help: String, (node, port): (Option<String>, Option<u16>)) -> Warning {
    Warning { what: what.to_owned(), node, port, message, help }
}

fn exposed_warning(exposed: &Exposed) -> Warning {
    let Exposed { node, port, .. } = exposed;
    let node = node.as_ref().map(ToString::to_string);
    warn("node_exposed", describe_exposed(exposed), exposed.cure().to_owned(), (node, Some(*port)))
}

fn listener_document(view: &ListenerView) -> ListenerDocument {
    ListenerDocument {
        role: view.role.label().to_owned(),
        listener: view.addr,
        audience: match view.audience {
            Audience::Peers => ListenerAudience::Peers,
            Audience::ItselfOnly => ListenerAudience::ItselfOnly,
            Audience::PeersOnly => ListenerAudience::PeersOnly,
        },
        node: view.node.as_ref().map(ToString::to_string),
        inside: (!matches!(view.role, Role::Epmd | Role::Tunnel)).then_some(view.inside),
        toward: view.toward.as_deref().map(str::to_owned),
        state: if view.blocked.is_none() { ListenerState::Open } else { ListenerState::Blocked },
    }
}

/// The link as it stands by this leave, which is one of this generation.
fn link_document(link: &Link, admission: &Admission, snapshot: &Snapshot) -> LinkDocument {
    let now = Instant::now();
    let (standing, rule) = match admission.standing() {
        Standing::Itself => (LinkStanding::Itself, None),
        Standing::NamedPeer(rule) | Standing::NetworkPeer(rule) => {
            (LinkStanding::Peer, snapshot.policy.rule(rule))
        }
        Standing::Registrant => (LinkStanding::Peer, None),
    };
    let traffic = &link.traffic;
    let (claim, names) = match &link.heard {
        Heard::Nodes { claim, peer, answered } => (Some(claim), Some((peer, answered))),
        Heard::Closed | Heard::Unreadable => (None, None),
    };
    LinkDocument {
        id: link.id,
        peer: link.peer().socket(),
        peer_name: snapshot.policy.peer_of(admission).and_then(|peer| name_of(snapshot, peer)),
        standing,
        listener: link.arrival.local.socket(),
        node: link.node.as_ref().map(ToString::to_string),
        inside: link.inside,
        peer_node: names.map(|(peer, _)| peer.to_string()),
        answered_by: names.map(|(_, answered)| answered.to_string()),
        hidden: claim.map(|claim| claim.flags.is_hidden()),
        handshake: claim.map(|claim| claim.version.number()),
        link: link.tunnel.map(|link| link.to_string()),
        toward: link.toward.as_deref().map(str::to_owned),
        rule: rule.map(ToString::to_string),
        since: timestamp(link.since),
        age_seconds: now.duration_since(link.begun).as_secs_f64(),
        bytes_up: traffic.up.bytes(),
        bytes_down: traffic.down.bytes(),
        idle_seconds: traffic.idle(now).as_secs_f64(),
        blocked_seconds: (traffic.up.blocked(now) + traffic.down.blocked(now)).as_secs_f64(),
        why: None,
    }
}

fn name_of(snapshot: &Snapshot, peer: PeerId) -> Option<String> {
    snapshot.config.peers.get(usize::from(peer.0)).map(|peer| peer.name.clone())
}

/// The addresses of a peer as they are written, and what its host names mean.
fn shown_addresses(snapshot: &Snapshot, peer: PeerId) -> Vec<String> {
    let rules = || snapshot.policy.network().book().of_peer(peer).map(|(_, rule)| &rule.target);
    let mut shown: Vec<String> = rules().map(ToString::to_string).collect();
    if rules().any(|target| matches!(target, Target::Host(_))) {
        let known = addresses_of(&snapshot.policy, peer).into_iter().map(|ip| ip.to_string());
        let fresh: Vec<String> = known.filter(|ip| !shown.contains(ip)).collect();
        shown.extend(fresh);
    }
    shown
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
