//! `self` of `[epmd]` and of `[dist]`: at which listeners this host itself is told from peers.

use std::net::IpAddr;
use std::ops::Range;

use super::{Key, LOOPBACKS, address, each};
use crate::config::ListenOn;
use crate::config::problem::{Problem, Problems};
use crate::config::schema::{Word, WrittenSelf};
use crate::config::text::quoted;
use crate::policy::SelfAt;

/// Where the listeners are that `self` is about.
#[derive(Debug)]
pub(super) struct Listeners {
    /// `listen` of the section.
    pub(super) listen: Vec<ListenOn>,
    /// Who listens on 127.0.0.1 and ::1 in our place; `None`: we do.
    pub(super) behind: Option<&'static str>,
    /// `listen` has mistakes, so that nothing is known of it.
    pub(super) is_broken: bool,
}

pub(super) fn build(
    key: Key,
    written: &WrittenSelf<'_>,
    among: &Listeners,
    problems: &mut Problems,
) -> SelfAt {
    let words = match written {
        WrittenSelf::One(word) => return one(key, word, problems),
        WrittenSelf::List(words) => words,
    };
    let listeners = each(key, words, problems, address::listener);
    if !among.is_broken {
        for (ip, span) in &listeners {
            if let Some(problem) = among.report(key, *ip) {
                problems.push(Problem { span: Some(span.clone()), ..problem });
            }
        }
    }
    let mut listeners: Vec<IpAddr> = listeners.into_iter().map(|(ip, _)| ip).collect();
    // The order means nothing, and two that mean the same are to be equal.
    listeners.sort_unstable();
    SelfAt::Only(listeners)
}

/// Where the value stands.
pub(super) fn span_of(written: &WrittenSelf<'_>) -> Range<usize> {
    match written {
        WrittenSelf::One(word) => word.span(),
        WrittenSelf::List(words) => words.span(),
    }
}

fn one(key: Key, word: &Word<'_>, problems: &mut Problems) -> SelfAt {
    let text = *word.get_ref();
    let help = match text {
        "all" => return SelfAt::Everywhere,
        "none" => return SelfAt::Only(Vec::new()),
        "*" => Some("write \"all\"".to_owned()),
        _ => address::listener(text).is_ok().then(|| format!("write a list: [{}]", quoted(text))),
    };
    let message = format!("{key}: must be \"all\", \"none\" or a list of addresses, is {}", quoted(text));
    problems.push(Problem { help, ..Problem::error(word.span(), message) });
    SelfAt::Everywhere
}

impl Listeners {
    /// What is wrong with an address at which nothing of ours listens. Where the host's own names lead is not
    /// known here; on Debian that is another loopback address.
    fn report(&self, key: Key, ip: IpAddr) -> Option<Problem> {
        if self.listen.contains(&ListenOn::Ip(ip)) {
            return None;
        }
        if let Some(whom) = self.behind.filter(|_| LOOPBACKS.contains(&ip)) {
            let message = format!("{key}: {ip} has no effect: {whom} listens there, and not the guard");
            return Some(Problem::warning(None, message).with_help("take it out"));
        }
        let is_possible = ip.is_loopback() || self.listen.contains(&ListenOn::Everywhere);
        let message = format!(
            "{key}: {ip} is not in [{}] listen: it counts only if a name of this host leads there",
            key.0
        );
        let help = "list it in listen too, or take it out here";
        (!is_possible).then(|| Problem::warning(None, message).with_help(help))
    }
}
