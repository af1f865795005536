//! What would happen to a connection, and why: the walk's own decisions, asked for without a connection.
//!
//! Decides nothing itself: every yes and no is the answer of the function that the walk calls.

mod speaker;
mod tunnel;

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::front::{Exposed, FrontView, ListenerView};
use crate::config::{Config, Forward, Peer};
use crate::policy::{
    Admission, Arrival, Audience, Denial, Full, LinkTarget, NameVerdict, Pattern, PeerId, Policy, PortRule,
    Role, Room, RuleId, Speech, Standing,
};
use crate::proto::dist::{Claim, NameFault};
use crate::proto::epmd::{AliveName, NodeName, Opcode};
use crate::session::Speakers;

pub use speaker::Visibility;

/// A connection that somebody asks about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// Where it would come from.
    pub from: IpAddr,
    /// What its node would say of itself.
    pub claim: Option<Claim>,
    /// Where it would go.
    pub to: Target,
}

/// Where a connection would go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// To the node of this name; what stands behind an `@` is the host, which is this one.
    Node(String),
    /// To a distribution port of this host.
    Port(u16),
}

/// Why a question is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum QuestionFault {
    /// `from` is no address.
    #[error(
        "{0:?} is no IP address: the rules are about addresses, so give the one that the peer dials from"
    )]
    From(String),
    /// `as` can be no node's name.
    #[error("{name:?}: {fault}: write name@host, or @host for a node that asks to be given a name")]
    As {
        /// What was written.
        name: String,
        /// What is wrong with it.
        fault: NameFault,
    },
    /// `to` can be no node's name.
    #[error("{0:?} is neither a port nor a node's name")]
    To(String),
}

/// What would happen, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// The address that was asked about.
    pub from: String,
    /// The node or port that was asked about.
    pub to: String,
    /// What would happen.
    pub verdict: Verdict,
    /// The stages of the walk, in their order, as far as it would get.
    pub stages: Vec<Stage>,
}

/// One stage of the walk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// Its name, as `stage` in the log, or the part of it.
    pub stage: String,
    /// What it says.
    pub verdict: Verdict,
    /// Why, in words.
    pub why: String,
    /// The key or rule that decides, where one does.
    pub rule: Option<String>,
    /// Where it stands: `FILE:LINE`, the command line, or the default.
    pub place: Option<String>,
}

/// What a stage says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Go on.
    Yes,
    /// End here.
    No,
    /// It depends on what is not known here.
    Unknown,
    /// Whatever the guard says: the node can be reached around it.
    Unguarded,
}

/// What the decisions are made by.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// The configuration.
    pub config: &'a Config,
    /// What it is called.
    pub label: &'a str,
    /// The rules, with what the resolver said.
    pub policy: &'a Policy,
    /// The addresses of this host.
    pub own: &'a [IpAddr],
    /// What only a running guard knows.
    pub running: Option<Running<'a>>,
}

/// What only a running guard knows.
#[derive(Debug, Clone, Copy)]
pub struct Running<'a> {
    /// What is left for the address that is asked about. A copy: whoever connects does not wait for us.
    pub room: Room,
    /// What is left for its handshakes.
    pub half_open: Room,
    /// Who has spoken, and how; `None`: nobody is remembered.
    pub speakers: Option<&'a Speakers>,
    /// Which ports are open.
    pub front: &'a FrontView,
}

impl Question {
    /// Reads a question as it is written on the command line.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(from: &str, as_node: Option<(&str, Visibility)>, to: &str) -> Result<Self, QuestionFault> {
        let address: IpAddr = from.parse().map_err(|_| QuestionFault::From(from.to_owned()))?;
        let is_number = to.bytes().all(|byte| byte.is_ascii_digit());
        let to = match (to.parse::<u16>(), to.split('@').next()) {
            (Ok(0), _) | (Err(_), None) => return Err(QuestionFault::To(to.to_owned())),
            (Ok(port), _) => Target::Port(port),
            // One too large for a port is hardly meant as a name.
            (Err(_), Some(_)) if is_number => return Err(QuestionFault::To(to.to_owned())),
            (Err(_), Some(name)) => {
                AliveName::new(name.as_bytes()).map_err(|_| QuestionFault::To(to.to_owned()))?;
                Target::Node(name.to_owned())
            }
        };
        let claim = |(name, visibility): (&str, Visibility)| {
            let fault = |fault| QuestionFault::As { name: name.to_owned(), fault };
            speaker::claim(name, visibility).map_err(fault)
        };
        Ok(Self { from: address.to_canonical(), claim: as_node.map(claim).transpose()?, to })
    }
}

