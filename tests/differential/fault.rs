//! Faults that the second program can be given, to see that the comparison finds them: each falsifies one thing
//! of what it is seen to do.

use super::asked::Asked;
use super::compare::{End, Reply, Seen};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    PortOfLookup,
    TypeOfLookup,
    FoundIsNotFound,
    LineOfNames,
    PortOfNames,
    DumpForgetsFormerNames,
    CreationOfRefusal,
    CreationRepeats,
    CreationIsSmall,
    RegistrationSilent,
    RegistrationCloses,
    TrailingAnswered,
    UnknownAnswered,
    UnknownKeptOpen,
    NamesKeptOpen,
    NamesResets,
    PartialCloses,
    BadFieldsRefused,
    KillRefused,
    StopUnknownShort,
    LongNameSilent,
}

impl Fault {
    pub(crate) const ALL: [Self; 21] = [
        Self::PortOfLookup,
        Self::TypeOfLookup,
        Self::FoundIsNotFound,
        Self::LineOfNames,
        Self::PortOfNames,
        Self::DumpForgetsFormerNames,
        Self::CreationOfRefusal,
        Self::CreationRepeats,
        Self::CreationIsSmall,
        Self::RegistrationSilent,
        Self::RegistrationCloses,
        Self::TrailingAnswered,
        Self::UnknownAnswered,
        Self::UnknownKeptOpen,
        Self::NamesKeptOpen,
        Self::NamesResets,
        Self::PartialCloses,
        Self::BadFieldsRefused,
        Self::KillRefused,
        Self::StopUnknownShort,
        Self::LongNameSilent,
    ];

    /// Falsifies what was seen, where the fault shows.
    pub(crate) fn falsify(self, asked: &Asked, seen: &mut Seen) {
        let reply = Reply::read(&seen.bytes);
        let registered = matches!(asked, Asked::Alive2 { .. }) && reply.is_some_and(|reply| !reply.refuses());
        let found = matches!(asked, Asked::PortPlease2(_)) && seen.bytes.len() > 2;
        let names = *asked == Asked::Names && seen.bytes.len() >= 4;
        match self {
            Self::PortOfLookup if found => seen.bytes[3] ^= 1,
            Self::TypeOfLookup if found => seen.bytes[4] ^= 1,
            Self::FoundIsNotFound if found => seen.bytes = vec![119, 1],
            Self::LineOfNames if names && seen.bytes.len() > 4 => drop(seen.bytes.pop()),
            Self::PortOfNames if names => seen.bytes[3] ^= 1,
            Self::DumpForgetsFormerNames if *asked == Asked::Dump => {
                let old = b"old/unused name";
                let at = seen.bytes.windows(old.len()).position(|window| window == old);
                seen.bytes.truncate(at.unwrap_or(seen.bytes.len()));
            }
            Self::CreationOfRefusal if reply.is_some_and(Reply::refuses) => last(seen, 98),
            Self::CreationRepeats if registered && seen.bytes.len() == 6 => {
                seen.bytes = vec![118, 0, 0, 0, 1, 7];
            }
            Self::CreationIsSmall if registered && seen.bytes.len() == 6 => {
                seen.bytes = vec![118, 0, 0, 0, 0, 3];
            }
            Self::RegistrationSilent if registered => seen.bytes.clear(),
            Self::RegistrationCloses if registered && seen.end.is_none() => seen.end = Some(End::Fin),
            Self::TrailingAnswered if *asked == Asked::Trailing => seen.bytes = b"OK".to_vec(),
            Self::UnknownAnswered if matches!(asked, Asked::Unknown(_)) => seen.bytes = b"?".to_vec(),
            Self::UnknownKeptOpen if matches!(asked, Asked::Unknown(_)) => seen.end = None,
            Self::NamesKeptOpen if names => seen.end = None,
            Self::NamesResets if names && seen.end == Some(End::Fin) => seen.end = Some(End::Reset),
            Self::PartialCloses if *asked == Asked::Nothing && seen.end.is_none() => {
                seen.end = Some(End::Fin);
            }
            Self::BadFieldsRefused if *asked == Asked::BadAlive2 => seen.bytes = vec![118, 1, 0, 0, 0, 99],
            Self::KillRefused if seen.bytes == b"OK" => seen.bytes = b"NO".to_vec(),
            Self::StopUnknownShort if seen.bytes == b"NOEXISTSTOPPED" => seen.bytes = b"NOEXIST".to_vec(),
            Self::LongNameSilent => match asked {
                Asked::Alive2 { name, .. } if name.len() > 1020 => seen.bytes.clear(),
                _ => {}
            },
            _ => {}
        }
    }
}

fn last(seen: &mut Seen, value: u8) {
    if let Some(byte) = seen.bytes.last_mut() {
        *byte = value;
    }
}
