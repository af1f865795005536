//! What epmd answers. Replies have no frame: all but the answers to ALIVE2 end with the connection.

use super::AliveName;
use super::request::put_counted;

/// The creation that epmd sends with a refusal, in both widths.
const REFUSED_CREATION: u8 = 99;

/// Why bytes are not the answer that was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReplyFault {
    /// epmd closed without a byte: how it refuses.
    #[error("epmd closed without an answer")]
    Silent,
    /// The first byte is not that of the answer.
    #[error("epmd's answer begins with {0}, which is not what was asked for")]
    WrongOpcode(u8),
    /// It ends too early or its fields do not fit.
    #[error("epmd's answer is cut short or does not add up")]
    BadFields,
}

/// The answer to ALIVE2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alive2Reply {
    /// 118, with a 32-bit creation: for nodes whose highest version is 6 or more.
    Wide {
        /// 0 is success.
        result: u8,
        /// The node's creation.
        creation: u32,
    },
    /// 121, with a 16-bit creation.
    Narrow {
        /// 0 is success.
        result: u8,
        /// The node's creation, 1 to 3.
        creation: u16,
    },
}

impl Alive2Reply {
    /// Reads the answer, whose length follows from its first byte.
    ///
    /// # Errors
    /// The first byte is neither 118 nor 121.
    pub fn decode(input: &[u8]) -> Result<Option<Self>, ReplyFault> {
        match *input {
            [] => Ok(None),
            [b'v', result, a, b, c, d, ..] => {
                Ok(Some(Self::Wide { result, creation: u32::from_be_bytes([a, b, c, d]) }))
            }
            [b'y', result, a, b, ..] => {
                Ok(Some(Self::Narrow { result, creation: u16::from_be_bytes([a, b]) }))
            }
            [b'v' | b'y', ..] => Ok(None),
            [other, ..] => Err(ReplyFault::WrongOpcode(other)),
        }
    }

    /// The success in the width that a node of this highest version expects: the whole creation, or
    /// what epmd makes of it for the narrow one, 1 to 3 (`get_creation`).
    #[must_use]
    pub fn success(highest_version: u16, creation: u32) -> Self {
        if highest_version >= 6 {
            return Self::Wide { result: 0, creation };
        }
        let creation = match creation % 3 {
            0 => 1,
            1 => 2,
            _ => 3,
        };
        Self::Narrow { result: 0, creation }
    }

    /// The refusal in the width that a node of this highest version expects.
    #[must_use]
    pub fn refusal(highest_version: u16) -> Self {
        if highest_version >= 6 {
            Self::Wide { result: 1, creation: REFUSED_CREATION.into() }
        } else {
            Self::Narrow { result: 1, creation: REFUSED_CREATION.into() }
        }
    }

    /// Whether the name is registered now.
    #[must_use]
    pub fn is_registered(&self) -> bool {
        let (Self::Wide { result, .. } | Self::Narrow { result, .. }) = self;
        *result == 0
    }

    /// The bytes, which must leave in one write: a node that sees 4 of the 6 gives up
    /// (`erl_epmd:wait_for_reg_reply`).
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(6);
        match self {
            Self::Wide { result, creation } => {
                out.extend_from_slice(&[b'v', *result]);
                out.extend_from_slice(&creation.to_be_bytes());
            }
            Self::Narrow { result, creation } => {
                out.extend_from_slice(&[b'y', *result]);
                out.extend_from_slice(&creation.to_be_bytes());
            }
        }
        out
    }
}

/// The answer to PORT_PLEASE2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortReply<'a> {
    /// The name is not registered; epmd's result is 1.
    NotFound {
        /// Not 0.
        result: u8,
    },
    /// The name is registered.
    Found {
        /// The node's distribution port.
        port: u16,
        /// What the node registered, as it stands in its ALIVE2.
        node_type: u8,
        /// As registered.
        protocol: u8,
        /// As registered.
        highest: u16,
        /// As registered.
        lowest: u16,
        /// The name.
        name: AliveName<'a>,
        /// As registered.
        extra: &'a [u8],
    },
}

impl<'a> PortReply<'a> {
    /// Reads the whole of what epmd sent before it closed.
    ///
    /// # Errors
    /// There is nothing, something else, or less than its lengths say.
    pub fn decode(whole: &'a [u8]) -> Result<Self, ReplyFault> {
        match *whole {
            [] => Err(ReplyFault::Silent),
            [b'w', 0, ref rest @ ..] => Self::decode_found(rest),
            [b'w', result, ..] => Ok(Self::NotFound { result }),
            [b'w'] => Err(ReplyFault::BadFields),
            [other, ..] => Err(ReplyFault::WrongOpcode(other)),
        }
    }

