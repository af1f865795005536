//! Who a peer says it is: a name that it may not claim never reaches the node, nor do more names than it may try.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use epmd_guard::proto::dist::Flags;

use crate::common::{EVERYBODY, Guarded, require};
use crate::registration::{Alive, Mapped};
use crate::support::ends::Ends;
use crate::support::erlang::{Epmd, EpmdListen, Node, NodeBuilder};
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, admin_get, admin_socket, configure, embedded, field, front, links};
use crate::support::handshake::{Initiator, OTP_25, Shaken, Waited};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::told;
use crate::support::wire::framed;

/// Names that are tried, one a connection.
const ATTEMPTS: usize = 10_000;
/// Connections of one host at a time.
const AT_ONCE: usize = 16;
/// Rates and places that keep nobody from saying its name.
const ROOM: &str = "[limits]\nrate_per_address = 1000000\nhalf_open = 4096\nhalf_open_per_address = 2048\n";

/// Where the guard of a host leads to its node at 9100.
pub(crate) fn at(to: &Guarded) -> SocketAddr {
    SocketAddr::new(to.host.v4().into(), 9100)
}

/// A node without `global`, whose messages may connect two nodes again at once that were just disconnected.
pub(crate) fn alone(name: &str, host: &Host) -> NodeBuilder {
    Node::named(name, host).arg("-connect_all").arg("false")
}

/// A counter of the host's guard, 0 where it has not begun.
pub(crate) fn counted(of: &Guarded, lab: &Lab, series: &str) -> u64 {
    let metrics = admin_get(lab, &of.host, "/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    line.map_or(0, |count| count.parse().unwrap())
}

/// How many claims were refused for this reason.
pub(crate) fn refused(of: &Guarded, lab: &Lab, reason: &str) -> u64 {
    counted(of, lab, &format!("epmd_guard_refusals_total{{reason=\"{reason}\",stage=\"authorize\"}}"))
}

/// Waits until so many were: a refusal is counted when its connection has ended.
#[track_caller]
fn wait_refused(of: &Guarded, lab: &Lab, reason: &str, count: usize) {
    eventually(&format!("{count} refusals: {reason}"), SOON, || {
        let now = refused(of, lab, reason);
        if now == count as u64 { Ok(()) } else { Err(now) }
    });
}

/// Ends the link of a node, and waits until the other one has seen it go.
pub(crate) fn unlink(from: &Node, to: &Node) {
    assert_eq!(from.eval(&format!("erlang:disconnect_node('{}').", to.full_name())), "true");
    let sees = format!("lists:member('{}', nodes(connected)).", from.full_name());
    eventually("the other one sees the link go", SOON, || to.eval(&sees) == "false");
}

/// Links and unlinks until it is told to end, and never in vain: how often.
pub(crate) fn link_and_unlink(from: &Node, to: &Node, end: &AtomicBool) -> u32 {
    let mut rounds = 0;
    while !end.load(Ordering::Relaxed) {
        assert!(from.ping(to), "{} after {rounds} links", from.full_name());
        unlink(from, to);
        rounds += 1;
    }
    rounds
}

/// How many atoms a node has.
fn atoms(of: &Node) -> usize {
    of.eval("erlang:system_info(atom_count).").parse().unwrap()
}

/// Links once for what a first link teaches a node, and tells its atoms.
fn warm_up(peer: &Node, node: &Node) -> usize {
    for _ in 0..3 {
        assert!(peer.ping(node));
        unlink(peer, node);
        atoms(node);
    }
    atoms(node)
}

/// Says names from `x0` on, one a connection: how many of them the node has answered.
fn claim_names(from: &Host, to: SocketAddr, count: usize) -> usize {
    let (next, answered) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let claim = || loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            return;
        }
        let says = Initiator::named(&format!("x{number}@{}", from.name()));
        match says.greet(&from.connect(to).unwrap()) {
            Ok(_) => drop(answered.fetch_add(1, Ordering::Relaxed)),
            Err(shaken) => assert_eq!(shaken, Shaken::Ended(Waited::Status), "{number}"),
        }
    };
    thread::scope(|scope| (0..AT_ONCE).for_each(|_| drop(scope.spawn(claim))));
    answered.into_inner()
}

