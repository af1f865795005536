//! Handshakes: that succeed, that are resumed, and that are none.

use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;
use rustls::{AlertDescription, SignatureScheme};

use super::authority::*;
use super::*;
use crate::policy::San;

/// Two hosts of one cluster.
pub(super) fn hosts() -> (Credentials, Credentials) {
    let ca = Authority::new("test CA");
    let host = |name, serial| clocked(&Host::new(&ca.issue(&Leaf::new(name, serial)), &[&ca]));
    (host("h1.test", 11), host("h2.test", 12))
}

pub(super) fn shaken() -> Pair {
    let (one, other) = hosts();
    let mut pair = Pair::new(one.client("h2"), other.server());
    pair.shake_hands().unwrap();
    pair
}

/// A server that has got its first bytes from somebody else.
fn told(bytes: &[u8]) -> (Result<Stage, TlsFault>, Block) {
    let mut server = TlsEnd::server(hosts().1.server()).unwrap();
    let (mut incoming, mut outgoing) = (Block::default(), Block::default());
    incoming.append(bytes);
    (server.advance(&mut incoming, &mut outgoing), outgoing)
}

#[test]
fn two_guards_know_each_other_by_their_certificates() {
    let (one, other) = hosts();
    let mut pair = Pair::new(one.client("h2"), other.server());
    assert!(pair.client.facts().is_none());
    pair.shake_hands().unwrap();
    for (end, verifier, usage, name) in [
        (&pair.client, one.verifier(), Usage::Server, "h2.test"),
        (&pair.server, other.verifier(), Usage::Client, "h1.test"),
    ] {
        let facts = end.facts().unwrap();
        assert_eq!((facts.alpn, facts.group, facts.resumed), (ALPN, "X25519MLKEM768", false));
        assert_eq!(facts.suite, "TLS13_AES_128_GCM_SHA256");
        let certified = verifier.check(facts.chain, usage, at(TODAY)).unwrap();
        assert_eq!(certified.sans, [San::Dns(name.to_owned())]);
        assert_eq!(certified.subject, format!("CN={name}"));
        assert_eq!(certified.not_after, at(TODAY + 90 * DAY));
        assert_eq!(certified.fingerprint.len(), 64);
    }
}

#[test]
fn who_dials_says_no_name_and_offers_the_hybrid_key_exchange_first() {
    let mut client = TlsEnd::client(hosts().0.client("h2")).unwrap();
    let (mut incoming, mut outgoing) = (Block::default(), Block::default());
    client.advance(&mut incoming, &mut outgoing).unwrap();
    let mut acceptor = rustls::server::Acceptor::default();
    acceptor.read_tls(&mut outgoing.filled()).unwrap();
    let accepted = acceptor.accept().unwrap().unwrap();
    let hello = accepted.client_hello();
    assert_eq!(hello.server_name(), None);
    assert_eq!(hello.named_groups().unwrap()[0], rustls::NamedGroup::X25519MLKEM768);
    assert_eq!(hello.alpn().unwrap().collect::<Vec<_>>(), [ALPN]);
}

#[test]
fn keys_of_other_kinds_do_as_well() {
    let ca = Authority::new("test CA");
    let algorithms = [&rcgen::PKCS_ED25519, &rcgen::PKCS_ECDSA_P384_SHA384, &rcgen::PKCS_RSA_SHA256];
    for algorithm in algorithms {
        let issue = |name, serial| {
            ca.issue_for(&Leaf::new(name, serial), rcgen::KeyPair::generate_for(algorithm).unwrap())
        };
        let host = |name, serial| clocked(&Host::new(&issue(name, serial), &[&ca]));
        let (one, other) = (host("h1.test", 11), host("h2.test", 12));
        Pair::new(one.client("h2"), other.server()).shake_hands().unwrap();
    }
}

#[test]
fn a_handshake_succeeds_however_it_is_cut() {
    let (one, other) = hosts();
    // Messages in many records, too, which an end must hold on to. Tickets would come so after the handshake.
    let mut server = ServerConfig::clone(&other.server());
    let mut client = ClientConfig::clone(&one.client("h2"));
    (client.max_fragment_size, server.max_fragment_size, server.send_tls13_tickets) = (Some(64), Some(64), 0);
    let split = (Arc::new(client), Arc::new(server));
    let whole = (one.client("h2"), other.server());
    for ((client, server), step) in [(&whole, 1), (&whole, 100), (&whole, 5000), (&split, 1), (&split, 500)] {
        let mut pair = Pair::new(client.clone(), server.clone());
        let (mut client_in, mut server_in) = (Block::default(), Block::default());
        let mut stages = (Stage::Handshaking, Stage::Handshaking);
        while stages != (Stage::Ready, Stage::Ready) {
            stages.0 =
                in_pieces(&mut pair.client, (&mut pair.to_client, &mut client_in), &mut pair.to_server, step);
            stages.1 =
                in_pieces(&mut pair.server, (&mut pair.to_server, &mut server_in), &mut pair.to_client, step);
        }
    }
}

/// An end gets what came for it in pieces of so many bytes.
fn in_pieces(
    end: &mut TlsEnd,
    (came, known): (&mut Block, &mut Block),
    back: &mut Block,
    step: usize,
) -> Stage {
    loop {
        let stage = end.advance(known, back).unwrap();
        let piece = step.min(came.len());
        if stage == Stage::Ready || piece == 0 {
            return stage;
        }
        known.append(&came.filled()[..piece]);
        came.consume(piece);
    }
}

