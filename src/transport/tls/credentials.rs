//! What a guard shows and what it checks by, ready for handshakes: one generation of it, from one reading of files.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::client::{ClientSessionMemoryCache, Resumption, Tls12Resumption};
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{cipher_suite, default_provider, kx_group};
use rustls::pki_types::UnixTime;
use rustls::server::{NoServerSessionStorage, ServerSessionMemoryCache};
use rustls::sign::SingleCertAndKey;
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};
use webpki::EndEntityCert;

use super::block::Block;
use super::cert_fault::CertFault;
use super::certificate::Certified;
use super::crl::Crl;
use super::end::{Stage, TlsEnd};
use super::fault::TlsFault;
use super::material::{Material, Prints};
use super::verify::{Anchor, Revocation, Usage, Verifier};

/// Sessions that the dialled side remembers, for all peers. Each is used once.
const SESSIONS: usize = 1024;
/// Sessions that the dialling side remembers of one peer (rustls keeps 8 of one host at most).
const SESSIONS_OF_A_PEER: usize = 8;
/// Tickets that a handshake gives for later ones. One is enough: those who dial more than once at a time get as many.
const TICKETS: usize = 1;
/// Peers whose sessions are remembered. They come from the configuration.
const MOST_PEERS: usize = 4096;
/// Turns that our own handshake may take.
const TURNS: usize = 8;

/// One generation of credentials. Sessions are remembered within it and never beyond: what a new one brings is in force
/// at the next handshake.
pub struct Credentials {
    material: Material,
    verifier: Arc<Verifier>,
    server: Arc<ServerConfig>,
    client: ClientConfig,
    clients: Mutex<HashMap<String, Arc<ClientConfig>>>,
}

/// Why the credentials would not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SelfCheckFault {
    /// The verifier that peers use refuses our own certificate.
    Certificate(CertFault),
    /// A handshake with ourselves fails.
    Handshake(TlsFault),
}

impl fmt::Display for SelfCheckFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(fault) => write!(f, "other guards would refuse it: {fault}"),
            Self::Handshake(fault) => write!(f, "a handshake with [tls] cert and key fails: {fault}"),
        }
    }
}

impl std::error::Error for SelfCheckFault {}

/// When what is in use ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expiry {
    /// Our certificate.
    pub certificate: UnixTime,
    /// The CA that ends first.
    pub ca: UnixTime,
    /// The list of revoked certificates that is stale first.
    pub crl: Option<UnixTime>,
}

impl Credentials {
    /// Makes them of what was read. `alpn` are the protocols that we speak, the best first.
    ///
    /// # Errors
    /// The library takes none of it: a fault in the program.
    pub fn new(mut material: Material, alpn: &[&[u8]]) -> Result<Self, TlsFault> {
        let provider = Arc::new(provider());
        let algorithms = provider.signature_verification_algorithms;
        let crls = std::mem::take(&mut material.crls);
        let anchors = anchors(&material, &crls)?;
        let revocation = Revocation { crls, rules: material.rules, wanted: material.wants_crl };
        let verifier = Arc::new(Verifier::new(anchors, revocation, algorithms));
        let own = Arc::new(SingleCertAndKey::from(material.own.clone()));
        let protocols: Vec<Vec<u8>> = alpn.iter().map(|name| name.to_vec()).collect();

        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsFault::of)?
            .with_client_cert_verifier(verifier.clone())
            .with_cert_resolver(own.clone());
        server.alpn_protocols.clone_from(&protocols);
        server.session_storage = ServerSessionMemoryCache::new(SESSIONS);
        server.send_tls13_tickets = TICKETS;
        server.max_early_data_size = 0;

