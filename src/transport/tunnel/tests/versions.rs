//! Guards of other versions: what they agree on, what one of them may say that this one does not know, and what ends a leg.

use super::*;
use crate::proto::tunnel::{Answers, Event, Frame, Hello, MAX_SOFTWARE, Software};
use crate::transport::tls::{TlsEnd, TlsFault};
use crate::transport::tunnel::leg::Leg;

/// The version behind this one, whatever it will be.
const NEXT: &[u8] = b"epmd-guard/2";
const SOON: Duration = Duration::from_secs(5);

/// What a guard dials that speaks these protocols, and what becomes of it at one of this version.
async fn meet(protocols: &[&[u8]]) -> (Result<Leg, Lost>, Result<Dialled, Lost>, Tunnels) {
    let [other, this] = trusts_of([protocols, &[ALPN]]);
    let (dialled, accepted) = sockets().await;
    let tunnels = Tunnels::new(64 * REPLAY);
    let tls = TlsEnd::client(other.credentials.client("h2")).unwrap();
    let (leg, answering) = tokio::join!(
        Leg::shake_hands(dialled, tls, Answers::Refused, &tunnels.pool),
        Dialled::shake_hands(accepted, this.credentials.server(), &tunnels),
    );
    (leg, answering, tunnels)
}

fn frame(frame: &Frame<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame.encode_into(&mut bytes);
    bytes
}

fn hello(capabilities: u64, software: String) -> Vec<u8> {
    frame(&Frame::Hello(Hello { capabilities, software: Software::cut(software) }))
}

fn open() -> Frame<'static> {
    let source = SocketAddr::from(([127, 0, 0, 1], 1));
    Frame::Open(crate::proto::tunnel::Open {
        link: LinkId([7; 16]),
        kind: Kind::Dist,
        port: 9100,
        source,
        trace: 1,
    })
}

/// A frame of a type that nobody knows yet.
fn unknown(flags: u8) -> Vec<u8> {
    let mut bytes = vec![200, flags, 0, 0, 0, 0, 0, 5];
    bytes.extend(b"later");
    bytes
}

/// What a guard of this version makes of these bytes, and with which words it refuses them, if it does.
async fn said(bytes: &[u8]) -> (Result<Wish, Lost>, Option<(Refusal, String)>) {
    let (leg, answering, tunnels) = meet(&[NEXT, ALPN]).await;
    let (mut leg, answering) = (leg.unwrap(), answering.unwrap());
    assert_eq!((leg.facts().unwrap().alpn, answering.facts().unwrap().alpn), (ALPN, ALPN));
    leg.seal(bytes).unwrap();
    leg.flush_now();
    let heard = tokio::time::timeout(SOON, answering.hear(&tunnels, REPLAY)).await.unwrap();
    let (mut greeted, mut refusal) = (false, None);
    let hearing = std::future::poll_fn(|cx| {
        loop {
            if refusal.is_some() || greeted && heard.is_ok() {
                return std::task::Poll::Ready(());
            }
            let heard = leg.poll_receive(cx, |event| {
                match event {
                    Event::Frame(Frame::Hello(hello)) => {
                        assert_eq!((hello.capabilities, greeted), (0, false));
                        greeted = true;
                    }
                    Event::Frame(Frame::Refused { code, detail }) => {
                        refusal = Some((code, detail.to_string()))
                    }
                    other @ (Event::Frame(_) | Event::Data { .. }) => panic!("{other:?}"),
                }
                Ok(())
            });
            match heard {
                std::task::Poll::Pending => return std::task::Poll::Pending,
                std::task::Poll::Ready(Ok(())) => {}
                std::task::Poll::Ready(Err(_)) => return std::task::Poll::Ready(()),
            }
        }
    });
    tokio::time::timeout(SOON, hearing).await.unwrap();
    (heard, refusal)
}

#[tokio::test]
async fn a_guard_of_a_later_version_is_spoken_with_in_this_one() {
    let mut bytes = hello(u64::MAX, "x".repeat(MAX_SOFTWARE));
    bytes.extend(unknown(1));
    bytes.extend(frame(&open()));
    let (heard, refusal) = said(&bytes).await;
    assert!(matches!(heard, Ok(Wish::Open(_))), "{heard:?}");
    assert_eq!(refusal, None);
}

#[tokio::test]
async fn with_a_guard_that_knows_no_version_of_ours_there_is_no_leg_and_both_are_told_why() {
    let (leg, answering, _) = meet(&[NEXT]).await;
    let fault = answering.unwrap_err();
    assert_eq!(fault.reason(), "tls_protocol");
    let told = leg.map(drop);
    // The alert comes in the handshake of the one that dials, or right behind it.
    if let Err(fault) = told {
        assert!(matches!(fault, Lost::Tls(TlsFault::Alert(_)) | Lost::Tls(TlsFault::Protocol)), "{fault:?}");
        assert!(crate::telemetry::describe(&fault).contains("no_application_protocol"), "{fault:?}");
    } else {
        panic!("there is a leg");
    }
}

#[tokio::test]
async fn what_is_not_known_and_may_not_be_passed_over_is_refused_with_its_reason() {
    let begun = || hello(1, "later".to_owned());
    let mut kind = frame(&open());
    // Behind the header and the name of the link.
    kind[8 + 16] = 4;
    let cases = [
        ([begun(), unknown(0)].concat(), Refusal::Protocol),
        ([begun(), begun()].concat(), Refusal::Protocol),
        (frame(&open()), Refusal::Protocol),
        ([begun(), kind].concat(), Refusal::Unsupported),
    ];
    for (bytes, code) in cases {
        let (heard, refusal) = said(&bytes).await;
        assert!(heard.is_err(), "{heard:?}");
        assert_eq!(refusal.map(|(code, _)| code), Some(code));
    }
}
