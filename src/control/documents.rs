//! What the admin socket says, as JSON: the guard writes these documents and the commands read them back.
//!
//! Owns names and units. Names are `snake_case`; every `_seconds` is a number of seconds that may have a
//! fraction; sizes are in bytes; a socket address is a text such as `192.0.2.7:9100` or `[2001:db8::7]:9100`.
//! Fields are only ever added, and whoever reads one passes over what it does not know, so that command and
//! daemon of neighbouring versions understand each other.

mod credentials;
mod speakers;

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::policy::Moment;

pub use credentials::{CertificateDocument, TlsDocument, TlsState};
pub use speakers::{
    BanDocument, BansDocument, GuardMode, LearnDocument, ModeDocument, SeenDocument, SpeakersDocument,
    Unbanned,
};

/// A point in time as documents write it: RFC 3339, UTC, to the second.
#[must_use]
pub fn timestamp(at: SystemTime) -> String {
    humantime::format_rfc3339_seconds(at).to_string()
}

/// The time of day of a moment, as far as it can be written.
#[must_use]
pub fn time_of(moment: Moment) -> SystemTime {
    /// The last second of the year 9999.
    const LAST: u64 = 253_402_300_799_000;
    SystemTime::UNIX_EPOCH + Duration::from_millis(moment.0.min(LAST))
}

/// A network as it is shown: one address as itself.
#[must_use]
pub fn shown_net(net: IpNet) -> String {
    if net.prefix_len() == net.max_prefix_len() { net.addr().to_string() } else { net.to_string() }
}

/// `/status`: the guard at this moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of the daemon.
    pub version: String,
    /// Its process.
    pub pid: u32,
    /// When it started; see [`timestamp`].
    pub started_at: String,
    /// For how long it has run.
    pub uptime_seconds: f64,
    /// The file that the configuration came from, or `the built-in configuration`.
    pub config: String,
    /// Counts the configurations that this process has run with, from 1.
    pub generation: u64,
    /// How the last reload ended; `None`: there was none.
    pub last_reload: Option<LastReload>,
    /// Whether it takes new connections of peers.
    pub state: GuardState,
    /// Whether the rules of who speaks are enforced; `None`: a daemon of an older version does not say.
    #[serde(default)]
    pub mode: Option<ModeDocument>,
    /// What became of those who spoke; `None` as above.
    #[serde(default)]
    pub speakers: Option<SpeakersDocument>,
    /// What tunnels are made by; `None`: there is no `[tls] cert`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<TlsDocument>,
    /// Whether it does all that its configuration asks for.
    pub ready: bool,
    /// Why it is not ready, one clause each; empty when it is.
    pub not_ready: Vec<String>,
    /// What an operator should see to, though the guard works.
    pub warnings: Vec<Warning>,
    /// Connections of every kind, those that are not yet links included.
    pub connections: u32,
    /// Established links.
    pub links: u64,
    /// Names that are registered at the embedded epmd; `None`: the epmd is another program.
    pub names: Option<u64>,
    /// The ports that are open and those that should be.
    pub listeners: Vec<ListenerDocument>,
    /// The hosts that have a link or a name of their own.
    pub peers: Vec<PeerDocument>,
}

/// Whether a guard takes anything new.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardState {
    /// It does.
    Open,
    /// Nothing new of peers; established links go on.
    Draining,
}

/// A reload that is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastReload {
    /// When it ended; see [`timestamp`].
    pub at: String,
    /// How.
    pub result: LastResult,
    /// Why it was refused, in one line and without any line of the file; the report that who asked for the
    /// reload got tells more.
    pub detail: Option<String>,
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LastResult {
    /// What was to be loaded is in force.
    Ok,
    /// Nothing changed.
    Refused,
}

/// Something that works and is not well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Warning {
    /// Its kind in one word, such as `node_exposed`.
    pub what: String,
    /// The node that it is about.
    pub node: Option<String>,
    /// The port that it is about.
    pub port: Option<u16>,
    /// What is the matter, as a sentence.
    pub message: String,
    /// What to do, as a sentence.
    pub help: String,
}

/// A port of the guard.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListenerDocument {
    /// What it serves: `epmd`, `dist`, `dist-tls`, `tcp` or `tunnel`.
    pub role: String,
    /// Where it listens.
    pub listener: SocketAddr,
    /// For whom.
    pub audience: ListenerAudience,
    /// The node behind it, where that is known.
    pub node: Option<String>,
    /// The port behind it, for all but `epmd` and `tunnel`; at an alias, the peer's.
    pub inside: Option<u16>,
    /// The `[[peer]]` for whom it stands, where it is at an alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toward: Option<String>,
    /// Whether it is open.
    pub state: ListenerState,
}

/// Whom a port is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerAudience {
    /// Peers, and this host.
    Peers,
    /// This host alone.
    #[serde(rename = "self")]
    ItselfOnly,
    /// Peers, and nobody is taken for this host.
    PeersOnly,
}

/// Whether a port is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerState {
    /// It is.
    Open,
    /// It could not be opened, as when something else has it; it is tried again.
    Blocked,
}

/// A host of the cluster and its links.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerDocument {
    /// Its name in the configuration, or its address.
    pub name: String,
    /// Its established links. Those that this host dialled are the peer's guard's.
    pub links: u64,
    /// Bytes that came from it on links of now.
    pub bytes_in: u64,
    /// Bytes that went to it on links of now.
    pub bytes_out: u64,
    /// The longest silence among its links; `None`: it has no link.
    pub idle_seconds: Option<f64>,
    /// The addresses that it is known by.
    pub addresses: Vec<String>,
    /// What its connections tell of the cluster's mesh, in a word or two.
    pub mesh: Option<String>,
}