        let mut client = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&TLS13])
            .map_err(TlsFault::of)?
            .dangerous()
            .with_custom_certificate_verifier(verifier.clone())
            .with_client_cert_resolver(own);
        client.alpn_protocols = protocols;
        client.enable_sni = false;
        client.enable_early_data = false;
        client.resumption = Resumption::disabled();
        Ok(Self { material, verifier, server: Arc::new(server), client, clients: Mutex::default() })
    }

    /// For a handshake with a peer that we dial, by its name in the configuration. Sessions with it are resumed.
    #[must_use]
    pub fn client(&self, peer: &str) -> Arc<ClientConfig> {
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(peer) {
            return client.clone();
        }
        if clients.len() >= MOST_PEERS {
            clients.clear();
        }
        let mut client = self.client.clone();
        let sessions = Arc::new(ClientSessionMemoryCache::new(SESSIONS_OF_A_PEER));
        client.resumption = Resumption::store(sessions).tls12_resumption(Tls12Resumption::Disabled);
        let client = Arc::new(client);
        clients.insert(peer.to_owned(), client.clone());
        client
    }

    /// For a handshake with whoever dials us.
    #[must_use]
    pub fn server(&self) -> Arc<ServerConfig> {
        self.server.clone()
    }

    /// What certificates are checked by, after each handshake and whenever credentials are new.
    #[must_use]
    pub fn verifier(&self) -> &Verifier {
        &self.verifier
    }

    /// What a reload tells news by.
    #[must_use]
    pub fn prints(&self) -> &Prints {
        self.material.prints()
    }

    /// What the credentials were made of.
    #[must_use]
    pub fn material(&self) -> &Material {
        &self.material
    }

    /// When what is in use ends.
    #[must_use]
    pub fn expires(&self) -> Expiry {
        let certificate = self.material.about.not_after;
        let cas = self.material.cas.iter().map(|(_, about)| about.not_after);
        let lists = self.verifier.revocation().crls.iter().map(|crl| crl.next_update);
        Expiry { certificate, ca: cas.min().unwrap_or(certificate), crl: lists.min() }
    }

    /// The same with a clock that stands, for handshakes of another day than today.
    #[cfg(test)]
    pub(super) fn with_clock(mut self, now: UnixTime) -> Self {
        let mut server = ServerConfig::clone(&self.server);
        (server.time_provider, self.client.time_provider) = (Arc::new(At(now)), Arc::new(At(now)));
        self.server = Arc::new(server);
        self
    }

    /// Whether other guards with these CAs and lists would take us, now: our certificate passes the verifier that they
    /// use, on both sides of a handshake, and the handshake with ourselves comes to its end.
    ///
    /// # Errors
    /// They would not. [`CertFault::NotYetValid`] may mean that our clock is behind.
    pub fn self_check(&self, now: UnixTime) -> Result<Arc<Certified>, SelfCheckFault> {
        let chain = &self.material.own.cert;
        for usage in [Usage::Client, Usage::Server] {
            self.verifier.check(chain, usage, now).map_err(SelfCheckFault::Certificate)?;
        }
        self.shake_hands(now).map_err(SelfCheckFault::Handshake)?;
        self.verifier.check(chain, Usage::Server, now).map_err(SelfCheckFault::Certificate)
    }

    /// A handshake with ourselves that leaves no session behind.
    fn shake_hands(&self, now: UnixTime) -> Result<(), TlsFault> {
        let (mut client, mut server) = (self.client.clone(), ServerConfig::clone(&self.server));
        client.time_provider = Arc::new(At(now));
        server.time_provider = Arc::new(At(now));
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let (mut client, mut server) = (TlsEnd::client(Arc::new(client))?, TlsEnd::server(Arc::new(server))?);
        let (mut to_client, mut to_server) = (Block::default(), Block::default());
        for _ in 0..TURNS {
            let one = client.advance(&mut to_client, &mut to_server)?;
            let other = server.advance(&mut to_server, &mut to_client)?;
            if (one, other) == (Stage::Ready, Stage::Ready) {
                return Ok(());
            }
        }
        Err(TlsFault::Ours("it comes to no end".to_owned()))
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("prints", self.prints()).finish_non_exhaustive()
    }
}

/// A clock that stands.
#[derive(Debug)]
struct At(UnixTime);

impl TimeProvider for At {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

/// TLS 1.3 with what is strong in it. The hybrid key exchange is offered first, so that what is recorded today cannot
/// be read by a quantum computer.
fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519, kx_group::SECP256R1, kx_group::SECP384R1],
        ..default_provider()
    }
}

/// The CAs, each with its own lists, the newest first, and behind them those whose issuer is in no file of ours.
fn anchors(material: &Material, crls: &[Crl]) -> Result<Vec<Anchor>, TlsFault> {
    let mut newest: Vec<usize> = (0..crls.len()).collect();
    newest.sort_by_key(|at| std::cmp::Reverse(crls.get(*at).map(|crl| crl.this_update)));
    let all = || newest.iter().filter_map(|at| Some((*at, crls.get(*at)?)));
    let is_of_a_ca = |crl: &Crl| {
        let mut cas = material.cas.iter().filter_map(|(der, _)| {
            EndEntityCert::try_from(der).ok().map(|ca| ca.subject() == crl.list.issuer())
        });
        cas.any(|is_it| is_it)
    };
    let of_others: Vec<usize> = all().filter(|(_, crl)| !is_of_a_ca(crl)).map(|(at, _)| at).collect();
    let mut anchors = Vec::new();
    for (der, about) in &material.cas {
        let trust =
            webpki::anchor_from_trusted_cert(der).map_err(|fault| TlsFault::Ours(fault.to_string()))?;
        let own = all().filter(|(_, crl)| crl.is_signed_by(der)).map(|(at, _)| at);
        let lists = own.chain(of_others.iter().copied()).collect();
        anchors.push(Anchor { trust: trust.to_owned(), about: about.clone(), lists });
    }
    Ok(anchors)
}
