//! Texts and bytes of a peer whose length is bounded by their type, so that every frame that can be made can be sent.

use std::borrow::Cow;
use std::fmt;

/// A text of at most `MOST` bytes of UTF-8. `Display` and `Debug` write it with everything but printable ASCII
/// escaped.
#[derive(Clone, PartialEq, Eq)]
pub struct Text<'a, const MOST: usize>(Cow<'a, str>);

impl<'a, const MOST: usize> Text<'a, MOST> {
    /// The text, or as many whole characters of its beginning as there is room for.
    #[must_use]
    pub fn cut(text: impl Into<Cow<'a, str>>) -> Self {
        let at = |text: &str| text.floor_char_boundary(MOST);
        Self(match text.into() {
            Cow::Borrowed(text) => Cow::Borrowed(text.get(..at(text)).unwrap_or_default()),
            Cow::Owned(mut text) => {
                text.truncate(at(&text));
                Cow::Owned(text)
            }
        })
    }

    /// The text of a frame, or `None` where it is too long or not UTF-8.
    pub(super) fn of(bytes: &'a [u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        (bytes.len() <= MOST).then_some(Self(Cow::Borrowed(text)))
    }

    /// The text as it came: to be compared, never to be shown.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The same text, independent of what it was read from.
    #[must_use]
    pub fn into_owned(self) -> Text<'static, MOST> {
        Text(Cow::Owned(self.0.into_owned()))
    }
}

impl<const MOST: usize> fmt::Display for Text<'_, MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.escape_default().fmt(f)
    }
}

impl<const MOST: usize> fmt::Debug for Text<'_, MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Text({self})")
    }
}

/// At most `MOST` bytes of somebody else's protocol. `Debug` tells how many.
#[derive(Clone, PartialEq, Eq)]
pub struct Bytes<'a, const MOST: usize>(Cow<'a, [u8]>);

impl<'a, const MOST: usize> Bytes<'a, MOST> {
    /// These bytes, or `None` where they are too many.
    #[must_use]
    pub fn new(bytes: impl Into<Cow<'a, [u8]>>) -> Option<Self> {
        let bytes = bytes.into();
        (bytes.len() <= MOST).then_some(Self(bytes))
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The same bytes, independent of what they were read from.
    #[must_use]
    pub fn into_owned(self) -> Bytes<'static, MOST> {
        Bytes(Cow::Owned(self.0.into_owned()))
    }

    /// The bytes by themselves; copied only where they are borrowed.
    #[must_use]
    pub fn into_vec(self) -> Vec<u8> {
        self.0.into_owned()
    }
}

impl<const MOST: usize> fmt::Debug for Bytes<'_, MOST> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Bytes({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_is_cut_between_characters_and_shown_escaped() {
        let text: Text<'_, 4> = Text::cut("aäöü");
        assert_eq!(text.as_str(), "aä");
        assert_eq!(Text::<'_, 4>::cut(String::from("aäöü")), text);
        assert_eq!(text.to_string(), "a\\u{e4}");
        assert_eq!(format!("{:?}", Text::<'_, 9>::cut("a\nb")), "Text(a\\nb)");
        assert_eq!(text.clone().into_owned(), text);
    }

    #[test]
    fn what_is_too_long_is_not_taken() {
        assert!(Text::<'_, 3>::of(b"abc").is_some());
        assert!(Text::<'_, 3>::of(b"abcd").is_none());
        assert!(Text::<'_, 3>::of(b"\xff").is_none());
        assert!(Bytes::<'_, 3>::new(&b"abcd"[..]).is_none());
        let three = Bytes::<'_, 3>::new(&b"abc"[..]).unwrap();
        assert_eq!((three.as_slice(), format!("{three:?}")), (&b"abc"[..], "Bytes(3)".to_owned()));
        assert_eq!(three.clone().into_owned(), three);
        assert_eq!(three.into_vec(), b"abc");
    }
}
