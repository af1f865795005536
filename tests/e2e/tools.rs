//! The tools of operators reach the nodes, from a permitted host and from the node's own.

use std::io::Write as _;
use std::process::ChildStdin;

use crate::common::{Guarded, require};
use crate::support::daemon::Daemon;
use crate::support::ejabberd::Ejabberd;
use crate::support::erlang::Node;
use crate::support::guard::{Guard, SOON, configure, field, front};
use crate::support::host::Host;
use crate::support::lab::Lab;
use crate::support::said::{Said, told};

const HOSTS: &[&str] = &["h1", "h2"];
/// Who runs the tools.
const USER: &str = "nobody";

/// A guarded `h1` that lets `h2` in, with these lines more about who speaks.
fn guarded(nodes: &str) -> (Lab, Guarded, Host) {
    let lab = Lab::new(HOSTS);
    let config = front(&["192.0.2.2"]).replace("[dist]\n", &format!("{nodes}[dist]\n"));
    let h1 = Guarded::with(&lab, "h1", &config);
    let h2 = lab.host("h2");
    (lab, h1, h2)
}

/// `erl -remsh` on a terminal of its own, and the end of it that types; whose end is the end of the shell.
fn remote_shell(on: &Host, name: &str, typed: &str) -> (Daemon, ChildStdin) {
    let mut socat = on.command_as(USER, "socat");
    let erl = format!("erl -name {name} -hidden -setcookie secret -remsh b@h1.test");
    socat.arg("STDIO").arg(format!("EXEC:{erl},pty,setsid,ctty,stderr"));
    socat.env("TERM", "xterm").env("ERL_EPMD_ADDRESS", "127.0.0.1");
    let (shell, mut terminal) = Daemon::spawn_with_input(format!("remsh as {name}"), socat);
    writeln!(terminal, "{typed}").unwrap();
    (shell, terminal)
}

const WHERE: &str = "io:format(\"I am at ~s of ~w~n\", [node(), nodes(hidden)]).";

#[test]
fn a_remote_shell_of_a_permitted_host_commands_the_node() {
    if !require() {
        return;
    }
    let (lab, h1, h2) = guarded("nodes = [\"*@h2.test\"]\n");
    let b = h1.node("b");
    let (shell, _terminal) = remote_shell(&h2, "tool@h2.test", WHERE);
    shell.wait_line("it is there", SOON, |line| line.contains("I am at b@h1.test of ['tool@h2.test']"));
    let opened = h1.guard.wait_event("link_opened", &[("claimed", "tool@h2.test")]);
    assert_eq!(field(&opened, "hidden"), "true");
    shell.kill();
    // One that would be given its name, by the configuration's leave alone.
    let nameless = remote_shell(&h2, "undefined@h2.test", WHERE);
    h1.guard.wait_event("refused", &[("reason", "dynamic_node"), ("claimed", "?@h2.test")]);
    drop(nameless);
    let config = front(&["192.0.2.2"]).replace("[dist]\n", "dynamic_nodes = \"allow\"\n[dist]\n");
    drop(configure(&lab, &h1.host, &config));
    let said = told(&lab, &h1.host, &["reload"]);
    assert_eq!(said.code, 0, "{said:?}");
    let (shell, _terminal) = remote_shell(&h2, "undefined@h2.test", WHERE);
    shell.wait_line("it is there", SOON, |line| {
        line.contains("I am at b@h1.test of ['") && line.contains("@h2.test']")
    });
    // On the node's own host too.
    let (shell, _terminal) = remote_shell(&h1.host, "own@h1.test", WHERE);
    shell.wait_line("it is there", SOON, |line| line.contains("I am at b@h1.test of ["));
    assert_eq!(b.output(), Vec::<String>::new());
}

#[test]
fn a_hidden_node_of_a_permitted_host_calls_functions_there() {
    if !require() {
        return;
    }
    let (_lab, h1, h2) = guarded("nodes = [\"rpc-*@h2.test\"]\n");
    let b = h1.node("b");
    let tool = Node::named("rpc-1", &h2).hidden().start();
    assert_eq!(tool.eval("rpc:call('b@h1.test', erlang, node, [])."), "'b@h1.test'");
    assert_eq!(tool.eval("erpc:call('b@h1.test', lists, sum, [[1, 2]])."), "3");
    assert_eq!(b.eval("{nodes(), nodes(hidden)}."), "{[],['rpc-1@h2.test']}");
    let other = Node::named("other", &h2).hidden().start();
    assert_eq!(other.eval("rpc:call('b@h1.test', erlang, node, [])."), "{badrpc,nodedown}");
    h1.guard.wait_event("refused", &[("reason", "name_not_allowed"), ("claimed", "other@h2.test")]);
}

