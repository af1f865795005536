//! Which Erlang/OTP a program is of.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::host::Host;

/// This machine's OTP, or that of another root, which `scripts/interop-roots.sh` makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Otp {
    /// What is in the PATH.
    #[default]
    Here,
    /// What is in the PATH of the root.
    Root(PathBuf),
}

impl Otp {
    /// A program of this OTP that will run on the host as `user`; see [`Host::command_as`].
    ///
    /// # Panics
    ///
    /// When there is no such user.
    #[must_use]
    pub fn command(&self, host: &Host, user: &str, program: impl AsRef<Path>) -> Command {
        match self {
            Self::Here => host.command_as(user, program),
            Self::Root(root) => host.command_in(root, user, program),
        }
    }
}
