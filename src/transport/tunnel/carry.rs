//! The relay of a link within a tunnel: a node's socket on one side, a leg on the other one.
//!
//! What the node writes is read to where it is kept until the other guard has it, and sealed from there. What the other guard
//! sends is opened in pieces of half a MiB and written at once. When the leg breaks the link waits, and goes on at
//! the exact byte on another one.

use std::pin::pin;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::Instant;

use super::leg::Lost;
use super::link::Grant;
use super::mover::{Mover, Step};
use super::renew::{FIRST_PAUSE, LONGEST_PAUSE, Renewal, ResumeError, Resumption};
use super::tunnelled::Tunnelled;
use crate::proto::tunnel::{LinkId, Refusal};
use crate::transport::relay::{Ended, Relay, Side};
use crate::transport::traffic::Traffic;

/// For how long further legs of a link are not told aloud.
const QUIET: Duration = Duration::from_mins(1);

impl Relay {
    /// Carries a link between a node and the other guard until it ends.
    pub(in crate::transport) async fn carry(
        &self,
        link: Tunnelled,
        (node, side): (TcpStream, Side),
        traffic: &Traffic,
        stop: impl Future<Output = Refusal>,
    ) -> Ended {
        let Some(parts) = link.into_parts() else { return Ended::Stopped };
        let (outward, inward) = match side {
            Side::Downstream => (&traffic.up, &traffic.down),
            Side::Upstream => (&traffic.down, &traffic.up),
        };
        let (mover, renewal, lost) = Mover::new(parts, (node, side), (outward, inward));
        let mut carriage = Carriage {
            mover,
            renewal,
            half_close_timeout: self.half_close_timeout,
            resume_for: self.resume_for,
            progress: None,
            told: None,
            pause: Duration::ZERO,
        };
        let (ended, why) = tokio::select! {
            ended = carriage.run(lost) => (ended, None),
            why = stop => (Ended::Stopped, Some(why)),
        };
        carriage.mover.end(ended, why);
        ended
    }
}

/// A link that is up, and what it takes to keep it so.
struct Carriage<'t> {
    mover: Mover<'t>,
    renewal: Renewal,
    half_close_timeout: Duration,
    resume_for: Duration,
    /// How far the link was when its leg was lost last, and how long it waits for the next one where it is no farther.
    progress: Option<(u64, u64)>,
    pause: Duration,
    /// When it was told last that the leg is another one.
    told: Option<Instant>,
}

/// How loud it is told that a link gets another leg: who breaks one again and again fills no log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Volume {
    Aloud,
    Quietly,
}

impl Volume {
    /// Aloud once a minute.
    fn of(told: &mut Option<Instant>) -> Self {
        let now = Instant::now();
        if told.is_some_and(|at| now < at + QUIET) {
            return Self::Quietly;
        }
        *told = Some(now);
        Self::Aloud
    }

    fn tell_lost(self, link: LinkId, lost: &Lost) {
        let (reason, error) = (lost.label(), crate::telemetry::describe(lost));
        match self {
            Self::Aloud => tracing::warn!(%link, reason, error, "leg_lost"),
            Self::Quietly => tracing::debug!(%link, reason, error, "leg_lost"),
        }
    }

    fn tell_resumed(self, link: LinkId, after: &str) {
        match self {
            Self::Aloud => tracing::info!(%link, after, "leg_resumed"),
            Self::Quietly => tracing::debug!(%link, after, "leg_resumed"),
        }
    }
}

