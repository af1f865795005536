//! Why a guard says no to another one. The number stands in REFUSED; its detail is for people.

/// What a REFUSED says. Numbers are never given another meaning; a receiver takes one that it does not know as no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// 1: the policy of this guard says no. The detail is the label of the reason, such as `node_not_allowed`.
    Denied,
    /// 2: the certificate's names are those of no `[[peer]]` or of several, or its address is another peer's.
    Identity,
    /// 3: there is no room now: slots, links, memory. It may be asked again.
    Busy,
    /// 4: this guard takes nothing new, because it is about to end or is told so. It may be asked again.
    Draining,
    /// 5: nothing listens behind the port that was asked for.
    NothingThere,
    /// 6: what is behind the port did not answer in time.
    NoAnswer,
    /// 7: there is no such link, or not of this peer. It is not tried again.
    UnknownLink,
    /// 8: the bytes from the offset of a RESUME on are not there any more, or never were. It is not tried again.
    UnknownOffset,
    /// 9: the leave that the link had was taken back.
    Revoked,
    /// 10: the node did not say in time what it had to, or spoke another protocol.
    Handshake,
    /// 11: a frame that does not fit what came before it, or cannot be read.
    Protocol,
    /// 12: a kind of link, or another wish, that this guard does not know.
    Unsupported,
    /// 13: the link was not resumed in time.
    TooLate,
    /// Any other number: of a later version.
    Other(u16),
}

impl Refusal {
    /// All that have a number of their own, in its order.
    pub const ALL: [Self; 13] = [
        Self::Denied,
        Self::Identity,
        Self::Busy,
        Self::Draining,
        Self::NothingThere,
        Self::NoAnswer,
        Self::UnknownLink,
        Self::UnknownOffset,
        Self::Revoked,
        Self::Handshake,
        Self::Protocol,
        Self::Unsupported,
        Self::TooLate,
    ];

    /// The number in the frame.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Denied => 1,
            Self::Identity => 2,
            Self::Busy => 3,
            Self::Draining => 4,
            Self::NothingThere => 5,
            Self::NoAnswer => 6,
            Self::UnknownLink => 7,
            Self::UnknownOffset => 8,
            Self::Revoked => 9,
            Self::Handshake => 10,
            Self::Protocol => 11,
            Self::Unsupported => 12,
            Self::TooLate => 13,
            Self::Other(number) => number,
        }
    }

    /// What a number means.
    #[must_use]
    pub fn of(number: u16) -> Self {
        let known = Self::ALL.into_iter().find(|refusal| refusal.number() == number);
        known.unwrap_or(Self::Other(number))
    }

    /// A word for logs, the same for all numbers that are not known.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Denied => "denied",
            Self::Identity => "identity",
            Self::Busy => "busy",
            Self::Draining => "draining",
            Self::NothingThere => "nothing_there",
            Self::NoAnswer => "no_answer",
            Self::UnknownLink => "unknown_link",
            Self::UnknownOffset => "unknown_offset",
            Self::Revoked => "revoked",
            Self::Handshake => "handshake",
            Self::Protocol => "protocol",
            Self::Unsupported => "unsupported",
            Self::TooLate => "too_late",
            Self::Other(_) => "other",
        }
    }

    /// Whether the same wish may be granted a little later, so that whoever resumes a link tries again.
    #[must_use]
    pub fn is_temporary(self) -> bool {
        match self {
            Self::Busy | Self::Draining => true,
            Self::Denied
            | Self::Identity
            | Self::NothingThere
            | Self::NoAnswer
            | Self::UnknownLink
            | Self::UnknownOffset
            | Self::Revoked
            | Self::Handshake
            | Self::Protocol
            | Self::Unsupported
            | Self::TooLate
            | Self::Other(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_one_meaning() {
        for number in 0..=u16::MAX {
            assert_eq!(Refusal::of(number).number(), number);
        }
        let known = (0..=u16::MAX).filter(|n| !matches!(Refusal::of(*n), Refusal::Other(_)));
        assert!(known.eq(1..=13));
        let labels: std::collections::HashSet<_> = Refusal::ALL.iter().map(|r| r.label()).collect();
        assert_eq!(labels.len(), Refusal::ALL.len());
    }
}
