//! The names that a certificate gives its holder, and the files that are called by them.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

/// The longest name of a host (RFC 1035, section 2.3.4), as it is written.
const LONGEST_HOST: usize = 253;
/// The longest part of it between two dots.
const LONGEST_LABEL: usize = 63;
/// The longest URI that is put into a certificate: the most that a SPIFFE ID may have.
const LONGEST_URI: usize = 2048;
/// The longest name of a file without its ending; file systems have 255 for all of it.
const LONGEST_STEM: usize = 200;
/// The files of the CA have this name.
const RESERVED: &str = "ca";

/// A name that a certificate gives its holder: a subject alternative name (RFC 5280, section 4.2.1.6).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Name {
    /// The name of a host, in lower case.
    Dns(String),
    /// An address.
    Ip(IpAddr),
    /// A URI, such as a SPIFFE ID.
    Uri(String),
}

/// A text that is no name for a certificate.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no name for a certificate: {why}")]
pub struct BadName {
    text: String,
    why: &'static str,
}

impl Name {
    /// What a name on the command line means: an address, a URI if it has `://`, or the name of a host.
    pub fn parse(text: &str) -> Result<Self, BadName> {
        if text.contains("://") {
            Self::uri(text)
        } else if let Ok(ip) = text.parse() {
            Self::ip(ip)
        } else {
            Self::dns(text)
        }
    }

    /// The name of a host.
    pub fn dns(text: &str) -> Result<Self, BadName> {
        let bad = |why| Err(BadName { text: text.to_owned(), why });
        let host = text.to_ascii_lowercase();
        if host.is_empty() || host.len() > LONGEST_HOST {
            return bad("the name of a host has 1 to 253 characters");
        }
        if host.contains('/') || host.split('.').all(str::is_empty) {
            return bad("it would lead out of the directory");
        }
        if host.contains('*') {
            return bad("a certificate is for one host, and a guard compares names as they are");
        }
        if !host.is_ascii() {
            return bad("a certificate has such a name in its xn-- form");
        }
        let is_label = |label: &str| {
            let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
            let is_bounded = (1..=LONGEST_LABEL).contains(&label.len());
            is_bounded && label.bytes().all(is_sound) && !label.starts_with('-') && !label.ends_with('-')
        };
        if !host.split('.').all(is_label) {
            return bad("between its dots the name of a host has 1 to 63 letters, digits and hyphens");
        }
        // RFC 3696, section 2: a top-level domain is never all digits. Who writes one means an address.
        if host.rsplit('.').next().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit())) {
            return bad("it is neither an address nor the name of a host");
        }
        Self::Dns(host).with_safe_stem(text)
    }

    /// An address. One of IPv4 that is written as one of IPv6 is one of IPv4.
    pub fn ip(ip: IpAddr) -> Result<Self, BadName> {
        let ip = ip.to_canonical();
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() {
            return Err(BadName { text: ip.to_string(), why: "no peer has this address" });
        }
        Ok(Self::Ip(ip))
    }

    /// A URI.
    pub fn uri(text: &str) -> Result<Self, BadName> {
        let bad = |why| Err(BadName { text: text.to_owned(), why });
        if text.len() > LONGEST_URI {
            return bad("a URI has 2048 characters at most");
        }
        // What RFC 3986 lets stand in a URI, brackets of addresses among it.
        let is_sound = |byte: u8| byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte);
        if !text.bytes().all(is_sound) {
            return bad("a URI has no blanks, quotes or letters that are not ASCII");
        }
        let Some((scheme, rest)) = text.split_once(':') else {
            return bad("a URI begins with its scheme, such as spiffe:");
        };
        let is_scheme = scheme.starts_with(|char: char| char.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        if !is_scheme || rest.trim_matches('/').is_empty() {
            return bad("a URI begins with its scheme, such as spiffe:, and has something behind it");
        }
        Self::Uri(text.to_owned()).with_safe_stem(text)
    }

    fn with_safe_stem(self, text: &str) -> Result<Self, BadName> {
        let bad = |why| Err(BadName { text: text.to_owned(), why });
        let stem = self.stem();
        if stem.eq_ignore_ascii_case(RESERVED) {
            return bad("the files of the CA have this name");
        }
        if stem.len() > LONGEST_STEM {
            return bad("its file would have too long a name");
        }
        if !is_safe_stem(&stem) {
            return bad("no file can have its name");
        }
        Ok(self)
    }

    /// What the files of a certificate for this name are called, without their endings. It has nothing in it that
    /// leads out of a directory, that a shell understands, or that `scp` takes for a host. Different names may have
    /// the same.
    #[must_use]
    pub fn stem(&self) -> String {
        let text = match self {
            Self::Dns(host) => return host.clone(),
            Self::Ip(ip) => ip.to_string(),
            Self::Uri(uri) => uri.clone(),
        };
        let is_kept = |char: char| char.is_ascii_alphanumeric() || "._-".contains(char);
        let parts = text.split(|char| !is_kept(char)).map(|part| part.trim_matches('.'));
        let stem = parts.filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
        // `::1` and the like begin with nothing.
        stem.trim_start_matches('-').to_owned()
    }

    /// The kind of the name, as RFC 5280 and everybody else calls it.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Dns(_) => "DNS",
            Self::Ip(_) => "IP",
            Self::Uri(_) => "URI",
        }
    }
}

