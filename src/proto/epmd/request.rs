//! What a client asks: the frame, the opcode, the body.

use std::fmt;

use super::{AliveName, NameFault};

/// The longest body that epmd reads: a whole frame must stay below its 3060-byte buffer.
pub const MAX_REQUEST: usize = 3057;

/// Bytes of an ALIVE2 body around its name and extra, the opcode included.
const ALIVE2_FIXED: usize = 13;
/// The longest `Extra` that epmd takes (`MAXSYMLEN`).
const MAX_EXTRA: usize = 1020;

/// What a request asks for, by its first byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opcode {
    /// 120: register a name for as long as the connection lasts.
    Alive2,
    /// 122: which port has this name?
    PortPlease2,
    /// 110: which names are registered?
    Names,
    /// 100: all live and former names, with descriptors.
    Dump,
    /// 107: end epmd.
    Kill,
    /// 115: throw a name out.
    Stop,
    /// Anything else, answers of a server included.
    Unknown(u8),
}

/// Why bytes can never become a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The length is 0, so there is no opcode.
    #[error("the request is empty")]
    Empty,
    /// The length is more than epmd reads.
    #[error("the request has {0} bytes, {MAX_REQUEST} is the most")]
    TooLong(usize),
    /// More bytes came than the length said: a second request, or none of this protocol.
    #[error("bytes follow the request")]
    TrailingBytes,
    /// The opcode is not one of a request.
    #[error("opcode {0} is not a request")]
    UnknownOpcode(u8),
    /// The fields do not fit the length: of an ALIVE2, or of a STOP without a name.
    #[error("the fields of the request do not fit its length")]
    BadFields,
    /// The name is none.
    #[error(transparent)]
    Name(#[from] NameFault),
}

/// One whole, well-formed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Register a name.
    Alive2(Alive2<'a>),
    /// Look a name up.
    PortPlease2(AliveName<'a>),
    /// List the names.
    Names,
    /// List everything.
    Dump,
    /// End epmd.
    Kill,
    /// Throw a name out.
    Stop(AliveName<'a>),
}

/// The body of an ALIVE2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Alive2<'a> {
    /// The distribution port of the node.
    pub port: u16,
    /// 77 for Erlang nodes, 104 for C nodes; epmd passes it on unchecked.
    pub node_type: u8,
    /// 0 is TCP; unchecked.
    pub protocol: u8,
    /// Highest distribution version; from 6 on the reply carries a 32-bit creation.
    pub highest: u16,
    /// Lowest distribution version; unchecked.
    pub lowest: u16,
    /// The name to register.
    pub name: AliveName<'a>,
    /// Passed on unchecked; real nodes leave it empty.
    pub extra: &'a [u8],
}

impl Opcode {
    /// The opcode of a request's first byte.
    #[must_use]
    pub fn from_byte(byte: u8) -> Self {
        match byte {
            b'x' => Self::Alive2,
            b'z' => Self::PortPlease2,
            b'n' => Self::Names,
            b'd' => Self::Dump,
            b'k' => Self::Kill,
            b's' => Self::Stop,
            other => Self::Unknown(other),
        }
    }

    /// OTP's name for it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Alive2 => "ALIVE2_REQ",
            Self::PortPlease2 => "PORT_PLEASE2_REQ",
            Self::Names => "NAMES_REQ",
            Self::Dump => "DUMP_REQ",
            Self::Kill => "KILL_REQ",
            Self::Stop => "STOP_REQ",
            Self::Unknown(_) => "unknown",
        }
    }
}

impl fmt::Display for Opcode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown(byte) => write!(f, "opcode {byte}"),
            known @ (Self::Alive2
            | Self::PortPlease2
            | Self::Names
            | Self::Dump
            | Self::Kill
            | Self::Stop) => f.write_str(known.name()),
        }
    }
}

/// The opcode at the head of `input`, as soon as it has arrived: whether it may be asked at all can
/// be decided before the rest is waited for.
///
/// # Errors
/// [`Malformed::Empty`] and [`Malformed::TooLong`], which are known before the opcode is.
pub fn opcode(input: &[u8]) -> Result<Option<Opcode>, Malformed> {
    let Some((_, rest)) = length(input)? else { return Ok(None) };
    Ok(rest.first().copied().map(Opcode::from_byte))
}

