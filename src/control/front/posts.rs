//! What is offered to peers by tunnels, whether or not a listener is open for it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::watch;
use tokio::time::Instant;

use super::nodes::{MISSED_FOR, Offered};
use super::replace;
use crate::policy::Audience;
use crate::session::{Post, Posts, Role, Service};

/// The posts, by the number of their port outside.
#[derive(Debug, Default)]
pub(super) struct OfferedPosts {
    posts: HashMap<u16, Kept>,
    /// Whether others are there than were told of, or they lead elsewhere.
    changed: bool,
}

#[derive(Debug)]
struct Kept {
    role: Role,
    service: watch::Sender<Service>,
    /// Since when nothing has been seen behind it.
    missed_since: Option<Instant>,
}

impl OfferedPosts {
    /// Takes over what is offered now. What goes has been missed for a while, as with a listener, or is one of the
    /// ports in `left`.
    pub(super) fn follow(
        &mut self,
        offered: &[Offered],
        role_of: impl Fn(u16) -> Role,
        left: &HashSet<u16>,
        now: Instant,
    ) {
        self.retain(|kept| {
            let since = *kept.missed_since.get_or_insert(now);
            !left.contains(&kept.service.borrow().inside) && now.duration_since(since) < MISSED_FOR
        });
        for Offered { inside, outside, nodes, .. } in offered {
            let Some(outside) = outside else { continue };
            let role = role_of(*inside);
            let nodes = Arc::clone(nodes);
            let service = Service { audience: Audience::PeersOnly, inside: *inside, nodes, toward: None };
            match self.posts.get_mut(outside).filter(|kept| kept.role == role) {
                Some(kept) => {
                    kept.missed_since = None;
                    self.changed |= kept.service.borrow().inside != *inside;
                    replace(&kept.service, service);
                }
                None => {
                    let service = watch::Sender::new(service);
                    self.posts.insert(*outside, Kept { role, service, missed_since: None });
                    self.changed = true;
                }
            }
        }
    }

    /// Takes away what leads to these ports of nodes.
    pub(super) fn forget(&mut self, left: &HashSet<u16>) {
        self.retain(|kept| !left.contains(&kept.service.borrow().inside));
    }

    fn retain(&mut self, mut stays: impl FnMut(&mut Kept) -> bool) {
        let before = self.posts.len();
        self.posts.retain(|_, kept| stays(kept));
        self.changed |= self.posts.len() != before;
    }

    /// Publishes them where they have changed.
    pub(super) fn tell(&mut self, told: &watch::Sender<Posts>) {
        if std::mem::take(&mut self.changed) {
            let post = |kept: &Kept| Post { role: kept.role, service: kept.service.subscribe() };
            let posts = self.posts.iter().map(|(port, kept)| (*port, post(kept)));
            told.send_replace(Arc::new(posts.collect()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offered(inside: u16, outside: u16) -> Offered {
        Offered { inside, outside: Some(outside), node: None, nodes: Arc::default() }
    }

    #[test]
    fn a_post_is_there_while_something_is_behind_it_and_goes_at_once_with_its_name() {
        let (mut posts, told) = (OfferedPosts::default(), watch::Sender::new(Posts::default()));
        let (start, none) = (Instant::now(), HashSet::new());
        let mut look = |offered: &[Offered], left: &HashSet<u16>, now| {
            posts.follow(offered, |port| if port == 5370 { Role::Tcp } else { Role::Dist }, left, now);
            posts.tell(&told);
            let shown = |(port, post): (&u16, &Post)| {
                let service = post.service.borrow();
                assert_eq!(service.audience, Audience::PeersOnly);
                format!("{port} {} {} {}", post.role, service.inside, post.service.has_changed().is_ok())
            };
            let mut shown: Vec<String> = told.borrow().iter().map(shown).collect();
            shown.sort();
            shown
        };
        let both = [offered(43211, 9100), offered(5370, 5370)];
        assert_eq!(look(&both, &none, start), ["5370 tcp 5370 true", "9100 dist 43211 true"]);
        assert_eq!(look(&both[..1], &none, start), ["5370 tcp 5370 true", "9100 dist 43211 true"]);
        assert_eq!(look(&both[..1], &none, start + MISSED_FOR), ["9100 dist 43211 true"]);
        // The port outside is another node's now.
        let moved = [offered(43212, 9100)];
        assert_eq!(look(&moved, &none, start + MISSED_FOR), ["9100 dist 43212 true"]);
        // A name goes and another comes at the same port: those who came by the first hear no more of it.
        assert_eq!(look(&moved, &HashSet::from([43212]), start + MISSED_FOR), ["9100 dist 43212 true"]);
        assert_eq!(look(&[], &HashSet::from([43212]), start + MISSED_FOR), Vec::<String>::new());
    }
}
