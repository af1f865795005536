//! What becomes of a connection for who speaks: bans, how fast and how many, and the name that it claims.

use super::super::documents::{shown_net, time_of, timestamp};
use super::{End, Verdict, Walk};
use crate::config::Peer;
use crate::policy::{Admission, ByPattern, Denial, Full, NodeRuling, Room, Source, Standing, Whose};
use crate::proto::dist::{Claim, Claimed, Flags, FullName, HostPart, NameFault, Version};

/// Whether a node would show itself to the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Visibility {
    /// As nodes of its kind do: one with a name does, one that asks for a name does not.
    #[default]
    Usual,
    /// It would be a hidden node.
    Hidden,
}

/// What a node of OTP 25 to 27 can do (measured).
const USUAL: Flags = Flags(0xd_07df_7fbd);

/// What a node of this name says of itself: `name@host`, or `@host` and `?@host` for one that asks for a name.
pub(super) fn claim(text: &str, visibility: Visibility) -> Result<Claim, NameFault> {
    let dynamic = text.strip_prefix("?@").or_else(|| text.strip_prefix('@'));
    let hidden = Flags(USUAL.0 & !Flags::PUBLISHED.0);
    let (claimed, flags) = match (dynamic, visibility) {
        (Some(host), _) => (Claimed::Dynamic(HostPart::new(host.as_bytes())?), hidden.and(Flags::NAME_ME)),
        (None, Visibility::Usual) => (Claimed::Name(FullName::new(text.as_bytes())?), USUAL),
        (None, Visibility::Hidden) => (Claimed::Name(FullName::new(text.as_bytes())?), hidden),
    };
    Ok(Claim { claimed, flags, version: Version::V6, creation: Some(1) })
}

impl<'a> Walk<'a> {
    /// What the running guard remembers of the address.
    pub(super) fn banned(&mut self, admission: &Admission) -> Result<(), End> {
        let Some(speakers) = self.facts.running.and_then(|running| running.speakers) else { return Ok(()) };
        let is_peer = self.facts.policy.peer_of(admission).into();
        let source = Source { ip: admission.peer().ip(), standing: admission.standing(), is_peer };
        let Some(ban) = speakers.ban_of(&source) else { return Ok(()) };
        let (net, until, times) = (shown_net(ban.net), timestamp(time_of(ban.until)), ban.times);
        let why =
            format!("{net} is banned until {until}, ban number {times} (epmd-guard unban {net} ends it)");
        self.end_or_overlook(Denial::Banned, |walk| walk.key("admit", Verdict::No, why, "[ban] after"))
    }

    /// How fast connections may come. How many came lately is not shown: this would be one more.
    pub(super) fn paced(&mut self, admission: &Admission) {
        if self.facts.running.is_none() || admission.standing() == Standing::Itself {
            return;
        }
        let limits = &self.facts.config.limits;
        let mut why = format!("it may make {} connections a second", limits.rate_per_address);
        if admission.peer().ip().is_ipv6() {
            why.push_str(&format!(", and its /64 {}", limits.rate_per_subnet));
        }
        self.key("admit", Verdict::Yes, why, "[limits] rate_per_address");
    }

    /// Whether there is room for one more handshake.
    pub(super) fn half_open(&mut self, admission: &Admission) -> Result<(), End> {
        let Some(room) = self.facts.running.map(|running| running.half_open) else { return Ok(()) };
        let Room { caps, in_use, of_address, of_subnet } = room;
        let mut held = format!("{in_use} of {} handshakes are under way", caps.total);
        if admission.standing() != Standing::Itself {
            held.push_str(&format!(", {of_address} of {} from this address", caps.per_address));
            if admission.peer().ip().is_ipv6() {
                held.push_str(&format!(", {of_subnet} of {} from its /64", caps.per_subnet));
            }
        }
        match room.is_enough_for(admission.standing()) {
            Ok(()) => {
                self.say("inspect", Verdict::Yes, held);
                Ok(())
            }
            Err(full) => {
                let key = match full {
                    Full::Total => "[limits] half_open",
                    Full::Address | Full::Subnet => "[limits] half_open_per_address",
                };
                self.key("inspect", Verdict::No, held, key);
                Err(End)
            }
        }
    }