/// `/links`: the established links.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinksDocument {
    /// In the order in which they came.
    pub links: Vec<LinkDocument>,
}

/// An established link.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LinkDocument {
    /// Its number, as in the log.
    pub id: u64,
    /// Who dialled.
    pub peer: SocketAddr,
    /// Its name in the configuration.
    pub peer_name: Option<String>,
    /// What it is to the guard.
    pub standing: LinkStanding,
    /// Where it arrived.
    pub listener: SocketAddr,
    /// The node that it leads to, where that is known.
    pub node: Option<String>,
    /// The port that it leads to.
    pub inside: u16,
    /// The full name of the node that dialled; `None`: what it says is not read, as with TLS.
    #[serde(default)]
    pub peer_node: Option<String>,
    /// The full name of the node that answered.
    #[serde(default)]
    pub answered_by: Option<String>,
    /// Whether the node that dialled is a hidden one.
    #[serde(default)]
    pub hidden: Option<bool>,
    /// The version of the handshake: 5 or 6.
    #[serde(default)]
    pub handshake: Option<u16>,
    /// What both guards call it, where it goes through a tunnel.
    #[serde(default)]
    pub link: Option<String>,
    /// The `[[peer]]` to which this host has dialled it, at an alias.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub toward: Option<String>,
    /// The rule that lets it be; `None` for this host itself.
    pub rule: Option<String>,
    /// When it was established; see [`timestamp`].
    pub since: String,
    /// For how long it has lived.
    pub age_seconds: f64,
    /// Bytes towards the node.
    pub bytes_up: u64,
    /// Bytes from the node.
    pub bytes_down: u64,
    /// For how long it has carried nothing.
    pub idle_seconds: f64,
    /// For how long, all in all and both ways added, one end has not taken what the other sent.
    pub blocked_seconds: f64,
    /// Why it was cut, or would be: the reason as in the log, and the rule that says so if there is one. `None`
    /// for a link that stays.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// What who dialled is to the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkStanding {
    /// This host.
    #[serde(rename = "self")]
    Itself,
    /// Another one.
    Peer,
}

/// `/reload`, `/check`: what a configuration changed, or would change.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// How it ended.
    pub result: ReloadResult,
    /// The generation that is in force now.
    pub generation: u64,
    /// What differs from the configuration before.
    pub changes: Vec<ChangeDocument>,
    /// The links that were cut, or would be. Of a configuration that is refused it may not be known.
    pub cut: Vec<LinkDocument>,
    /// Why it was refused, or wants a yes: what, where and what to do. One may have many lines, with those of
    /// the file that it is about.
    pub problems: Vec<String>,
    /// What is hardly meant so, though it was taken.
    pub warnings: Vec<String>,
}

/// How a reload ended, or would.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReloadResult {
    /// A new generation is in force.
    Reloaded,
    /// A new generation is in force that says what the one before said.
    Unchanged,
    /// Nothing has changed; `problems` say why.
    Refused,
    /// Nothing has changed: it would cut the links of `cut`, which wants a yes.
    NeedsYes,
    /// It was only looked at, and would be taken.
    Checked,
}

/// One difference between two configurations.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeDocument {
    /// The key, such as `[cluster] allow`.
    pub key: String,
    /// What is different, in words.
    pub what: String,
    /// From when on.
    pub applies: Applies,
}

/// From when on a change counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Applies {
    /// With the reload.
    AtOnce,
    /// When the daemon is started again.
    AfterRestart,
}

/// `/readyz`, where it is written as lines of text: whether the guard does all that its configuration asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Readiness {
    /// Whether it does.
    pub ready: bool,
    /// Why not, one clause each.
    pub reasons: Vec<String>,
    /// What an operator should see to, one sentence each.
    pub warnings: Vec<String>,
}

/// `/drain`: the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drained {
    /// What the guard is from now on.
    pub state: GuardState,
}

/// Why a request got nothing else.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// What is wrong with it, and what to do, in words.
    pub error: String,
    /// For an unknown path: the known ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub paths: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_of_a_newer_daemon_is_understood() {
        let text = r#"{"ready":false,"reasons":["port_taken"],"warnings":[],"since":"yesterday"}"#;
        let read: Readiness = serde_json::from_str(text).unwrap();
        assert_eq!(read.reasons, ["port_taken"]);
    }

    #[test]
    fn words_are_written_as_they_are_documented() {
        let shown = |value: serde_json::Result<String>| value.unwrap();
        assert_eq!(shown(serde_json::to_string(&ReloadResult::NeedsYes)), "\"needs_yes\"");
        assert_eq!(shown(serde_json::to_string(&Applies::AtOnce)), "\"at_once\"");
        assert_eq!(shown(serde_json::to_string(&ListenerAudience::ItselfOnly)), "\"self\"");
        assert_eq!(shown(serde_json::to_string(&LinkStanding::Itself)), "\"self\"");
        assert_eq!(shown(serde_json::to_string(&LastResult::Ok)), "\"ok\"");
        assert_eq!(shown(serde_json::to_string(&GuardState::Draining)), "\"draining\"");
    }

    #[test]
    fn times_are_rfc_3339() {
        assert_eq!(timestamp(SystemTime::UNIX_EPOCH + Duration::from_secs(86_400)), "1970-01-02T00:00:00Z");
    }
}
