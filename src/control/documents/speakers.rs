//! Documents about those who speak: the mode, what became of handshakes, bans, and what was seen.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::policy::Mode;

/// Whether the rules of who speaks are enforced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardMode {
    /// They are.
    Enforce,
    /// What they would refuse is counted and told.
    Observe,
}

impl From<Mode> for GuardMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Enforce => Self::Enforce,
            Mode::Observe => Self::Observe,
        }
    }
}

/// `/mode`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModeDocument {
    /// The one in force.
    pub mode: GuardMode,
    /// The one of the configuration.
    pub configured: GuardMode,
    /// Until when the one in force has the place of the configured one; see
    /// [`timestamp`](super::timestamp). `None`: it is the configured one.
    pub until: Option<String>,
    /// For how long that is.
    pub remaining_seconds: Option<f64>,
}

/// A part of `/status`: what became of those who spoke, since the daemon started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpeakersDocument {
    /// How many handshakes ended in which way: `up`, `wrong_cookie` and so on.
    pub handshakes: BTreeMap<String, u64>,
    /// Handshakes that are not done.
    pub half_open: u32,
    /// How many of these there may be.
    pub half_open_most: u32,
    /// Bans that are in force.
    pub bans: u64,
    /// What observe mode let pass and `enforce` refuses, by reason.
    pub would_refuse: BTreeMap<String, u64>,
}

/// `/bans`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BansDocument {
    /// Those in force, the one that ends last first.
    pub bans: Vec<BanDocument>,
}

/// A ban that is in force.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BanDocument {
    /// An address or a /64.
    pub network: String,
    /// Since when; see [`timestamp`](super::timestamp).
    pub since: String,
    /// Until when.
    pub until: String,
    /// For how long that is.
    pub remaining_seconds: f64,
    /// How many bans it has had, this one included.
    pub times: u32,
    /// What led to it.
    pub why: String,
}

/// `/unban`: the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unbanned {
    /// How many bans were lifted.
    pub lifted: u64,
}

/// `/learn`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LearnDocument {
    /// When the first handshake was seen; see [`timestamp`](super::timestamp).
    pub since: Option<String>,
    /// How many were seen.
    pub handshakes: u64,
    /// How many nodes are not remembered, since there was no room.
    pub forgotten: u64,
    /// The mode in force.
    pub mode: GuardMode,
    /// The smallest rules that fit, as TOML.
    pub rules: String,
    /// What they are made of, by address and name.
    pub seen: Vec<SeenDocument>,
}

/// A node at an address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeenDocument {
    /// From where.
    pub address: String,
    /// The `[[peer]]` that has this address.
    pub peer_name: Option<String>,
    /// Whom it said it is: a full name, or `?@host` where it asked for one.
    pub claimed: String,
    /// Whether it ever was a hidden node.
    pub hidden: bool,
    /// The least version of the handshake that it spoke.
    pub handshake: u16,
    /// How many links came up.
    pub up: u64,
    /// How many handshakes came to none.
    pub failed: u64,
    /// When it spoke last; see [`timestamp`](super::timestamp).
    pub last: String,
    /// Why `enforce` refuses it.
    pub would_refuse: Option<String>,
}