/// The stages as they are found, and whether one has said no.
struct Walk<'a> {
    facts: Facts<'a>,
    stages: Vec<Stage>,
    /// The `[[forward]]` whose port it is, if one has it.
    forward: Option<&'a Forward>,
}

/// Where a walk ends before its last stage.
struct End;

fn is_called(node: &Option<NodeName>, name: &str) -> bool {
    node.as_ref().is_some_and(|node| node.as_bytes() == name.as_bytes())
}

/// Asks each stage of the walk.
#[must_use]
pub fn explain(question: &Question, facts: Facts<'_>) -> Explanation {
    let mut walk = Walk { facts, stages: Vec::new(), forward: None };
    // The end is in the stages.
    walk.go(question).unwrap_or(());
    walk.around(question);
    let stages = walk.stages;
    let is = |verdict| stages.iter().any(|stage: &Stage| stage.verdict == verdict);
    let verdict = if is(Verdict::Unguarded) {
        Verdict::Unguarded
    } else if is(Verdict::No) {
        Verdict::No
    } else if is(Verdict::Unknown) {
        Verdict::Unknown
    } else {
        Verdict::Yes
    };
    let to = match &question.to {
        Target::Node(name) => name.clone(),
        Target::Port(port) => format!("port {port}"),
    };
    Explanation { from: question.from.to_string(), to, verdict, stages }
}

impl<'a> Walk<'a> {
    fn go(&mut self, question: &Question) -> Result<(), End> {
        let arrival = self.arrival(question.from);
        let role = match question.to {
            Target::Port(port) if self.is_epmd(port) => Role::Epmd,
            Target::Port(port) if self.is_for_tunnels(port) => Role::Tunnel,
            Target::Port(port) => self.facts.policy.role_at(port).unwrap_or(Role::Dist),
            Target::Node(_) => Role::Dist,
        };
        let admission = self.admit(&arrival, role)?;
        self.banned(&admission)?;
        self.slots(&admission)?;
        self.paced(&admission);
        if role == Role::Dist || role == Role::DistTls {
            self.half_open(&admission)?;
        }
        match &question.to {
            Target::Node(name) => self.reach_node(name, &admission)?,
            Target::Port(_) if role == Role::Epmd => self.reach_epmd(&admission)?,
            Target::Port(_) if role == Role::Tunnel => self.identify(&admission)?,
            Target::Port(port) => self.reach_port(*port, &admission)?,
        }
        match &question.claim {
            Some(claim) if role == Role::Dist => self.speak(claim, &admission),
            // At epmd a node says no name of its own, and what is said at other ports is not read.
            Some(_) | None => Ok(()),
        }
    }

    /// From where to where: what comes from one of our addresses comes from this host.
    fn arrival(&self, from: IpAddr) -> Arrival {
        let own = self.facts.own;
        let same_family = own.iter().find(|ip| ip.is_ipv4() == from.is_ipv4());
        let to = if own.contains(&from) || from.is_loopback() { from } else { *same_family.unwrap_or(&from) };
        // Where no address is known, one that is surely not the peer's.
        let to = if same_family.is_none() && !from.is_loopback() { IpAddr::from([0; 4]) } else { to };
        Arrival { peer: SocketAddr::new(from, 0).into(), local: SocketAddr::new(to, 0).into() }
    }

    fn admit(&mut self, arrival: &Arrival, role: Role) -> Result<Admission, End> {
        let policy = self.facts.policy;
        let admission = match policy.admit(arrival, role, Audience::Peers) {
            Ok(admission) => admission,
            Err(Denial::TlsRequired) => {
                self.refuse_plain(arrival);
                return Err(End);
            }
            Err(denial) => {
                self.refuse(denial);
                return Err(End);
            }
        };
        match admission.standing() {
            Standing::Itself => self.say("admit", Verdict::Yes, "this host itself is always let in"),
            Standing::NamedPeer(rule) | Standing::NetworkPeer(rule) => {
                let why = match policy.peer_of(&admission) {
                    Some(peer) => format!("it is the peer {}", self.name_of(peer)),
                    None => "a rule lets it in".to_owned(),
                };
                self.rule("admit", Verdict::Yes, why, rule);
            }
            Standing::Registrant => {
                let why = "it may register names and look them up, and nothing else";
                self.key("admit", Verdict::Yes, why, "[epmd] register_from");
            }
        }
        Ok(admission)
    }