/// What `erl_call`, a node written in C, has a node evaluate.
fn erl_call(on: &Host, cookie: &str) -> Said {
    let mut command = on.command_as(USER, "erl_call");
    command.args(["-name", "b@h1.test", "-c", cookie, "-a", "erlang node []"]);
    Said::by(command)
}

#[test]
fn a_c_node_of_a_permitted_host_calls_functions_there() {
    if !require() {
        return;
    }
    let (_lab, h1, h2) = guarded("");
    let _b = h1.node("b");
    for host in [&h2, &h1.host] {
        let said = erl_call(host, "secret");
        assert_eq!((said.code, said.out.as_str()), (0, "'b@h1.test'"), "{said:?}");
    }
    let opened = h1.guard.wait_event("link_opened", &[("peer", "192.0.2.2:*")]);
    assert_eq!(field(&opened, "hidden"), "true", "{opened}");
    let said = erl_call(&h2, "wrong");
    assert_ne!(said.code, 0, "{said:?}");
    h1.guard.wait_event("closed", &[("reason", "wrong_cookie"), ("peer", "192.0.2.2:*")]);
}

/// The names of the links that have come up from a host.
fn tools(guard: &Guard, from: &Host) -> Vec<String> {
    let peer = format!("{}:", from.v4());
    let opened = guard.events("link_opened");
    opened
        .iter()
        .filter(|event| field(event, "peer").starts_with(&peer))
        .map(|event| field(event, "claimed"))
        .collect()
}

#[test]
fn ejabberdctl_commands_a_node_from_its_own_host_and_from_another_one_that_may() {
    if !require() {
        return;
    }
    let lab = Lab::new(HOSTS);
    let [h1, h2] = ["h1", "h2"].map(|name| lab.host(name));
    let config =
        |nodes: &str| front(&["192.0.2.2"]).replace("[dist]\n", &format!("nodes = {nodes}\n[dist]\n"));
    // With --node the tool's node bears the host of the node that it commands.
    let both = "[\"ejabberd@*.test\", \"*-ctl-ejabberd@*.test\", \"!ejabberd@h1.test\"]";
    let guard = Guard::start(&lab, &h1, &config(both));
    let node = Ejabberd::configure(&h1).start();
    guard.wait_open(9100);
    let afar = Ejabberd::configure(&h2).install();
    let runs = |tool: &Ejabberd| {
        let (status, output) = tool.ctl(&["--node", "ejabberd@h1.test", "status"]);
        assert_eq!(status.success(), output.contains("is running in that node"), "{output}");
        (status.success(), output)
    };
    for tool in [&afar, &node] {
        let (ran, output) = runs(tool);
        assert!(ran, "{output}");
    }
    for host in [&h1, &h2] {
        let names = tools(&guard, host);
        let is_tool = |name: &String| name.ends_with("-ctl-ejabberd@h1.test");
        assert!(!names.is_empty() && names.iter().all(is_tool), "{names:?}");
    }
    assert_eq!(guard.events("refused").len(), 0);
    let (status, output) =
        afar.ctl(&["--node", "ejabberd@h1.test", "register", "bob", "localhost", "secret"]);
    assert!(status.success(), "{output}");
    let (status, output) = node.ctl(&["check_account", "bob", "localhost"]);
    assert!(status.success(), "{output}");
    // Where all names of this host are excluded, that one is too. What comes from this host itself needs no leave.
    let narrow = both.replace("!ejabberd@h1.test", "!*@h1.test");
    drop(configure(&lab, &h1, &config(&narrow)));
    let said = told(&lab, &h1, &["reload", "--yes"]);
    assert_eq!(said.code, 0, "{said:?}");
    let log = guard.mark();
    let (ran, output) = runs(&afar);
    assert!(!ran, "{output}");
    let refused = guard.wait_event_after(log, "refused", &[("reason", "name_not_allowed")]);
    assert!(field(&refused, "claimed").ends_with("-ctl-ejabberd@h1.test"), "{refused}");
    let (ran, output) = runs(&node);
    assert!(ran, "{output}");
}