#[test]
fn a_name_that_may_not_be_claimed_makes_no_atom_however_often_another_one_is_tried() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let rule = "nodes = [\"*@h2.test\"]\n[dist]";
    let config = front(EVERYBODY).replace("[dist]", rule).replace("\"debug\"", "\"info\"");
    let h1 = Guarded::with(&lab, "h1", &format!("{config}{ROOM}"));
    let a = h1.start(alone("a", &h1.host).port(9100));
    let n = alone("n", &lab.host("h2")).start();
    let before = warm_up(&n, &a);
    let end = AtomicBool::new(false);
    let rounds = thread::scope(|scope| {
        let peer = scope.spawn(|| link_and_unlink(&n, &a, &end));
        {
            let _end = Ends(&end);
            assert_eq!(claim_names(&lab.host("h3"), at(&h1), ATTEMPTS), 0);
        }
        peer.join().unwrap()
    });
    wait_refused(&h1, &lab, "name_not_allowed", ATTEMPTS);
    assert_eq!(atoms(&a), before, "{ATTEMPTS} names, and {rounds} links of a peer");
    assert!(rounds > 3, "{rounds} links of the peer meanwhile");
}

#[test]
fn without_a_rule_each_name_that_is_tried_makes_an_atom() {
    if !require() {
        return;
    }
    const NAMES: usize = 300;
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let config = format!("{}{ROOM}[ban]\nafter = 0\nnames = 100000\n", front(EVERYBODY));
    let h1 = Guarded::with(&lab, "h1", &config);
    let a = h1.start(alone("a", &h1.host).port(9100));
    let before = warm_up(&alone("n", &lab.host("h2")).start(), &a);
    assert_eq!(claim_names(&lab.host("h3"), at(&h1), NAMES), NAMES);
    let grown = atoms(&a) - before;
    assert!(grown >= NAMES, "{grown} atoms of {NAMES} names");
}

#[test]
fn a_source_may_try_so_many_names_and_those_that_have_linked_well_are_not_of_them() {
    if !require() {
        return;
    }
    const BUDGET: usize = 20;
    const NAMES: usize = 300;
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let config = format!("{}{ROOM}[ban]\nafter = 0\nnames = {BUDGET}\n", front(EVERYBODY));
    let h1 = Guarded::with(&lab, "h1", &config);
    let a = h1.start(alone("a", &h1.host).port(9100));
    let h3 = lab.host("h3");
    let good = alone("good", &h3).start();
    let before = warm_up(&good, &a);
    let answered = claim_names(&h3, at(&h1), NAMES);
    assert_eq!(answered, BUDGET);
    wait_refused(&h1, &lab, "too_many_claimed_names", NAMES - BUDGET);
    let grown = atoms(&a) - before;
    assert!(grown <= BUDGET, "{grown} atoms of {NAMES} names");
    h1.guard.wait_event("refused", &[("reason", "too_many_claimed_names"), ("claimed", "x*")]);
    // It has linked before, which does not depend on how many have tried since.
    assert!(good.ping(&a));
    assert!(!alone("new", &h3).start().ping(&a), "the source has no name left");
    assert!(alone("n", &lab.host("h2")).start().ping(&a), "another source has all of them");
}

#[test]
fn a_host_that_invents_names_is_banned() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let config = format!("{}{ROOM}[ban]\nafter = 5\nnames = 10\n", front(EVERYBODY));
    let h1 = Guarded::with(&lab, "h1", &config);
    let a = h1.start(alone("a", &h1.host).port(9100));
    let h2 = lab.host("h2");
    assert_eq!(claim_names(&h2, at(&h1), 15), 10);
    let banned = [("peer", "192.0.2.2"), ("reason", "too_many_claimed_names")];
    h1.guard.wait_event("banned", &banned);
    assert!(!alone("n", &h2).start().ping(&a));
    h1.guard.wait_event("refused", &[("reason", "banned"), ("peer", "192.0.2.2:*")]);
}