    fn decode_found(rest: &'a [u8]) -> Result<Self, ReplyFault> {
        let fault = ReplyFault::BadFields;
        let (&[p1, p2, node_type, protocol, h1, h2, l1, l2], rest) =
            rest.split_first_chunk::<8>().ok_or(fault)?;
        let (name, rest) = counted(rest).ok_or(fault)?;
        let (extra, _) = counted(rest).ok_or(fault)?;
        Ok(Self::Found {
            port: u16::from_be_bytes([p1, p2]),
            node_type,
            protocol,
            highest: u16::from_be_bytes([h1, h2]),
            lowest: u16::from_be_bytes([l1, l2]),
            name: AliveName::new(name).map_err(|_| fault)?,
            extra,
        })
    }

    /// The same answer with another port, if it has one.
    #[must_use]
    pub fn with_port(self, other: impl FnOnce(u16) -> u16) -> Self {
        match self {
            Self::NotFound { .. } => self,
            Self::Found { port, node_type, protocol, highest, lowest, name, extra } => {
                Self::Found { port: other(port), node_type, protocol, highest, lowest, name, extra }
            }
        }
    }

    /// The bytes of the answer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(64);
        match self {
            Self::NotFound { result } => out.extend_from_slice(&[b'w', *result]),
            Self::Found { port, node_type, protocol, highest, lowest, name, extra } => {
                out.extend_from_slice(b"w\0");
                out.extend_from_slice(&port.to_be_bytes());
                out.extend_from_slice(&[*node_type, *protocol]);
                out.extend_from_slice(&highest.to_be_bytes());
                out.extend_from_slice(&lowest.to_be_bytes());
                put_counted(&mut out, name.as_bytes());
                put_counted(&mut out, extra);
            }
        }
        out
    }
}

fn counted(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = input.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))
}

/// A name and its port, as NAMES lists them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listed<'a> {
    /// The registered name.
    pub name: AliveName<'a>,
    /// Its distribution port.
    pub port: u16,
}

/// The answer to NAMES.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamesReply<'a> {
    /// The port that epmd says it serves. `erl_epmd` answers `{error,address}` unless it is the one
    /// that it dialled.
    pub epmd_port: u32,
    /// The names, newest first.
    pub names: Vec<Listed<'a>>,
    /// Lines that are not `name NAME at port PORT` with a well-formed name, which are left out:
    /// epmd registers names with line breaks, and so forged lines.
    pub skipped: usize,
}

impl<'a> NamesReply<'a> {
    /// Reads the whole of what epmd sent before it closed.
    ///
    /// # Errors
    /// There is nothing, or not even the port.
    pub fn decode(whole: &'a [u8]) -> Result<Self, ReplyFault> {
        let (epmd_port, text) = port_word(whole)?;
        let mut reply = Self { epmd_port, names: Vec::new(), skipped: 0 };
        for line in text.split(|&b| b == b'\n').filter(|line| !line.is_empty()) {
            match Listed::decode(line) {
                Some(listed) => reply.names.push(listed),
                None => reply.skipped += 1,
            }
        }
        Ok(reply)
    }

    /// The bytes of the answer.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.names.len() * 32);
        out.extend_from_slice(&self.epmd_port.to_be_bytes());
        for Listed { name, port } in &self.names {
            out.extend_from_slice(b"name ");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(format!(" at port {port}\n").as_bytes());
        }
        out
    }
}

impl<'a> Listed<'a> {
    fn decode(line: &'a [u8]) -> Option<Self> {
        let rest = line.strip_prefix(b"name ")?;
        let (name, rest) = split_at_byte(rest, b' ')?;
        let port = rest.strip_prefix(b"at port ")?;
        Some(Self { name: AliveName::new(name).ok()?, port: number(port)? })
    }
}

/// One line of DUMP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DumpEntry<'a> {
    /// Whether the name is registered now; else it is one that epmd remembers.
    pub active: bool,
    /// The name.
    pub name: AliveName<'a>,
    /// Its distribution port.
    pub port: u16,
    /// epmd's descriptor for the registration.
    pub fd: i32,
}

/// The answer to DUMP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DumpReply<'a> {
    /// The port that epmd says it serves.
    pub epmd_port: u32,
    /// The entries in epmd's order.
    pub entries: Vec<DumpEntry<'a>>,
    /// Entries that could not be read, which are left out.
    pub skipped: usize,
}

impl<'a> DumpReply<'a> {
    /// Reads the whole of what epmd sent before it closed. Each line ends in a line break and NUL.
    ///
    /// # Errors
    /// There is nothing, or not even the port.
    pub fn decode(whole: &'a [u8]) -> Result<Self, ReplyFault> {
        let (epmd_port, text) = port_word(whole)?;
        let mut reply = Self { epmd_port, entries: Vec::new(), skipped: 0 };
        for line in text.split(|&b| b == 0).filter(|line| !line.is_empty()) {
            match DumpEntry::decode(line) {
                Some(entry) => reply.entries.push(entry),
                None => reply.skipped += 1,
            }
        }
        Ok(reply)
    }

