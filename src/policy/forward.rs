//! `[[forward]]`: ports that are offered whatever is registered there, each for what it is said to carry.

use super::ports::PortSet;
use super::role::Role;

/// `[[forward]] kind`: what the ports carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ForwardKind {
    /// Plain distribution, which is read as that of `[dist]` is.
    Dist,
    /// Distribution in TLS (`-proto_dist inet_tls`).
    DistTls,
    /// Anything over TCP.
    Tcp,
}

impl ForwardKind {
    /// What a listener on such a port serves.
    #[must_use]
    pub fn role(self) -> Role {
        match self {
            Self::Dist => Role::Dist,
            Self::DistTls => Role::DistTls,
            Self::Tcp => Role::Tcp,
        }
    }

    /// The word of the configuration.
    #[must_use]
    pub fn label(self) -> &'static str {
        self.role().label()
    }
}

/// The ports of one `[[forward]]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForwardRule {
    /// `kind`
    pub kind: ForwardKind,
    /// `ports`, of the same numbers outside and inside.
    pub ports: PortSet,
}

/// All of them. No two have a port in common, and none has one of `[dist]`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ForwardRules(pub Vec<ForwardRule>);

impl ForwardRules {
    /// What the port of this number carries, if a `[[forward]]` has it.
    #[must_use]
    pub fn kind_at(&self, port: u16) -> Option<ForwardKind> {
        self.0.iter().find(|rule| rule.ports.contains(port)).map(|rule| rule.kind)
    }
}
