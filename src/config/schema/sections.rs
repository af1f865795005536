//! The sections of the file and their keys, in the order of the shipped one.

use std::fmt;

/// A section and the keys that it may have.
#[derive(Debug)]
pub(in crate::config) struct Section {
    pub(in crate::config) name: &'static str,
    pub(super) form: Form,
    pub(in crate::config) keys: &'static [&'static str],
}

/// How often a section may stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    /// Once: `[name]`.
    Table,
    /// As often as there are things of its kind: `[[name]]`.
    Tables,
}

/// Its header, as it stands in the file.
impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.form {
            Form::Table => write!(f, "[{}]", self.name),
            Form::Tables => write!(f, "[[{}]]", self.name),
        }
    }
}

pub(super) const CLUSTER: Section = Section {
    name: "cluster",
    form: Form::Table,
    keys: &[
        "allow",
        "deny",
        "resolve_every",
        "nodes",
        "hidden_nodes",
        "dynamic_nodes",
        "min_handshake",
        "require_flags",
        "mode",
    ],
};
pub(super) const PEER: Section = Section {
    name: "peer",
    form: Form::Tables,
    keys: &[
        "name",
        "addresses",
        "may_reach",
        "nodes",
        "hidden_nodes",
        "dynamic_nodes",
        "connect",
        "hosts",
        "alias",
        "identity",
        "tls",
    ],
};
pub(super) const EPMD: Section = Section {
    name: "epmd",
    form: Form::Table,
    keys: &["listen", "backend", "register_from", "relaxed_command_check", "self"],
};
pub(super) const DIST: Section = Section {
    name: "dist",
    form: Form::Table,
    keys: &["listen", "ports", "names", "range", "outside", "backend", "self", "cookie_file"],
};
pub(super) const COOKIE: Section =
    Section { name: "cookie", form: Form::Tables, keys: &["file", "nodes", "at"] };
pub(super) const FORWARD: Section =
    Section { name: "forward", form: Form::Tables, keys: &["kind", "ports", "listen", "backend"] };
pub(super) const TLS: Section = Section {
    name: "tls",
    form: Form::Table,
    keys: &[
        "listen",
        "cert",
        "key",
        "ca",
        "crl",
        "default",
        "crl_missing",
        "crl_stale",
        "crl_partial",
        "look_every",
        "resume_for",
        "warn_before",
    ],
};
pub(super) const LIMITS: Section = Section {
    name: "limits",
    form: Form::Table,
    keys: &[
        "connections",
        "reserve",
        "per_address",
        "per_subnet",
        "names",
        "request_timeout",
        "backend_timeout",
        "half_close_timeout",
        "rate_per_address",
        "rate_per_subnet",
        "half_open",
        "half_open_per_address",
        "handshake_timeout",
        "replay_per_link",
        "replay",
    ],
};
pub(super) const BAN: Section = Section {
    name: "ban",
    form: Form::Table,
    keys: &[
        "slow_after",
        "slow_first",
        "slow_most",
        "after",
        "within",
        "first",
        "most",
        "names",
        "names_within",
        "entries",
        "file",
    ],
};
pub(super) const ADMIN: Section =
    Section { name: "admin", form: Form::Table, keys: &["socket", "group", "listen", "reload_may_cut"] };
pub(super) const LOG: Section = Section { name: "log", form: Form::Table, keys: &["format", "level"] };

/// Every section, in the order of the shipped file.
pub(in crate::config) static SECTIONS: &[Section] =
    &[CLUSTER, PEER, EPMD, DIST, COOKIE, FORWARD, TLS, LIMITS, BAN, ADMIN, LOG];
