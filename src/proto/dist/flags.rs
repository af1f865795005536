//! What a node can do, as it tells in its first message (`dist.hrl`).

use std::fmt;
use std::str::FromStr;

/// The capabilities of a node, 64 bits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Flags(pub u64);

/// A flag that has no name here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is no distribution flag")]
pub struct UnknownFlag;

/// The flags by OTP's names, without `DFLAG_` (`dist.hrl`, `dist.h`).
const NAMES: [(&str, u64); 33] = [
    ("PUBLISHED", 0x1),
    ("ATOM_CACHE", 0x2),
    ("EXTENDED_REFERENCES", 0x4),
    ("DIST_MONITOR", 0x8),
    ("FUN_TAGS", 0x10),
    ("DIST_MONITOR_NAME", 0x20),
    ("HIDDEN_ATOM_CACHE", 0x40),
    ("NEW_FUN_TAGS", 0x80),
    ("EXTENDED_PIDS_PORTS", 0x100),
    ("EXPORT_PTR_TAG", 0x200),
    ("BIT_BINARIES", 0x400),
    ("NEW_FLOATS", 0x800),
    ("UNICODE_IO", 0x1000),
    ("DIST_HDR_ATOM_CACHE", 0x2000),
    ("SMALL_ATOM_TAGS", 0x4000),
    ("UTF8_ATOMS", 0x1_0000),
    ("MAP_TAG", 0x2_0000),
    ("BIG_CREATION", 0x4_0000),
    ("SEND_SENDER", 0x8_0000),
    ("BIG_SEQTRACE_LABELS", 0x10_0000),
    ("NO_MAGIC", 0x20_0000),
    ("EXIT_PAYLOAD", 0x40_0000),
    ("FRAGMENTS", 0x80_0000),
    ("HANDSHAKE_23", 0x100_0000),
    ("UNLINK_ID", 0x200_0000),
    ("MANDATORY_25_DIGEST", 0x400_0000),
    ("SPAWN", 1 << 32),
    ("NAME_ME", 1 << 33),
    ("V4_NC", 1 << 34),
    ("ALIAS", 1 << 35),
    ("LOCAL_EXT", 1 << 36),
    ("ALTACT_SIG", 1 << 37),
    ("NATIVE_RECORDS", 1 << 38),
];

/// The eleven flags for which `MANDATORY_25_DIGEST` is shorthand (`dist_util:expand_mandatory_25_flag`).
const MANDATORY_25: u64 = 0x107_0f94;

impl Flags {
    /// The node is visible; without it the connection is a hidden one.
    pub const PUBLISHED: Self = Self(0x1);
    /// It speaks version 6 of the handshake.
    pub const HANDSHAKE_23: Self = Self(0x100_0000);
    /// Shorthand for the eleven flags that OTP 25 made mandatory.
    pub const MANDATORY_25_DIGEST: Self = Self(0x400_0000);
    /// It asks the other node for a name (a dynamic node).
    pub const NAME_ME: Self = Self(1 << 33);

    /// Whether all of `wanted` are there, with what `MANDATORY_25_DIGEST` stands for.
    #[must_use]
    pub fn has(self, wanted: Self) -> bool {
        wanted.0 & !self.expanded().0 == 0
    }

    /// Those of `wanted` that are not there.
    #[must_use]
    pub fn missing(self, wanted: Self) -> Self {
        Self(wanted.0 & !self.expanded().0)
    }

    /// Whether the connection is to be a hidden one.
    #[must_use]
    pub fn is_hidden(self) -> bool {
        !self.has(Self::PUBLISHED)
    }

    /// The same with another upper half, which version 5 tells in a message of its own.
    #[must_use]
    pub fn with_high(self, high: u32) -> Self {
        Self(self.0 & 0xffff_ffff | u64::from(high) << 32)
    }

    /// These and those.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    fn expanded(self) -> Self {
        if self.0 & Self::MANDATORY_25_DIGEST.0 == 0 { self } else { Self(self.0 | MANDATORY_25) }
    }
}

/// One flag by OTP's name, with or without `DFLAG_`.
impl FromStr for Flags {
    type Err = UnknownFlag;

    fn from_str(text: &str) -> Result<Self, UnknownFlag> {
        let name = text.strip_prefix("DFLAG_").unwrap_or(text);
        let found = NAMES.iter().find(|(known, _)| *known == name);
        found.map(|(_, bit)| Self(*bit)).ok_or(UnknownFlag)
    }
}

/// The names of the flags; bits that have none are told as a number.
impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        let mut between = "";
        for (name, bit) in NAMES.iter().filter(|(_, bit)| self.0 & bit != 0) {
            write!(f, "{between}{name}")?;
            (rest, between) = (rest & !bit, ", ");
        }
        if rest != 0 { write!(f, "{between}{rest:#x}") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_of_real_nodes_are_understood() {
        // Measured: OTP 25 to 27, and 29.
        for real in [0xd_07df_7fbd, 0x6d_07df_7fbd] {
            let flags = Flags(real);
            assert!(!flags.is_hidden() && flags.has(Flags::HANDSHAKE_23));
            assert!(flags.has(Flags(MANDATORY_25)), "{}", flags.missing(Flags(MANDATORY_25)));
        }
        assert!(Flags(0xf_07df_7fbc).is_hidden() && Flags(0xf_07df_7fbc).has(Flags::NAME_ME));
    }

    #[test]
    fn the_digest_stands_for_what_it_abbreviates() {
        let abbreviated = Flags::MANDATORY_25_DIGEST;
        assert!(abbreviated.has(Flags(MANDATORY_25)) && !abbreviated.has(Flags::NAME_ME));
    }

    #[test]
    fn a_flag_is_written_as_it_is_shown() {
        for (name, bit) in NAMES {
            assert_eq!(name.parse(), Ok(Flags(bit)));
            assert_eq!(format!("DFLAG_{name}").parse(), Ok(Flags(bit)));
            assert_eq!(Flags(bit).to_string(), name);
        }
        assert_eq!("published".parse::<Flags>(), Err(UnknownFlag));
        assert_eq!(Flags(1 << 60 | 1).to_string(), "PUBLISHED, 0x1000000000000000");
    }
}
