//! What must not go wrong where a leg breaks or ends, a node does not read, or the other guard is no good one.

use super::*;

/// For what is to happen at once.
const SOON: Duration = Duration::from_secs(5);

/// Writes until nothing is taken any more, and tells how much was.
async fn fill(stream: &mut TcpStream, bytes: &[u8]) -> usize {
    let mut written = 0;
    while written < bytes.len() {
        match tokio::time::timeout(Duration::from_millis(500), stream.write(&bytes[written..])).await {
            Ok(count) => written += count.unwrap(),
            Err(_) => return written,
        }
    }
    panic!("all of it was taken")
}

async fn until(what: impl Fn() -> bool) {
    let waiting = async {
        while !what() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, waiting).await.unwrap();
}

async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(SOON, what).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_node_had_not_taken_when_the_leg_broke_comes_once() {
    let Scene { between, resumed, mut node, mut far, .. } = scene().await;
    let bytes = noise(3, 64 << 20);
    let written = fill(&mut node, &bytes).await;
    between.cut();
    until(|| resumed.load(SeqCst) == 1).await;
    let saying = tokio::spawn(async move {
        node.shutdown().await.unwrap();
        node
    });
    let mut heard = Vec::new();
    tokio::time::timeout(4 * SOON, far.read_to_end(&mut heard)).await.unwrap().unwrap();
    assert_eq!(heard.len(), written);
    assert!(heard == bytes[..written]);
    drop(saying.await.unwrap());
}

#[tokio::test]
async fn a_link_that_ends_in_good_order_needs_no_other_leg() {
    let Scene { between: _between, legs, mut ended, mut node, carried, mut far, .. } = scene().await;
    node.write_all(b"question").await.unwrap();
    node.shutdown().await.unwrap();
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    let (Ended::By(_, How::Fin), Some(Ended::By(_, How::Fin))) =
        (soon(carried).await.unwrap(), soon(ended.recv()).await)
    else {
        panic!("it did not end in good order")
    };
    assert_eq!(legs.load(SeqCst), 1);
}

#[tokio::test]
async fn a_reset_comes_through_at_once() {
    let Scene { between: _between, legs, mut ended, node, mut far, .. } = scene().await;
    crate::transport::reset(&node);
    drop(node);
    soon(far.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(soon(ended.recv()).await, Some(Ended::By(Side::Downstream, How::Reset)));
    assert_eq!(legs.load(SeqCst), 1);
}

#[tokio::test]
async fn a_link_that_waits_for_a_node_costs_nothing() {
    // More than the kernel takes, so that something waits to be sent.
    let Scene { between: _between, mut node, far: _far, .. } = scene_with(48 * REPLAY).await;
    fill(&mut node, &noise(4, 128 << 20)).await;
    let (tell, hung) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        std::thread::sleep(4 * SOON);
        tell.send(())
    });
    // This clock only goes on where nobody has anything to do.
    tokio::time::pause();
    tokio::select! {
        () = tokio::time::sleep(Duration::from_mins(2)) => {}
        _ = hung => panic!("somebody is busy all the time"),
    }
}