    /// Whether the node may be what it says it is.
    pub(super) fn speak(&mut self, claim: &Claim, admission: &Admission) -> Result<(), End> {
        if admission.standing() == Standing::Itself {
            let why = format!("{} may be claimed: this host's own nodes are not judged", shown(claim));
            self.say("authorize", Verdict::Yes, why);
            return Ok(());
        }
        let policy = self.facts.policy;
        let ruling = policy.nodes().explain(policy.peer_of(admission), claim);
        match ruling.denial() {
            None => {
                self.rule_on(claim, ruling);
                Ok(())
            }
            Some(denial) => self.end_or_overlook(denial, |walk| walk.rule_on(claim, ruling)),
        }
    }

    /// Tells what decides on a claim: which key or pattern.
    fn rule_on(&mut self, claim: &Claim, ruling: NodeRuling<'_>) {
        let name = shown(claim);
        let verdict = if ruling.denial().is_none() { Verdict::Yes } else { Verdict::No };
        let (why, key) = match ruling {
            NodeRuling::Listed(whose, by) => {
                let why = format!("{name} may be claimed");
                return self.by_pattern((verdict, why), whose, by);
            }
            NodeRuling::Excluded(whose, by) => {
                let why = format!("{name} is none of the names that may be claimed from there");
                return self.by_pattern((verdict, why), whose, by);
            }
            NodeRuling::OfPeer(owner, by) => {
                let why = format!("{name} is a node of the peer {}, and nobody else's", self.name_of(owner));
                return self.by_pattern((verdict, why), Whose::Peer(owner), by);
            }
            NodeRuling::NotListed(whose) => {
                (format!("{name} is none of the names that may be claimed from there"), ("nodes", whose))
            }
            NodeRuling::AnyName => {
                let why = format!("{name} may be claimed: any name may that no [[peer]] lists");
                (why, ("nodes", Whose::Cluster))
            }
            NodeRuling::MayBeNamed(whose) => {
                (format!("{name} asks to be given a name, and may"), ("dynamic_nodes", whose))
            }
            NodeRuling::Dynamic(whose) => {
                let why = format!("{name} asks to be given a name, and such nodes are not let in");
                (why, ("dynamic_nodes", whose))
            }
            NodeRuling::Hidden(whose) => {
                let why = format!("{name} would be a hidden node, and such nodes are not let in");
                (why, ("hidden_nodes", whose))
            }
            NodeRuling::OldHandshake => {
                let why = "the version of its handshake is too old".to_owned();
                (why, ("min_handshake", Whose::Cluster))
            }
            NodeRuling::MissingFlags(flags) => {
                (format!("a node of OTP 25 lacks {flags}"), ("require_flags", Whose::Cluster))
            }
        };
        self.by_key((verdict, why), key);
    }

    /// A refusal, as `tell` tells it, unless observe mode lets it pass.
    pub(super) fn end_or_overlook(
        &mut self,
        denial: Denial,
        tell: impl FnOnce(&mut Self),
    ) -> Result<(), End> {
        tell(self);
        if self.facts.policy.overlook(denial).is_err() {
            return Err(End);
        }
        if let Some(told) = self.stages.last_mut() {
            told.verdict = Verdict::Yes;
            told.why = format!("would be refused, but observe mode lets it pass: {}", told.why);
        }
        Ok(())
    }

    /// A key of `[cluster]`, or the same of a `[[peer]]`.
    fn by_key(&mut self, (verdict, why): (Verdict, String), (key, whose): (&str, Whose)) {
        match self.peer_of_rule(whose) {
            Some(peer) => {
                let place = self.place(peer.line);
                self.push(("authorize", verdict, why), (format!("[[peer]] {key}"), place));
            }
            None => self.key("authorize", verdict, why, &format!("[cluster] {key}")),
        }
    }

    /// A pattern of `nodes`.
    fn by_pattern(&mut self, (verdict, why): (Verdict, String), whose: Whose, by: ByPattern<'_>) {
        let table = if self.peer_of_rule(whose).is_some() { "[[peer]]" } else { "[cluster]" };
        let place = self.place(by.line);
        self.push(("authorize", verdict, why), (format!("{table} nodes {}", by.pattern), place));
    }

    fn peer_of_rule(&self, whose: Whose) -> Option<&'a Peer> {
        match whose {
            Whose::Cluster => None,
            Whose::Peer(peer) => self.peer(peer),
        }
    }
}

/// The name, in quotes as names stand in messages.
fn shown(claim: &Claim) -> String {
    format!("{:?}", claim.claimed.to_string())
}

#[cfg(test)]
mod tests {
    use crate::config::from_text;
    use crate::control::explain::{Explanation, Facts, Question, QuestionFault, explain};
    use crate::policy::{Mode, Policy};

    use super::*;