    /// The bytes of the answer, spaced as epmd spaces them.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(4 + self.entries.len() * 48);
        out.extend_from_slice(&self.epmd_port.to_be_bytes());
        for DumpEntry { active, name, port, fd } in &self.entries {
            out.extend_from_slice(if *active { b"active name     <" } else { b"old/unused name <" });
            out.extend_from_slice(name.as_bytes());
            let rest = if *active {
                format!("> at port {port}, fd = {fd}\n\0")
            } else {
                format!(">, port = {port}, fd = {fd} \n\0")
            };
            out.extend_from_slice(rest.as_bytes());
        }
        out
    }
}

impl<'a> DumpEntry<'a> {
    fn decode(line: &'a [u8]) -> Option<Self> {
        let (active, rest) = match line.strip_prefix(b"active name     <") {
            Some(rest) => (true, rest),
            None => (false, line.strip_prefix(b"old/unused name <")?),
        };
        let (name, rest) = split_at_byte(rest, b'>')?;
        let rest = rest.strip_prefix(if active { &b" at port "[..] } else { &b", port = "[..] })?;
        let (port, rest) = split_at_byte(rest, b',')?;
        let fd = rest.strip_prefix(b" fd = ")?.trim_ascii_end();
        Some(Self { active, name: AliveName::new(name).ok()?, port: number(port)?, fd: number(fd)? })
    }
}

/// The answer to STOP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReply {
    /// The name was thrown out.
    Stopped,
    /// There is no such name.
    NoExist,
}

impl StopReply {
    /// Reads the whole of what epmd sent before it closed.
    ///
    /// # Errors
    /// There is nothing: epmd is not relaxed. Or something else.
    pub fn decode(whole: &[u8]) -> Result<Self, ReplyFault> {
        match whole {
            [] => Err(ReplyFault::Silent),
            b"STOPPED" => Ok(Self::Stopped),
            b"NOEXIST" | b"NOEXISTSTOPPED" => Ok(Self::NoExist),
            _ => Err(ReplyFault::BadFields),
        }
    }

    /// The bytes, epmd's odd double answer for an unknown name included.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Stopped => b"STOPPED".to_vec(),
            Self::NoExist => b"NOEXISTSTOPPED".to_vec(),
        }
    }
}

fn port_word(whole: &[u8]) -> Result<(u32, &[u8]), ReplyFault> {
    match whole.split_first_chunk::<4>() {
        Some((word, text)) => Ok((u32::from_be_bytes(*word), text)),
        None if whole.is_empty() => Err(ReplyFault::Silent),
        None => Err(ReplyFault::BadFields),
    }
}

fn split_at_byte(input: &[u8], byte: u8) -> Option<(&[u8], &[u8])> {
    let at = input.iter().position(|&b| b == byte)?;
    Some((input.get(..at)?, input.get(at + 1..)?))
}

