//! What an operator should do about a port that is taken.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::front::cure;
use super::takeover::Squatter;
use crate::config::EpmdBackend;
use crate::session::Role;
use crate::transport::holder::Holder;

/// The link that enables Debian's socket unit for epmd.
const EPMD_SOCKET: &str = "/etc/systemd/system/sockets.target.wants/epmd.socket";

/// The change that cures it.
pub(super) fn advise(
    (role, backend): (Role, EpmdBackend),
    addr: SocketAddr,
    holders: &[Holder],
    squatter: Option<&Squatter>,
) -> String {
    let Some(holder) = holders.first() else { return advise_unheard(role, addr.port()) };
    if holder.is_likely("epmd-guard") {
        return "another epmd-guard serves this address: stop one of the two".to_owned();
    }
    match role {
        Role::Epmd if backend == EpmdBackend::Embedded => advise_replaced(holder, squatter),
        Role::Epmd => advise_epmd(holder, squatter),
        Role::Dist | Role::DistTls | Role::Tcp if holder.socket.addr.ip().is_unspecified() => {
            cure(role).to_owned()
        }
        Role::Dist => format!(
            "something listens on this very address: have it listen on loopback, or take port {} out of [dist] ports",
            addr.port()
        ),
        Role::Tunnel => {
            format!("have what listens there stop, or take another port than {} in [tls] listen", addr.port())
        }
        Role::DistTls | Role::Tcp => format!(
            "something listens on this very address: have it listen on loopback, or take port {} out of [[forward]] ports",
            addr.port()
        ),
    }
}

/// The same for a port of a peer at an alias that stands for it.
pub(super) fn advise_alias(peer: &str, role: Role, addr: SocketAddr, holders: &[Holder]) -> String {
    let (ip, port) = (addr.ip(), addr.port());
    let stands = format!("no node of this host reaches {peer} at port {port}, for which {ip} stands");
    let Some(holder) = holders.first() else {
        return format!("{stands}: {}", advise_unheard(Role::Tunnel, port));
    };
    if holder.is_likely("epmd-guard") {
        return "another epmd-guard serves this address: stop one of the two, or give the peer another alias"
            .to_owned();
    }
    if holder.socket.addr.ip().is_unspecified() {
        return format!("{stands}, while this has it on every address; {}", cure(role));
    }
    format!("{stands}: have what listens on this very address listen elsewhere, or give {peer} another alias")
}

/// What to do where this host does not have the alias of a peer.
pub(super) fn advise_missing(peer: &str, alias: IpAddr) -> String {
    let bits = if alias.is_ipv4() { 32 } else { 128 };
    format!(
        "this host does not have the address, which is to stand for {peer}: `ip addr add {alias}/{bits} dev lo`, and the \
         same at each start of the host; it is tried again"
    )
}

/// The number of a connection that this host has made cannot be listened on at the same address.
fn advise_unheard(role: Role, port: u16) -> String {
    let nobody = "nobody listens there, but a connection of this host's may have the number";
    let cure = match role {
        Role::Epmd | Role::Tunnel => "it is open when that has gone",
        Role::DistTls | Role::Tcp => {
            "until that has gone no peer reaches what is behind it: to be sure of it, let it listen at a number below those \
             of /proc/sys/net/ipv4/ip_local_port_range"
        }
        Role::Dist => {
            "until that has gone no peer reaches the node: to be sure of it, let nodes take numbers below those \
             of /proc/sys/net/ipv4/ip_local_port_range (inet_dist_listen_min and inet_dist_listen_max; ejabberd: \
             FIREWALL_WINDOW), or offer them at such numbers by [dist] outside"
        }
    };
    format!("{nobody} (as root: ss -atnp 'sport = :{port}'); {cure}")
}