impl Carriage<'_> {
    async fn run(&mut self, lost: Option<Lost>) -> Ended {
        let mut lost = lost;
        loop {
            let step = match lost.take() {
                None => self.move_on().await,
                Some(why) => {
                    // The last word comes together with the end of the leg.
                    if let Some(ended) = self.mover.outcome() {
                        return ended;
                    }
                    if let Some(code) = why.breach() {
                        return self.mover.refuse(&why, code);
                    }
                    if self.mover.link.grant == Grant::Awaited {
                        return self.mover.never_began(&why);
                    }
                    match self.resume(why).await {
                        Ok(resumption) => match self.mover.go_on(resumption) {
                            Ok(()) => continue,
                            Err(step) => step,
                        },
                        Err(ended) => return ended,
                    }
                }
            };
            match step {
                Step::Over(ended) => return ended,
                Step::Lost(why) => lost = Some(why),
            }
        }
    }

    /// Until the leg breaks or the link ends.
    async fn move_on(&mut self) -> Step {
        let mut sleep = pin!(tokio::time::sleep_until(self.mover.due(self.half_close_timeout)));
        loop {
            let Self { mover, renewal, half_close_timeout, told, .. } = self;
            let moved = tokio::select! {
                step = std::future::poll_fn(|cx| mover.poll(cx, sleep.as_mut())) => step,
                resumption = renewal.replaced() => {
                    let (link, acknowledged) = (mover.link.id, mover.link.outgoing.acknowledged());
                    match resumption.unless_late(link, acknowledged).map(|fresh| mover.go_on(fresh)) {
                        None => None,
                        Some(Ok(())) => {
                            Volume::of(told).tell_resumed(mover.link.id, "0s");
                            None
                        }
                        Some(Err(step)) => Some(step),
                    }
                }
            };
            if let Some(step) = moved {
                return step;
            }
            if let Some(step) = mover.look_at_the_clock(*half_close_timeout) {
                return step;
            }
            sleep.as_mut().reset(mover.due(*half_close_timeout));
        }
    }

    /// Waits for another leg while the node's bytes are kept.
    async fn resume(&mut self, lost: Lost) -> Result<Resumption, Ended> {
        let Self { mover, renewal, resume_for, progress, pause, told, .. } = self;
        mover.leg = None;
        // Legs that come up and carry nothing must not follow each other without a pause.
        let now = mover.link.progress();
        let is_stuck = progress.replace(now) == Some(now);
        *pause = if is_stuck { (*pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE) } else { Duration::ZERO };
        let (link, begun) = (mover.link.id, Instant::now());
        let volume = Volume::of(told);
        volume.tell_lost(link, &lost);
        let counts = (mover.link.rewind(), mover.link.outgoing.acknowledged());
        let dials = matches!(renewal, Renewal::Dial(_));
        let renewed = {
            let renewing = renewal.renew(link, counts, *pause);
            let mut renewing = pin!(tokio::time::timeout(*resume_for, renewing));
            let node = std::future::poll_fn(|cx| mover.poll_node(cx));
            tokio::select! {
                renewed = &mut renewing => renewed,
                ended = node => {
                    // Whoever is dialled says so when the link is resumed; whoever dials comes to say it.
                    if dials && let Ok(Ok(Resumption { leg, .. })) = renewing.await {
                        mover.leg = Some(leg);
                    }
                    return Err(ended);
                }
            }
        };
        let waited = humantime::format_duration(Duration::from_millis(
            u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        ));
        match renewed {
            Ok(Ok(resumption)) => {
                volume.tell_resumed(link, &waited.to_string());
                Ok(resumption)
            }
            Ok(Err(error)) => Err(self.gave_up(&error)),
            Err(_) => {
                let error = ResumeError::Failed(format!("no other leg within {waited}"));
                Err(self.gave_up(&error))
            }
        }
    }

    fn gave_up(&self, error: &ResumeError) -> Ended {
        // What the node had to say and to hear is said and heard; only the other guard's last word is missing.
        if self.mover.is_all_delivered() {
            return self.mover.over();
        }
        tracing::warn!(link = %self.mover.link.id, error = %error, "link_not_resumed");
        Ended::LegLost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_link_whose_legs_break_again_and_again_is_told_once_a_minute() {
        let mut told = None;
        assert_eq!(Volume::of(&mut told), Volume::Aloud);
        for _ in 0..5 {
            tokio::time::advance(QUIET / 6).await;
            assert_eq!(Volume::of(&mut told), Volume::Quietly);
        }
        tokio::time::advance(QUIET / 6).await;
        assert_eq!(Volume::of(&mut told), Volume::Aloud);
    }
}
