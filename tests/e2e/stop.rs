//! How the guard ends.

use std::net::SocketAddr;

use crate::common::{EVERYBODY, Guarded, require, two_hosts};
use crate::support::daemon::Signal;
use crate::support::guard::SOON;
use crate::support::lab::Lab;

#[test]
fn sigterm_and_sigint_end_it_well_and_its_ports_are_free() {
    if !require() {
        return;
    }
    let lab = Lab::new(&["h1"]);
    for signal in [Signal::TERM, Signal::INT] {
        let h1 = Guarded::new(&lab, "h1", EVERYBODY);
        h1.guard.daemon().signal(signal);
        assert!(h1.guard.daemon().wait_exit(SOON).success());
        h1.guard.wait_event("stopped", &[]);
        assert!(!h1.host.listeners().contains(&SocketAddr::new(h1.host.v4().into(), 4369)));
    }
}

#[test]
fn links_that_end_with_the_guard_are_told_with_what_they_carried() {
    if !require() {
        return;
    }
    let (_lab, h1, h2) = two_hosts();
    let (a, b) = (h1.node("a"), h2.node("b"));
    assert!(a.ping(&b));
    h2.guard.stop();
    let closed = h2.guard.wait_event("closed", &[("role", "dist"), ("reason", "stopped")]);
    assert!(
        closed["bytes_up"].as_u64().unwrap() > 40 && closed["bytes_down"].as_u64().unwrap() > 40,
        "{closed}"
    );
}

#[test]
fn sighup_ends_nothing_and_says_that_there_is_no_reload() {
    if !require() {
        return;
    }
    let (_lab, h1, h2) = two_hosts();
    let (a, b) = (h1.node("a"), h2.node("b"));
    assert!(a.ping(&b));
    h2.guard.daemon().signal(Signal::HUP);
    h2.guard.wait_event("reload_refused", &[]);
    assert_eq!(a.eval("rpc:call('b@h2.test', erlang, node, [])."), "'b@h2.test'");
    h2.guard.stop();
}