#[tokio::test]
async fn a_node_that_only_writes_is_heard_where_the_other_one_writes_as_well() {
    let Scene { between: _between, node, far, .. } = scene().await;
    const LENGTH: usize = 24 << 20;
    let (mut hears, mut says) = far.into_split();
    let answering = tokio::spawn(async move {
        says.write_all(&noise(6, LENGTH)).await.unwrap();
        says
    });
    let hearing = tokio::spawn(async move {
        let mut heard = vec![0; LENGTH];
        hears.read_exact(&mut heard).await.unwrap();
        assert!(heard == noise(5, LENGTH));
        hears
    });
    let (mut hears, mut says) = node.into_split();
    // It reads only once it has said all.
    tokio::time::timeout(4 * SOON, says.write_all(&noise(5, LENGTH))).await.unwrap().unwrap();
    let mut heard = vec![0; LENGTH];
    tokio::time::timeout(4 * SOON, hears.read_exact(&mut heard)).await.unwrap().unwrap();
    assert!(heard == noise(6, LENGTH));
    drop((answering.await.unwrap(), hearing.await.unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_that_was_not_granted_when_its_leg_broke_is_not_resumed() {
    let [h1, h2] = trusts();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = listener.local_addr().unwrap();
    let answering = tokio::spawn(async move {
        let tunnels = Tunnels::new(REPLAY);
        let stream = listener.accept().await.unwrap().0;
        let dialled = Dialled::shake_hands(stream, h2.credentials.server(), &tunnels).await.unwrap();
        let Ok(Wish::Open(opening)) = dialled.hear(&tunnels, REPLAY).await else { panic!("no link") };
        drop(opening);
        listener
    });
    let tunnels = Tunnels::new(REPLAY);
    let (mut node, _, carried) = dialling(&h1, at, (&tunnels, REPLAY)).await;
    assert_eq!(soon(carried).await.unwrap(), Ended::LegLost);
    let error = soon(node.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    drop(answering);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_goes_while_there_is_no_leg_is_missed_as_soon_as_there_is_one() {
    let Scene { between, node, carried, mut far, .. } = scene().await;
    between.closed.store(true, SeqCst);
    between.cut();
    until(|| between.turned_away.load(SeqCst) > 0).await;
    crate::transport::reset(&node);
    drop(node);
    between.closed.store(false, SeqCst);
    let error = soon(far.read(&mut [0; 1])).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(soon(carried).await.unwrap(), Ended::By(Side::Downstream, How::Reset));
}

#[tokio::test]
async fn a_node_that_resets_is_missed_where_the_other_one_takes_nothing() {
    let Scene { between: _between, mut node, carried, far: _far, .. } = scene().await;
    fill(&mut node, &noise(7, 64 << 20)).await;
    crate::transport::reset(&node);
    drop(node);
    let ended = tokio::time::timeout(4 * SOON, carried).await.unwrap().unwrap();
    assert_eq!(ended, Ended::By(Side::Downstream, How::Reset));
}

#[tokio::test]
async fn a_link_that_is_resumed_where_it_cannot_be_is_over() {
    let Scene { trust, tunnels, between, link, mut ended, node: _node, carried, mut far, .. } = scene().await;
    let resumed = way(between.at).resume(&trust, (link, 1 << 40), (SOON, &tunnels)).await;
    let Err(ResumeError::Refused { code: Refusal::UnknownOffset, .. }) = resumed else {
        panic!("{resumed:?}")
    };
    assert_eq!(soon(ended.recv()).await, Some(Ended::By(Side::Downstream, How::Reset)));
    soon(far.read(&mut [0; 1])).await.unwrap_err();
    between.cut();
    assert_eq!(soon(carried).await.unwrap(), Ended::LegLost);
}

/// Says so much there that some of it is acknowledged: more than is kept.
async fn acknowledged(far: &mut TcpStream, node: &mut TcpStream) {
    let bytes = noise(8, 4 * REPLAY);
    let mut heard = vec![0; bytes.len()];
    let (said, heard) =
        soon(async { tokio::join!(far.write_all(&bytes), node.read_exact(&mut heard)) }).await;
    said.unwrap();
    heard.unwrap();
}

async fn says(from: &mut TcpStream, to: &mut TcpStream, words: &[u8]) {
    from.write_all(words).await.unwrap();
    let mut heard = vec![0; words.len()];
    soon(to.read_exact(&mut heard)).await.unwrap();
    assert_eq!(heard, words);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_resume_of_a_try_that_was_given_up_does_a_live_link_no_harm() {
    let Scene { trust, tunnels, between, guard, legs, resumed, link, mut node, mut far, .. } = scene().await;
    acknowledged(&mut far, &mut node).await;
    let late = way(guard).resume(&trust, (link, 0), (SOON, &tunnels)).await;
    let Err(ResumeError::Refused { code: Refusal::UnknownOffset, .. }) = late else { panic!("{late:?}") };
    says(&mut node, &mut far, b"question").await;
    says(&mut far, &mut node, b"answer").await;
    // On the leg that it had.
    assert_eq!((legs.load(SeqCst), resumed.load(SeqCst)), (2, 1));
    drop(between);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_resume_of_a_try_that_was_given_up_does_a_link_without_a_leg_no_harm() {
    let Scene { trust, tunnels, between, guard, link, mut node, mut far, .. } = scene().await;
    acknowledged(&mut far, &mut node).await;
    between.closed.store(true, SeqCst);
    between.cut();
    until(|| between.turned_away.load(SeqCst) > 0).await;
    let late = way(guard).resume(&trust, (link, 0), (SOON, &tunnels)).await;
    let Err(ResumeError::Refused { code: Refusal::UnknownOffset, .. }) = late else { panic!("{late:?}") };
    between.closed.store(false, SeqCst);
    says(&mut node, &mut far, b"question").await;
    says(&mut far, &mut node, b"answer").await;
}

#[tokio::test]
async fn a_try_to_resume_that_is_given_up_leaves_nothing_that_could_arrive_late() {
    let [h1, h2] = trusts();
    let guard = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (to, tunnels) = (guard.local_addr().unwrap(), Tunnels::new(REPLAY));
    let silent = tokio::spawn({
        let tunnels = tunnels.clone();
        async move {
            let stream = guard.accept().await.unwrap().0;
            let dialled = Dialled::shake_hands(stream, h2.credentials.server(), &tunnels).await.unwrap();
            dialled.hear(&tunnels, REPLAY).await.unwrap()
        }
    });
    let between = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let at = between.local_addr().unwrap();
    let carrying = tokio::spawn(async move {
        let mut from = between.accept().await.unwrap().0;
        let mut to = TcpStream::connect(to).await.unwrap();
        tokio::io::copy_bidirectional(&mut from, &mut to).await
    });
    let link = LinkId([7; 16]);
    let given_up = way(at).resume(&h1, (link, 0), (Duration::from_secs(1), &tunnels)).await;
    let Err(ResumeError::Failed(_)) = given_up else { panic!("{given_up:?}") };
    let error = soon(carrying).await.unwrap().unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let Wish::Resume(resuming) = silent.await.unwrap() else { panic!("no resume") };
    assert_eq!(resuming.link, link);
}

/// Both ends of a link whose handshake is read, and nothing carried yet; the dialling one may keep so much.
async fn ends(trusts: [Trust; 2], replay: usize) -> (Box<Tunnelled>, Box<Tunnelled>) {
    let [h1, h2] = trusts;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (way, tunnels) = (way(listener.local_addr().unwrap()), Tunnels::new(64 * REPLAY));
    let wanted = Wanted {
        kind: Kind::Tcp,
        source: SocketAddr::from(([127, 0, 0, 1], 1)),
        trace: 1,
        redial: redial(&way, &h1, &tunnels),
        replay,
    };
    let answers = async {
        let stream = listener.accept().await.unwrap().0;
        let dialled = Dialled::shake_hands(stream, h2.credentials.server(), &tunnels).await.unwrap();
        let Wish::Open(opening) = dialled.hear(&tunnels, REPLAY).await.unwrap() else { panic!("no link") };
        let (_place, renewal) = tunnels.enter(opening.open.link, &"h1".into()).unwrap();
        opening.grant(renewal).unwrap()
    };
    let dials = async {
        let opened = way.open(&h1, 9100, wanted, (SOON, &tunnels)).await.unwrap();
        opened.writable().await.unwrap();
        opened
    };
    let (Wire::Tunnel(dialling), Wire::Tunnel(answering)) = tokio::join!(dials, answers) else {
        panic!("no tunnel")
    };
    (dialling, answering)
}

#[tokio::test]
async fn an_end_without_room_is_not_writable() {
    let (dialling, _answering) = ends(trusts(), 0).await;
    let bytes = noise(9, 8192);
    let count = dialling.try_write(&bytes).unwrap();
    assert!(count < bytes.len());
    assert_eq!(dialling.try_write(&bytes).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    tokio::time::timeout(Duration::from_millis(200), dialling.writable()).await.unwrap_err();
}

#[tokio::test]
async fn what_is_read_of_a_handshake_is_acknowledged() {
    let (dialling, answering) = ends(trusts(), 0).await;
    let bytes = noise(9, 16 << 10);
    let (mut heard, mut buffer) = (Vec::new(), [0; 1024]);
    let hears = async {
        while heard.len() < bytes.len() {
            answering.readable().await.unwrap();
            let count = answering.try_read(&mut buffer).unwrap_or_default();
            heard.extend_from_slice(&buffer[..count]);
        }
    };
    let says = async {
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            dialling.writable().await.unwrap();
            rest = &rest[dialling.try_write(rest).unwrap()..];
        }
    };
    soon(async { tokio::join!(says, hears) }).await;
    assert!(heard == bytes);
}

#[tokio::test]
async fn a_leg_lives_however_long_its_handshake_takes() {
    for side in [Side::Downstream, Side::Upstream] {
        let (dialling, answering) = ends(trusts(), REPLAY).await;
        let (carried, waiting) = match side {
            Side::Downstream => (dialling, answering),
            Side::Upstream => (answering, dialling),
        };
        waiting.try_write(b"!").unwrap();
        let (mut node, stream) = sockets().await;
        let carrying = tokio::spawn(async move {
            let traffic = Traffic::default();
            relay().carry(*carried, (stream, side), &traffic, std::future::pending()).await
        });
        assert_eq!(soon(node.read_u8()).await.unwrap(), b'!');
        // Nobody reads or writes at the other end, which may dial its node.
        tokio::time::pause();
        tokio::time::sleep(Duration::from_mins(1)).await;
        tokio::time::resume();
        waiting.try_write(b"?").unwrap();
        assert_eq!(soon(node.read_u8()).await.unwrap(), b'?');
        carrying.abort();
    }
}

#[tokio::test]
async fn a_node_that_reads_nothing_waits_where_all_links_hold_what_they_may_and_goes_on_when_it_reads() {
    let Scene { tunnels, between: _between, node, mut far, .. } = scene().await;
    tunnels.replay.set_cap(0);
    let filled = fill(&mut far, &noise(10, 64 << 20)).await;
    let words = noise(11, 32 << 10);
    let (mut reads, mut writes) = node.into_split();
    writes.write_all(&words).await.unwrap();
    // What one read brings is there; nothing more is held of what the node does not take.
    assert!(tunnels.replay.held() <= 1024 * 1024, "{}", tunnels.replay.held());
    let reading = tokio::spawn(async move { reads.read_exact(&mut vec![0; filled]).await.map(drop) });
    let mut heard = vec![0; words.len()];
    tokio::time::timeout(4 * SOON, far.read_exact(&mut heard)).await.unwrap().unwrap();
    assert!(heard == words);
    soon(reading).await.unwrap().unwrap();
    until(|| tunnels.replay.held() <= 4096).await;
}

#[tokio::test]
async fn the_last_words_of_a_node_come_before_its_fin_and_no_reset() {
    let (dialling, answering) = ends(trusts(), REPLAY).await;
    assert_eq!(answering.try_write(b"alert").unwrap(), 5);
    drop(answering);
    let (mut heard, mut buffer) = (Vec::new(), [0; 16]);
    loop {
        soon(dialling.readable()).await.unwrap();
        match dialling.try_read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => heard.extend_from_slice(&buffer[..count]),
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    assert_eq!((heard.as_slice(), dialling.lost()), (&b"alert"[..], None));
}

#[tokio::test]
async fn last_words_reach_a_node_whose_guard_carries_already() {
    let (dialling, answering) = ends(trusts(), REPLAY).await;
    assert_eq!(answering.try_write(b"alert").unwrap(), 5);
    let (mut node, stream) = sockets().await;
    let traffic = Traffic::default();
    let relay = relay();
    let carrying = relay.carry(*dialling, (stream, Side::Downstream), &traffic, std::future::pending());
    let speaking = async {
        let mut heard = Vec::new();
        node.read_to_end(&mut heard).await.unwrap();
        drop(node);
        heard
    };
    let (ended, heard, ()) =
        soon(Box::pin(async { tokio::join!(carrying, speaking, answering.finish(SOON)) })).await;
    assert_eq!((ended, heard.as_slice()), (Ended::By(Side::Upstream, How::Fin), &b"alert"[..]));
}

#[tokio::test]
async fn who_takes_no_answers_is_not_asked_for_more_questions() {
    let [h1, h2] = trusts();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (way, tunnels) = (way(listener.local_addr().unwrap()), Tunnels::new(REPLAY));
    let answers = async {
        let stream = listener.accept().await.unwrap().0;
        let dialled = Dialled::shake_hands(stream, h2.credentials.server(), &tunnels).await.unwrap();
        let Wish::Ask(asked) = dialled.hear(&tunnels, REPLAY).await.unwrap() else { panic!("no question") };
        asked
    };
    let asks = async {
        let mut asking = way.ask(&h1, (SOON, &tunnels)).await.unwrap();
        for id in 0..8 {
            asking.ask(id, b"n").unwrap();
        }
        // They leave; nothing comes yet.
        tokio::time::timeout(Duration::from_millis(200), asking.next()).await.unwrap_err();
        asking
    };
    let (mut asked, mut asking) = tokio::join!(answers, asks);
    let mut answered = 0;
    while let Ok(question) = tokio::time::timeout(Duration::from_millis(500), asked.next()).await {
        assert!(answered < 8);
        asked.answer(question.unwrap().0, vec![0; 4 << 20]).unwrap();
        answered += 1;
    }
    assert!(answered < 8 && !asked.has_room());
    tokio::time::timeout(Duration::from_millis(200), asked.flush()).await.unwrap_err();
    let takes = async {
        for _ in 0..answered {
            asking.next().await.unwrap();
        }
    };
    let ((), flushed) = soon(async { tokio::join!(takes, asked.flush()) }).await;
    flushed.unwrap();
    assert!(asked.has_room());
    let next = soon(asked.next()).await;
    assert_eq!(next.unwrap().0, answered);
}

#[tokio::test]
async fn however_many_questions_begin_a_leg_each_is_heard() {
    const MANY: u32 = 256;
    let [h1, h2] = trusts();
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let (way, tunnels) = (way(listener.local_addr().unwrap()), Tunnels::new(REPLAY));
    let answers = async {
        let stream = listener.accept().await.unwrap().0;
        let dialled = Dialled::shake_hands(stream, h2.credentials.server(), &tunnels).await.unwrap();
        let Wish::Ask(mut asked) = dialled.hear(&tunnels, REPLAY).await.unwrap() else {
            panic!("no question")
        };
        for id in 0..MANY {
            assert_eq!(asked.next().await.unwrap().0, id);
            asked.answer(id, Vec::new()).unwrap();
        }
        asked.next().await.unwrap_err();
    };
    let asks = async {
        let mut asking = way.ask(&h1, (SOON, &tunnels)).await.unwrap();
        for id in 0..MANY {
            asking.ask(id, &[b'z'; 256]).unwrap();
        }
        for _ in 0..MANY {
            asking.next().await.unwrap();
        }
    };
    soon(async { tokio::join!(answers, asks) }).await;
}

#[tokio::test]
async fn a_peer_with_a_guard_at_one_address_is_not_one_without() {
    let [h1, _] = trusts();
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let mut way = way(silent.local_addr().unwrap());
    way.connect.extend(super::way(gone.local_addr().unwrap()).connect);
    drop(gone);
    let begun = std::time::Instant::now();
    let error = way.ask(&h1, (Duration::from_secs(1), &Tunnels::new(REPLAY))).await.unwrap_err();
    assert!(!error.is_refused_connection(), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}