/// What to do with an epmd whose place the guard is to take.
fn advise_replaced(holder: &Holder, squatter: Option<&Squatter>) -> String {
    if holder.is_likely_systemd() && (holder.process.is_some() || Path::new(EPMD_SOCKET).exists()) {
        return "systemd's epmd.socket seems to hold it, and this guard is to be the epmd: `systemctl disable --now \
                epmd.socket epmd.service`; its nodes register here within 2 s. Where a unit requires epmd.service, as \
                Debian's ejabberd.service does, install the one of the guard first (docs/operations.md)"
            .to_owned();
    }
    match squatter {
        Some(Squatter::HoldsNames(names)) => format!(
            "an epmd holds {} name(s) ({}) and is left alone: stop it, for instance by `systemctl disable --now \
             epmd.socket epmd.service` or by its process number; nodes of OTP 23.3 and later register here within 2 s, \
             older ones when they are started again",
            names.len(),
            first_names(names)
        ),
        Some(Squatter::Empty(_)) => {
            "an epmd without names holds it; it is asked to end when it has held none for 10 s".to_owned()
        }
        Some(Squatter::Ending | Squatter::Refused) => {
            "an epmd without names holds it and did not give it up: something starts it again, such as systemd's \
             epmd.socket: `systemctl disable --now epmd.socket epmd.service`"
                .to_owned()
        }
        Some(Squatter::Silent) => {
            "it does not answer: an epmd that hangs, or no epmd; it is asked again".to_owned()
        }
        Some(Squatter::NotEpmd) | None => {
            "it does not answer as an epmd: stop it, or have it listen elsewhere".to_owned()
        }
    }
}

fn advise_epmd(holder: &Holder, squatter: Option<&Squatter>) -> String {
    let port = holder.socket.addr.port();
    if holder.is_likely_systemd() && (holder.process.is_some() || Path::new(EPMD_SOCKET).exists()) {
        return format!(
            "systemd's epmd.socket seems to hold it: `systemctl edit epmd.socket`, write [Socket], ListenStream= (empty), \
             ListenStream=127.0.0.1:{port} and ListenStream=[::1]:{port} on lines of their own, then \
             `systemctl restart epmd.socket`, which restarts epmd too; its nodes register again within 2 s"
        );
    }
    match squatter {
        Some(Squatter::HoldsNames(names)) => format!(
            "an epmd on every address holds {} name(s) ({}) and is left alone: set ERL_EPMD_ADDRESS=127.0.0.1 for \
             whatever starts epmd, then stop these nodes, run `epmd -kill` and start them again, or restart epmd: \
             nodes of OTP 23.3 and later register again within 2 s",
            names.len(),
            first_names(names)
        ),
        Some(Squatter::Empty(_)) => {
            "an epmd without names holds it; it is asked to end when it has held none for 10 s: \
             set ERL_EPMD_ADDRESS=127.0.0.1 for whatever starts epmd on this host"
                .to_owned()
        }
        Some(Squatter::Ending | Squatter::Refused) => format!(
            "an epmd without names holds it and did not give it up: something starts it again, such as systemd's \
             epmd.socket; set ERL_EPMD_ADDRESS=127.0.0.1 for it, or let the unit listen on 127.0.0.1:{port} only"
        ),
        Some(Squatter::Silent) => {
            "it does not answer: an epmd that hangs, or no epmd; it is asked again".to_owned()
        }
        Some(Squatter::NotEpmd) | None => {
            "it does not answer as an epmd: stop it, or have it listen elsewhere".to_owned()
        }
    }
}

