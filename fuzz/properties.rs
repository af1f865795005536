//! What must hold for any bytes: shared by the fuzz targets and by `tests/corpus.rs`, which replays
//! the committed corpus on stable.

use epmd_guard::proto::epmd::{
    Alive2Reply, DumpReply, MAX_REQUEST, NamesReply, PortReply, Request, StopReply, frame, opcode,
};

/// A request that decodes is re-encoded to one that decodes the same, within epmd's limit; and no
/// prefix of a whole frame is taken for anything but an unfinished one.
pub(crate) fn check_request(input: &[u8]) {
    let early = opcode(input);
    let Ok(Some(body)) = frame(input) else { return };
    assert!(body.len() <= MAX_REQUEST);
    for cut in 0..input.len() {
        assert_eq!(frame(&input[..cut]), Ok(None), "cut at {cut}");
    }
    if let Ok(request) = Request::decode(body) {
        assert_eq!(early, Ok(Some(request.opcode())));
        let again = request.encode();
        let body = frame(&again).expect("our own frame").expect("whole");
        assert_eq!(Request::decode(body), Ok(request));
    }
}

/// A reply that decodes is re-encoded to one that means the same and forges nothing.
pub(crate) fn check_reply(input: &[u8]) {
    if let Ok(reply) = PortReply::decode(input) {
        assert_eq!(PortReply::decode(&reply.encode()), Ok(reply));
    }
    if let Ok(reply) = NamesReply::decode(input) {
        let again = reply.encode();
        let lines = again[4..].iter().filter(|&&b| b == b'\n').count();
        assert_eq!(lines, reply.names.len(), "a name forged a line");
        let again = NamesReply::decode(&again).expect("our own reply");
        assert_eq!((again.names, again.skipped), (reply.names, 0));
    }
    if let Ok(reply) = DumpReply::decode(input) {
        let again = reply.encode();
        let again = DumpReply::decode(&again).expect("our own reply");
        assert_eq!((again.entries, again.skipped), (reply.entries, 0));
    }
    if let Ok(Some(reply)) = Alive2Reply::decode(input) {
        assert_eq!(Alive2Reply::decode(&reply.encode()), Ok(Some(reply)));
    }
    if let Ok(reply) = StopReply::decode(input) {
        assert_eq!(StopReply::decode(&reply.encode()), Ok(reply));
    }
}