#[test]
fn a_host_cannot_claim_a_node_of_another_host() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3", "h4"]);
    let peer = |host: &str, number: u8| {
        format!(
            "[[peer]]\nname = {host:?}\naddresses = [\"192.0.2.{number}\"]\nnodes = [\"*@{host}.test\"]\n"
        )
    };
    let config = format!("{}{}{}", front(&["192.0.2.4"]), peer("h2", 2), peer("h3", 3));
    let h1 = Guarded::with(&lab, "h1", &config);
    let a = h1.start(alone("ejabberd", &h1.host).port(9100));
    for (host, reason) in [("h3", "name_not_allowed"), ("h4", "name_of_another_peer")] {
        let liar = alone("ejabberd@h2.test", &lab.host(host)).start();
        assert!(!liar.ping(&a), "from {host}");
        let ip = format!("{}:*", liar.host().v4());
        let fields = [("reason", reason), ("claimed", "ejabberd@h2.test"), ("peer", &ip)];
        h1.guard.wait_event("refused", &fields);
        assert_eq!(a.eval("nodes(connected)."), "[]");
    }
    let real = alone("ejabberd", &lab.host("h2")).start();
    assert!(real.ping(&a));
    assert_eq!(a.eval("nodes()."), "['ejabberd@h2.test']");
    // Nor can its link be taken over from elsewhere.
    let says = Initiator::named("ejabberd@h2.test");
    for host in ["h3", "h4"] {
        let taking = lab.host(host).connect(at(&h1)).unwrap();
        assert_eq!(says.shake(&taking), Shaken::Ended(Waited::Status), "from {host}");
    }
    assert_eq!(real.eval("rpc:call('ejabberd@h1.test', erlang, nodes, [])."), "['ejabberd@h2.test']");
}

#[test]
fn hidden_and_nameless_nodes_are_let_in_as_the_peer_or_else_the_cluster_has_it() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3", "h4"]);
    let rules = "hidden_nodes = \"deny\"\ndynamic_nodes = \"allow\"\n[dist]";
    let peers = "[[peer]]\nname = \"h3\"\naddresses = [\"192.0.2.3\"]\nhidden_nodes = \"allow\"\n\
                 [[peer]]\nname = \"h4\"\naddresses = [\"192.0.2.4\"]\nhidden_nodes = \"allow\"\n\
                 dynamic_nodes = \"deny\"\n";
    let config = format!("{}{peers}", front(EVERYBODY).replace("[dist]", rules));
    let h1 = Guarded::with(&lab, "h1", &config);
    let a = h1.start(alone("a", &h1.host).port(9100));
    let refused = |reason: &str, claimed: &str| {
        h1.guard.wait_event("refused", &[("reason", reason), ("claimed", claimed), ("role", "dist")]);
    };
    // A node without a name asks for one when it first links, and is a hidden one.
    let nameless = |host: &str| {
        let host = lab.host(host);
        let node = Node::named(&format!("undefined@{}", host.name()), &host).start();
        node.eval("net_kernel:connect_node('a@h1.test').") == "true"
    };
    let hidden = |host: &str| Node::named("tool", &lab.host(host)).hidden().start().ping(&a);
    assert!(alone("n", &lab.host("h2")).start().ping(&a));
    assert!(!hidden("h2"));
    refused("hidden_node", "tool@h2.test");
    assert!(!nameless("h2"));
    refused("hidden_node", "?@h2.test");
    assert!(hidden("h3") && nameless("h3"));
    h1.guard.wait_event("link_opened", &[("claimed", "tool@h3.test"), ("hidden", "true")]);
    assert!(hidden("h4") && !nameless("h4"));
    refused("dynamic_node", "?@h4.test");
}

