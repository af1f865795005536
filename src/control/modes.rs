//! Another mode than the configured one, for a while: who orders it, and that it ends by itself.
//!
//! Owns the time at which it ends. One such order is in force at a time; a later one takes its place.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;

use super::documents::timestamp;
use crate::policy::Mode;
use crate::session::Snapshots;

/// How long an order may last. What is to last longer belongs into the configuration, where it is seen.
pub const LASTS: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_hours(24);

/// Who gave an order, as far as the kernel says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Orderer {
    /// The user.
    pub uid: Option<u32>,
    /// The process.
    pub pid: Option<i32>,
}

/// An order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeOrder {
    /// Which mode.
    pub mode: Mode,
    /// For how long; `None`: nobody said.
    pub lasts: Option<Duration>,
}

/// Why an order is not obeyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ModeFault {
    /// It would last for ever.
    #[error(
        "say for how long, as in `epmd-guard mode {0} --for 15m`: it then returns by itself; what is to stay so \
         belongs into the configuration: [cluster] mode = \"{0}\""
    )]
    ForEver(Mode),
    /// It would last too long, or not at all.
    #[error(
        "{} is out of range: 1s to 24h is possible; what is to stay so belongs into the configuration: \
         [cluster] mode = \"{mode}\"",
        humantime::format_duration(*.lasts)
    )]
    Range {
        /// The mode that is asked for.
        mode: Mode,
        /// For how long.
        lasts: Duration,
    },
}

/// The mode that is in force, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ModeState {
    /// The mode in force.
    pub mode: Mode,
    /// The mode of the configuration.
    pub configured: Mode,
    /// Until when, where an order has another one in its place.
    pub while_it_lasts: Option<Until>,
}

/// The end of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Until {
    /// By the clock that nobody sets, which counts.
    pub moment: Instant,
    /// By the time of day, to be shown.
    pub time: SystemTime,
}

/// The modes of a guard: the configured one, and the order that is in its place.
#[derive(Debug)]
pub struct Modes {
    snapshots: Snapshots,
    /// Whoever changes it changes the snapshot too, while it is held.
    order: watch::Sender<Option<(Mode, Until)>>,
}

impl Modes {
    /// With the configured mode in force.
    #[must_use]
    pub fn new(snapshots: Snapshots) -> Self {
        Self { snapshots, order: watch::Sender::new(None) }
    }

    /// What is in force.
    #[must_use]
    pub fn state(&self) -> ModeState {
        let policy = Arc::clone(&self.snapshots.current().policy);
        let until = self.order.borrow().map(|(_, until)| until);
        let while_it_lasts = until.filter(|_| policy.mode_for_a_while().is_some());
        ModeState { mode: policy.mode(), configured: self.configured(), while_it_lasts }
    }

    fn configured(&self) -> Mode {
        self.snapshots.current().config.cluster.mode
    }

    /// Obeys an order. The configured mode needs no time: it ends what is in its place.
    ///
    /// # Errors
    /// Why not; nothing has changed.
    pub fn order(&self, order: ModeOrder, by: Orderer) -> Result<ModeState, ModeFault> {
        let ModeOrder { mode, lasts } = order;
        if let Some(lasts) = lasts.filter(|lasts| !LASTS.contains(lasts)) {
            return Err(ModeFault::Range { mode, lasts });
        }
        let next = match lasts {
            _ if mode == self.configured() => None,
            None => return Err(ModeFault::ForEver(mode)),
            Some(lasts) => {
                let until = Until { moment: Instant::now() + lasts, time: SystemTime::now() + lasts };
                Some((mode, until))
            }
        };
        self.order.send_if_modified(|current| {
            let is_news = current.is_some() || next.is_some();
            *current = next;
            if is_news {
                self.put_in_force(next, by);
            }
            is_news
        });
        Ok(self.state())
    }

    fn put_in_force(&self, next: Option<(Mode, Until)>, by: Orderer) {
        let from = self.snapshots.current().policy.mode();
        self.snapshots.set_mode(next.map(|(mode, _)| mode));
        let to = self.snapshots.current().policy.mode();
        let until = next.map(|(_, until)| timestamp(until.time));
        tracing::warn!(
            from = from.label(),
            to = to.label(),
            until,
            uid = by.uid,
            pid = by.pid,
            help = help_of(to),
            "mode_changed"
        );
    }

    /// Has the configured mode return where its time has come. One that a later order has put off stays.
    fn return_if_due(&self) {
        self.order.send_if_modified(|current| {
            let is_due = current.is_some_and(|(_, until)| until.moment <= Instant::now());
            if is_due {
                *current = None;
                let from = self.snapshots.current().policy.mode();
                self.snapshots.set_mode(None);
                let to = self.snapshots.current().policy.mode();
                tracing::warn!(from = from.label(), to = to.label(), "mode_returned");
            }
            is_due
        });
    }
}

