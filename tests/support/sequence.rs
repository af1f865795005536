//! A stream of numbered messages from one node to another: whether each has come, once and whole.

use std::time::Duration;

use super::erlang::Node;
use super::eventually::eventually;

/// Bounds a hanging test; measures nothing.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a node has received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Messages that came when they were due.
    pub due: u64,
    /// Messages that came otherwise: late, twice, or with other bytes.
    pub odd: u64,
}

/// Has the node receive what another one sends by [`send`].
#[track_caller]
pub fn receive(node: &Node) {
    let done = node.eval(
        "register(sink, spawn(fun() -> Loop = fun Loop(N, Odd) -> receive \
           {how, From} -> From ! {received, N, Odd}, Loop(N, Odd); \
           {seq, N, <<N:64, _/binary>> = B, Hash} -> case erlang:md5(B) of Hash -> Loop(N + 1, Odd); _ -> Loop(N + 1, Odd + 1) end; \
           _ -> Loop(N, Odd + 1) end end, Loop(0, 0) end)), ok.",
    );
    assert_eq!(done, "ok");
}

/// Has the node send numbered messages of some KiB, as fast as they are taken, up to one a millisecond.
#[track_caller]
pub fn send(from: &Node, to: &Node) {
    let done = from.eval(&format!(
        "register(pump, spawn(fun() -> Fill = binary:copy(<<\"nothing secret \">>, 500), \
           Loop = fun Loop(N) -> B = <<N:64, Fill/binary>>, {{sink, '{}'}} ! {{seq, N, B, erlang:md5(B)}}, \
           receive {{stop, From}} -> From ! {{sent, N + 1}} after 1 -> Loop(N + 1) end end, Loop(0) end)), ok.",
        to.full_name()
    ));
    assert_eq!(done, "ok");
}

/// Ends the sending: how many messages it was.
#[must_use]
#[track_caller]
pub fn stop(from: &Node) -> u64 {
    let sent = from
        .eval_within(PATIENCE, "pump ! {stop, self()}, receive {sent, N} -> N after 100000 -> stuck end.");
    sent.parse().unwrap_or_else(|_| panic!("{} has not stopped to send: {sent}", from.full_name()))
}

/// What has come up to now.
#[must_use]
#[track_caller]
pub fn received(node: &Node) -> Received {
    let said =
        node.eval("sink ! {how, self()}, receive {received, N, Odd} -> {N, Odd} after 50000 -> stuck end.");
    let numbers = said.trim_matches(['{', '}']).split_once(',');
    let parsed =
        numbers.and_then(|(due, odd)| Some(Received { due: due.parse().ok()?, odd: odd.parse().ok()? }));
    parsed.unwrap_or_else(|| panic!("{} does not say what has come: {said}", node.full_name()))
}

/// Waits until so many more have come.
#[track_caller]
pub fn wait_more(node: &Node, more: u64) {
    let begun = received(node).due;
    eventually(&format!("{more} more messages reach {}", node.full_name()), PATIENCE, || {
        let now = received(node);
        if now.due >= begun + more { Ok(()) } else { Err(format!("{now:?}")) }
    });
}

/// Waits until all that was sent has come: once, in order, whole.
#[track_caller]
pub fn all_came(node: &Node, sent: u64) {
    eventually(&format!("all {sent} messages reach {}", node.full_name()), PATIENCE, || {
        let now = received(node);
        if now == (Received { due: sent, odd: 0 }) { Ok(()) } else { Err(format!("{now:?}")) }
    });
}

/// Has the node note which nodes come and go.
#[track_caller]
pub fn watch(node: &Node) {
    let done = node.eval(
        "register(watch, spawn(fun() -> net_kernel:monitor_nodes(true), Loop = fun Loop(L) -> receive \
           {how, From} -> From ! {seen, lists:reverse(L)}, Loop(L); M -> Loop([M | L]) end end, Loop([]) end)), ok.",
    );
    assert_eq!(done, "ok");
}

/// What came and went since [`watch`].
#[must_use]
#[track_caller]
pub fn seen(node: &Node) -> String {
    node.eval("watch ! {how, self()}, receive {seen, L} -> L after 50000 -> stuck end.")
}