#[test]
fn nameless_nodes_are_let_in_only_where_a_rule_says_so() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let _a = h1.start(alone("a", &h1.host).port(9100));
    let h2 = lab.host("h2");
    let nameless = Node::named("undefined@h2.test", &h2).start();
    let connect = "net_kernel:connect_node('a@h1.test').";
    assert_eq!(nameless.eval(connect), "false");
    h1.guard.wait_event("refused", &[("reason", "dynamic_node"), ("claimed", "?@h2.test")]);
    let allows = front(EVERYBODY).replace("[dist]", "dynamic_nodes = \"allow\"\n[dist]");
    drop(configure(&lab, &h1.host, &allows));
    assert_eq!(told(&lab, &h1.host, &["reload"]).code, 0);
    assert_eq!(nameless.eval(connect), "true");
    let opened = h1.guard.wait_event("link_opened", &[("peer", "192.0.2.2:*")]);
    let given = nameless.eval("node().");
    assert_eq!(format!("'{}'", field(&opened, "claimed")), given);
}

/// What `explain` is asked besides, the rule that it tells, and a text of the line where that stands; none for a default.
type Explained = (&'static [&'static str], &'static str, Option<&'static str>);

/// A claim, and what comes of it: the reason, or none where it is let in.
struct Case {
    from: &'static str,
    says: Initiator,
    claimed: &'static str,
    reason: Option<&'static str>,
    /// None where nobody can ask.
    explained: Option<Explained>,
}

/// The lines that decide differ from each other, so that a text finds each.
const RULES: &str = "nodes = [\"*@h2.test\", \"!old@*\"]\nhidden_nodes = \"deny\"\nmin_handshake = 6\n\
                     require_flags = [\"UNLINK_ID\"]\n[dist]";
const PEERS: &str = "[[peer]]\nname = \"h3\"\naddresses = [\"192.0.2.3\"]\nnodes = [\"*@h3.test\"]\n\
                     hidden_nodes = \"allow\"\n";

