//! What changes for tunnels: `[tls]`, and the keys of `[[peer]]` that are about them.

use std::net::IpAddr;
use std::path::PathBuf;

use super::{Delta, Place, duration, few};
use crate::config::{Connect, CrlRules, ListenOn, OnCrl, Peer, Tls, TlsFiles};
use crate::policy::{San, TlsMode};

/// The way to a peer and whose certificate is its own.
pub(super) struct Way<'c> {
    connect: &'c [Connect],
    hosts: &'c [String],
    alias: &'c [IpAddr],
    identity: &'c [San],
    tls: Option<TlsMode>,
}

impl<'c> Way<'c> {
    pub(super) fn of(peer: &'c Peer) -> Self {
        let Peer { name: _, may_reach: _, line: _, connect, hosts, alias, identity, tls } = peer;
        Self { connect, hosts, alias, identity, tls: *tls }
    }

    /// What it is added with, each part behind a comma.
    pub(super) fn told(&self) -> String {
        let parts = [
            (", by a tunnel to", few(self.connect), !self.connect.is_empty()),
            (", whose hosts are", few(self.hosts), !self.hosts.is_empty()),
            (", at the alias", few(self.alias), !self.alias.is_empty()),
            (", tls:", self.tls.map(|mode| mode.to_string()).unwrap_or_default(), self.tls.is_some()),
        ];
        let said = parts.into_iter().filter(|(_, _, is_said)| *is_said);
        said.map(|(what, which, _)| format!("{what} {which}")).collect()
    }
}

impl Delta {
    pub(super) fn compare_way(&mut self, name: &str, old: &Way<'_>, new: &Way<'_>) {
        let Way { connect, hosts, alias, identity, tls } = old;
        let key = |key| format!("[[peer]] {name} {key}");
        // In this order they are tried.
        self.value(&key("connect"), connect, &new.connect, |hosts| few(hosts));
        self.set(&key("hosts"), hosts, new.hosts);
        self.set(&key("alias"), alias, new.alias);
        self.set(&key("identity"), identity, new.identity);
        self.value(&key("tls"), tls, &new.tls, |mode| {
            mode.map_or("as [tls] default".to_owned(), |mode| mode.to_string())
        });
    }

    pub(super) fn compare_tls(&mut self, old: &Tls, new: &Tls) {
        let Tls { listen, files, default, crl, look_every, resume_for, warn_before } = old;
        let places = |listen: &[(ListenOn, u16)]| listen.iter().copied().map(Place).collect::<Vec<_>>();
        self.set("[tls] listen", &places(listen), &places(&new.listen));
        self.compare_files(files.as_ref(), new.files.as_ref());
        self.value("[tls] default", default, &new.default, TlsMode::to_string);
        let CrlRules { missing, stale, partial } = crl;
        let on = |on: &OnCrl| match on {
            OnCrl::Refuse => "refuse".to_owned(),
            OnCrl::Accept => "accept".to_owned(),
        };
        self.value("[tls] crl_missing", missing, &new.crl.missing, on);
        self.value("[tls] crl_stale", stale, &new.crl.stale, on);
        self.value("[tls] crl_partial", partial, &new.crl.partial, on);
        self.value("[tls] look_every", look_every, &new.look_every, |every| {
            every.as_ref().map_or("never".to_owned(), duration)
        });
        self.value("[tls] resume_for", resume_for, &new.resume_for, duration);
        self.value("[tls] warn_before", warn_before, &new.warn_before, duration);
    }

    /// Where they are. What is in them is not compared here: they are read anew with each reload.
    fn compare_files(&mut self, old: Option<&TlsFiles>, new: Option<&TlsFiles>) {
        type Of = fn(&TlsFiles) -> &PathBuf;
        let each: [(&str, Of); 3] =
            [("cert", |files| &files.cert), ("key", |files| &files.key), ("ca", |files| &files.ca)];
        for (key, of) in each {
            self.value(&format!("[tls] {key}"), &old.map(of), &new.map(of), |path| {
                path.map_or("none".to_owned(), |path| path.display().to_string())
            });
        }
        let lists = |files: Option<&TlsFiles>| {
            let paths = files.into_iter().flat_map(|files| &files.crl);
            paths.map(|path| path.display().to_string()).collect::<Vec<_>>()
        };
        self.set("[tls] crl", &lists(old), &lists(new));
    }
}