fn number<T: std::str::FromStr>(digits: &[u8]) -> Option<T> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(text: &str) -> AliveName<'_> {
        AliveName::new(text.as_bytes()).unwrap()
    }

    #[test]
    fn both_widths_of_a_registration_reply_round_trip() {
        for (bytes, registered) in [
            (&b"v\0\x12\x34\x56\x78"[..], true),
            (b"v\x01\0\0\0\x63", false),
            (b"y\0\0\x03", true),
            (b"y\x01\0\x63", false),
        ] {
            let reply = Alive2Reply::decode(bytes).unwrap().unwrap();
            assert_eq!(reply.is_registered(), registered);
            assert_eq!(reply.encode(), bytes);
            for cut in 0..bytes.len() {
                assert_eq!(Alive2Reply::decode(&bytes[..cut]), Ok(None), "cut at {cut}");
            }
        }
        assert_eq!(Alive2Reply::decode(b"w\0"), Err(ReplyFault::WrongOpcode(b'w')));
        assert_eq!(Alive2Reply::refusal(6).encode(), b"v\x01\0\0\0\x63");
        assert_eq!(Alive2Reply::refusal(5).encode(), b"y\x01\0\x63");
    }

    #[test]
    fn a_success_has_the_whole_creation_or_one_of_three() {
        for version in [6, 7, u16::MAX] {
            let reply = Alive2Reply::success(version, 0x1234_5678);
            assert_eq!(reply.encode(), b"v\0\x12\x34\x56\x78");
            assert!(reply.is_registered());
        }
        for (creation, narrow) in [(4, 2), (5, 3), (6, 1), (7, 2), (u32::MAX, 1)] {
            for version in [0, 5] {
                let reply = Alive2Reply::success(version, creation);
                assert_eq!(reply, Alive2Reply::Narrow { result: 0, creation: narrow });
                assert_eq!(Alive2Reply::decode(&reply.encode()), Ok(Some(reply)));
            }
        }
    }

    #[test]
    fn a_found_port_round_trips_and_every_truncation_is_a_fault() {
        let bytes = b"w\0\x23\x8c\x4d\0\0\x06\0\x05\0\x02n1\0\x01e";
        let reply = PortReply::decode(bytes).unwrap();
        let PortReply::Found { port: 9100, node_type: 77, highest: 6, lowest: 5, extra: b"e", .. } = reply
        else {
            panic!("{reply:?}")
        };
        assert_eq!(reply.encode(), bytes);
        assert_eq!(PortReply::decode(b""), Err(ReplyFault::Silent));
        for cut in 1..bytes.len() {
            assert_eq!(PortReply::decode(&bytes[..cut]), Err(ReplyFault::BadFields), "cut at {cut}");
        }
        assert_eq!(PortReply::decode(b"w\x01"), Ok(PortReply::NotFound { result: 1 }));
        assert_eq!(PortReply::NotFound { result: 1 }.encode(), b"w\x01");
        assert_eq!(PortReply::decode(b"v\0"), Err(ReplyFault::WrongOpcode(b'v')));
    }

    #[test]
    fn names_round_trip_and_a_forged_line_does_not_pass() {
        let bytes = b"\0\0\x11\x11name b at port 9101\nname a at port 9100\n";
        let reply = NamesReply::decode(bytes).unwrap();
        assert_eq!(reply.epmd_port, 4369);
        assert_eq!(
            reply.names,
            [Listed { name: name("b"), port: 9101 }, Listed { name: name("a"), port: 9100 }]
        );
        assert_eq!(reply.encode(), bytes);
        assert_eq!(NamesReply::decode(b""), Err(ReplyFault::Silent));
        assert_eq!(NamesReply::decode(b"\0\0\x11"), Err(ReplyFault::BadFields));
        let odd =
            NamesReply::decode(b"\0\0\x11\x11name  at port 0\nname a b at port 1\nname c at port 99999\nx\n")
                .unwrap();
        assert_eq!((odd.names.len(), odd.skipped), (0, 4));
    }

    #[test]
    fn a_dump_round_trips() {
        let bytes = b"\0\0\x11\x11active name     <a> at port 9100, fd = 7\n\0old/unused name <b>, port = 9101, fd = -1 \n\0";
        let reply = DumpReply::decode(bytes).unwrap();
        assert_eq!(reply.entries.len(), 2);
        assert_eq!(reply.skipped, 0);
        assert_eq!(reply.encode(), bytes);
        assert_eq!(DumpReply::decode(b"\0\0\x11\x11active name     <a at\0").unwrap().skipped, 1);
    }

    #[test]
    fn stop_answers_are_epmds() {
        assert_eq!(StopReply::decode(b"STOPPED"), Ok(StopReply::Stopped));
        assert_eq!(StopReply::decode(b"NOEXISTSTOPPED"), Ok(StopReply::NoExist));
        assert_eq!(StopReply::decode(b""), Err(ReplyFault::Silent));
        assert_eq!(StopReply::decode(b"STOP"), Err(ReplyFault::BadFields));
        assert_eq!(StopReply::Stopped.encode(), b"STOPPED");
        assert_eq!(StopReply::NoExist.encode(), b"NOEXISTSTOPPED");
    }

    proptest! {
        #[test]
        fn what_a_reply_decodes_to_encodes_to_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            if let Ok(reply) = PortReply::decode(&bytes) {
                let again = reply.encode();
                prop_assert_eq!(PortReply::decode(&again), Ok(reply));
            }
            if let Ok(reply) = NamesReply::decode(&bytes) {
                let again = reply.encode();
                prop_assert_eq!(NamesReply::decode(&again).map(|r| r.names), Ok(reply.names));
            }
            if let Ok(reply) = DumpReply::decode(&bytes) {
                let again = reply.encode();
                prop_assert_eq!(DumpReply::decode(&again).map(|r| r.entries), Ok(reply.entries));
            }
        }

        #[test]
        fn lists_of_names_round_trip(list in proptest::collection::vec(("[A-Za-z0-9_-]{1,40}", any::<u16>()), 0..40), epmd_port: u32) {
            let names = list.iter().map(|(n, port)| Listed { name: name(n), port: *port }).collect();
            let reply = NamesReply { epmd_port, names, skipped: 0 };
            let bytes = reply.encode();
            prop_assert_eq!(NamesReply::decode(&bytes), Ok(reply));
        }
    }
}