impl Case {
    fn new(
        from: &'static str,
        (says, claimed): (Initiator, &'static str),
        reason: Option<&'static str>,
        explained: Option<Explained>,
    ) -> Self {
        Self { from, says, claimed, reason, explained }
    }

    /// A visible node that is judged by its name, which this rule of the file decides.
    fn named(
        from: &'static str,
        name: &'static str,
        reason: Option<&'static str>,
        (rule, line): (&'static str, &'static str),
    ) -> Self {
        Self::new(from, (Initiator::named(name), name), reason, Some((&[], rule, Some(line))))
    }
}

fn names() -> Vec<Case> {
    let cluster = "nodes = [\"*@h2";
    let h3 = ("[[peer]] nodes *@h3.test", "nodes = [\"*@h3");
    let not_allowed = Some("name_not_allowed");
    vec![
        Case::named("h2", "n@h2.test", None, ("[cluster] nodes *@h2.test", cluster)),
        Case::named("h2", "old@h2.test", not_allowed, ("[cluster] nodes !old@*", cluster)),
        Case::named("h4", "n@h4.test", not_allowed, ("[cluster] nodes", cluster)),
        Case::named("h4", "n@h3.test", Some("name_of_another_peer"), h3),
        Case::named("h3", "n@h3.test", None, h3),
        Case::named("h3", "n@h2.test", not_allowed, ("[[peer]] nodes", "[[peer]]")),
    ]
}

fn kinds() -> Vec<Case> {
    let hidden = |name| (Initiator::named(name).hidden(), name);
    let nameless = (Initiator::dynamic("h3.test"), "?@h3.test");
    let of_cluster: Explained = (&["--hidden"], "[cluster] hidden_nodes", Some("hidden_nodes = \"deny\""));
    let of_h3: Explained = (&["--hidden"], "[[peer]] nodes *@h3.test", Some("nodes = [\"*@h3"));
    let five = (Initiator::named("five@h2.test").version_5(), "five@h2.test");
    let poor = Initiator::named("poor@h2.test").flags(Flags(OTP_25.0 & !(1 << 25)));
    vec![
        Case::new("h2", hidden("tool@h2.test"), Some("hidden_node"), Some(of_cluster)),
        Case::new("h3", hidden("tool@h3.test"), None, Some(of_h3)),
        Case::new("h3", nameless, Some("dynamic_node"), Some((&[], "[cluster] dynamic_nodes", None))),
        // What a node of another version says cannot be asked about.
        Case::new("h2", five, Some("old_handshake"), None),
        Case::new("h2", (poor, "poor@h2.test"), Some("missing_flags"), None),
    ]
}

/// Where a text stands in the configuration, as `FILE:LINE`.
fn place(config: &Path, text: &str) -> String {
    let lines = std::fs::read_to_string(config).unwrap();
    format!("{}:{}", config.display(), 1 + lines.lines().position(|line| line.contains(text)).unwrap())
}

/// The verdict on a claim, the rule that decides and its place.
fn explained(lab: &Lab, h1: &Host, from: &Host, (name, more): (&str, &[&str])) -> [String; 3] {
    let from = from.v4().to_string();
    let question = ["explain", "--json", "--running", "--from", &from, "--as", name, "--to", "a@h1.test"];
    let said = told(lab, h1, &[&question[..], more].concat());
    let explanation = said.json();
    assert_eq!(said.code, i32::from(explanation["verdict"] == "no"), "{said:?}");
    let last = explanation["stages"].as_array().unwrap().last().unwrap();
    assert_eq!(field(last, "stage"), "authorize", "{explanation}");
    [field(&explanation, "verdict"), field(last, "rule"), field(last, "place")]
}

/// Waits until the guard knows the name of the node, whose port may be open before.
fn wait_named(lab: &Lab, h1: &Host) {
    let own = h1.v4().to_string();
    let question = ["explain", "--json", "--running", "--from", &own, "--to", "a@h1.test"];
    eventually("the node is known by its name", SOON, || told(lab, h1, &question).code == 0);
}

#[test]
fn each_claim_is_refused_for_the_reason_and_by_the_rule_that_explain_tells() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3", "h4"]);
    let text = format!("{}{PEERS}", front(EVERYBODY).replace("[dist]", RULES));
    let h1 = Guarded::with(&lab, "h1", &text);
    let config = configure(&lab, &h1.host, &text);
    let _a = h1.start(alone("a", &h1.host).port(9100));
    wait_named(&lab, &h1.host);
    for Case { from, says, claimed, reason, explained: expected } in names().into_iter().chain(kinds()) {
        let (from, log) = (lab.host(from), h1.guard.mark());
        let shaken = says.shake(&from.connect(at(&h1)).unwrap());
        let what = format!("{claimed} from {}", from.name());
        match reason {
            None => assert_eq!(shaken, Shaken::Up, "{what}"),
            Some(reason) => {
                assert_eq!(shaken, Shaken::Ended(Waited::Status), "{what}");
                let fields = [("reason", reason), ("stage", "authorize"), ("claimed", claimed)];
                h1.guard.wait_event_after(log, "refused", &fields);
                h1.guard.wait_event_after(log, "closed", &[("reason", reason), ("claimed", claimed)]);
            }
        }
        let Some((more, rule, marker)) = expected else { continue };
        let verdict = if reason.is_none() { "yes" } else { "no" };
        let place = marker.map_or_else(|| "the default".to_owned(), |text| place(&config, text));
        assert_eq!(explained(&lab, &h1.host, &from, (claimed, more)), [verdict, rule, &place], "{what}");
    }
}

#[test]
fn what_a_real_node_cannot_do_is_told_before_it_links() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2"]);
    // What OTP 28 can do, and not the one of this machine.
    let text = front(EVERYBODY).replace("[dist]", "require_flags = [\"ALTACT_SIG\"]\n[dist]");
    let h1 = Guarded::with(&lab, "h1", &text);
    let config = configure(&lab, &h1.host, &text);
    let a = h1.start(alone("a", &h1.host).port(9100));
    let h2 = lab.host("h2");
    assert!(!alone("n", &h2).start().ping(&a));
    h1.guard.wait_event("refused", &[("reason", "missing_flags"), ("claimed", "n@h2.test")]);
    wait_named(&lab, &h1.host);
    let place = place(&config, "ALTACT_SIG");
    let expected = ["no", "[cluster] require_flags", &place];
    assert_eq!(explained(&lab, &h1.host, &h2, ("n@h2.test", &[])), expected);
}

