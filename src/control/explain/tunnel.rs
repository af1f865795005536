//! What becomes of a connection where tunnels are asked for, and of a tunnel before its certificate is known.

use super::{End, Verdict, Walk};
use crate::config::Peer;
use crate::policy::{Admission, Arrival, Denial, List, TlsMode};

impl<'a> Walk<'a> {
    /// Tells which key wants a tunnel of whoever comes from there.
    pub(super) fn refuse_plain(&mut self, arrival: &Arrival) {
        let policy = self.facts.policy;
        let rule = policy.find(List::Allow, arrival.peer.ip()).and_then(|rule| policy.rule(rule));
        let of = rule.and_then(|rule| rule.peer);
        let peer = of.and_then(|peer| self.peer(peer));
        if let Some(unplaced) = policy.unplaced_peer(of).and_then(|peer| self.peer(peer)) {
            let why = format!(
                "it may be the peer {}, a host name of which leads nowhere, and which may come by a tunnel alone: it is refused \
                 as it comes here: plain",
                unplaced.name
            );
            return self.refuse_by_mode(Denial::TlsRequired, why, Some(unplaced));
        }
        let who = peer.map_or_else(|| "it".to_owned(), |peer| format!("the peer {}", peer.name));
        let mut why = format!("{who} may come by a tunnel alone, and is refused as it comes here: plain");
        if let Some((_, port)) = self.facts.config.tls.listen.first() {
            why.push_str(&format!(" (`--to {port}` tells what becomes of a tunnel)"));
        }
        self.refuse_by_mode(Denial::TlsRequired, why, peer);
    }

    pub(super) fn is_for_tunnels(&self, port: u16) -> bool {
        let tls = &self.facts.config.tls;
        tls.files.is_some() && tls.listen.iter().any(|(_, served)| *served == port)
    }

    /// What can be said of a tunnel before its certificate is there.
    pub(super) fn identify(&mut self, admission: &Admission) -> Result<(), End> {
        let policy = self.facts.policy;
        let of_address = policy.peer_of(admission);
        let peer = of_address.and_then(|peer| self.peer(peer));
        let refused = of_address.filter(|_| policy.identities().mode_of(of_address) == TlsMode::Off);
        match (peer, refused) {
            (Some(peer), Some(_)) => {
                let why = format!("the peer {} is to have no tunnel", peer.name);
                self.refuse_by_mode(Denial::TlsOff, why, Some(peer));
                Err(End)
            }
            (Some(peer), None) => {
                let names: Vec<String> = peer.identity.iter().map(ToString::to_string).collect();
                let why = format!("its certificate must have a name of {}: {}", peer.name, names.join(", "));
                let place = self.place(peer.line);
                self.push(("identify", Verdict::Unknown, why), ("[[peer]] identity".to_owned(), place));
                Ok(())
            }
            (None, _) => {
                self.say("identify", Verdict::Unknown, "its certificate must have a name of one [[peer]]");
                Ok(())
            }
        }
    }

    /// A refusal for how the traffic of a peer is to be carried.
    fn refuse_by_mode(&mut self, denial: Denial, why: String, peer: Option<&Peer>) {
        match peer.filter(|peer| peer.tls.is_some()) {
            Some(peer) => {
                let place = self.place(peer.line);
                self.push((denial.stage(), Verdict::No, why), ("[[peer]] tls".to_owned(), place));
            }
            None => self.key(denial.stage(), Verdict::No, why, "[tls] default"),
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::config::from_text;
    use crate::control::explain::{Explanation, Facts, Question, explain};
    use crate::policy::Policy;

    use super::*;

    const FILE: &str = "[cluster]\nallow = [\"192.0.2.0/24\"]\n[tls]\nlisten = [\"*\"]\ncert = \"/a\"\nkey = \"/b\"\n\
                        ca = \"/c\"\ndefault = \"required\"\n[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n\
                        tls = \"off\"\n[[peer]]\nname = \"h3\"\naddresses = [\"192.0.2.3\"]\nconnect = \"h3\"\n\
                        tls = \"required\"\n[[peer]]\nname = \"h4\"\naddresses = [\"192.0.2.4\"]\nconnect = \"h4\"\n\
                        hosts = \"h4.test\"\n";

    fn asked(from: &str, to: &str) -> Explanation {
        let config = from_text("f.toml", FILE, &Default::default()).unwrap().config;
        let policy = Policy::new(config.rules());
        let own = ["192.0.2.1".parse().unwrap()];
        let facts = Facts { config: &config, label: "f.toml", policy: &policy, own: &own, running: None };
        explain(&Question::parse(from, None, to).unwrap(), facts)
    }

    #[test]
    fn what_comes_plain_is_refused_by_the_key_that_wants_a_tunnel() {
        for (from, to, expected) in [
            ("192.0.2.3", "a", (Verdict::No, "admit", "[[peer]] tls", "f.toml:13")),
            ("192.0.2.3", "4369", (Verdict::No, "admit", "[[peer]] tls", "f.toml:13")),
            ("192.0.2.4", "a", (Verdict::No, "admit", "[tls] default", "f.toml:8")),
            ("192.0.2.9", "a", (Verdict::No, "admit", "[tls] default", "f.toml:8")),
            ("192.0.2.2", "4371", (Verdict::No, "identify", "[[peer]] tls", "f.toml:9")),
            ("192.0.2.4", "4371", (Verdict::Unknown, "identify", "[[peer]] identity", "f.toml:18")),
            ("192.0.2.9", "4371", (Verdict::Unknown, "identify", "", "")),
        ] {
            let told = asked(from, to);
            let last = told.stages.last().unwrap();
            let rule = (last.rule.as_deref().unwrap_or(""), last.place.as_deref().unwrap_or(""));
            assert_eq!((told.verdict, last.stage.as_str(), rule.0, rule.1), expected, "{from} {to}");
        }
        assert!(asked("192.0.2.3", "a").stages[0].why.starts_with("the peer h3 may come by a tunnel alone"));
        assert!(asked("192.0.2.4", "4371").stages[1].why.ends_with("a name of h4: h4, h4.test"));
        for from in ["127.0.0.1", "192.0.2.2"] {
            assert_eq!(asked(from, "4369").verdict, Verdict::Yes, "{from}");
        }
    }
}