    const FILE: &str = "[cluster]\nallow = [\"192.0.2.0/24\"]\nnodes = [\"b*@h2.test\", \"!bad@*\"]\n\
                        hidden_nodes = \"deny\"\n[[peer]]\nname = \"h3\"\naddresses = [\"192.0.2.3\"]\n\
                        nodes = [\"c@h3.test\"]\nhidden_nodes = \"allow\"\ndynamic_nodes = \"allow\"\n";

    fn asked(file: &str, from: &str, name: (&str, Visibility), mode: Mode) -> Explanation {
        let config = from_text("f.toml", file, &Default::default()).unwrap().config;
        let policy = Policy::new(config.rules()).with_mode(Some(mode));
        let own = ["192.0.2.1".parse().unwrap()];
        let facts = Facts { config: &config, label: "f.toml", policy: &policy, own: &own, running: None };
        explain(&Question::parse(from, Some(name), "a").unwrap(), facts)
    }

    fn last(explanation: &Explanation) -> (Verdict, &str, &str) {
        let stage = explanation.stages.last().unwrap();
        (stage.verdict, stage.rule.as_deref().unwrap_or(""), stage.place.as_deref().unwrap_or(""))
    }

    #[test]
    fn without_a_rule_any_name_may_be_claimed_and_none_is_given() {
        let file = "[cluster]\nallow = [\"192.0.2.0/24\"]\n";
        for (name, expected) in [
            ("b@h2.test", (Verdict::Yes, "[cluster] nodes", "the default")),
            ("@h2.test", (Verdict::No, "[cluster] dynamic_nodes", "the default")),
            ("?@h2.test", (Verdict::No, "[cluster] dynamic_nodes", "the default")),
        ] {
            let told = asked(file, "192.0.2.2", (name, Visibility::Usual), Mode::Enforce);
            assert_eq!(last(&told), expected, "{name}");
        }
        let own = asked(file, "127.0.0.1", ("@h1.test", Visibility::Usual), Mode::Enforce);
        assert_eq!(last(&own), (Verdict::Yes, "", ""));
        let passed = asked(file, "192.0.2.2", ("@h2.test", Visibility::Usual), Mode::Observe);
        assert_eq!(last(&passed), (Verdict::Yes, "[cluster] dynamic_nodes", "the default"));
        let why = &passed.stages.last().unwrap().why;
        assert!(why.starts_with("would be refused, but observe mode lets it pass: \"?@h2.test\""), "{why}");
    }

    #[test]
    fn a_name_is_judged_by_the_pattern_and_the_line_that_decide() {
        use Visibility::{Hidden, Usual};
        for (from, name, expected) in [
            ("192.0.2.2", ("b1@h2.test", Usual), (Verdict::Yes, "[cluster] nodes b*@h2.test", "f.toml:3")),
            ("192.0.2.2", ("bad@h2.test", Usual), (Verdict::No, "[cluster] nodes !bad@*", "f.toml:3")),
            ("192.0.2.2", ("a@h2.test", Usual), (Verdict::No, "[cluster] nodes", "f.toml:3")),
            ("192.0.2.2", ("b1@h2.test", Hidden), (Verdict::No, "[cluster] hidden_nodes", "f.toml:4")),
            ("192.0.2.2", ("c@h3.test", Usual), (Verdict::No, "[[peer]] nodes c@h3.test", "f.toml:8")),
            ("192.0.2.3", ("c@h3.test", Hidden), (Verdict::Yes, "[[peer]] nodes c@h3.test", "f.toml:8")),
            ("192.0.2.3", ("b1@h2.test", Usual), (Verdict::No, "[[peer]] nodes", "f.toml:5")),
            ("192.0.2.3", ("@h3.test", Usual), (Verdict::Yes, "[[peer]] dynamic_nodes", "f.toml:5")),
        ] {
            let told = asked(FILE, from, name, Mode::Enforce);
            assert_eq!(last(&told), expected, "{from} {name:?}: {told:?}");
        }
        let of_h3 = asked(FILE, "192.0.2.2", ("c@h3.test", Usual), Mode::Enforce);
        assert!(of_h3.stages.last().unwrap().why.contains("a node of the peer h3"), "{of_h3:?}");
    }

    #[test]
    fn what_is_no_name_of_a_node_is_told() {
        for name in ["b", "", "@", "b@", "b@h@h", "b b@h"] {
            let fault = Question::parse("192.0.2.2", Some((name, Visibility::Usual)), "a").unwrap_err();
            assert!(matches!(fault, QuestionFault::As { .. }), "{name}: {fault}");
        }
    }
}
