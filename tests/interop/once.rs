//! What one try with each release shows, in the front shape.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::checks::{link, peer};
use crate::pair::{Pair, Side, both_ways};
use crate::support::guard::program;
use crate::support::said::Said;
use crate::support::wire::ask;

/// Who runs the nodes.
const USER: &str = "nobody";

pub(crate) fn nodes_link_over_ipv6(pair: &Pair) {
    let nodes = pair.nodes(|node| node.inet6());
    both_ways(&nodes, |from, to| {
        link(pair, from, to, &format!("[{}]:*", from.side.host.v6()));
        assert_eq!(to.node.eval("nodes()."), format!("['{}']", from.name()));
    });
}

/// What a program prints on standard output.
fn printed(mut command: Command, args: &[&str]) -> String {
    command.args(args);
    let said = Said::by(command);
    assert_eq!(said.code, 0, "{said:?}");
    said.out
}

/// What `epmd -names` of the side's own OTP prints there.
fn names(side: &Side) -> String {
    printed(side.otp.command(&side.host, USER, "epmd"), &["-names"])
}

pub(crate) fn a_guard_tells_what_the_epmd_of_the_release_knows(pair: &Pair) {
    let asked = &pair.other;
    let at = SocketAddr::new(asked.host.v4().into(), 4369);
    let look_up = |name: &str| ask(&pair.here.host.connect(at).unwrap(), format!("z{name}").as_bytes());
    assert_eq!(look_up("b"), b"w\x01");
    let _b = asked.listening(asked.named("b"));
    // PORT2_RESP: no error, the port, a normal node, TCP, the versions 6 to 5, the name, nothing more.
    assert_eq!(look_up("b"), b"w\0\x23\x8cM\0\0\x06\0\x05\0\x01b\0\0");
    assert_eq!(look_up("other"), b"w\x01");
    let expected = names(asked);
    assert_eq!(expected, "epmd: up and running on port 4369 with data:\nname b at port 9100\n");
    let from_afar = pair.here.host.command_as(USER, program(&pair.lab));
    assert_eq!(printed(from_afar, &["names", "h2.test"]), expected);
}

pub(crate) fn nodes_link_over_tls(pair: &Pair) {
    let forward = "[[forward]]\nkind = \"dist-tls\"\nports = \"9100-9110\"\n";
    pair.reconfigure(|_, config| format!("{}{forward}", config.replace("\"9100-9110\"", "[]")));
    // Of the user alone, for the key; a root sees it at the same place.
    let options = certify(&pair.lab.host("h1").dir_of(USER, "tls"));
    let nodes =
        pair.nodes(|node| node.arg("-proto_dist").arg("inet_tls").arg("-ssl_dist_optfile").arg(&options));
    both_ways(&nodes, |from, to| {
        let log = to.side.guard.mark();
        assert!(from.node.ping(&to.node), "{} does not reach {}", from.name(), to.name());
        let told = [("role", "dist-tls"), ("peer", &peer(from))];
        to.side.guard.wait_event_after(log, "link_opened", &told);
        assert_eq!(to.node.eval("nodes()."), format!("['{}']", from.name()));
        let call = format!("byte_size(rpc:call('{}', binary, copy, [<<0>>, 1048576])).", to.name());
        assert_eq!(from.node.eval(&call), "1048576");
    });
}

/// A certificate for both hosts with its key, and the options of the nodes that are to use it.
fn certify(dir: &Path) -> String {
    let openssl = |args: &str| {
        let mut openssl = Command::new("openssl");
        openssl.current_dir(dir).args(args.split(' '));
        let said = Said::by(openssl);
        assert_eq!(said.code, 0, "openssl {args}: {said:?}");
    };
    let key = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2";
    openssl(&format!("{key} -subj /CN=ca -keyout ca.key -out ca.pem"));
    openssl(&format!(
        "{key} -subj /CN=nodes -addext subjectAltName=DNS:h1.test,DNS:h2.test -CA ca.pem -CAkey ca.key \
         -keyout nodes.key -out nodes.pem"
    ));
    let path = |name: &str| dir.join(name).display().to_string();
    let both = format!(
        "{{certfile,{:?}}},{{keyfile,{:?}}},{{cacertfile,{:?}}},{{verify,verify_peer}}",
        path("nodes.pem"),
        path("nodes.key"),
        path("ca.pem")
    );
    let options = path("options");
    let text = format!("[{{server,[{both},{{fail_if_no_peer_cert,true}}]}},{{client,[{both}]}}].\n");
    fs::write(&options, text).unwrap();
    give(dir);
    options
}

/// Makes the files those of the nodes' user.
fn give(dir: &Path) {
    let mut chown = Command::new("chown");
    chown.args(["--recursive", USER]).arg(dir);
    let said = Said::by(chown);
    assert_eq!(said.code, 0, "{said:?}");
}
