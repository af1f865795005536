//! What an operator asks and orders about who speaks: the mode for a while, rules from what was seen, and bans.

use std::path::Path;
use std::time::Duration;

use crate::common::{EVERYBODY, Guarded, require};
use crate::support::erlang::Node;
use crate::support::eventually::eventually;
use crate::support::guard::{SOON, USER, admin_socket, configure, field, front, program};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::{Said, command, curl, told};

/// A front with more keys of `[cluster]` and more tables.
fn front_with(cluster: &str, tables: &str) -> String {
    format!("{}{tables}", front(EVERYBODY).replacen("[cluster]\n", &format!("[cluster]\n{cluster}"), 1))
}

/// A node that makes no links but those that it is told to make.
fn alone(name: &str, host: &Host, cookie: &str) -> Node {
    Node::named(name, host).cookie(cookie).arg("-connect_all").arg("false").start()
}

/// Has a node drop its link with another one.
fn part(one: &Node, other: &Node) {
    assert_eq!(one.eval(&format!("erlang:disconnect_node('{}').", other.full_name())), "true");
}

/// Two hosts and a stranger to the cookie, with a guard and a node `a` on the first.
fn three_hosts(config: &str) -> (Lab, Guarded, Node) {
    let lab = Lab::new(&["h1", "h2", "h3"]);
    let h1 = Guarded::with(&lab, "h1", config);
    let a = h1.start(Node::named("a", &h1.host).port(9100).arg("-connect_all").arg("false"));
    (lab, h1, a)
}

#[test]
fn what_learn_prints_is_pasted_and_lets_in_what_was_seen_and_nothing_else() {
    if !require() {
        return;
    }
    let (lab, h1, a) = three_hosts(&front_with("mode = \"observe\"\n", ""));
    let (h2, h3) = (lab.host("h2"), lab.host("h3"));
    let none = told(&lab, &h1.host, &["learn"]);
    assert!(none.code == 0 && none.out.contains("nothing to write yet"), "{none:?}");
    let b = alone("b", &h2, "secret");
    let tool = Node::named("abc-ctl-b", &h2).hidden().start();
    let guesser = alone("g", &h3, "wrong");
    assert!(b.ping(&a) && tool.ping(&a) && !guesser.ping(&a));
    let own = alone("own", &h1.host, "secret");
    assert!(own.ping(&a));
    eventually("the guess is told", SOON, || {
        told(&lab, &h1.host, &["learn"]).out.contains("seen, but no link came up: g@h3.test from 192.0.2.3")
    });
    let learned = told(&lab, &h1.host, &["learn"]);
    for line in [
        "name = \"h2.test\"",
        "addresses = [\"192.0.2.2\"]",
        "nodes = [\"???-ctl-b@h2.test\", \"b@h2.test\"]",
        "hidden_nodes = \"allow\"",
        "mode = \"enforce\"",
    ] {
        assert!(learned.out.lines().any(|printed| printed == line), "{line}: {}", learned.out);
    }
    assert!(!learned.out.contains("own@h1"), "this host needs no rules: {}", learned.out);
    let document = told(&lab, &h1.host, &["learn", "--json"]).json();
    let seen = document["seen"].as_array().unwrap();
    let of = |name: &str| seen.iter().find(|seen| field(seen, "claimed") == name).unwrap();
    assert_eq!((of("b@h2.test")["up"].as_u64(), of("g@h3.test")["up"].as_u64()), (Some(1), Some(0)));

    // What it prints is a configuration, and in its place in the file one that cuts nothing.
    let alone_path = lab.dir().join("learned.toml");
    std::fs::write(&alone_path, &learned.out).unwrap();
    let checked = command(&lab, &h1.host, ["check", "--config", &alone_path.display().to_string()]);
    assert_eq!(checked.code, 0, "{checked:?}");
    let (peers, cluster) = learned.out.split_once("[cluster]\n").unwrap();
    let keys = cluster.split("\n\n").next().unwrap();
    drop(configure(&lab, &h1.host, &front_with(&format!("{keys}\n"), &format!("\n{peers}"))));
    let reloaded = told(&lab, &h1.host, &["reload"]);
    assert_eq!(reloaded.code, 0, "{reloaded:?}");
    assert_eq!(told(&lab, &h1.host, &["mode"]).out, "enforce, as configured\n");
    part(&b, &a);
    assert!(b.ping(&a));
    assert!(Node::named("xyz-ctl-b", &h2).hidden().start().ping(&a), "another run of the same tool");
    assert!(!alone("c", &h2, "secret").ping(&a));
    h1.guard.wait_event("refused", &[("reason", "name_not_allowed"), ("claimed", "c@h2.test")]);
    assert!(!alone("b2", &h3, "secret").ping(&a));
    h1.guard.wait_event("refused", &[("reason", "name_not_allowed"), ("claimed", "b2@h3.test")]);
}