    fn slots(&mut self, admission: &Admission) -> Result<(), End> {
        let Some(running) = self.facts.running else { return Ok(()) };
        let Room { caps, in_use, of_address, of_subnet } = running.room;
        let mut held = format!("{in_use} of {} connections are open", caps.total);
        // The other caps do not bind this host itself.
        if admission.standing() != Standing::Itself {
            held.push_str(&format!(", {of_address} of {} from this address", caps.per_address));
            if admission.peer().ip().is_ipv6() {
                held.push_str(&format!(", {of_subnet} of {} from its /64", caps.per_subnet));
            }
        }
        match running.room.is_enough_for(admission.standing()) {
            Ok(()) => self.say("admit", Verdict::Yes, held),
            Err(full) => {
                let key = match full {
                    Full::Total => "[limits] connections",
                    Full::Address => "[limits] per_address",
                    Full::Subnet => "[limits] per_subnet",
                };
                self.key("admit", Verdict::No, held, key);
                return Err(End);
            }
        }
        Ok(())
    }

    fn reach_node(&mut self, name: &str, admission: &Admission) -> Result<(), End> {
        if self.facts.config.epmd.listen.is_empty() {
            self.key(
                "authorize",
                Verdict::Yes,
                "no epmd is served: a peer must know the port",
                "[epmd] listen",
            );
        } else {
            self.reach_epmd(admission)?;
        }
        self.may_reach(name, admission)?;
        self.names(name)?;
        let is_meant = |view: &ListenerView| {
            let others = view.nodes.iter().any(|node| node.as_bytes() == name.as_bytes());
            view.role != Role::Epmd && (others || is_called(&view.node, name))
        };
        match self.facing(admission, is_meant) {
            None => {
                let why = "the node's port is known to a running guard only (--running)";
                self.ports_rule(Verdict::Unknown, why.to_owned());
                Ok(())
            }
            Some(known) if known.is_empty() => {
                let why =
                    "no node of this name is known at a port that is offered: is it running, and registered?";
                self.ports_rule(Verdict::No, why.to_owned());
                Err(End)
            }
            Some(known) => self.reach_listener(&known, admission),
        }
    }

    fn may_reach(&mut self, name: &str, admission: &Admission) -> Result<(), End> {
        let Ok(alive) = AliveName::new(name.as_bytes()) else { return Ok(()) };
        let policy = self.facts.policy;
        match policy.may_reach(admission, Some(&alive.into())) {
            Ok(()) => Ok(()),
            Err(denial) => self.end_or_overlook(denial, |walk| walk.refuse_to(denial, admission)),
        }
    }

    fn is_epmd(&self, port: u16) -> bool {
        self.facts.config.epmd.listen.iter().any(|(_, served)| *served == port)
    }

    fn reach_epmd(&mut self, admission: &Admission) -> Result<(), End> {
        const KEY: &str = "[epmd] listen";
        if let Err(denial) = self.facts.policy.may_ask(admission, Opcode::PortPlease2) {
            self.refuse(denial);
            return Err(End);
        }
        let served = self.facing(admission, |view| view.role == Role::Epmd);
        let Some(served) = served else {
            self.say("authorize", Verdict::Yes, "it may look names up at epmd");
            return Ok(());
        };
        let but = shut(&served);
        if served.iter().any(|view| view.blocked.is_none()) {
            let but = but.map_or_else(String::new, |why| format!("; {why}"));
            self.say("authorize", Verdict::Yes, format!("it may look names up at epmd{but}"));
            return Ok(());
        }
        let why = but.unwrap_or_else(|| "epmd is served at no address that it could dial".to_owned());
        self.key("authorize", Verdict::No, why, KEY);
        Err(End)
    }

