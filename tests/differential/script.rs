//! A case: what is done to both programs, step by step, and how it is shown to people.

use std::fmt;

/// A connection of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Conn(pub(crate) usize);

/// How the programs are started, and what is then done to both.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// What the case was made from; it makes the same case again.
    pub(crate) seed: u64,
    pub(crate) flags: Flags,
    pub(crate) steps: Vec<Step>,
}

/// The command line, apart from the port and the address.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Flags {
    pub(crate) check: Check,
    /// `-packet_timeout`, in seconds.
    pub(crate) packet_timeout: Option<u8>,
}

/// Whether `-relaxed_command_check` is given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Check {
    #[default]
    Strict,
    Relaxed,
}

/// One step. The next begins when both programs have reacted to it, as far as they must.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Open(Conn),
    Send(Conn, Vec<Segment>, Then),
    HalfClose(Conn),
    Close(Conn),
    Reset(Conn),
    /// Waits until the programs have lost patience with all that is unfinished. The connection, if there is one,
    /// gets a byte now and then meanwhile.
    OutWait(Option<Conn>),
    /// NAMES, DUMP, and a look-up of each of these names.
    Table(Vec<Vec<u8>>),
}

/// What follows the last segment at once, before any answer is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    Wait,
    HalfClose,
    Close,
    Reset,
}

/// Bytes that are written at once.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) bytes: Vec<u8>,
    pub(crate) pause: Pause,
}

/// What is waited for after a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Nothing: the program may find this segment and the next in one read.
    None,
    /// Until the program has read it, so that the next is a read of its own.
    Read,
    /// So many milliseconds.
    Millis(u8),
}

impl Step {
    /// The connection that it is about.
    pub(crate) fn conn(&self) -> Option<Conn> {
        match self {
            Self::Open(conn)
            | Self::Send(conn, _, _)
            | Self::HalfClose(conn)
            | Self::Close(conn)
            | Self::Reset(conn) => Some(*conn),
            Self::OutWait(conn) => *conn,
            Self::Table(_) => None,
        }
    }
}

impl fmt::Display for Conn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}", self.0)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("epmd -address 127.0.0.1 -port N")?;
        if let Some(seconds) = self.packet_timeout {
            write!(f, " -packet_timeout {seconds}")?;
        }
        if self.check == Check::Relaxed {
            f.write_str(" -relaxed_command_check")?;
        }
        Ok(())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "case {:#018x}: {}", self.seed, self.flags)?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{number:4}  {step}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(conn) => write!(f, "{conn}: open"),
            Self::Send(conn, segments, then) => {
                write!(f, "{conn}: send")?;
                for segment in segments {
                    write!(f, " {}", shown(&segment.bytes))?;
                    match segment.pause {
                        Pause::None => {}
                        Pause::Read => f.write_str(" (until read)")?,
                        Pause::Millis(count) => write!(f, " ({count} ms)")?,
                    }
                }
                match then {
                    Then::Wait => Ok(()),
                    Then::HalfClose => f.write_str(", half-close at once"),
                    Then::Close => f.write_str(", close at once"),
                    Then::Reset => f.write_str(", reset at once"),
                }
            }
            Self::HalfClose(conn) => write!(f, "{conn}: half-close"),
            Self::Close(conn) => write!(f, "{conn}: close"),
            Self::Reset(conn) => write!(f, "{conn}: reset"),
            Self::OutWait(None) => f.write_str("wait for the time-outs"),
            Self::OutWait(Some(conn)) => {
                write!(f, "wait for the time-outs, with a byte to {conn} now and then")
            }
            Self::Table(names) => {
                f.write_str("compare NAMES, DUMP and look-ups of")?;
                names.iter().try_for_each(|name| write!(f, " {}", shown(name)))
            }
        }
    }
}

/// Bytes as a literal, with what repeats itself cut short: `"a"*255`.
pub(crate) fn shown(bytes: &[u8]) -> String {
    /// Long runs only, of a byte or of a character.
    const RUN: usize = 12;
    const UNIT: usize = 4;
    let mut parts: Vec<String> = Vec::new();
    let mut plain: Vec<u8> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let repeats =
            |unit: &usize| rest.chunks_exact(*unit).take_while(|chunk| *chunk == &rest[..*unit]).count();
        let run = (1..=UNIT).map(|unit| (unit, repeats(&unit))).find(|(_, count)| *count >= RUN);
        match run {
            Some((unit, count)) => {
                if !plain.is_empty() {
                    parts.push(format!("\"{}\"", plain.escape_ascii()));
                    plain.clear();
                }
                parts.push(format!("\"{}\"*{count}", rest[..unit].escape_ascii()));
                rest = &rest[unit * count..];
            }
            None => {
                plain.push(rest[0]);
                rest = &rest[1..];
            }
        }
    }
    if !plain.is_empty() || parts.is_empty() {
        parts.push(format!("\"{}\"", plain.escape_ascii()));
    }
    parts.join("+")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_repeats_itself_is_shown_short() {
        assert_eq!(shown(b""), "\"\"");
        assert_eq!(shown(b"a\0b"), "\"a\\x00b\"");
        assert_eq!(shown(&[b"x".as_slice(), &b"yz".repeat(20), b"!"].concat()), "\"x\"+\"yz\"*20+\"!\"");
        assert_eq!(shown(&b"a".repeat(255)), "\"a\"*255");
    }
}