/// The body of the one frame in `input`, once it is whole.
///
/// # Errors
/// The length is 0 or more than [`MAX_REQUEST`], or more bytes have come than it says.
pub fn frame(input: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let Some((length, rest)) = length(input)? else { return Ok(None) };
    match rest.split_at_checked(length) {
        None => Ok(None),
        Some((body, [])) => Ok(Some(body)),
        Some(_) => Err(Malformed::TrailingBytes),
    }
}

/// How many bytes are missing from the one frame in `input`; `None` while its length has not arrived.
///
/// # Errors
/// As [`frame`].
pub fn wanted(input: &[u8]) -> Result<Option<usize>, Malformed> {
    let Some((length, rest)) = length(input)? else { return Ok(None) };
    length.checked_sub(rest.len()).map(Some).ok_or(Malformed::TrailingBytes)
}

fn length(input: &[u8]) -> Result<Option<(usize, &[u8])>, Malformed> {
    let Some((prefix, rest)) = input.split_first_chunk::<2>() else { return Ok(None) };
    match usize::from(u16::from_be_bytes(*prefix)) {
        0 => Err(Malformed::Empty),
        length if length > MAX_REQUEST => Err(Malformed::TooLong(length)),
        length => Ok(Some((length, rest))),
    }
}

impl<'a> Request<'a> {
    /// Reads the body of a frame.
    ///
    /// Bytes after what a request needs are ignored where epmd ignores them (NAMES, DUMP, KILL and
    /// behind the extra of ALIVE2).
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let (&first, rest) = body.split_first().ok_or(Malformed::Empty)?;
        match Opcode::from_byte(first) {
            Opcode::Alive2 => Alive2::decode(body).map(Self::Alive2),
            Opcode::PortPlease2 => {
                // One terminator is epmd's to strip; `ei` sends none, old clients do.
                let name = rest.strip_suffix(&[0]).unwrap_or(rest);
                Ok(Self::PortPlease2(AliveName::new(name)?))
            }
            Opcode::Names => Ok(Self::Names),
            Opcode::Dump => Ok(Self::Dump),
            Opcode::Kill => Ok(Self::Kill),
            Opcode::Stop if rest.is_empty() => Err(Malformed::BadFields),
            // To epmd it is a string of C, which ends at the first NUL.
            Opcode::Stop => {
                let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
                Ok(Self::Stop(AliveName::new(name)?))
            }
            Opcode::Unknown(byte) => Err(Malformed::UnknownOpcode(byte)),
        }
    }

    /// What it asks for.
    #[must_use]
    pub fn opcode(&self) -> Opcode {
        match self {
            Self::Alive2(_) => Opcode::Alive2,
            Self::PortPlease2(_) => Opcode::PortPlease2,
            Self::Names => Opcode::Names,
            Self::Dump => Opcode::Dump,
            Self::Kill => Opcode::Kill,
            Self::Stop(_) => Opcode::Stop,
        }
    }

    /// The whole frame, length included, made from the fields alone: not a byte of the client's
    /// frame that is not one of them survives.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::with_capacity(64);
        match self {
            Self::Alive2(alive) => alive.encode(&mut body),
            Self::PortPlease2(name) => {
                body.push(b'z');
                body.extend_from_slice(name.as_bytes());
            }
            Self::Names => body.push(b'n'),
            Self::Dump => body.push(b'd'),
            Self::Kill => body.push(b'k'),
            Self::Stop(name) => {
                body.push(b's');
                body.extend_from_slice(name.as_bytes());
            }
        }
        // A name has at most 254 characters of 4 bytes and an extra at most 1020 bytes, so the body
        // stays below MAX_REQUEST and its length fits.
        let length = u16::try_from(body.len()).unwrap_or(u16::MAX);
        let mut whole = Vec::with_capacity(body.len() + 2);
        whole.extend_from_slice(&length.to_be_bytes());
        whole.extend_from_slice(&body);
        whole
    }
}

