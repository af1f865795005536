//! Whether the rules of who speaks are enforced, or what they would refuse is only told.

use std::fmt;

use super::Denial;

/// `[cluster] mode`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// What the rules refuse is refused.
    #[default]
    Enforce,
    /// The network allowlist, the ports, the limits and what only this host may ask of epmd hold; the rest
    /// passes, and what would have been refused is counted and told.
    Observe,
}

impl Mode {
    /// The word of the configuration.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Enforce => "enforce",
            Self::Observe => "observe",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// A refusal that observe mode let pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlooked(pub(super) Denial);

impl Overlooked {
    /// What `enforce` would have said.
    #[must_use]
    pub fn denial(self) -> Denial {
        self.0
    }
}