/// Enough of them to know whose cluster it is.
fn first_names(names: &[String]) -> String {
    let shown: Vec<&str> = names.iter().take(5).map(String::as_str).collect();
    let rest = if names.len() > shown.len() { ", …" } else { "" };
    format!("{}{rest}", shown.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::holder::Owner;
    use crate::transport::sockets::Listening;

    fn holder(addr: &str, uid: u32, process: Option<(&str, i32)>) -> Holder {
        Holder {
            socket: Listening { addr: addr.parse().unwrap(), uid, inode: 1, only_v6: false },
            user: None,
            process: process.map(|(name, pid)| Owner { pid, name: name.into(), unit: None }),
            suspects: Vec::new(),
        }
    }

    fn advice(role: Role, addr: &str, holder: Holder, squatter: Option<Squatter>) -> String {
        let behind = EpmdBackend::At("127.0.0.1:4369".parse().unwrap());
        advise((role, behind), addr.parse().unwrap(), &[holder], squatter.as_ref())
    }

    #[test]
    fn an_epmd_whose_place_we_are_to_take_is_to_be_stopped() {
        let told = |holder, squatter: Option<Squatter>| {
            let addr = "127.0.0.1:4369".parse().unwrap();
            advise((Role::Epmd, EpmdBackend::Embedded), addr, &[holder], squatter.as_ref())
        };
        let unit = told(holder("[::]:4369", 0, Some(("systemd", 1))), None);
        assert!(unit.contains("systemctl disable --now epmd.socket"), "{unit}");
        let names = Squatter::HoldsNames(vec!["ejabberd".to_owned()]);
        let held = told(holder("0.0.0.0:4369", 104, Some(("epmd", 9))), Some(names));
        assert!(held.contains("1 name(s) (ejabberd)") && held.contains("stop it"), "{held}");
        assert!(!held.contains("ERL_EPMD_ADDRESS"), "{held}");
    }

    #[test]
    fn a_node_on_every_address_is_told_where_to_listen() {
        let text = advice(Role::Dist, "192.0.2.1:9100", holder("0.0.0.0:9100", 104, None), None);
        assert!(text.contains("inet_dist_use_interface {127,0,0,1}"), "{text}");
    }

    #[test]
    fn a_socket_of_process_1_is_a_socket_unit() {
        let text = advice(Role::Epmd, "192.0.2.1:4369", holder("[::]:4369", 0, Some(("systemd", 1))), None);
        assert!(text.contains("systemctl edit epmd.socket"), "{text}");
        assert!(text.contains("ListenStream=127.0.0.1:4369"), "{text}");
    }

    #[test]
    fn an_epmd_with_names_is_named_with_its_names() {
        let names = Squatter::HoldsNames(vec!["a".into(), "b".into()]);
        let text =
            advice(Role::Epmd, "192.0.2.1:4369", holder("0.0.0.0:4369", 104, Some(("epmd", 9))), Some(names));
        assert!(text.contains("2 name(s) (a, b)") && text.contains("ERL_EPMD_ADDRESS=127.0.0.1"), "{text}");
    }

    #[test]
    fn another_guard_is_recognized() {
        let text =
            advice(Role::Epmd, "192.0.2.1:4369", holder("192.0.2.1:4369", 9, Some(("epmd-guard", 9))), None);
        assert!(text.contains("another epmd-guard"), "{text}");
    }

    #[test]
    fn an_alias_that_is_taken_or_missing_is_told_of_with_the_peer_and_the_cure() {
        let told =
            |holders: &[Holder]| advise_alias("h2", Role::Dist, "127.0.0.12:9100".parse().unwrap(), holders);
        let on_all = told(&[holder("0.0.0.0:9100", 104, None)]);
        assert!(on_all.contains("reaches h2 at port 9100, for which 127.0.0.12 stands"), "{on_all}");
        assert!(on_all.contains("inet_dist_use_interface {127,0,0,1}"), "{on_all}");
        let there = told(&[holder("127.0.0.12:9100", 104, None)]);
        assert!(there.contains("give h2 another alias"), "{there}");
        let unheard = told(&[]);
        assert!(unheard.contains("ss -atnp 'sport = :9100'"), "{unheard}");
        let missing = advise_missing("h2", "fd00::12".parse().unwrap());
        assert!(missing.contains("dev lo`, and the same at each start"), "{missing}");
        assert!(missing.contains("`ip addr add fd00::12/128 dev lo`"), "{missing}");
        let missing = advise_missing("h2", "192.0.2.12".parse().unwrap());
        assert!(missing.contains("`ip addr add 192.0.2.12/32 dev lo`"), "{missing}");
    }
}
