//! What a process has used, as the kernel tells it.

use procfs::process::Process;

/// The CPU time of all threads of a process so far, in seconds. The kernel tells it in hundredths.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = process(pid).stat().expect("the process runs");
    (stat.utime + stat.stime) as f64 / procfs::ticks_per_second() as f64
}

/// The resident memory of a process, in bytes.
pub(crate) fn resident(pid: u32) -> f64 {
    let kib = process(pid).status().expect("the process runs").vmrss.expect("it has memory");
    kib as f64 * 1024.0
}

fn process(pid: u32) -> Process {
    Process::new(i32::try_from(pid).expect("a pid")).expect("the process runs")
}
