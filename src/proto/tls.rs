//! What tells a TLS connection from everything else, without its keys: the first record, which must be a
//! ClientHello, and where the records after it begin (RFC 8446 section 5.1, RFC 5246 section 6.2.1).

/// The bytes before each record: its type, its version and its length.
const HEADER: usize = 5;
/// The longest fragment of a record that is not encrypted.
const LONGEST_PLAIN: u16 = 1 << 14;
/// What encryption may add to a record, in TLS 1.2; in TLS 1.3 it is less.
const EXPANSION: u16 = 2048;
/// The longest first record, header included, in bytes.
pub const LONGEST_FIRST: usize = HEADER + LONGEST_PLAIN as usize;

/// The types of records: change_cipher_spec is the lowest and heartbeat the highest.
const TYPES: std::ops::RangeInclusive<u8> = 20..=24;
const HANDSHAKE: u8 = 22;
const APPLICATION_DATA: u8 = 23;
/// The handshake message that begins every connection.
const CLIENT_HELLO: u8 = 1;
/// Of SSL 3.0 and each TLS since; a record of TLS 1.3 calls itself 1.0 or 1.2.
const MAJOR: u8 = 3;

/// Why what was said is no TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotTls {
    /// It begins as a node's `send_name` does, which has two bytes of length and 'n' or 'N'.
    #[error("plain distribution was spoken to a port of TLS distribution")]
    PlainDistribution,
    /// The first record is of another type.
    #[error("its first byte is {0}, and a TLS handshake begins with {HANDSHAKE}")]
    NoHandshake(u8),
    /// A later record is of no type that there is.
    #[error("a record is of type {0}, and TLS has none such")]
    Type(u8),
    /// The version is none of TLS.
    #[error("a record is of version {0}, and those of TLS are of {MAJOR}")]
    Version(u8),
    /// A record is empty where it may not be, or longer than TLS allows.
    #[error("a record has {0} bytes, and that is impossible")]
    Length(u16),
    /// The handshake begins with another message.
    #[error("its first handshake message is of type {0}, and a ClientHello is {CLIENT_HELLO}")]
    NoClientHello(u8),
}

/// Reads the first record that a client sends. `Some`: it is whole, and has so many bytes with its header;
/// `None`: more bytes are needed.
///
/// # Errors
/// It is no TLS, or does not begin with a ClientHello. Found as early as the bytes tell.
pub fn first_record(bytes: &[u8]) -> Result<Option<usize>, NotTls> {
    let Some(kind) = bytes.first() else { return Ok(None) };
    if *kind != HANDSHAKE {
        return Err(if is_send_name(bytes) { NotTls::PlainDistribution } else { NotTls::NoHandshake(*kind) });
    }
    if let Some(major) = bytes.get(1)
        && *major != MAJOR
    {
        return Err(NotTls::Version(*major));
    }
    let Some(length) = length_of(bytes) else { return Ok(None) };
    if !(1..=LONGEST_PLAIN).contains(&length) {
        return Err(NotTls::Length(length));
    }
    match bytes.get(HEADER) {
        Some(&CLIENT_HELLO) => {}
        Some(other) => return Err(NotTls::NoClientHello(*other)),
        None => return Ok(None),
    }
    let whole = HEADER + usize::from(length);
    Ok((bytes.len() >= whole).then_some(whole))
}

/// `send_name` of protocol 5 and 6 (`dist_util:send_name`): 16 bits of length, less than 512 as a full name has at
/// most 255 bytes, and its tag.
fn is_send_name(bytes: &[u8]) -> bool {
    matches!(bytes, [0 | 1, _, b'n' | b'N', ..])
}

/// The length in a header, of the fragment alone.
fn length_of(bytes: &[u8]) -> Option<u16> {
    match bytes {
        [_, _, _, high, low, ..] => Some(u16::from_be_bytes([*high, *low])),
        _ => None,
    }
}

/// Follows the records that one end sends, and keeps none of their bytes but those of one header.
#[derive(Debug, Default)]
pub struct Records {
    header: [u8; HEADER],
    /// How much of the header is there.
    have: usize,
    /// How much of the record behind it is to come.
    left: usize,
}

/// What began within the bytes that were fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Began {
    /// Nothing, or records of the handshake alone.
    Handshake,
    /// A record of application data: its sender has the keys.
    Data,
}

