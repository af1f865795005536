//! The name that a node registers: the part of `name@host` before the `@`.

use std::fmt;
use std::sync::Arc;

/// Characters that a name may have. epmd itself registers one more, but its PORT2 counts the
/// terminator and can then never find that name (`verify_utf8`).
const MAX_CHARS: usize = 254;

/// A name as epmd knows it: valid UTF-8 of 1 to 254 characters, with nothing in it that could
/// forge a line of NAMES or a node name (no control characters, no white space, no `@`).
///
/// Real nodes use `[0-9A-Za-z_-]` only (`net_kernel:valid_name_head`), so nothing real is lost.
/// `Display` and `Debug` write it with everything but printable ASCII escaped.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AliveName<'a>(&'a str);

/// Why some bytes are not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameFault {
    /// No byte at all.
    #[error("the name is empty")]
    Empty,
    /// More than 254 characters.
    #[error("the name has more than {MAX_CHARS} characters")]
    TooLong,
    /// Not UTF-8.
    #[error("the name is not UTF-8")]
    NotUtf8,
    /// A control character, white space or `@`.
    #[error("the name has a character that no node name has")]
    BadCharacter,
}

impl<'a> AliveName<'a> {
    /// Checks `bytes` and takes them for a name.
    ///
    /// # Errors
    /// A [`NameFault`] that says what is wrong.
    pub fn new(bytes: &'a [u8]) -> Result<Self, NameFault> {
        if bytes.is_empty() {
            return Err(NameFault::Empty);
        }
        let text = std::str::from_utf8(bytes).map_err(|_| NameFault::NotUtf8)?;
        if text.chars().count() > MAX_CHARS {
            return Err(NameFault::TooLong);
        }
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '@') {
            return Err(NameFault::BadCharacter);
        }
        Ok(Self(text))
    }

    /// The name's bytes, as they stand on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        self.0.as_bytes()
    }
}

/// A name that is kept: cheap to clone, and shown as [`AliveName`] is, so that nobody can forget to escape it.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeName(Arc<str>);

impl NodeName {
    /// The same name, borrowed for a request or a reply.
    #[must_use]
    pub fn as_alive(&self) -> AliveName<'_> {
        AliveName(&self.0)
    }

    /// The name's bytes, as they stand on the wire.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl From<AliveName<'_>> for NodeName {
    fn from(name: AliveName<'_>) -> Self {
        Self(name.0.into())
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.as_alive().fmt(f)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeName({self})")
    }
}

impl fmt::Display for AliveName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_default().fmt(f)
    }
}

impl fmt::Debug for AliveName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AliveName({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_real_nodes_are_names() {
        for name in ["ejabberd", "rabbit", "abc-ctl-ejabberd", "my_app_1", "n", "größe"] {
            assert_eq!(
                AliveName::new(name.as_bytes()).map(|n| n.as_bytes().to_vec()),
                Ok(name.as_bytes().to_vec())
            );
        }
    }

    #[test]
    fn the_length_is_counted_in_characters_and_ends_at_254() {
        assert!(AliveName::new("ä".repeat(254).as_bytes()).is_ok());
        assert_eq!(AliveName::new("a".repeat(255).as_bytes()), Err(NameFault::TooLong));
    }

    #[test]
    fn what_could_forge_a_line_or_a_node_name_is_none() {
        assert_eq!(AliveName::new(b""), Err(NameFault::Empty));
        assert_eq!(AliveName::new(b"\xff"), Err(NameFault::NotUtf8));
        assert_eq!(AliveName::new(b"\xc0\xaf"), Err(NameFault::NotUtf8));
        for bad in ["x at port 1\nname evil", "a b", "a\0b", "a@b", "a\u{85}b", "a\u{2028}b"] {
            assert_eq!(AliveName::new(bad.as_bytes()), Err(NameFault::BadCharacter), "{bad:?}");
        }
    }

    #[test]
    fn a_name_is_shown_escaped() {
        let name = AliveName::new("a\u{202e}b".as_bytes()).unwrap();
        assert_eq!(name.to_string(), "a\\u{202e}b");
        assert_eq!(format!("{name:?}"), "AliveName(a\\u{202e}b)");
    }

    #[test]
    fn a_name_that_is_kept_is_the_same_name() {
        let name = AliveName::new("größe".as_bytes()).unwrap();
        assert_eq!(NodeName::from(name).as_alive(), name);
    }
}