impl<'a> Alive2<'a> {
    fn decode(body: &'a [u8]) -> Result<Self, Malformed> {
        let (fixed, rest) = body.split_first_chunk::<11>().ok_or(Malformed::BadFields)?;
        let [_, p1, p2, node_type, protocol, h1, h2, l1, l2, n1, n2] = *fixed;
        // epmd wants 14 bytes at least, so that not both the name and the extra are empty.
        if body.len() <= ALIVE2_FIXED {
            return Err(Malformed::BadFields);
        }
        let name_length = usize::from(u16::from_be_bytes([n1, n2]));
        let (name, rest) = rest.split_at_checked(name_length).ok_or(Malformed::BadFields)?;
        // epmd has an answer for other names that cannot be, but none for this.
        if name.contains(&0) {
            return Err(Malformed::BadFields);
        }
        let (extra_length, rest) = rest.split_first_chunk::<2>().ok_or(Malformed::BadFields)?;
        let extra_length = usize::from(u16::from_be_bytes(*extra_length));
        let (extra, _) = rest.split_at_checked(extra_length).ok_or(Malformed::BadFields)?;
        if extra.len() > MAX_EXTRA {
            return Err(Malformed::BadFields);
        }
        Ok(Self {
            port: u16::from_be_bytes([p1, p2]),
            node_type,
            protocol,
            highest: u16::from_be_bytes([h1, h2]),
            lowest: u16::from_be_bytes([l1, l2]),
            name: AliveName::new(name)?,
            extra,
        })
    }

    fn encode(&self, body: &mut Vec<u8>) {
        body.push(b'x');
        body.extend_from_slice(&self.port.to_be_bytes());
        body.extend_from_slice(&[self.node_type, self.protocol]);
        body.extend_from_slice(&self.highest.to_be_bytes());
        body.extend_from_slice(&self.lowest.to_be_bytes());
        put_counted(body, self.name.as_bytes());
        put_counted(body, self.extra);
    }
}