    /// The listeners of this kind at which it would arrive; `None`: no guard runs that knows them.
    fn facing(
        &self,
        admission: &Admission,
        is_meant: impl Fn(&ListenerView) -> bool,
    ) -> Option<Vec<&'a ListenerView>> {
        let Running { front, .. } = self.facts.running?;
        let ip = admission.peer().ip();
        let is_self = admission.standing() == Standing::Itself;
        let faces = |view: &&ListenerView| {
            // What stands for a peer leads away from here.
            view.toward.is_none()
                && is_meant(view)
                && view.addr.is_ipv4() == ip.is_ipv4()
                && (is_self || view.audience >= Audience::Peers)
        };
        let mut facing: Vec<&ListenerView> = front.listeners.iter().filter(faces).collect();
        // Who dials one of its own addresses comes from there.
        if is_self && facing.iter().any(|view| view.addr.ip() == ip) {
            facing.retain(|view| view.addr.ip() == ip);
        }
        Some(facing)
    }

    fn names(&mut self, name: &str) -> Result<(), End> {
        let rules = self.facts.policy.dist();
        if let PortRule::Listed(_) = rules.ports {
            return Ok(());
        }
        match rules.names.judge(name.as_bytes()) {
            NameVerdict::Offered(pattern, line) => {
                self.pattern(Verdict::Yes, "nodes of this name get a port", (pattern, line));
            }
            NameVerdict::Excluded(pattern, line) => {
                self.pattern(Verdict::No, "nodes of this name get no port", (pattern, line));
                return Err(End);
            }
            NameVerdict::NoMatch => {
                self.key("authorize", Verdict::No, "no pattern matches this name", "[dist] names");
                return Err(End);
            }
        }
        Ok(())
    }

    fn pattern(&mut self, verdict: Verdict, why: &str, (pattern, line): (&Pattern, u32)) {
        let (rule, place) = (Some(format!("[dist] names {pattern}")), Some(self.place(line)));
        self.stages.push(Stage { stage: "authorize".to_owned(), verdict, why: why.to_owned(), rule, place });
    }

    fn reach_port(&mut self, port: u16, admission: &Admission) -> Result<(), End> {
        let policy = self.facts.policy;
        self.forward = self.facts.config.forward_at(port);
        if policy.role_at(port).is_none() {
            self.refuse(Denial::PortNotOffered(port));
            return Err(End);
        }
        match self.facing(admission, |view| view.role != Role::Epmd && view.addr.port() == port) {
            Some(known) if known.is_empty() => {
                let why = "nothing that is to be offered listens behind it now";
                self.ports_rule(Verdict::No, why.to_owned());
                Err(End)
            }
            Some(known) => self.reach_listener(&known, admission),
            None => {
                let (verdict, why) = match policy.dist().ports {
                    _ if self.forward.is_some() => {
                        (Verdict::Yes, "open while something listens there on [[forward]] backend")
                    }
                    PortRule::Registered { .. } => {
                        (Verdict::Unknown, "open while a node with an offered name listens there")
                    }
                    PortRule::Listed(_) => {
                        (Verdict::Yes, "open while something listens there on [dist] backend")
                    }
                };
                self.ports_rule(verdict, why.to_owned());
                Ok(())
            }
        }
    }

    /// The last gate, with the port that is known, at one address or more.
    fn reach_listener(&mut self, known: &[&ListenerView], admission: &Admission) -> Result<(), End> {
        let open = known.iter().find(|view| view.blocked.is_none());
        let Some(ListenerView { role, addr, inside, node, nodes, .. }) = open.or(known.first()) else {
            return Err(End);
        };
        let name = node.as_ref().map_or_else(|| "a node".to_owned(), ToString::to_string);
        let target = LinkTarget {
            role: *role,
            outside: addr.port(),
            inside: *inside,
            nodes,
            speech: Speech::Closed,
            sans: &[],
        };
        self.forward = self.facts.config.forward_at(*inside);
        if let Err(denial) = self.facts.policy.authorize_link(admission, &target) {
            self.refuse_to(denial, admission);
            return Err(End);
        }
        match (shut(known), open) {
            (Some(why), None) => {
                self.ports_rule(Verdict::No, why);
                Err(End)
            }
            (shut, _) => {
                let but = shut.map_or_else(String::new, |why| format!("; {why}"));
                self.ports_rule(
                    Verdict::Yes,
                    format!("{addr} is open and leads to {name} at port {inside}{but}"),
                );
                Ok(())
            }
        }
    }

    /// A node that listens on more than loopback is reached by whoever reaches this host.
    fn around(&mut self, question: &Question) {
        let Some(running) = self.facts.running else { return };
        let is_meant = |exposed: &&Exposed| match &question.to {
            Target::Node(name) => is_called(&exposed.node, name),
            Target::Port(port) => exposed.port == *port,
        };
        if let Some(exposed) = running.front.exposed.iter().find(is_meant) {
            let name = exposed.node.as_ref().map_or_else(|| "the node".to_owned(), ToString::to_string);
            let why = format!("{name} listens on {}: whoever reaches this host reaches it", exposed.socket);
            self.say("around", Verdict::Unguarded, why);
        }
    }

    /// What `[dist]`, or the `[[forward]]` that has the port, says of it.
    fn ports_rule(&mut self, verdict: Verdict, why: String) {
        if let Some(forward) = self.forward {
            let (rule, place) = (Some("[[forward]] ports".to_owned()), Some(self.place(forward.line)));
            return self.stages.push(Stage { stage: "authorize".to_owned(), verdict, why, rule, place });
        }
        let key = match &self.facts.policy.dist().ports {
            PortRule::Registered { outside: Some(_), .. } => "[dist] outside",
            PortRule::Registered { .. } => "[dist] range",
            PortRule::Listed(_) => "[dist] ports",
        };
        self.key("authorize", verdict, why, key);
    }

    /// A refusal of what a `[[peer]]` may reach stands in its table; any other one is as it is.
    fn refuse_to(&mut self, denial: Denial, admission: &Admission) {
        let peer = self.facts.policy.peer_of(admission).and_then(|peer| self.peer(peer));
        let (Denial::NotReachable, Some(peer)) = (denial, peer) else {
            self.refuse(denial);
            return;
        };
        let why = format!("may_reach of {} leaves the node out: for this peer it does not exist", peer.name);
        let place = self.place(peer.line);
        self.push((denial.stage(), Verdict::No, why), ("[[peer]] may_reach".to_owned(), place));
    }

    fn refuse(&mut self, denial: Denial) {
        let stage = denial.stage();
        match denial {
            Denial::Denied(rule) => self.rule(stage, Verdict::No, "a rule keeps it out".to_owned(), rule),
            Denial::NotAllowed => {
                let why = "no rule lets it in, and no rule means no entry".to_owned();
                self.key(stage, Verdict::No, why, "[cluster] allow");
            }
            Denial::DenyUnresolved => {
                let why = "a name of deny has not been resolved yet, so that nobody can be told from it";
                self.key(stage, Verdict::No, why, "[cluster] deny");
            }
            Denial::PortNotOffered(port) => {
                self.ports_rule(Verdict::No, format!("port {port} is not offered"))
            }
            Denial::Draining => {
                self.say(stage, Verdict::No, "the guard drains (epmd-guard drain --off ends it)")
            }
            Denial::NotForPeers
            | Denial::Full(_)
            | Denial::NotReachable
            | Denial::LocalOnly(_)
            | Denial::UnknownOpcode(_)
            | Denial::NotRelaxed
            | Denial::TooManyNames
            | Denial::Banned
            | Denial::TooFast(_)
            | Denial::HalfOpen(_)
            | Denial::NodeName
            | Denial::NameOfPeer(_)
            | Denial::HiddenNode
            | Denial::DynamicNode
            | Denial::OldHandshake
            | Denial::MissingFlags
            | Denial::TooManyClaims
            | Denial::Slowed
            | Denial::WrongCookie
            | Denial::WrongNode
            | Denial::WrongAnswer
            | Denial::TlsRequired
            | Denial::TlsOff
            | Denial::UnknownIdentity
            | Denial::SeveralIdentities
            | Denial::IdentityOfAnother(_)
            | Denial::CertificateRevoked
            | Denial::NoHandshake => self.say(stage, Verdict::No, denial.label()),
        }
    }

    fn say(&mut self, stage: &str, verdict: Verdict, why: impl Into<String>) {
        self.stages.push(Stage {
            stage: stage.to_owned(),
            verdict,
            why: why.into(),
            rule: None,
            place: None,
        });
    }

    fn rule(&mut self, stage: &str, verdict: Verdict, why: String, rule: RuleId) {
        let rule = self.facts.policy.rule(rule);
        let place = rule
            .map(|rule| if rule.line == 0 { "the command line".to_owned() } else { self.place(rule.line) });
        let rule = rule.map(crate::policy::Rule::without_line);
        self.stages.push(Stage { stage: stage.to_owned(), verdict, why, rule, place });
    }

    fn key(&mut self, stage: &str, verdict: Verdict, why: impl Into<String>, key: &str) {
        let place =
            self.facts.config.places.line_of(key).map_or_else(|| self.place(0), |line| self.place(line));
        self.push((stage, verdict, why.into()), (key.to_owned(), place));
    }

    fn push(&mut self, (stage, verdict, why): (&str, Verdict, String), (rule, place): (String, String)) {
        let (rule, place) = (Some(rule), Some(place));
        self.stages.push(Stage { stage: stage.to_owned(), verdict, why, rule, place });
    }

    fn place(&self, line: u32) -> String {
        if line == 0 { "the default".to_owned() } else { format!("{}:{line}", self.facts.label) }
    }

    fn name_of(&self, peer: PeerId) -> &'a str {
        self.peer(peer).map_or("?", |peer| peer.name.as_str())
    }

    fn peer(&self, peer: PeerId) -> Option<&'a Peer> {
        self.facts.config.peers.get(usize::from(peer.0))
    }
}