#[test]
fn observe_mode_for_a_while_lets_pass_what_enforce_refuses_and_returns_by_itself() {
    if !require() {
        return;
    }
    let (lab, h1, a) = three_hosts(&front_with("nodes = [\"b@h2.test\"]\n", ""));
    let h2 = lab.host("h2");
    let c = alone("c", &h2, "secret");
    let mode = |args: &[&str]| told(&lab, &h1.host, &[&["mode"], args].concat());
    assert_eq!(mode(&[]).out, "enforce, as configured\n");
    assert!(!c.ping(&a));
    let for_ever = mode(&["observe"]);
    assert!(for_ever.code == 1 && for_ever.err.contains("[cluster] mode = \"observe\""), "{for_ever:?}");
    let too_long = mode(&["observe", "--for", "25h"]);
    assert!(too_long.code == 1 && too_long.err.contains("1s to 24h"), "{too_long:?}");

    let observing = mode(&["observe", "--for", "15m"]);
    assert!(observing.code == 0 && observing.out.starts_with("observe until "), "{observing:?}");
    let changed =
        h1.guard.wait_event("mode_changed", &[("from", "enforce"), ("to", "observe"), ("uid", "0")]);
    assert_eq!(field(&changed, "level"), "WARN");
    assert!(c.ping(&a), "observe mode lets it pass");
    h1.guard.wait_event("would_refuse", &[("reason", "name_not_allowed"), ("claimed", "c@h2.test")]);
    observing_is_told(&lab, &h1.host);

    // A reload does not end it, its time does, and that cuts nothing.
    assert_eq!(told(&lab, &h1.host, &["reload"]).code, 0);
    assert!(mode(&[]).out.starts_with("observe until "));
    assert_eq!(mode(&["observe", "--for", "1s"]).code, 0);
    h1.guard.wait_event("mode_returned", &[("from", "observe"), ("to", "enforce")]);
    assert_eq!(mode(&[]).out, "enforce, as configured\n");
    assert_eq!(c.eval("nodes()."), "['a@h1.test']", "the link lives on");
    part(&c, &a);
    assert!(!c.ping(&a));

    // And what was ordered for a while is ended early.
    assert_eq!(mode(&["observe", "--for", "2h"]).code, 0);
    assert_eq!(mode(&["enforce"]).out, "enforce, as configured\n");
    assert!(!c.ping(&a));
}

/// What tells that observe mode is in force, where it has let the node `c@h2.test` pass.
fn observing_is_told(lab: &Lab, host: &Host) {
    let status = told(lab, host, &["status"]);
    assert_eq!(status.code, 0, "it is ready: {status:?}");
    for part in [
        "\nmode: observe until ",
        "\nlet pass by observe mode, and refused by enforce: 1 name_not_allowed\n",
        "\nwarning: observe mode until ",
    ] {
        assert!(status.out.contains(part), "{part:?}: {}", status.out);
    }
    let links = told(lab, host, &["links"]).out;
    assert!(links.contains("  c@h2.test  6  "), "{links}");
    let socket = admin_socket(lab, host);
    let metrics = curl(host, &socket, "/metrics").out;
    for series in [
        "mode{mode=\"observe\"} 1\n",
        "would_refuse_total{reason=\"name_not_allowed\",stage=\"authorize\"} 1\n",
    ] {
        assert!(metrics.contains(&format!("epmd_guard_{series}")), "{series}: {metrics}");
    }
    let explained =
        told(lab, host, &["explain", "--from", "192.0.2.2", "--as", "c@h2.test", "--to", "a", "--running"]);
    assert!(
        explained.code == 0 && explained.out.contains("would be refused, but observe mode"),
        "{explained:?}"
    );
    assert!(explained.out.contains("by [cluster] nodes, "), "{explained:?}");
    let ready = curl(host, &socket, "/readyz");
    assert!(ready.code == 0 && ready.out.contains("warning: observe mode"), "{ready:?}");
}

