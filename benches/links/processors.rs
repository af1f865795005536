//! Which processor is whose.

use std::thread::available_parallelism;

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// Two of the machine's processors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Processors {
    /// That of the program which is measured.
    measured: usize,
    /// That of the clients and of the stand-in.
    ours: usize,
}

impl Processors {
    /// The first two that this process may use, and takes the second for itself; `None`: there is only one.
    pub(crate) fn choose() -> Option<Self> {
        let may_use = sched_getaffinity(None).expect("the kernel tells it");
        let mut usable = (0..CpuSet::MAX_CPU).filter(|cpu| may_use.is_set(*cpu));
        let (measured, ours) = usable.next().zip(usable.next())?;
        let processors = Self { measured, ours };
        move_to(ours);
        Some(processors)
    }

    /// Runs `start`, whose processes get the processor of what is measured.
    pub(crate) fn on_measured<T>(self, start: impl FnOnce() -> T) -> T {
        move_to(self.measured);
        // What a runtime will ask there, too.
        assert_eq!(available_parallelism().expect("the kernel tells it").get(), 1);
        let started = start();
        move_to(self.ours);
        started
    }
}

/// The thread that calls, and whatever it starts.
fn move_to(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("it may be used");
}
