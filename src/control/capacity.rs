//! How many connections the limit on open files carries.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::config::Limits;
use crate::policy::Caps;

/// Descriptors for listeners, the log, the resolver and the like.
const OVERHEAD: u64 = 256;
/// Of these, as many as an epmd needs that has few: it has neither ports nor an admin socket.
const LEAST_OVERHEAD: u64 = 24;
/// How many descriptors a connection takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Each {
    /// Its own: nothing is behind it.
    One,
    /// Its own and that of the one that it leads to.
    Two,
}

/// More connections than this are not opened unless `[limits] connections` says so.
const MOST_BY_ITSELF: u32 = 100_000;

/// The limit on open files that is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capacity {
    /// Descriptors of this process.
    pub descriptors: u64,
}

impl Capacity {
    /// Raises the soft limit to the hard one: the soft limit is 1024 on most systems, for programs that
    /// use select(), which we do not.
    #[must_use]
    pub fn raise() -> Self {
        let before = getrlimit(Resource::Nofile);
        let raised = Rlimit { current: before.maximum, maximum: before.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(error = %io::Error::from(error), limit = before.current, "descriptor_limit_not_raised");
        }
        Self { descriptors: getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX) }
    }

    /// The caps that it carries.
    #[must_use]
    pub fn caps(self, limits: &Limits, each: Each) -> Caps {
        let descriptors = self.descriptors;
        let (each, overhead) = match each {
            Each::One => (1, (descriptors / 4).clamp(LEAST_OVERHEAD, OVERHEAD)),
            Each::Two => (2, OVERHEAD),
        };
        let carried = descriptors.saturating_sub(overhead).max(each) / each;
        let carried = u32::try_from(carried).unwrap_or(u32::MAX);
        let total = match limits.connections {
            Some(wanted) if wanted > carried => {
                tracing::warn!(
                    wanted,
                    carried,
                    descriptors,
                    each,
                    help = "raise LimitNOFILE (ulimit -Hn): each connection takes so many descriptors",
                    "connections_lowered"
                );
                carried
            }
            Some(wanted) => wanted,
            None => carried.min(MOST_BY_ITSELF),
        };
        // Where the descriptors decide, the reserve must not be all there is.
        let reserve =
            if limits.connections == Some(total) { limits.reserve } else { limits.reserve.min(total / 2) };
        Caps { total, reserve, per_address: limits.per_address, per_subnet: limits.per_subnet }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn limits(connections: Option<u32>) -> Limits {
        Limits {
            connections,
            reserve: 64,
            per_address: 512,
            per_subnet: 2048,
            names: 16_384,
            request_timeout: Duration::from_secs(5),
            backend_timeout: Duration::from_secs(5),
            half_close_timeout: Duration::from_secs(300),
            rate_per_address: 2000,
            rate_per_subnet: 8000,
            half_open: 1024,
            half_open_per_address: 256,
            handshake_timeout: Duration::from_secs(7),
            replay_per_link: 4 * 1024 * 1024,
            replay: 256 * 1024 * 1024,
        }
    }

    #[test]
    fn the_caps_follow_from_the_descriptors() {
        let caps = |connections, descriptors| Capacity { descriptors }.caps(&limits(connections), Each::Two);
        assert_eq!(caps(None, 1024).total, 384);
        assert_eq!(caps(None, u64::MAX).total, MOST_BY_ITSELF);
        assert_eq!(caps(Some(100), 1024).total, 100);
        assert_eq!(caps(Some(1000), 1024).total, 384);
        let small = caps(None, 268);
        assert_eq!((small.total, small.reserve), (6, 3));
        let epmd = |descriptors| Capacity { descriptors }.caps(&limits(None), Each::One).total;
        assert_eq!([20, 64, 256, 1024, 2048].map(epmd), [1, 40, 192, 768, 1792]);
    }
}