#[test]
fn the_mode_is_for_root_and_the_guards_own_user_alone() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    let host = lab.host("h1");
    let socket = admin_socket(&lab, &host);
    let config = format!("{}[admin]\nsocket = {socket:?}\ngroup = {USER:?}\n", front(EVERYBODY));
    let h1 = Guarded::with(&lab, "h1", &config);
    h1.guard.wait_event("admin_opened", &[]);
    let as_member = |args: &[&str]| by(&lab, &h1.host, args, &socket);
    let asked = as_member(&["mode"]);
    assert_eq!((asked.code, asked.out.as_str()), (0, "enforce, as configured\n"), "{asked:?}");
    let ordered = as_member(&["mode", "observe", "--for", "15m"]);
    assert!(
        ordered.code == 1 && ordered.err.contains("403") && ordered.err.contains("only root"),
        "{ordered:?}"
    );
    assert_eq!(told(&lab, &h1.host, &["mode"]).out, "enforce, as configured\n");
    let mut own = h1.host.command_as(USER, program(&lab));
    own.args(["mode", "observe", "--for", "15m", "--socket"]).arg(&socket);
    let own = Said::by(own);
    assert_eq!(own.code, 0, "{own:?}");
}

/// A command of somebody who is a member of the guard's group and not its user.
fn by(lab: &Lab, host: &Host, args: &[&str], socket: &Path) -> Said {
    let mut command = host.command("setpriv");
    command.args(["--reuid=nobody", "--regid=daemon", "--clear-groups", "--"]).arg(program(lab));
    command.args(args).arg("--socket").arg(socket);
    Said::by(command)
}

#[test]
fn who_is_banned_is_listed_and_links_again_when_the_ban_is_lifted() {
    if !require() {
        return;
    }
    let ban = "[ban]\nafter = 2\nslow_after = 100\nfile = \"\"\n";
    let (lab, h1, a) = three_hosts(&front_with("", ban));
    let h3 = lab.host("h3");
    let told = |args: &[&str]| told(&lab, &h1.host, args);
    assert_eq!(told(&["bans"]).out, "no bans\n");
    let none = told(&["unban", "192.0.2.3"]);
    assert!(none.code == 1 && none.err.contains("there is no ban of 192.0.2.3"), "{none:?}");
    let guesser = alone("g", &h3, "wrong");
    let ban = || {
        let log = h1.guard.mark();
        eventually("it is banned", Duration::from_secs(60), || {
            assert!(!guesser.ping(&a));
            !told(&["bans", "--json"]).json()["bans"].as_array().unwrap().is_empty()
        });
        h1.guard.wait_event_after(log, "banned", &[("peer", "192.0.2.3")]);
    };
    ban();
    let bans = told(&["bans"]);
    let line = bans.out.lines().nth(1).unwrap();
    assert!(line.starts_with("192.0.2.3  ") && line.ends_with("  1      wrong_cookie"), "{bans:?}");
    let status = told(&["status"]).out;
    assert!(status.contains("wrong_cookie;") && status.contains("; 1 ban in force\n"), "{status}");
    let friend = alone("f", &h3, "secret");
    assert!(!friend.ping(&a), "the address is banned");
    let explained = told(&["explain", "--from", "192.0.2.3", "--to", "a", "--running"]);
    assert!(explained.code == 1 && explained.out.contains("is banned until"), "{explained:?}");

    let lifted = told(&["unban", "192.0.2.0/24"]);
    assert_eq!((lifted.code, lifted.out.as_str()), (0, "1 ban of 192.0.2.0/24 lifted\n"), "{lifted:?}");
    h1.guard.wait_event("unbanned", &[("net", "192.0.2.0/24"), ("uid", "0")]);
    assert_eq!(told(&["unban", "192.0.2.3"]).code, 1);
    assert_eq!(told(&["bans"]).out, "no bans\n");
    assert!(friend.ping(&a));
    assert_eq!(told(&["unban", "--all"]).code, 1);
}
