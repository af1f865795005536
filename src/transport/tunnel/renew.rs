//! Where a link gets another leg from when it has lost its own.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use tokio::sync::mpsc;

use super::answer::refuse;
use super::leg::{Leg, Lost, refusal};
use crate::proto::tunnel::{Event, Frame, LinkId, Refusal};

/// A new leg for a link, and how much of the link the other guard has received.
#[derive(Debug)]
pub struct Resumption {
    pub(super) leg: Leg,
    pub(super) received: u64,
    /// What the other guard has said behind that already.
    pub(super) early: Vec<Early>,
    /// Whether the other guard waits to hear how much we have received.
    pub(super) answer: bool,
}

impl Resumption {
    /// `None`: it is late, of a try that the other guard has given up, and is refused. Whoever dials knows at least what
    /// it has acknowledged, so that one that knows less is from before; a link that has gone on since must not end by it.
    pub(super) fn unless_late(self, link: LinkId, acknowledged: u64) -> Option<Self> {
        if !self.answer || self.received >= acknowledged {
            return Some(self);
        }
        tracing::debug!(%link, received = self.received, acknowledged, "resume_too_late");
        refuse(self.leg, Refusal::UnknownOffset, "late");
        None
    }
}

/// Something that was heard before the link could take it.
#[derive(Debug)]
pub(super) enum Early {
    Frame(Frame<'static>),
    Data(u64, Vec<u8>),
}

impl From<Event<'_>> for Early {
    fn from(event: Event<'_>) -> Self {
        match event {
            Event::Frame(frame) => Self::Frame(frame.into_owned()),
            Event::Data { offset, bytes } => Self::Data(offset, bytes.to_vec()),
        }
    }
}

/// Why there is none.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The other guard says no, for ever.
    #[error("{}", refusal(*.code, .detail))]
    Refused {
        /// Why.
        code: Refusal,
        /// The same for people, escaped.
        detail: String,
    },
    /// This one does not go on with it.
    #[error("there is no way to it any more: {0}")]
    Forbidden(String),
    /// It may work a little later.
    #[error("{0}")]
    Failed(String),
}

impl From<Lost> for ResumeError {
    fn from(lost: Lost) -> Self {
        Self::Failed(crate::telemetry::describe(&lost))
    }
}

/// One try to get another leg.
pub type Redialling = Pin<Box<dyn Future<Output = Result<Resumption, ResumeError>> + Send>>;

/// Dials for the link of this name, of which so much has been received, by the configuration that is in force then.
pub type Redial = Box<dyn Fn(LinkId, u64) -> Redialling + Send + Sync>;

/// Where another leg comes from.
pub enum Renewal {
    /// We have dialled, and do it again.
    Dial(Redial),
    /// The other guard has dialled, and does it again. Boxed, since a channel has memory for 32 from its beginning.
    Answer(mpsc::Receiver<Box<Resumption>>),
}

impl fmt::Debug for Renewal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Dial(_) => "Dial",
            Self::Answer(_) => "Answer",
        })
    }
}

/// The first pause between two tries, doubled up to the longest.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(100);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Links that broke together do not all dial together: each has a share of its own, up to a half, taken from a pause. Their
/// names are random.
fn shortened(pause: Duration, link: LinkId) -> Duration {
    let [share, ..] = link.0;
    pause - pause * u32::from(share) / 512
}

impl Renewal {
    /// Waits for another leg of the link, which has received and been acknowledged so much; where we dial, so long at
    /// first. Dropping it gives the try up.
    ///
    /// # Errors
    /// There will be none.
    pub(super) async fn renew(
        &mut self,
        link: LinkId,
        (received, acknowledged): (u64, u64),
        first: Duration,
    ) -> Result<Resumption, ResumeError> {
        let redial = match self {
            Self::Answer(legs) => loop {
                let Some(resumption) = legs.recv().await else {
                    return Err(ResumeError::Forbidden("the guard ends".to_owned()));
                };
                if let Some(resumption) = resumption.unless_late(link, acknowledged) {
                    return Ok(resumption);
                }
            },
            Self::Dial(redial) => redial,
        };
        tokio::time::sleep(first).await;
        let mut pause = FIRST_PAUSE;
        loop {
            match redial(link, received).await {
                Ok(resumption) => return Ok(resumption),
                Err(error @ (ResumeError::Forbidden(_) | ResumeError::Refused { .. })) => {
                    let is_final = match &error {
                        ResumeError::Refused { code, .. } => !code.is_temporary(),
                        ResumeError::Forbidden(_) | ResumeError::Failed(_) => true,
                    };
                    if is_final {
                        return Err(error);
                    }
                }
                Err(ResumeError::Failed(error)) => tracing::debug!(%link, error, "leg_not_replaced"),
            }
            tokio::time::sleep(shortened(pause, link)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Another leg that came although this one has not been seen to be lost: the other guard knows better. Of no use
    /// where we dial.
    pub(super) async fn replaced(&mut self) -> Resumption {
        if let Self::Answer(legs) = self
            && let Some(resumption) = legs.recv().await
        {
            return *resumption;
        }
        std::future::pending().await
    }
}