/// As it is written on the command line.
impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Dns(text) | Self::Uri(text) => f.write_str(text),
            Self::Ip(ip) => ip.fmt(f),
        }
    }
}

/// Whether a file of this name is in the directory, and nowhere else.
pub(super) fn is_safe_stem(stem: &str) -> bool {
    let is_kept = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=LONGEST_STEM).contains(&stem.len())
        && stem.bytes().all(is_kept)
        && !stem.starts_with(['.', '-'])
        && !stem.eq_ignore_ascii_case(RESERVED)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_text_is_an_address_a_uri_or_a_host() {
        let cases = [
            ("h2.example.net", Name::Dns("h2.example.net".into()), "h2.example.net"),
            ("H2", Name::Dns("h2".into()), "h2"),
            ("_erl.h2", Name::Dns("_erl.h2".into()), "_erl.h2"),
            ("192.0.2.7", Name::Ip("192.0.2.7".parse().unwrap()), "192.0.2.7"),
            ("::ffff:192.0.2.7", Name::Ip("192.0.2.7".parse().unwrap()), "192.0.2.7"),
            ("2001:db8::7", Name::Ip("2001:db8::7".parse().unwrap()), "2001-db8-7"),
            (
                "spiffe://example.org/ns/Erl/../h2",
                Name::Uri("spiffe://example.org/ns/Erl/../h2".into()),
                "spiffe-example.org-ns-Erl-h2",
            ),
        ];
        for (text, name, stem) in cases {
            assert_eq!(Name::parse(text).as_ref(), Ok(&name), "{text}");
            assert_eq!(name.stem(), stem, "{text}");
            assert_eq!(Name::parse(&name.to_string()), Ok(name), "{text}");
        }
    }

    #[test]
    fn what_leads_out_of_the_directory_or_is_no_name_is_refused() {
        let long = "a".repeat(64);
        let longer = "a.".repeat(120) + "example";
        let all = [
            "",
            ".",
            "..",
            "...",
            "/",
            "../x",
            "a/../../b",
            "/etc/passwd",
            "a/b",
            "a..b",
            ".h2",
            "h2.",
            "-h2",
            "h2-",
            "ca",
            "CA",
            "a b",
            "a\0b",
            "a\nb",
            "*.example.net",
            "hé.example.net",
            "192.0.2.300",
            "10",
            "127.0.0.1",
            "::1",
            "0.0.0.0",
            "ff02::1",
            "://x",
            "x://",
            "spiffe:///",
            "x://ca b",
            "1x://a",
            "x://\u{e9}",
            "\u{202e}",
            "~root",
            "$HOME",
            "h2;id",
            &long,
            &longer,
        ];
        for text in all {
            assert!(Name::parse(text).is_err(), "{text:?}");
        }
        assert!(Name::uri("urn:uuid:7").is_ok() && Name::uri("nonsense").is_err());
        assert_eq!(
            Name::uri(&format!("x://{}", "a".repeat(300))).unwrap_err().why,
            "its file would have too long a name"
        );
    }

    proptest! {
        #[test]
        fn no_name_has_a_file_elsewhere(text in "([a-zA-Z0-9._/:~*-]|\\PC|\0){0,60}", scheme in "([a-z]+://)?") {
            if let Ok(name) = Name::parse(&format!("{scheme}{text}")) {
                let stem = name.stem();
                prop_assert!(is_safe_stem(&stem), "{}", stem);
                let path = std::path::Path::new("/d").join(format!("{stem}.crt"));
                let parts: Vec<_> = path.components().collect();
                prop_assert_eq!(parts.len(), 3);
                prop_assert!(matches!(parts[2], std::path::Component::Normal(_)));
            }
        }
    }
}