/// Those that are not open, and why.
fn shut(listeners: &[&ListenerView]) -> Option<String> {
    let shut = listeners.iter().filter_map(|view| Some((view.addr, view.blocked.as_ref()?)));
    let told: Vec<String> = shut.map(|(addr, why)| format!("{addr} is not open: {why}")).collect();
    (!told.is_empty()).then(|| told.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::from_text;
    use crate::control::Blocked;
    use crate::policy::Caps;

    const FILE: &str = "[cluster]\nallow = [\"192.0.2.0/24\"]\ndeny = [\"192.0.2.66\"]\n[dist]\nnames = [\"*\", \"!x*\"]\n\
                        range = \"40000-41000\"\n";

    fn listener(addr: &str, audience: Audience, blocked: Option<&str>) -> ListenerView {
        let addr: SocketAddr = addr.parse().unwrap();
        let role = if addr.port() == 4369 { Role::Epmd } else { Role::Dist };
        let node = (role == Role::Dist).then(|| AliveName::new(b"a").unwrap().into());
        ListenerView {
            role,
            addr,
            audience,
            inside: addr.port(),
            nodes: node.iter().cloned().collect(),
            node,
            toward: None,
            blocked: blocked.map(|why| Blocked::Otherwise(why.to_owned())),
        }
    }

    fn asked(from: &str, to: &str, listeners: Option<Vec<ListenerView>>) -> Explanation {
        asked_of(FILE, from, to, listeners)
    }

    fn asked_of(file: &str, from: &str, to: &str, listeners: Option<Vec<ListenerView>>) -> Explanation {
        let config = from_text("f.toml", file, &Default::default()).unwrap().config;
        let policy = Policy::new(config.rules());
        let front = FrontView { listeners: listeners.clone().unwrap_or_default(), ..FrontView::default() };
        let caps = Caps { total: 9, reserve: 0, per_address: 9, per_subnet: 9 };
        let room = Room { caps, in_use: 0, of_address: 0, of_subnet: 0 };
        let facts = Facts {
            config: &config,
            label: "f.toml",
            policy: &policy,
            own: &["192.0.2.1".parse().unwrap()],
            running: listeners.is_some().then_some(Running {
                room,
                half_open: room,
                speakers: None,
                front: &front,
            }),
        };
        explain(&Question::parse(from, None, to).unwrap(), facts)
    }

    fn last(explanation: &Explanation) -> (Verdict, &str, &str) {
        let Stage { rule, place, .. } = explanation.stages.last().unwrap();
        (explanation.verdict, rule.as_deref().unwrap_or(""), place.as_deref().unwrap_or(""))
    }

    #[test]
    fn each_verdict_names_the_rule_that_decides_and_its_place() {
        for (from, to, expected) in [
            ("203.0.113.9", "a", (Verdict::No, "[cluster] allow", "f.toml:2")),
            ("192.0.2.66", "a", (Verdict::No, "deny 192.0.2.66", "f.toml:3")),
            ("192.0.2.2", "xyz@h1", (Verdict::No, "[dist] names !x*", "f.toml:5")),
            ("192.0.2.2", "22", (Verdict::No, "[dist] range", "f.toml:6")),
            ("192.0.2.2", "a", (Verdict::Unknown, "[dist] range", "f.toml:6")),
            ("192.0.2.2", "40500", (Verdict::Unknown, "[dist] range", "f.toml:6")),
            ("127.0.0.1", "40500", (Verdict::Unknown, "[dist] range", "f.toml:6")),
        ] {
            assert_eq!(last(&asked(from, to, None)), expected, "{from} {to}");
        }
    }

    #[test]
    fn a_node_that_a_peer_may_not_reach_is_refused_by_the_line_of_its_table() {
        let file = "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n\n[[peer]]\nname = \"h3\"\n\
                    addresses = [\"192.0.2.3\"]\nmay_reach = [\"b\"]\n";
        let epmd = listener("192.0.2.1:4369", Audience::Peers, None);
        let open = listener("192.0.2.1:40500", Audience::Peers, None);
        let running = Some(vec![epmd, open]);
        let refused = (Verdict::No, "[[peer]] may_reach", "f.toml:5");
        // By its name, and by its port, which a running guard knows to be that node's.
        for (to, listeners) in [("a", None), ("a", running.clone()), ("40500", running.clone())] {
            let told = asked_of(file, "192.0.2.3", to, listeners);
            assert_eq!(last(&told), refused, "{to}");
            assert!(told.stages.last().unwrap().why.contains("of h3"), "{told:?}");
        }
        assert_eq!(asked_of(file, "192.0.2.2", "a", running).verdict, Verdict::Yes);
    }

    #[test]
    fn a_peer_is_judged_by_the_listeners_that_it_can_reach() {
        let epmd = listener("192.0.2.1:4369", Audience::Peers, None);
        let for_self = listener("127.0.1.1:40500", Audience::ItselfOnly, None);
        let taken = listener("192.0.2.1:40500", Audience::Peers, Some("taken"));
        let open = listener("192.0.2.1:40500", Audience::Peers, None);
        let six = listener("[2001:db8::1]:40500", Audience::Peers, None);
        let verdict = |from: &str, listeners: &[&ListenerView]| {
            asked(from, "a", Some(listeners.iter().copied().cloned().collect())).verdict
        };
        assert_eq!(verdict("192.0.2.2", &[&epmd, &for_self, &taken, &six]), Verdict::No);
        assert_eq!(verdict("192.0.2.2", &[&epmd, &for_self, &open]), Verdict::Yes);
        assert_eq!(verdict("192.0.2.2", &[&for_self, &open]), Verdict::No, "it cannot look up");
        assert_eq!(verdict("127.0.0.1", &[&epmd, &for_self, &taken]), Verdict::Yes);
        // What stands for a peer does not lead here.
        let away = ListenerView { toward: Some("h2".into()), ..for_self };
        assert_eq!(verdict("127.0.0.1", &[&epmd, &away, &taken]), Verdict::No);
    }

    #[test]
    fn a_forwarded_port_is_explained_by_its_own_table() {
        let file = "[cluster]\nallow = [\"192.0.2.2\"]\n\n[[forward]]\nkind = \"dist-tls\"\nports = 9200\n";
        assert_eq!(
            last(&asked_of(file, "192.0.2.2", "9200", None)),
            (Verdict::Yes, "[[forward]] ports", "f.toml:4")
        );
        assert_eq!(asked_of(file, "192.0.2.3", "9200", None).verdict, Verdict::No);
        let tls = ListenerView { role: Role::DistTls, ..listener("192.0.2.1:9200", Audience::Peers, None) };
        let epmd = listener("192.0.2.1:4369", Audience::Peers, None);
        for to in ["a", "9200"] {
            let told = asked_of(file, "192.0.2.2", to, Some(vec![epmd.clone(), tls.clone()]));
            assert_eq!(last(&told), (Verdict::Yes, "[[forward]] ports", "f.toml:4"), "{to}");
        }
    }

    #[test]
    fn what_is_no_question_is_told() {
        assert!(Question::parse("h2.test", None, "a").is_err());
        for to in ["0", "", "@h1", "a b"] {
            assert!(Question::parse("192.0.2.2", None, to).is_err(), "{to}");
        }
    }
}
