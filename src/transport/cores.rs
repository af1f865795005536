//! Core dumps of this process, which have all of its memory in them.
//!
//! Owns what the kernel is told of them. A guard that holds cookies leaves none behind: neither as files nor to the
//! programs that systems hand them to.

use std::fs;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Which kinds of memory a dump has; 0: none (core(5)). A program that core_pattern names is run whatever the limit
/// is, and reads what this says.
const FILTER: &str = "/proc/self/coredump_filter";

/// What this process does, once and for all, it does for whoever reads a cookie later, too.
static KEPT_OUT: AtomicBool = AtomicBool::new(false);

/// Why core dumps could not be turned off.
#[derive(Debug, thiserror::Error)]
pub enum CoreFault {
    /// Their size cannot be limited.
    #[error("the limit on core dumps cannot be set")]
    Limit(#[source] io::Error),
    /// What they hold cannot be said.
    #[error("{FILTER} cannot be written")]
    Filter(#[source] io::Error),
}

/// What becomes of core dumps after cookies may have been read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Secrets {
    /// None were: dumps are useful to whoever looks for a fault.
    None,
    /// Some were.
    Held,
}

/// Core dumps that are turned off for a while, until it is known whether there is something to hide.
#[derive(Debug)]
#[must_use = "they stay off unless this is settled"]
pub struct Withheld {
    limit: Rlimit,
    filter: Option<String>,
    fault: Option<CoreFault>,
}

impl Withheld {
    /// Turns core dumps off, before a cookie is read.
    pub fn begin() -> Self {
        let limit = getrlimit(Resource::Core);
        let filter = fs::read_to_string(FILTER).ok();
        let none = Rlimit { current: Some(0), maximum: limit.maximum };
        // Both are tried: each of them alone keeps some dumps away.
        let filtered = fs::write(FILTER, "0").map_err(CoreFault::Filter);
        let limited = setrlimit(Resource::Core, none).map_err(|error| CoreFault::Limit(error.into()));
        Self { limit, filter, fault: limited.and(filtered).err() }
    }

    /// Leaves them off where there are secrets, for as long as the process lives, and tells where that is not
    /// possible; otherwise they are as they were.
    pub fn settle(self, secrets: Secrets) {
        if secrets == Secrets::None && !KEPT_OUT.load(Ordering::Relaxed) {
            return self.give_back();
        }
        KEPT_OUT.store(true, Ordering::Relaxed);
        // Others of this user could raise it up to here (prlimit(1)).
        let never = Rlimit { current: Some(0), maximum: Some(0) };
        let limited = setrlimit(Resource::Core, never).map_err(|error| CoreFault::Limit(error.into()));
        if let Some(error) = self.fault.or(limited.err()) {
            let help = "a core dump of the guard would have the cookies and keys in it: keep it from making any \
                        (LimitCORE=0, /proc/sys/kernel/core_pattern), or mount /proc for it";
            let cause =
                std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            tracing::warn!(error = %format_args!("{error}{cause}"), help, "core_dumps_not_off");
        }
    }

    /// What cannot be given back is off, which harms nobody.
    fn give_back(self) {
        if let Some(filter) = self.filter.as_deref().and_then(hex) {
            fs::write(FILTER, filter).unwrap_or_default();
        }
        setrlimit(Resource::Core, self.limit).unwrap_or_default();
    }
}

/// The kernel writes the mask in hexadecimal without saying so, and reads it by its prefix.
fn hex(filter: &str) -> Option<String> {
    u64::from_str_radix(filter.trim(), 16).ok().map(|mask| format!("{mask:#x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All in one: they share the process.
    #[test]
    fn core_dumps_come_back_unless_there_is_something_to_hide() {
        let now = || (getrlimit(Resource::Core).current, fs::read_to_string(FILTER).unwrap());
        let before = now();
        let off = (Some(0), "00000000\n".to_owned());
        let withheld = Withheld::begin();
        assert!(withheld.fault.is_none(), "{withheld:?}");
        assert_eq!(now(), off);
        withheld.settle(Secrets::None);
        assert_eq!(now(), before);
        Withheld::begin().settle(Secrets::Held);
        assert_eq!((now(), getrlimit(Resource::Core).maximum), (off.clone(), Some(0)));
        // A reading that began before, and ends after, must not bring them back.
        Withheld {
            limit: Rlimit { current: Some(1), maximum: Some(1) },
            filter: Some(before.1),
            fault: None,
        }
        .settle(Secrets::None);
        assert_eq!(now(), off);
    }
}