/// Has a node register a name at the epmd of its host, as its own user, for as long as it lives.
fn register_by(node: &Node, name: &str, port: u16) {
    let bytes: Vec<_> = framed(&Alive::new(name, port).request()).iter().map(ToString::to_string).collect();
    let said = node.eval(&format!(
        "Own = self(), spawn(fun() -> \
           {{ok, S}} = gen_tcp:connect({{127,0,0,1}}, 4369, [binary, {{active, false}}]), \
           ok = gen_tcp:send(S, <<{}>>), {{ok, R}} = gen_tcp:recv(S, 6), Own ! R, \
           receive stop -> ok end end), receive R -> R end.",
        bytes.join(",")
    ));
    assert!(said.starts_with("<<118,0,"), "{said}");
}

#[test]
fn a_node_that_answers_by_another_name_than_the_one_that_leads_there_is_not_taken_for_it() {
    if !require() {
        return;
    }
    let mapped = Mapped::new(&["h1", "h2"], &embedded(EVERYBODY));
    // A node that the guard's epmd does not know by its own name.
    let _elsewhere = Epmd::start_with(&mapped.host, EpmdListen::Loopback, 4999, &[]);
    let b = alone("b", &mapped.host).port(9100).env("ERL_EPMD_PORT", "4999").start();
    register_by(&b, "a", 9100);
    mapped.guard.wait_open(9100);
    let h2 = mapped.lab.host("h2");
    let n = alone("n", &h2).start();
    assert_eq!(n.eval("net_adm:ping('a@h1.test')."), "pang");
    let told = [("stage", "handshake"), ("claimed", "n@h2.test")];
    let reason = ("reason", "wrong_node_answered");
    mapped.guard.wait_event("refused", &[&told[..], &[reason]].concat());
    let closed = mapped.guard.wait_event("closed", &[reason]);
    assert_eq!(field(&closed, "detail"), "the node there says that it is b@h1.test");
    assert_eq!(b.eval("nodes(connected)."), "[]");
    // The word to its name is all that a peer gets, and not even that where it comes together with the challenge:
    // without a challenge it proves nothing.
    let says = Initiator::named("m@h2.test");
    let met = says.greet(&h2.connect(mapped.at(9100)).unwrap()).unwrap_err();
    assert!(matches!(met, Shaken::Ended(Waited::Status | Waited::Challenge)), "{met:?}");
}

#[test]
fn a_reload_that_leaves_names_out_wants_a_yes_and_cuts_their_links_alone() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let h1 = Guarded::new(&lab, "h1", EVERYBODY);
    let a = h1.start(alone("a", &h1.host).port(9100));
    let own = Node::named("own", &h1.host).hidden().start();
    let [n, m] = ["n", "m"].map(|name| alone(name, &lab.host("h2")).start());
    let o = alone("n", &lab.host("h3")).start();
    for node in [&n, &m, &o, &own] {
        assert!(node.ping(&a));
    }
    let socket = admin_socket(&lab, &h1.host);
    assert_eq!(links(&socket).len(), 4);
    let narrow = front(EVERYBODY).replace("[dist]", "nodes = [\"n@*\"]\n[dist]");
    drop(configure(&lab, &h1.host, &narrow));
    let said = told(&lab, &h1.host, &["reload"]);
    assert!(said.code == 1 && said.err.contains("would cut 1 of 4 links"), "{said:?}");
    assert_eq!(links(&socket).len(), 4);
    let said = told(&lab, &h1.host, &["reload", "--yes"]);
    assert_eq!(said.code, 0, "{said:?}");
    let revoked = [("reason", "revoked"), ("detail", "name_not_allowed"), ("claimed", "m@h2.test")];
    h1.guard.wait_event("closed", &revoked);
    let expected = "['n@h2.test','n@h3.test','own@h1.test']";
    eventually("just that link goes", SOON, || {
        let linked = a.eval("lists:sort(nodes(connected)).");
        if linked == expected { Ok(()) } else { Err(linked) }
    });
    assert_eq!(links(&socket).len(), 3);
    assert!(!m.ping(&a));
    h1.guard.wait_event("refused", &[("reason", "name_not_allowed"), ("claimed", "m@h2.test")]);
}