/// Appends `field` behind its 16-bit length. Callers keep fields below 64 KiB by their types.
pub(super) fn put_counted(out: &mut Vec<u8>, field: &[u8]) {
    let length = u16::try_from(field.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(field);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What an OTP 25 node sent as `n1@127.0.0.1`, with its port 0x970d.
    const REAL_ALIVE2: &[u8] = &[0, 15, 0x78, 0x97, 0x0d, 0x4d, 0, 0, 6, 0, 5, 0, 2, 0x6e, 0x31, 0, 0];

    fn whole(input: &[u8]) -> Result<Option<Request<'_>>, Malformed> {
        frame(input)?.map(Request::decode).transpose()
    }

    #[test]
    fn the_registration_of_a_real_node_survives_the_round_trip() {
        let request = whole(REAL_ALIVE2).unwrap().unwrap();
        let Request::Alive2(alive) = request else { panic!("{request:?}") };
        assert_eq!((alive.port, alive.node_type, alive.protocol), (0x970d, 77, 0));
        assert_eq!((alive.highest, alive.lowest), (6, 5));
        assert_eq!((alive.name.as_bytes(), alive.extra), (&b"n1"[..], &b""[..]));
        assert_eq!(request.encode(), REAL_ALIVE2);
    }

    #[test]
    fn every_truncation_asks_for_more() {
        for real in [REAL_ALIVE2, b"\0\x01n", b"\0\x03zab"] {
            for cut in 0..real.len() {
                assert_eq!(whole(&real[..cut]), Ok(None), "cut at {cut}");
            }
        }
    }

    #[test]
    fn the_opcode_is_known_at_the_third_byte() {
        assert_eq!(opcode(b"\0"), Ok(None));
        assert_eq!(opcode(b"\0\x05"), Ok(None));
        assert_eq!(opcode(b"\0\x05k"), Ok(Some(Opcode::Kill)));
        assert_eq!(opcode(b"\0\x05y"), Ok(Some(Opcode::Unknown(b'y'))));
    }

    #[test]
    fn a_length_is_judged_before_its_bytes_are_waited_for() {
        assert_eq!(frame(b"\0\0"), Err(Malformed::Empty));
        assert_eq!(frame(&[0x0b, 0xf1]), Ok(None));
        assert_eq!(frame(&[0x0b, 0xf2]), Err(Malformed::TooLong(3058)));
        assert_eq!(opcode(&[0xff, 0xff]), Err(Malformed::TooLong(65535)));
    }

    #[test]
    fn a_second_request_in_the_same_segment_is_no_request() {
        assert_eq!(frame(b"\0\x01n\0\x01n"), Err(Malformed::TrailingBytes));
    }

    #[test]
    fn old_and_answer_opcodes_are_unknown() {
        for byte in [97, 112, 121, 118, 119, 0, 255] {
            assert_eq!(Request::decode(&[byte]), Err(Malformed::UnknownOpcode(byte)));
        }
        assert_eq!(Request::decode(b""), Err(Malformed::Empty));
    }

    #[test]
    fn trailing_bytes_inside_the_frame_are_ignored_where_epmd_ignores_them() {
        assert_eq!(Request::decode(b"nxyz"), Ok(Request::Names));
        assert_eq!(Request::decode(b"d1"), Ok(Request::Dump));
        assert_eq!(Request::decode(b"k1"), Ok(Request::Kill));
        let mut padded = REAL_ALIVE2[2..].to_vec();
        padded.extend_from_slice(b"junk");
        assert_eq!(Request::decode(&padded).unwrap().encode(), REAL_ALIVE2);
    }

    #[test]
    fn one_terminator_is_stripped_from_a_name_that_is_looked_up() {
        let name = AliveName::new(b"a").unwrap();
        assert_eq!(Request::decode(b"za\0"), Ok(Request::PortPlease2(name)));
        assert_eq!(Request::decode(b"za\0\0"), Err(NameFault::BadCharacter.into()));
        assert_eq!(Request::decode(b"z"), Err(NameFault::Empty.into()));
        assert_eq!(Request::decode(b"z\0"), Err(NameFault::Empty.into()));
        assert_eq!(Request::decode(b"sa\0b\0"), Ok(Request::Stop(name)));
        assert_eq!(Request::decode(b"s\0"), Err(NameFault::Empty.into()));
        assert_eq!(Request::decode(b"s"), Err(Malformed::BadFields));
    }

    #[test]
    fn a_registration_whose_fields_do_not_fit_is_malformed() {
        let body = &REAL_ALIVE2[2..];
        for cut in 1..body.len() {
            assert_eq!(Request::decode(&body[..cut]), Err(Malformed::BadFields), "cut at {cut}");
        }
        // An empty name with an empty extra is 13 bytes, which epmd refuses.
        assert_eq!(Request::decode(&[b'x', 0, 1, 77, 0, 0, 6, 0, 5, 0, 0, 0, 0]), Err(Malformed::BadFields));
        assert_eq!(
            Request::decode(&[b'x', 0, 1, 77, 0, 0, 6, 0, 5, 0, 2, b'a', 0, 0, 0]),
            Err(Malformed::BadFields)
        );
        // An empty name with an extra passes epmd, but could never be looked up.
        assert_eq!(
            Request::decode(&[b'x', 0, 1, 77, 0, 0, 6, 0, 5, 0, 0, 0, 1, 9]),
            Err(NameFault::Empty.into())
        );
        let mut long = vec![b'x', 0, 1, 77, 0, 0, 6, 0, 5, 0, 1, b'a', 3, 253];
        long.extend_from_slice(&[0; 1021]);
        assert_eq!(Request::decode(&long), Err(Malformed::BadFields));
    }

    #[test]
    fn opcodes_are_named_as_otp_names_them() {
        assert_eq!(Opcode::from_byte(120).to_string(), "ALIVE2_REQ");
        assert_eq!(Opcode::from_byte(122).to_string(), "PORT_PLEASE2_REQ");
        assert_eq!(Opcode::from_byte(7).to_string(), "opcode 7");
    }

    proptest! {
        #[test]
        fn what_is_decoded_encodes_to_something_that_decodes_the_same(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let framed = { let mut v = u16::try_from(bytes.len()).unwrap().to_be_bytes().to_vec(); v.extend(&bytes); v };
            if let Ok(Some(request)) = whole(&framed) {
                let again = request.encode();
                prop_assert!(again.len() <= MAX_REQUEST + 2);
                prop_assert_eq!(whole(&again), Ok(Some(request)));
            }
        }

        #[test]
        fn registrations_round_trip(name in "[a-z0-9_-]{1,254}", extra in proptest::collection::vec(any::<u8>(), 0..1020), port: u16, node_type: u8, protocol: u8, versions: (u16, u16)) {
            let request = Request::Alive2(Alive2 {
                port, node_type, protocol, highest: versions.0, lowest: versions.1,
                name: AliveName::new(name.as_bytes()).unwrap(), extra: &extra,
            });
            let bytes = request.encode();
            prop_assert_eq!(whole(&bytes), Ok(Some(request)));
        }
    }
}