#[test]
fn a_session_is_resumed_within_one_generation_of_credentials() {
    let (one, other) = hosts();
    let resumed = |client: Arc<ClientConfig>, server: &Credentials| {
        let mut pair = Pair::new(client, server.server());
        pair.shake_hands().unwrap();
        assert_eq!(open(&mut pair.client, &mut pair.to_client).unwrap().0, b"");
        let (client, server) = (pair.client.facts().unwrap(), pair.server.facts().unwrap());
        assert_eq!(client.resumed, server.resumed);
        assert_eq!(client.alpn, ALPN);
        assert_eq!(
            one.verifier().check(client.chain, Usage::Server, at(TODAY)).unwrap().subject,
            "CN=h2.test"
        );
        assert_eq!(
            other.verifier().check(server.chain, Usage::Client, at(TODAY)).unwrap().subject,
            "CN=h1.test"
        );
        client.resumed
    };
    assert!(!resumed(one.client("h2"), &other));
    assert!(resumed(one.client("h2"), &other));
    assert!(resumed(one.client("h2"), &other), "each handshake gives tickets for the next");
    assert!(!resumed(one.client("h3"), &other), "another peer's sessions are another's");
}

#[test]
fn another_protocol_or_none_is_refused() {
    let (one, other) = hosts();
    let with = |protocols: &[&[u8]]| {
        let mut client = ClientConfig::clone(&one.client("h2"));
        client.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
        Pair::new(Arc::new(client), other.server())
    };
    let mut pair = with(&[b"http/1.1"]);
    assert_eq!(pair.shake_hands(), Err(("server", TlsFault::Protocol)));
    let fault = pair.client.advance(&mut pair.to_client, &mut pair.to_server).unwrap_err();
    assert_eq!(fault, TlsFault::Alert(AlertDescription::NoApplicationProtocol));
    assert_eq!(fault.to_string(), "the other side refuses: no_application_protocol");
    assert_eq!(with(&[]).shake_hands(), Err(("client", TlsFault::Protocol)));
}

#[derive(Debug)]
struct Nobody;

impl ResolvesClientCert for Nobody {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

#[test]
fn who_has_no_certificate_gets_no_byte() {
    let (one, other) = hosts();
    let mut client = ClientConfig::clone(&one.client("h2"));
    client.client_auth_cert_resolver = Arc::new(Nobody);
    let mut pair = Pair::new(Arc::new(client), other.server());
    assert_eq!(pair.shake_hands(), Err(("server", TlsFault::Certificate(CertFault::None))));
    let fault = open(&mut pair.client, &mut pair.to_client).unwrap_err();
    assert_eq!(fault, TlsFault::Alert(AlertDescription::CertificateRequired));
}

#[test]
fn what_is_no_tls_is_told_from_it_at_once() {
    for bytes in
        [b"GET / HTTP/1.1\r\n\r\n".as_slice(), b"\0\x1fN\0\0\0\x0d\x07\xdf\x7f\xbd", b"SSH-2.0-x\r\n"]
    {
        let (stage, _) = told(bytes);
        assert_eq!(stage, Err(TlsFault::NotTls), "{bytes:?}");
    }
    assert_eq!(told(b"\x16\x03\x01").0, Ok(Stage::Handshaking));
}

/// A ClientHello as TLS 1.2 has it (RFC 5246 section 7.4.1.2): no supported_versions.
fn hello_of_tls12() -> Vec<u8> {
    let extensions = [0, 13, 0, 4, 0, 2, 4, 3, 0, 10, 0, 4, 0, 2, 0, 23, 0, 11, 0, 2, 1, 0];
    let mut hello = vec![3, 3];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0, 0, extensions.len().try_into().unwrap()]);
    hello.extend(extensions);
    let length: u8 = hello.len().try_into().unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    record
}

#[test]
fn an_older_tls_is_refused_and_told_why() {
    let (stage, alert) = told(&hello_of_tls12());
    assert_eq!(stage, Err(TlsFault::Version));
    assert_eq!(alert.filled(), [21, 3, 3, 0, 2, 2, u8::from(AlertDescription::ProtocolVersion)]);
}

#[test]
fn a_flight_that_never_ends_is_cut_off() {
    // One byte a record, of a ClientHello that says that it has 65,535.
    let mut server = TlsEnd::server(hosts().1.server()).unwrap();
    let (mut incoming, mut outgoing) = (Block::default(), Block::default());
    let bytes = [1, 0, 0xff, 0xff].into_iter().chain(std::iter::repeat(0));
    for byte in bytes.take(20_000) {
        incoming.append(&[22, 3, 1, 0, 1, byte]);
        if incoming.len() % 600 == 0 && server.advance(&mut incoming, &mut outgoing) == Err(TlsFault::TooLong)
        {
            assert!(incoming.len() < 66 * 1024);
            return;
        }
    }
    panic!("nobody has stopped it");
}

#[test]
fn credentials_are_checked_by_a_handshake_with_ourselves() {
    let (one, _) = hosts();
    assert_eq!(one.self_check(at(TODAY)).unwrap().subject, "CN=h1.test");
    let early = one.self_check(at(TODAY - 2 * DAY)).unwrap_err();
    assert!(matches!(early, SelfCheckFault::Certificate(CertFault::NotYetValid { .. })), "{early}");
    let late = one.self_check(at(TODAY + 91 * DAY)).unwrap_err();
    assert!(matches!(late, SelfCheckFault::Certificate(CertFault::Expired { .. })), "{late}");
    let (ca, other) = (Authority::new("test CA"), Authority::new("other CA"));
    let foreign = Host::new(&ca.issue(&Leaf::new("h1.test", 11)), &[&other]).credentials();
    let fault = foreign.self_check(at(TODAY)).unwrap_err();
    assert_eq!(
        fault.to_string(),
        "other guards would refuse it: the certificate of CN=h1.test (serial 0B) was issued by CN=test CA, \
         which [tls] ca does not have"
    );
}
