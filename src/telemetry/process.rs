//! What the guard's own process takes of its host.

use std::time::Duration;

use procfs::{CurrentSI, KernelStats, ProcResult};
use rustix::process::{Resource, getrlimit};

/// Of this process. What the host does not tell is `None`.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Process {
    /// Descriptors that are open.
    pub open_descriptors: Option<u64>,
    /// How many may be. `None` also where there is no limit.
    pub max_descriptors: Option<u64>,
    /// Memory that is in RAM.
    pub resident_bytes: Option<u64>,
    /// Time on a processor, in user and in kernel mode.
    pub cpu_seconds: Option<f64>,
    /// When it was started, in seconds of Unix time.
    pub start_time_seconds: Option<u64>,
}

/// Asks the kernel, which takes less than a millisecond. It never fails: a guard whose `/proc` is hidden
/// works as well, and its operators see that much less.
#[must_use]
pub fn process() -> Process {
    let max_descriptors = getrlimit(Resource::Nofile).current;
    let Ok(own) = procfs::process::Process::myself() else {
        return Process { max_descriptors, ..Process::default() };
    };
    let stat = own.stat().ok();
    Process {
        open_descriptors: own.fd_count().ok().and_then(|count| u64::try_from(count).ok()),
        max_descriptors,
        resident_bytes: own.statm().ok().map(|memory| memory.resident.saturating_mul(procfs::page_size())),
        cpu_seconds: stat
            .as_ref()
            .map(|stat| from_ticks(stat.utime.saturating_add(stat.stime)).as_secs_f64()),
        start_time_seconds: stat.and_then(|stat| started(from_ticks(stat.starttime)).ok()),
    }
}

/// When a process was started that began so long after its host. The host's own start is asked for each
/// time, since it moves when the clock is set.
fn started(after_boot: Duration) -> ProcResult<u64> {
    Ok(KernelStats::current()?.btime.saturating_add(after_boot.as_secs()))
}

/// The kernel counts a process's time in hundredths of a second, mostly.
fn from_ticks(ticks: u64) -> Duration {
    let per_second = procfs::ticks_per_second().max(1);
    Duration::from_millis(ticks.saturating_mul(1000) / per_second)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn all_of_it_is_told_on_linux() {
        let process = process();
        assert!(process.open_descriptors.unwrap() >= 3);
        assert!(process.open_descriptors.unwrap() <= process.max_descriptors.unwrap());
        assert!((1 << 20..1 << 40).contains(&process.resident_bytes.unwrap()));
        assert!((0.0..3600.0).contains(&process.cpu_seconds.unwrap()));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        assert!((now - 3600..=now + 1).contains(&process.start_time_seconds.unwrap()));
    }

    #[test]
    fn an_open_descriptor_is_counted() {
        let held: Vec<_> = (0..100).map(|_| std::fs::File::open("/dev/null").unwrap()).collect();
        assert!(process().open_descriptors.unwrap() >= 100);
        drop(held);
    }
}
