//! What keeps the guard from being ready where traffic is to go by tunnels.

use crate::config::Config;
use crate::control::captured::captured;
use crate::control::front::{Exposed, FrontView, ListenerView};
use crate::session::{Role, Snapshot};

/// What of the tunnels is not as it is configured: their listener, the aliases, and nodes that peers can reach
/// without one though it is required.
pub(super) fn of_tunnels(snapshot: &Snapshot, front: &FrontView) -> Vec<String> {
    let mut reasons = Vec::new();
    for view in front.listeners.iter().filter(|view| hinders(view, &snapshot.config)) {
        let ListenerView { role, addr, toward, blocked: Some(why), .. } = view else { continue };
        reasons.push(match toward {
            Some(peer) => format!("{role} of {peer} is not served on {addr}, which stands for it: {why}"),
            None => format!("tunnels are not taken on {addr}: {why}"),
        });
    }
    reasons.extend(
        captured(&snapshot.config, &front.own_names)
            .iter()
            .map(|captured| format!("{captured}: {}", captured.help())),
    );
    if snapshot.config.requires_tls() {
        let around = |exposed: &Exposed| {
            format!("TLS is required, and {}: {}", describe_exposed(exposed), exposed.cure())
        };
        reasons.extend(front.exposed.iter().map(around));
    }
    reasons
}

/// Whether tunnels are not what they should be where this port is not open: nobody comes in, or no node of this host
/// reaches a peer.
pub(super) fn hinders(view: &ListenerView, config: &Config) -> bool {
    match view.role {
        Role::Tunnel => true,
        // Where there is an epmd it gives nodes another number.
        Role::Dist => view.toward.is_some() && config.epmd.listen.is_empty(),
        Role::Epmd | Role::DistTls | Role::Tcp => view.toward.is_some(),
    }
}

/// That a node can be reached around the guard, as a clause.
pub(super) fn describe_exposed(exposed: &Exposed) -> String {
    let Exposed { node, port, socket, uid, .. } = exposed;
    let name = node.as_ref().map_or_else(|| "a node".to_owned(), ToString::to_string);
    format!("{name} at port {port} can be reached around the guard: it listens on {socket} (uid {uid})")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::control::Blocked;
    use crate::policy::{Audience, TlsMode};

    #[test]
    fn a_node_around_the_guard_and_a_tunnel_or_alias_that_is_not_there_keep_it_from_being_ready() {
        let listener = |role, addr: &str, toward: Option<&str>, why: Option<&str>| ListenerView {
            role,
            addr: addr.parse().unwrap(),
            audience: Audience::ItselfOnly,
            inside: 0,
            node: None,
            nodes: Arc::default(),
            toward: toward.map(Into::into),
            blocked: why.map(|why| Blocked::Otherwise(why.to_owned())),
        };
        let exposed =
            Exposed { node: None, role: Role::Dist, port: 9, socket: "0.0.0.0:9".parse().unwrap(), uid: 7 };
        let front = FrontView {
            listeners: vec![
                listener(Role::Epmd, "127.0.0.12:4369", Some("h2"), Some("taken")),
                listener(Role::Epmd, "127.0.0.13:4369", Some("h3"), None),
                listener(Role::Tcp, "127.0.0.12:5370", Some("h2"), Some("held")),
                // Those are warnings.
                listener(Role::Dist, "127.0.0.12:9100", Some("h2"), Some("taken")),
                listener(Role::Dist, "192.0.2.1:9100", None, Some("taken")),
                listener(Role::Epmd, "192.0.2.1:4369", None, Some("taken")),
                listener(Role::Tunnel, "192.0.2.1:4371", None, Some("used")),
            ],
            exposed: vec![exposed],
            own_names: vec!["127.0.1.1".parse().unwrap()],
            ..FrontView::default()
        };
        let file = "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n";
        let mut config = crate::config::from_text("test", file, &Default::default()).unwrap().config;
        let reasons =
            |config: &crate::config::Config| of_tunnels(&Snapshot::new(1, Arc::new(config.clone())), &front);
        let expected = [
            "epmd of h2 is not served on 127.0.0.12:4369, which stands for it: taken",
            "tcp of h2 is not served on 127.0.0.12:5370, which stands for it: held",
            "tunnels are not taken on 192.0.2.1:4371: used",
        ];
        assert_eq!(reasons(&config), expected);
        config.peers[0].tls = Some(TlsMode::Optional);
        assert_eq!(reasons(&config).len(), 3);
        // This host's own name leads there.
        let mut debian = config.clone();
        debian.peers[0].alias = vec!["127.0.1.1".parse().unwrap()];
        let why = reasons(&debian)[3].clone();
        assert!(why.starts_with("this host's own name leads to 127.0.1.1, which stands for h2"), "{why}");
        // Without an epmd nothing gives nodes another number.
        let mut alone = config.clone();
        alone.epmd.listen.clear();
        assert_eq!(
            reasons(&alone)[2],
            "dist of h2 is not served on 127.0.0.12:9100, which stands for it: taken"
        );
        config.peers[0].tls = Some(TlsMode::Required);
        let all = reasons(&config);
        let around = "TLS is required, and a node at port 9 can be reached around the guard: it listens on 0.0.0.0:9 (uid 7): ";
        assert!(all[3].starts_with(around) && all[3].contains("inet_dist_use_interface"), "{}", all[3]);
        (config.peers[0].tls, config.tls.default) = (None, TlsMode::Required);
        assert_eq!(reasons(&config), all);
    }
}
