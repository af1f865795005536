//! Ports of peers that were looked up: open at the aliases for as long as somebody looks them up.
//!
//! Owns which of them are asked for, and by which number they answer where their own is taken.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::wanted::{FIXED_EACH, Wanted, fixed_ports, toward};
use super::{Front, Obstacle, SHORT_BREATH};
use crate::config::Config;
use crate::session::WayAsked;
use crate::transport::Listener;

/// How long one is kept after it was last asked for: longer than a node takes to dial what it has looked up.
const KEPT_FOR: Duration = Duration::from_secs(60);
/// How many a peer may have.
const MOST_EACH: usize = 1024;

/// The ports that were asked for, by the alias and their number at the peer.
#[derive(Debug, Default)]
pub(super) struct AskedWays(HashMap<(IpAddr, u16), Asked>);

#[derive(Debug)]
struct Asked {
    peer: Arc<str>,
    last: Instant,
    /// The number that stands for it, where its own is taken.
    other: Option<u16>,
}

impl AskedWays {
    /// Notes that it was asked for. Answers whether it was not known. Of too many of a peer, the one that was not
    /// asked for the longest goes.
    pub(super) fn note(&mut self, way: WayAsked, now: Instant) -> bool {
        let WayAsked { alias, peer, port } = way;
        let place = (alias, port);
        if let Entry::Occupied(mut known) = self.0.entry(place)
            && known.get().peer == peer
        {
            known.get_mut().last = now;
            return false;
        }
        let of_peer = || self.0.iter().filter(|(_, asked)| asked.peer == peer);
        if of_peer().count() >= MOST_EACH
            && let Some(unused) = of_peer().min_by_key(|(_, asked)| asked.last).map(|(place, _)| *place)
        {
            self.0.remove(&unused);
        }
        self.0.insert(place, Asked { peer, last: now, other: None });
        true
    }

    /// Forgets those that nobody has asked for lately, and those of aliases that stand for others now.
    pub(super) fn keep(&mut self, config: &Config, now: Instant) {
        self.0.retain(|(alias, _), asked| {
            let stands = config.stands_for(*alias).is_some_and(|peer| peer.name == *asked.peer);
            stands && now.duration_since(asked.last) < KEPT_FOR
        });
    }
}

impl Front {
    /// Adds the ports that were asked for to what is wanted. One whose number is taken gets another.
    pub(super) fn want_ways(&mut self, config: &Config, wanted: &mut HashMap<SocketAddr, Wanted>) {
        self.ways.keep(config, Instant::now());
        let mut ways = std::mem::take(&mut self.ways);
        // Those that have a number keep it.
        let mut places: Vec<((IpAddr, u16), &mut Asked)> =
            ways.0.iter_mut().map(|(place, asked)| (*place, asked)).collect();
        places.sort_by_key(|(place, asked)| (asked.other.is_none(), *place));
        for ((alias, port), asked) in places {
            let service = toward(&asked.peer, port);
            let way = Wanted { role: config.way_to(port).role, service };
            let own = SocketAddr::new(alias, port);
            if wanted.get(&own) == Some(&way) {
                // It is open without having been asked for.
                continue;
            }
            let given = SocketAddr::new(alias, asked.other.unwrap_or(port));
            // A node of this host that is down may need the number on every address.
            let is_needed = asked.other.is_none() && (self.wildcards.of_nodes() || self.wildcards.has(port));
            let is_taken = is_needed || wanted.contains_key(&given) || self.take(given).is_err();
            if is_taken && let Some(other) = self.take_any(alias) {
                asked.other = Some(other);
            }
            let addr = SocketAddr::new(alias, asked.other.unwrap_or(port));
            wanted.entry(addr).or_insert(way);
        }
        self.ways = ways;
    }

    /// Opens a port that is asked for, and all that were asked for with it. Only this host asks, and waits for it.
    pub(super) async fn open_ways(&mut self, first: WayAsked) {
        let now = Instant::now();
        let mut is_new = self.ways.note(first, now);
        while let Ok(way) = self.channels.ports.ways.try_recv() {
            is_new |= self.ways.note(way, now);
        }
        if is_new {
            tokio::time::sleep_until(self.looked + SHORT_BREATH.max(self.took)).await;
            self.turn().await;
        }
    }

    /// Binds the address, to be served at the end of this look.
    ///
    /// # Errors
    /// Somebody else has it. Any other failure is left to who opens it in earnest.
    fn take(&mut self, addr: SocketAddr) -> Result<(), io::Error> {
        let is_due = self.obstacles.get(&addr).is_none_or(Obstacle::is_due) && !self.met.contains(&addr);
        if self.open.contains_key(&addr) || self.prepared.contains_key(&addr) || !is_due {
            return Ok(());
        }
        match Listener::bind(addr) {
            Ok(listener) => drop(self.prepared.insert(addr, listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
            Err(_) => {}
        }
        Ok(())
    }

    /// Binds a number that is free at the alias.
    fn take_any(&mut self, alias: IpAddr) -> Option<u16> {
        let listener = Listener::bind(SocketAddr::new(alias, 0)).ok()?;
        let addr = listener.local_addr();
        self.prepared.insert(addr, listener);
        Some(addr.port())
    }

    /// Tells of ports that would have to be open at each alias, and are too many.
    pub(super) fn tell_left_out(&self, config: &Config) {
        let has_alias = config.peers.iter().any(|peer| !peer.alias.is_empty());
        let ports = if has_alias { fixed_ports(config).skip(FIXED_EACH).count() } else { 0 };
        if ports > 0 && self.context.reminders.is_due("alias_ports_left_out", 0, Instant::now()) {
            let help = format!(
                "only the first {FIXED_EACH} of [[forward]] ports and [dist] ports are open at each alias before they are \
                 looked up at epmd: list those alone that are used"
            );
            tracing::warn!(ports, help, "alias_ports_left_out");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(peer: &str, port: u16) -> WayAsked {
        WayAsked { alias: "127.0.0.12".parse().unwrap(), peer: peer.into(), port }
    }

    #[test]
    fn a_way_is_kept_for_a_while_after_it_was_last_asked_for_and_the_longest_unused_goes_first() {
        let file = "[[peer]]\nname = \"h2\"\naddresses = [\"192.0.2.2\"]\n";
        let mut config = crate::config::from_text("test", file, &Default::default()).unwrap().config;
        config.peers[0].alias = vec!["127.0.0.12".parse().unwrap()];
        let (mut ways, start) = (AskedWays::default(), Instant::now());
        assert!(ways.note(asked("h2", 9100), start) && ways.note(asked("h2", 9101), start));
        assert!(!ways.note(asked("h2", 9100), start + KEPT_FOR / 2));
        ways.keep(&config, start + KEPT_FOR);
        assert_eq!(ways.0.keys().map(|(_, port)| *port).collect::<Vec<_>>(), [9100]);
        for port in 0..1024 {
            ways.note(asked("h2", 10_000 + port), start + KEPT_FOR);
        }
        assert_eq!(ways.0.len(), MOST_EACH);
        assert!(!ways.0.contains_key(&("127.0.0.12".parse().unwrap(), 9100)));
        // The alias is another one's now.
        config.peers[0].name = "h3".to_owned();
        ways.keep(&config, start + KEPT_FOR);
        assert!(ways.0.is_empty());
    }
}