fn help_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Observe => {
            "who may connect, ports and limits hold; what else enforce refuses passes and is told as \
             would_refuse; epmd-guard mode enforce ends it"
        }
        Mode::Enforce => "what the rules of who speaks refuse is refused",
    }
}

/// Ends each order when its time has come. Never ends by itself.
pub async fn end_orders(modes: Arc<Modes>) {
    let mut orders = modes.order.subscribe();
    loop {
        let until = orders.borrow_and_update().map(|(_, until)| until.moment);
        let due = async {
            match until {
                Some(until) => tokio::time::sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => modes.return_if_due(),
            // The sender lives as long as `modes`.
            changed = orders.changed() => changed.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;
    use crate::config::Config;
    use crate::session::Snapshot;

    const MINUTE: Duration = Duration::from_mins(1);

    fn config(mode: Mode) -> Config {
        let mut config = crate::config::from_text("test", "", &Default::default()).unwrap().config;
        config.cluster.mode = mode;
        config
    }

    /// A guard's modes, and the task that ends orders.
    fn modes(configured: Mode) -> (Arc<Modes>, JoinSet<()>) {
        let snapshots = Snapshots::new(Snapshot::new(1, Arc::new(config(configured))));
        let modes = Arc::new(Modes::new(snapshots));
        let mut tasks = JoinSet::new();
        tasks.spawn(end_orders(Arc::clone(&modes)));
        (modes, tasks)
    }

    fn ordered(modes: &Modes, mode: Mode, lasts: Option<Duration>) -> Result<Mode, ModeFault> {
        modes.order(ModeOrder { mode, lasts }, Orderer::default()).map(|state| state.mode)
    }

    async fn after(time: Duration) {
        tokio::time::sleep(time).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_returns_by_itself_and_a_later_order_takes_the_place_of_an_earlier_one() {
        let (modes, _tasks) = modes(Mode::Enforce);
        assert_eq!(ordered(&modes, Mode::Observe, Some(MINUTE)), Ok(Mode::Observe));
        after(MINUTE / 2).await;
        assert_eq!(ordered(&modes, Mode::Observe, Some(MINUTE)), Ok(Mode::Observe));
        after(MINUTE * 3 / 4).await;
        let state = modes.state();
        assert_eq!((state.mode, state.configured), (Mode::Observe, Mode::Enforce), "the first one is over");
        assert!(state.while_it_lasts.is_some());
        after(MINUTE / 2).await;
        assert_eq!(modes.state().mode, Mode::Enforce);
        assert_eq!(modes.state().while_it_lasts, None);
        // And again, after one that was ended early.
        assert_eq!(ordered(&modes, Mode::Observe, Some(MINUTE)), Ok(Mode::Observe));
        assert_eq!(ordered(&modes, Mode::Enforce, None), Ok(Mode::Enforce));
        assert_eq!(ordered(&modes, Mode::Observe, Some(MINUTE * 2)), Ok(Mode::Observe));
        after(MINUTE + MINUTE / 2).await;
        assert_eq!(modes.state().mode, Mode::Observe);
        after(MINUTE).await;
        assert_eq!(modes.state().mode, Mode::Enforce);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_to_last_for_ever_belongs_into_the_file() {
        let (enforced, _tasks) = modes(Mode::Enforce);
        assert_eq!(ordered(&enforced, Mode::Observe, None), Err(ModeFault::ForEver(Mode::Observe)));
        for lasts in [Duration::ZERO, Duration::from_millis(999), Duration::from_secs(86_401)] {
            let fault = ordered(&enforced, Mode::Observe, Some(lasts)).unwrap_err();
            assert!(fault.to_string().contains("1s to 24h"), "{fault}");
        }
        assert_eq!(enforced.state().mode, Mode::Enforce);
        assert_eq!(ordered(&enforced, Mode::Enforce, None), Ok(Mode::Enforce), "it is so already");
        let (observed, _tasks) = modes(Mode::Observe);
        assert_eq!(ordered(&observed, Mode::Enforce, None), Err(ModeFault::ForEver(Mode::Enforce)));
        assert_eq!(ordered(&observed, Mode::Enforce, Some(MINUTE)), Ok(Mode::Enforce));
        after(MINUTE * 2).await;
        assert_eq!(observed.state().mode, Mode::Observe);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reload_ends_no_order_and_its_end_finds_the_mode_of_the_new_file() {
        let (modes, _tasks) = modes(Mode::Enforce);
        assert_eq!(ordered(&modes, Mode::Observe, Some(MINUTE)), Ok(Mode::Observe));
        modes.snapshots.publish(|before| {
            let next = Snapshot::new(2, Arc::new(config(Mode::Enforce)));
            let policy = next.policy.with_mode(before.policy.mode_for_a_while());
            Snapshot { policy: Arc::new(policy), ..next }
        });
        assert_eq!(modes.state().mode, Mode::Observe);
        after(MINUTE * 2).await;
        assert_eq!((modes.state().mode, modes.snapshots.current().generation), (Mode::Enforce, 2));
    }
}