impl Records {
    /// Takes the next bytes, wherever they are cut.
    ///
    /// # Errors
    /// They are no records. Nothing more can be fed then.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<Began, NotTls> {
        let mut began = Began::Handshake;
        let mut rest = bytes;
        while !rest.is_empty() {
            if self.left > 0 {
                let passed = self.left.min(rest.len());
                self.left -= passed;
                rest = rest.get(passed..).unwrap_or_default();
                continue;
            }
            let Some((byte, behind)) = rest.split_first() else { break };
            rest = behind;
            if let Some(place) = self.header.get_mut(self.have) {
                *place = *byte;
            }
            self.have += 1;
            if self.have == HEADER {
                self.have = 0;
                self.left = usize::from(self.judge()?);
                if self.header.first() == Some(&APPLICATION_DATA) {
                    began = Began::Data;
                }
            }
        }
        Ok(began)
    }

    /// The length of the record behind the header.
    fn judge(&self) -> Result<u16, NotTls> {
        let [kind, major, _, high, low] = self.header;
        let length = u16::from_be_bytes([high, low]);
        if !TYPES.contains(&kind) {
            return Err(NotTls::Type(kind));
        }
        if major != MAJOR {
            return Err(NotTls::Version(major));
        }
        // Only application data may be empty.
        if length > LONGEST_PLAIN + EXPANSION || length == 0 && kind != APPLICATION_DATA {
            return Err(NotTls::Length(length));
        }
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&[kind, 3, 1], &length[..], body].concat()
    }

    fn hello(length: usize) -> Vec<u8> {
        let mut body = vec![0xaa; length];
        body[0] = CLIENT_HELLO;
        record(HANDSHAKE, &body)
    }

    #[test]
    fn a_client_hello_is_whole_at_its_last_byte_and_not_before() {
        for length in [1, 2, 200, usize::from(LONGEST_PLAIN)] {
            let bytes = hello(length);
            for cut in 0..bytes.len() {
                assert_eq!(first_record(&bytes[..cut]), Ok(None), "{cut} of {length}");
            }
            assert_eq!(first_record(&bytes), Ok(Some(HEADER + length)));
            assert_eq!(first_record(&[&bytes[..], b"more"].concat()), Ok(Some(HEADER + length)));
            assert!(bytes.len() <= LONGEST_FIRST);
        }
    }

    #[test]
    fn whatever_else_is_said_is_named() {
        let long = record(HANDSHAKE, &[1; (LONGEST_PLAIN + 1) as usize]);
        for (bytes, expected) in [
            (&b"\0\x15N"[..], NotTls::PlainDistribution),
            (b"\0\x0cn\0\x05", NotTls::PlainDistribution),
            (b"\0\x15", NotTls::NoHandshake(0)),
            (b"GET / HTTP/1.1\r\n", NotTls::NoHandshake(b'G')),
            (b"GEN", NotTls::NoHandshake(b'G')),
            (b"\x80\x2e\x01", NotTls::NoHandshake(0x80)),
            (b"\x17\x03\x03", NotTls::NoHandshake(APPLICATION_DATA)),
            (b"\x16\x02", NotTls::Version(2)),
            (b"\x16\x03\x01\0\0", NotTls::Length(0)),
            (&long[..HEADER], NotTls::Length(LONGEST_PLAIN + 1)),
            (b"\x16\x03\x01\0\x04\x02", NotTls::NoClientHello(2)),
        ] {
            assert_eq!(first_record(bytes), Err(expected), "{bytes:?}");
            assert!(!expected.to_string().is_empty());
        }
    }

    #[test]
    fn the_first_record_of_data_is_seen_with_its_header() {
        let early = [hello(300), record(20, &[1]), record(HANDSHAKE, &[7; 40])].concat();
        let mut records = Records::default();
        assert_eq!(records.feed(&early), Ok(Began::Handshake));
        let data = record(APPLICATION_DATA, b"secret");
        assert_eq!(records.feed(&data[..HEADER - 1]), Ok(Began::Handshake));
        assert_eq!(records.feed(&data[HEADER - 1..HEADER]), Ok(Began::Data));
        assert_eq!(records.feed(&data[HEADER..]), Ok(Began::Handshake));
        assert_eq!(records.feed(&record(APPLICATION_DATA, b"")), Ok(Began::Data));
        for (bytes, expected) in [
            (record(19, b"x"), NotTls::Type(19)),
            (record(25, b"x"), NotTls::Type(25)),
            (vec![22, 2, 0, 0, 1], NotTls::Version(2)),
            (record(HANDSHAKE, b""), NotTls::Length(0)),
            (vec![23, 3, 3, 0x48, 1], NotTls::Length(0x4801)),
        ] {
            assert_eq!(Records::default().feed(&bytes), Err(expected), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_no_tls_at_some_byte_is_none_with_any_more(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let mut refused = false;
            for cut in 0..=bytes.len() {
                let told = first_record(&bytes[..cut]);
                prop_assert!(!refused || told.is_err());
                refused = told.is_err();
            }
        }

        #[test]
        fn records_are_told_alike_wherever_they_are_cut(
            parts in prop::collection::vec((20u8..=23, 1usize..70), 0..8),
            cuts in prop::collection::vec(1usize..90, 0..30),
        ) {
            let bytes: Vec<u8> = parts.iter().flat_map(|(kind, length)| record(*kind, &vec![9; *length])).collect();
            let has_data = parts.iter().any(|(kind, _)| *kind == APPLICATION_DATA);
            let (mut records, mut rest, mut seen) = (Records::default(), &bytes[..], false);
            for cut in cuts.into_iter().chain([usize::MAX]) {
                let (now, behind) = rest.split_at(cut.min(rest.len()));
                seen |= records.feed(now).unwrap() == Began::Data;
                rest = behind;
            }
            prop_assert_eq!(seen, has_data);
            prop_assert_eq!((records.have, records.left), (0, 0));
        }

        #[test]
        fn any_bytes_are_followed_or_refused(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..8)) {
            let mut records = Records::default();
            for piece in &pieces {
                if records.feed(piece).is_err() {
                    break;
                }
                prop_assert!(records.have < HEADER);
            }
        }
    }
}
