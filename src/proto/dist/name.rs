//! The name that a node claims: `alive@host`, or the host alone where it asks to be named.

use std::fmt;
use std::sync::Arc;

/// Bytes that a full node name may have (an atom has 255 characters; measured: 256 end the handshake).
const MAX_NAME: usize = 255;
/// Bytes that the host of a node that asks for a name may have, which leaves room for the name.
const MAX_HOST: usize = 200;

/// A full node name, `alive@host`, of at most 255 bytes: before the `@` letters, digits, `-` and `_`
/// (`dist.c:is_node_name`), after it what a host name or an address literal has. It is plain ASCII, so that
/// it can be shown as it is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FullName {
    text: Arc<str>,
    at: usize,
}

/// The host part alone, of at most 200 bytes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPart(Arc<str>);

/// Whom a node says it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Claimed {
    /// The node of this name.
    Name(FullName),
    /// A node of this host that asks to be given a name (`NAME_ME`, a dynamic node).
    Dynamic(HostPart),
}

/// Why some bytes are no name of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// The part before or behind the `@` is empty.
    #[error("the node's name has an empty part")]
    Empty,
    /// Longer than any node's.
    #[error("the node's name is too long")]
    TooLong,
    /// No `@` where one must be, or more than one.
    #[error("the node's name is not of the form name@host")]
    Form,
    /// A character that no node's name has.
    #[error("the node's name has a character that no node name has")]
    BadCharacter,
}

impl FullName {
    /// Checks `bytes` and takes them for a node's name.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(bytes: &[u8]) -> Result<Self, NameFault> {
        if bytes.len() > MAX_NAME {
            return Err(NameFault::TooLong);
        }
        let mut parts = bytes.split(|byte| *byte == b'@');
        let (Some(alive), Some(host), None) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NameFault::Form);
        };
        if alive.is_empty() || host.is_empty() {
            return Err(NameFault::Empty);
        }
        if !alive.iter().all(|byte| is_of_alive(*byte)) || !host.iter().all(|byte| is_of_host(*byte)) {
            return Err(NameFault::BadCharacter);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| NameFault::BadCharacter)?;
        Ok(Self { at: alive.len(), text: text.into() })
    }

    /// All of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before the `@`, which epmd knows.
    #[must_use]
    pub fn alive(&self) -> &str {
        self.text.get(..self.at).unwrap_or_default()
    }

    /// The part behind the `@`.
    #[must_use]
    pub fn host(&self) -> &str {
        self.text.get(self.at + 1..).unwrap_or_default()
    }
}

impl HostPart {
    /// Checks `bytes` and takes them for the host part of a node's name.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(bytes: &[u8]) -> Result<Self, NameFault> {
        if bytes.is_empty() {
            return Err(NameFault::Empty);
        }
        if bytes.len() > MAX_HOST {
            return Err(NameFault::TooLong);
        }
        if bytes.contains(&b'@') {
            return Err(NameFault::Form);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| NameFault::BadCharacter)?;
        if text.bytes().all(is_of_host) { Ok(Self(text.into())) } else { Err(NameFault::BadCharacter) }
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Claimed {
    /// As it stands on the wire: the full name, or the host alone.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Name(name) => name.as_str(),
            Self::Dynamic(host) => host.as_str(),
        }
    }

    /// The full name, where it has one.
    #[must_use]
    pub fn name(&self) -> Option<&FullName> {
        match self {
            Self::Name(name) => Some(name),
            Self::Dynamic(_) => None,
        }
    }
}

fn is_of_alive(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

/// Host names, and the addresses that long names may have instead.
fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte)
}

impl fmt::Display for FullName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for FullName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FullName({self})")
    }
}

impl fmt::Display for HostPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HostPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostPart({self})")
    }
}

/// A dynamic node is shown as `?@host`.
impl fmt::Display for Claimed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => name.fmt(f),
            Self::Dynamic(host) => write!(f, "?@{host}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_real_nodes_have_two_parts() {
        let name = FullName::new(b"abc-ctl-ejabberd@h1.example.net").unwrap();
        assert_eq!((name.alive(), name.host()), ("abc-ctl-ejabberd", "h1.example.net"));
        for real in ["n@192.0.2.1", "n@::1", "rabbit_1@my_host", "n@h"] {
            assert_eq!(FullName::new(real.as_bytes()).unwrap().as_str(), real);
        }
    }

    #[test]
    fn what_no_node_has_is_no_name() {
        use NameFault::{BadCharacter, Empty, Form, TooLong};
        let cases: [(&[u8], NameFault); 9] = [
            (b"", Form),
            (b"n", Form),
            (b"a@b@c", Form),
            (b"@h", Empty),
            (b"n@", Empty),
            (b"a b@h", BadCharacter),
            (b"a.b@h", BadCharacter),
            (b"n@h\n", BadCharacter),
            (b"n@h\xe4", BadCharacter),
        ];
        for (bytes, fault) in cases {
            assert_eq!(FullName::new(bytes), Err(fault), "{bytes:?}");
        }
        assert!(FullName::new(format!("n@{}", "h".repeat(253)).as_bytes()).is_ok());
        assert_eq!(FullName::new(format!("n@{}", "h".repeat(254)).as_bytes()), Err(TooLong));
    }

    #[test]
    fn a_node_that_asks_for_a_name_has_a_host_alone() {
        assert_eq!(Claimed::Dynamic(HostPart::new(b"h1.test").unwrap()).to_string(), "?@h1.test");
        assert_eq!(HostPart::new(b"n@h"), Err(NameFault::Form));
        assert_eq!(HostPart::new(b""), Err(NameFault::Empty));
        assert_eq!(HostPart::new("h".repeat(201).as_bytes()), Err(NameFault::TooLong));
        assert_eq!(HostPart::new(b"h h"), Err(NameFault::BadCharacter));
    }
}
