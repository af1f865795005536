//! The cluster's cookies, and the proofs that they are known.

use md5::{Digest as _, Md5};
use subtle::ConstantTimeEq as _;
use zeroize::{ZeroizeOnDrop, Zeroizing};

use super::names::{NamePatterns, NodePatterns};
use crate::proto::dist::{DIGEST_LEN, Digest, FullName};

/// A cookie. It is wiped when it is dropped, cannot be copied and is never shown.
#[derive(ZeroizeOnDrop)]
pub struct Cookie(Vec<u8>);

impl std::fmt::Debug for Cookie {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cookie(..)")
    }
}

/// Whether two are the same, in a time that tells no more than their lengths.
impl PartialEq for Cookie {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Cookie {}

/// Whether a digest proves that the cookie is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proved {
    /// It does.
    Yes,
    /// It is not the cookie's.
    No,
}

impl Cookie {
    /// A cookie of these bytes. A `Vec` that has grown has left copies of them behind: make it of its full size.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// Whether the digest is that of the cookie and the challenge; takes the same time whatever differs.
    #[must_use]
    pub fn check(&self, challenge: u32, digest: &Digest) -> Proved {
        let own = self.digest(challenge);
        if bool::from(own.ct_eq(&digest.0)) { Proved::Yes } else { Proved::No }
    }

    /// MD5 of the cookie and of the challenge in decimal, without leading zeros (`dist_util:gen_digest`). It is
    /// wiped: whoever has it can try cookies on it. The hasher wipes what it holds (md-5's feature `zeroize`).
    fn digest(&self, challenge: u32) -> Zeroizing<[u8; DIGEST_LEN]> {
        let mut hasher = Md5::new();
        hasher.update(&self.0);
        hasher.update(challenge.to_string());
        let mut digest = Zeroizing::new([0; DIGEST_LEN]);
        // By reference: a value that is moved leaves its old place unwiped.
        hasher.finalize_into_reset((&mut *digest).into());
        digest
    }
}

/// Which cookie two nodes share.
#[derive(Debug, Default)]
pub struct Cookies {
    /// `[[cookie]]`, in the order of the file: the first that fits is it.
    pub each: Vec<CookieOf>,
    /// `[dist] cookie_file`: where none of these fits; `None`: such links are not checked.
    pub default: Option<Cookie>,
}

/// The cookie of some nodes.
#[derive(Debug)]
pub struct CookieOf {
    /// `nodes`: the names that peers claim; `None`: all.
    pub nodes: Option<NodePatterns>,
    /// `at`: the alive names of the nodes behind us; `None`: all.
    pub at: Option<NamePatterns>,
    /// The cookie.
    pub cookie: Cookie,
}

impl Cookies {
    /// Whether none is known, so that no link is checked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.each.is_empty() && self.default.is_none()
    }

    /// The cookie that the node of a peer and one behind us share, if it is known here.
    #[must_use]
    pub fn shared_by(&self, peer: &FullName, behind: &FullName) -> Option<&Cookie> {
        let fits = |of: &&CookieOf| {
            of.nodes.as_ref().is_none_or(|nodes| nodes.covers(peer.as_str().as_bytes()))
                && of.at.as_ref().is_none_or(|at| at.judge(behind.alive().as_bytes()).is_offered())
        };
        self.each.iter().find(fits).map(|of| &of.cookie).or(self.default.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::Pattern;

    fn cookie(text: &str) -> Cookie {
        Cookie::new(text.as_bytes().to_vec())
    }

    fn digest(hex: &str) -> Digest {
        Digest(u128::from_str_radix(hex, 16).unwrap().to_be_bytes())
    }

    /// Made by real nodes of OTP 25.
    #[test]
    fn the_proofs_of_real_nodes_are_understood() {
        let secret = cookie("secret");
        let first = digest("24d92202cd3724fb37808c885f4e2298");
        let second = digest("bc85498511a2e91cd7a08647840948c5");
        assert_eq!(secret.check(16_909_060, &first), Proved::Yes);
        assert_eq!(secret.check(3_773_445_543, &second), Proved::Yes);
        assert_eq!(secret.check(16_909_061, &first), Proved::No);
        assert_eq!(secret.check(16_909_060, &second), Proved::No);
        assert_eq!(cookie("secret ").check(16_909_060, &first), Proved::No);
        assert_eq!(cookie("Secret").check(16_909_060, &first), Proved::No);
    }

    #[test]
    fn a_proof_that_differs_in_one_bit_is_none() {
        let secret = cookie(&"x".repeat(255));
        let right = *secret.digest(u32::MAX);
        assert_eq!(secret.check(u32::MAX, &Digest(right)), Proved::Yes);
        for bit in 0..128 {
            let mut wrong = right;
            wrong[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(secret.check(u32::MAX, &Digest(wrong)), Proved::No, "bit {bit}");
        }
    }

    #[test]
    fn a_cookie_is_never_shown() {
        let cookies = Cookies { each: Vec::new(), default: Some(cookie("secret")) };
        assert_eq!(format!("{cookies:?}"), "Cookies { each: [], default: Some(Cookie(..)) }");
    }

    #[test]
    fn two_cookies_are_compared() {
        assert_eq!(cookie("secret"), cookie("secret"));
        for other in ["secre", "secrets", "Secret", ""] {
            assert_ne!(cookie("secret"), cookie(other));
        }
    }

    #[test]
    fn the_first_table_that_fits_both_nodes_has_the_cookie() {
        let name = |text: &str| FullName::new(text.as_bytes()).unwrap();
        let nodes = |text: &str| Some(NodePatterns::new([(Pattern::of_node(text).unwrap(), 1)]));
        let at = |text: &str| Some(NamePatterns::new([(text.parse().unwrap(), 1)]));
        let each = vec![
            CookieOf { nodes: nodes("*@h2"), at: at("web-*"), cookie: cookie("both") },
            CookieOf { nodes: nodes("*@h2"), at: None, cookie: cookie("peer's") },
            CookieOf { nodes: None, at: at("web-*"), cookie: cookie("own") },
        ];
        let mut cookies = Cookies { each, default: Some(cookie("default")) };
        for (peer, behind, expected) in [
            ("a@h2", "web-1@h1", "both"),
            ("a@h2", "ejabberd@h1", "peer's"),
            ("a@h3", "web-1@h1", "own"),
            ("a@h3", "ejabberd@h1", "default"),
        ] {
            assert_eq!(cookies.shared_by(&name(peer), &name(behind)), Some(&cookie(expected)), "{expected}");
        }
        cookies.default = None;
        assert_eq!(cookies.shared_by(&name("a@h3"), &name("ejabberd@h1")), None);
        assert!(!cookies.is_empty() && Cookies::default().is_empty());
    }
}
