//! The admin socket as a client meets it, and documents for the tests of those who read them.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::unistd::{Group, getegid};
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::control::documents::{
    Applies, ChangeDocument, GuardMode, GuardState, LastReload, LastResult, LinkStanding, ListenerAudience,
    ListenerDocument, ListenerState, PeerDocument, ReloadResult, SpeakersDocument,
};
use crate::policy::Mode;

/// The status of a guard that is well.
pub(crate) fn a_status() -> Status {
    let listener = |role: &str, listener: &str, audience, inside: Option<u16>| ListenerDocument {
        role: role.into(),
        listener: listener.parse().unwrap(),
        audience,
        node: inside.map(|_| "ejabberd".into()),
        inside,
        toward: None,
        state: ListenerState::Open,
    };
    let peer = |name: &str, links, addresses: &[&str]| PeerDocument {
        name: name.into(),
        links,
        bytes_in: if links > 0 { 1_288_490_189 } else { 0 },
        bytes_out: if links > 0 { 812 } else { 0 },
        idle_seconds: (links > 0).then_some(125.5),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        mesh: (links > 0).then(|| "full".into()),
    };
    Status {
        version: "0.1.0".into(),
        pid: 4711,
        started_at: "2026-11-20T08:00:00Z".into(),
        uptime_seconds: 273_600.0,
        config: "/etc/epmd-guard/epmd-guard.toml".into(),
        generation: 3,
        last_reload: Some(LastReload {
            at: "2026-11-22T09:00:00Z".into(),
            result: LastResult::Ok,
            detail: None,
        }),
        state: GuardState::Open,
        mode: Some(ModeDocument {
            mode: GuardMode::Observe,
            configured: GuardMode::Enforce,
            until: Some("2026-11-22T10:00:00Z".into()),
            remaining_seconds: Some(900.0),
        }),
        speakers: Some(SpeakersDocument {
            handshakes: [("up".into(), 12), ("wrong_cookie".into(), 3), ("malformed".into(), 0)].into(),
            half_open: 1,
            half_open_most: 512,
            bans: 2,
            would_refuse: [("name_not_allowed".into(), 4)].into(),
        }),
        tls: None,
        ready: true,
        not_ready: Vec::new(),
        warnings: Vec::new(),
        connections: 3,
        links: 2,
        names: None,
        listeners: vec![
            listener("epmd", "192.0.2.1:4369", ListenerAudience::Peers, None),
            listener("dist", "[2001:db8::1]:9100", ListenerAudience::ItselfOnly, Some(9100)),
        ],
        peers: vec![peer("h2", 2, &["192.0.2.2", "2001:db8::2", "2001:db8::3"]), peer("h3", 0, &[])],
    }
}

/// A link of a peer.
pub(crate) fn a_link(id: u64) -> LinkDocument {
    LinkDocument {
        id,
        peer: "192.0.2.2:40000".parse().unwrap(),
        peer_name: Some("h2".into()),
        standing: LinkStanding::Peer,
        listener: "192.0.2.1:9100".parse().unwrap(),
        node: Some("ejabberd".into()),
        inside: 9100,
        peer_node: Some("b@h2.test".into()),
        answered_by: Some("ejabberd@h1.test".into()),
        hidden: Some(true),
        handshake: Some(6),
        link: None,
        toward: None,
        rule: Some("allow 192.0.2.0/24 (line 3)".into()),
        since: "2026-11-20T08:00:00Z".into(),
        age_seconds: 7500.0,
        bytes_up: 1_288_490_189,
        bytes_down: 812,
        idle_seconds: 3.2,
        blocked_seconds: 0.0,
        why: None,
    }
}

/// A ban of an address.
pub(crate) fn a_ban() -> BanDocument {
    BanDocument {
        network: "203.0.113.9".into(),
        since: "2026-11-23T08:00:00Z".into(),
        until: "2026-11-23T08:04:00Z".into(),
        remaining_seconds: 185.0,
        times: 2,
        why: "wrong_cookie".into(),
    }
}

/// A report with two changes.
pub(crate) fn a_report(result: ReloadResult) -> ReloadReport {
    let change =
        |key: &str, what: &str, applies| ChangeDocument { key: key.into(), what: what.into(), applies };
    ReloadReport {
        result,
        generation: 4,
        changes: vec![
            change("[cluster] allow", "1 more", Applies::AtOnce),
            change("[log] format", "json", Applies::AfterRestart),
        ],
        cut: Vec::new(),
        problems: Vec::new(),
        warnings: Vec::new(),
    }
}

/// A guard that answers from memory.
pub(crate) struct Fake {
    pub(crate) readiness: Mutex<Readiness>,
    pub(crate) result: Mutex<ReloadResult>,
    pub(crate) reload_takes: Mutex<Duration>,
    pub(crate) reloads: Mutex<Vec<ReloadRequest>>,
    pub(crate) done: AtomicUsize,
    pub(crate) drains: Mutex<Vec<Intake>>,
    pub(crate) modes: Mutex<Vec<ModeOrder>>,
    pub(crate) pardons: Mutex<Vec<Pardon>>,
    pub(crate) explained: AtomicUsize,
    /// Who asks from `slow` is answered when this is unlocked.
    gate: Mutex<()>,
    waiting: AtomicUsize,
}

impl Default for Fake {
    fn default() -> Self {
        let readiness = Readiness { ready: true, reasons: Vec::new(), warnings: vec!["mind the gap".into()] };
        Self {
            readiness: Mutex::new(readiness),
            result: Mutex::new(ReloadResult::Reloaded),
            reload_takes: Mutex::default(),
            reloads: Mutex::default(),
            done: AtomicUsize::new(0),
            drains: Mutex::default(),
            modes: Mutex::default(),
            pardons: Mutex::default(),
            explained: AtomicUsize::new(0),
            gate: Mutex::default(),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl Operations for Fake {
    fn status(&self) -> Status {
        a_status()
    }

    fn links(&self) -> Vec<LinkDocument> {
        vec![a_link(7)]
    }

    fn metrics(&self) -> String {
        "# EOF\n".into()
    }

    fn readiness(&self) -> Readiness {
        self.readiness.lock().unwrap().clone()
    }

    fn explain(&self, query: ExplainQuery) -> Result<serde_json::Value, String> {
        self.explained.fetch_add(1, Ordering::Relaxed);
        if query.from == "slow" {
            self.waiting.fetch_add(1, Ordering::Relaxed);
            drop(self.gate.lock().unwrap());
        }
        match query.from.as_str() {
            "panic" => panic!("as asked"),
            "nonsense" => Err("from is no address: \"nonsense\"".into()),
            from => Ok(serde_json::json!({ "from": from, "as": query.as_node, "to": query.to })),
        }
    }

    async fn reload(&self, how: ReloadRequest) -> ReloadReport {
        self.reloads.lock().unwrap().push(how);
        let takes = *self.reload_takes.lock().unwrap();
        if !takes.is_zero() {
            tokio::time::sleep(takes).await;
        }
        self.done.fetch_add(1, Ordering::Relaxed);
        a_report(*self.result.lock().unwrap())
    }

    fn drain(&self, intake: Intake) {
        self.drains.lock().unwrap().push(intake);
    }

    fn mode(&self) -> ModeDocument {
        a_status().mode.unwrap()
    }

    fn set_mode(&self, order: ModeOrder, _by: Orderer) -> Result<ModeDocument, ModeFault> {
        self.modes.lock().unwrap().push(order);
        if order.mode == Mode::Observe && order.lasts.is_none() {
            return Err(ModeFault::ForEver(order.mode));
        }
        Ok(self.mode())
    }

    fn bans(&self) -> Vec<BanDocument> {
        vec![a_ban()]
    }

    fn unban(&self, whom: Pardon, _by: Orderer) -> u64 {
        self.pardons.lock().unwrap().push(whom);
        u64::from(whom == Pardon::All || whom == Pardon::Net("203.0.113.9/32".parse().unwrap()))
    }

    fn learn(&self) -> LearnDocument {
        LearnDocument {
            since: None,
            handshakes: 0,
            forgotten: 0,
            mode: GuardMode::Enforce,
            rules: "# nothing\n".into(),
            seen: Vec::new(),
        }
    }
}

/// A guard whose admin socket is served.
pub(crate) struct Running {
    folder: TempDir,
    pub(crate) fake: Arc<Fake>,
    stop: CancellationToken,
    served: JoinSet<()>,
}

impl Running {
    pub(crate) async fn start() -> Self {
        let running = Self::begin("admin.sock", None, |_| {});
        running.is_open().await;
        running
    }

    /// Begins to serve; `prepare` sees the folder first.
    fn begin(name: &str, group: Option<String>, prepare: impl FnOnce(&Path)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let claim = claim(&folder.path().join(name)).unwrap();
        let settings = AdminSettings { claim: Some(claim), group, listen: Vec::new() };
        let (fake, stop, mut served) = (Arc::new(Fake::default()), CancellationToken::new(), JoinSet::new());
        served.spawn(serve(settings, Arc::clone(&fake), stop.clone()));
        Self { folder, fake, stop, served }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("admin.sock")
    }

    async fn is_open(&self) {
        let socket = self.socket();
        eventually(async || UnixStream::connect(&socket).await.is_ok()).await;
    }

    async fn stop(mut self) -> TempDir {
        self.stop.cancel();
        self.served.join_next().await.unwrap().unwrap();
        self.folder
    }

    /// Sends what is written there, and reads all that comes.
    async fn raw(&self, request: &str) -> String {
        exchange_with(UnixStream::connect(self.socket()).await.unwrap(), request).await
    }

    async fn get(&self, path: &str) -> String {
        self.raw(&format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n")).await
    }

    async fn post(&self, path: &str, body: &str) -> String {
        let length = body.len();
        self.raw(&format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n{body}")).await
    }
}

async fn exchange_with(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> String {
    // A server that has heard enough may be gone before all is written.
    stream.write_all(request.as_bytes()).await.unwrap_or_default();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.map(drop).unwrap_or_default();
    String::from_utf8(answer).unwrap()
}

async fn eventually(mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..4000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("it never came to that");
}

fn assert_status(answer: &str, status: u16) {
    assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
}

#[tokio::test]
async fn each_question_gets_its_answer() {
    let guard = Running::start().await;
    let cases = [
        ("/healthz", "text/plain; charset=utf-8", "ok\n"),
        ("/readyz", "text/plain; charset=utf-8", "ready\nwarning: mind the gap\n"),
        ("/status", "application/json", "\"pid\": 4711"),
        ("/links", "application/json", "\"peer\": \"192.0.2.2:40000\""),
        ("/mode", "application/json", "\"mode\": \"observe\""),
        ("/bans", "application/json", "\"network\": \"203.0.113.9\""),
        ("/learn", "application/json", "\"rules\": \"# nothing\\n\""),
        ("/metrics", "application/openmetrics-text; version=1.0.0; charset=utf-8", "\r\n\r\n# EOF\n"),
        ("/explain?from=192.0.2.7&as=a%40b&to=9100", "application/json", "\"as\": \"a@b\""),
    ];
    for (path, content_type, body) in cases {
        let answer = guard.get(path).await;
        assert_status(&answer, 200);
        assert!(answer.contains(&format!("content-type: {content_type}\r\n")), "{answer}");
        assert!(answer.contains("cache-control: no-store\r\n"), "{answer}");
        assert!(answer.contains(body), "{answer}");
    }
    let status = guard.get("/status").await;
    let body = status.split_once("\r\n\r\n").unwrap().1;
    assert_eq!(serde_json::from_str::<Status>(body).unwrap(), a_status());
}

#[tokio::test]
async fn a_guard_that_is_not_ready_says_why() {
    let guard = Running::start().await;
    *guard.fake.readiness.lock().unwrap() = Readiness {
        ready: false,
        reasons: vec!["4369 is taken".into(), "no answer yet for h2".into()],
        warnings: vec!["w".into()],
    };
    let answer = guard.get("/readyz").await;
    assert_status(&answer, 503);
    let body = "\r\n\r\nnot ready: 4369 is taken\nnot ready: no answer yet for h2\nwarning: w\n";
    assert!(answer.ends_with(body), "{answer}");
}

#[tokio::test]
async fn head_tells_the_length_and_no_more() {
    let guard = Running::start().await;
    let answer = guard.raw("HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_status(&answer, 200);
    assert!(answer.contains("content-length: 3\r\n") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_wrong_question_is_told_what_is_wrong() {
    let guard = Running::start().await;
    let unknown = guard.get("/nothing").await;
    assert_status(&unknown, 404);
    assert!(unknown.contains("\"/healthz\"") && unknown.contains("\"/drain\""), "{unknown}");
    let read = guard.post("/status", "").await;
    assert_status(&read, 405);
    assert!(read.contains("allow: GET, HEAD\r\n") && read.contains("\"error\""), "{read}");
    let write = guard.get("/reload").await;
    assert_status(&write, 405);
    assert!(write.contains("allow: POST\r\n"), "{write}");
    for (path, why) in [
        ("/explain?to=9100", "from=ADDRESS"),
        ("/explain?from=nonsense&to=9100", "from is no address"),
        ("/explain?from=192.0.2.1&to=9100&is=a", "means nothing here"),
    ] {
        let answer = guard.get(path).await;
        assert_status(&answer, 400);
        assert!(answer.contains(why), "{answer}");
    }
    let mistyped = ["/reload?yes=maybe", "/reload?yess=1", "/reload?yes=0&yes=1", "/drain?of=1"];
    let of_mode = ["/mode", "/mode?to=off", "/mode?to=observe&for=soon", "/mode?to=observe&form=15m"];
    let of_bans = ["/unban", "/unban?net=h2", "/unban?net=192.0.2.7/24", "/unban?net=192.0.2.7&all=1"];
    for path in mistyped.into_iter().chain(of_mode).chain(of_bans) {
        assert_status(&guard.post(path, "").await, 400);
    }
    let both = guard.raw("PUT /mode HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert_status(&both, 405);
    assert!(both.contains("allow: GET, HEAD, POST\r\n"), "{both}");
    assert_eq!(unknown.matches("\"/mode\"").count(), 1, "{unknown}");
    assert!(guard.fake.modes.lock().unwrap().is_empty() && guard.fake.pardons.lock().unwrap().is_empty());
    assert_status(&guard.raw("POST /check HTTP/1.1\r\nhost: x\r\n\r\n").await, 200);
    assert_eq!(guard.fake.drains.lock().unwrap().len(), 0);
}

#[tokio::test]
async fn orders_reach_the_guard_as_they_are_given() {
    let guard = Running::start().await;
    assert_status(&guard.post("/reload", "").await, 200);
    assert_status(&guard.post("/reload?yes=1", "").await, 200);
    *guard.fake.result.lock().unwrap() = ReloadResult::Checked;
    assert_status(&guard.post("/check", "[cluster]\n").await, 200);
    let order =
        |text: Option<&str>, consent, act| ReloadRequest { text: text.map(str::to_owned), consent, act };
    let expected = [
        order(None, Consent::Ask, Act::Reload),
        order(None, Consent::Yes, Act::Reload),
        order(Some("[cluster]\n"), Consent::Ask, Act::Check),
    ];
    assert_eq!(*guard.fake.reloads.lock().unwrap(), expected);

    assert_status(&guard.post("/mode?to=observe&for=15m", "").await, 200);
    assert_status(&guard.post("/mode?to=enforce", "").await, 200);
    let lasts = Some(Duration::from_mins(15));
    let observe = ModeOrder { mode: Mode::Observe, lasts };
    let enforce = ModeOrder { mode: Mode::Enforce, lasts: None };
    assert_eq!(*guard.fake.modes.lock().unwrap(), [observe, enforce]);
    let for_ever = guard.post("/mode?to=observe", "").await;
    assert_status(&for_ever, 400);
    assert!(for_ever.contains("belongs into the configuration"), "{for_ever}");
    assert!(guard.post("/unban?net=203.0.113.9", "").await.contains("\"lifted\": 1"));
    assert!(guard.post("/unban?net=2001:db8::/32", "").await.contains("\"lifted\": 0"));
    assert!(guard.post("/unban?all=1", "").await.contains("\"lifted\": 1"));
    let net = |text: &str| Pardon::Net(text.parse().unwrap());
    let pardons = [net("203.0.113.9/32"), net("2001:db8::/32"), Pardon::All];
    assert_eq!(*guard.fake.pardons.lock().unwrap(), pardons);

    let draining = guard.post("/drain", "").await;
    assert!(draining.contains("\"state\": \"draining\""), "{draining}");
    let open = guard.post("/drain?off=1", "").await;
    assert!(open.contains("\"state\": \"open\""), "{open}");
    assert_eq!(*guard.fake.drains.lock().unwrap(), [Intake::Draining, Intake::Open]);
}

#[tokio::test]
async fn a_reload_that_is_not_taken_is_a_conflict_and_brings_its_report() {
    let guard = Running::start().await;
    for (result, word) in [(ReloadResult::Refused, "refused"), (ReloadResult::NeedsYes, "needs_yes")] {
        *guard.fake.result.lock().unwrap() = result;
        for path in ["/reload", "/check"] {
            let answer = guard.post(path, "").await;
            assert_status(&answer, 409);
            assert!(answer.contains(&format!("\"result\": \"{word}\"")), "{answer}");
        }
    }
}

#[tokio::test]
async fn a_panic_costs_the_request_and_nothing_else() {
    let guard = Running::start().await;
    assert_status(&guard.get("/explain?from=panic&to=1").await, 500);
    assert_status(&guard.get("/healthz").await, 200);
}

#[tokio::test]
async fn what_is_no_request_is_refused() {
    let guard = Running::start().await;
    assert_status(&guard.raw("GET\r\n\r\n").await, 400);
    assert_status(&guard.raw("\u{0}\u{1}\r\n\r\n").await, 400);
    let long = "x".repeat(17 << 10);
    assert_status(&guard.raw(&format!("GET /healthz HTTP/1.1\r\nhost: {long}\r\n\r\n")).await, 431);
    let many: String = (0..65).map(|n| format!("h{n}: x\r\n")).collect();
    assert_status(&guard.raw(&format!("GET /healthz HTTP/1.1\r\n{many}\r\n")).await, 431);
    let some: String = (0..64).map(|n| format!("h{n}: x\r\n")).collect();
    assert_status(&guard.raw(&format!("GET /healthz HTTP/1.1\r\n{some}\r\n")).await, 200);
}

#[tokio::test]
async fn a_body_is_no_larger_than_it_needs_to_be() {
    let guard = Running::start().await;
    let small = "x".repeat(64 << 10);
    assert_status(&guard.post("/drain", &small).await, 200);
    assert_status(&guard.post("/drain", &format!("{small}x")).await, 413);
    let chunk = format!("8000\r\n{}\r\n", "x".repeat(0x8000));
    let chunked = "host: x\r\ntransfer-encoding: chunked\r\n\r\n";
    let body = chunk.repeat(3);
    let answer = guard.raw(&format!("POST /reload HTTP/1.1\r\n{chunked}{body}0\r\n\r\n")).await;
    assert_status(&answer, 413);
    assert_status(&guard.post("/check", &format!("{small}{small}")).await, 200);
    let announced = format!("content-length: {}\r\n\r\n", crate::config::MAX_BYTES + 1);
    assert_status(&guard.raw(&format!("POST /check HTTP/1.1\r\nhost: x\r\n{announced}")).await, 413);
    assert_eq!(guard.fake.drains.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_configuration_that_is_no_text_is_refused() {
    let guard = Running::start().await;
    let mut stream = UnixStream::connect(guard.socket()).await.unwrap();
    stream.write_all(b"POST /check HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\na\xffb").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_status(&answer, 400);
    assert!(answer.contains("not UTF-8 at byte 1"), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_slow_is_not_waited_for() {
    let guard = Running::start().await;
    let before = tokio::time::Instant::now();
    assert_eq!(guard.raw("GET /healthz HTTP/1.1\r\nhos").await, "");
    let head = before.elapsed();
    assert!(head >= Duration::from_secs(5) && head < Duration::from_secs(7), "{head:?}");
    let answer = guard.raw("POST /drain HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\n\r\nx").await;
    assert_status(&answer, 408);
}

#[tokio::test(start_paused = true)]
async fn a_reload_goes_on_when_nobody_waits_for_it_any_more() {
    let guard = Running::start().await;
    *guard.fake.reload_takes.lock().unwrap() = Duration::from_secs(21);
    assert_status(&guard.post("/reload", "").await, 504);
    let mut gone = UnixStream::connect(guard.socket()).await.unwrap();
    gone.write_all(b"POST /reload HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    eventually(async || guard.fake.reloads.lock().unwrap().len() == 2).await;
    drop(gone);
    eventually(async || guard.fake.done.load(Ordering::Relaxed) == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_questions_have_a_thread_and_the_others_wait() {
    let guard = Arc::new(Running::start().await);
    let fake = Arc::clone(&guard.fake);
    let mut asked = JoinSet::new();
    {
        let gate = fake.gate.lock().unwrap();
        for _ in 0..6 {
            let guard = Arc::clone(&guard);
            asked.spawn(async move { guard.get("/explain?from=slow&to=1").await });
        }
        while fake.waiting.load(Ordering::Relaxed) < 4 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(fake.waiting.load(Ordering::Relaxed), 4);
        drop(gate);
    }
    while let Some(answer) = asked.join_next().await {
        assert_status(&answer.unwrap(), 200);
    }
    assert_eq!(fake.waiting.load(Ordering::Relaxed), 6);
}

#[tokio::test(start_paused = true)]
async fn a_fifth_reload_is_refused_while_four_are_under_way() {
    let guard = Running::start().await;
    *guard.fake.reload_takes.lock().unwrap() = Duration::from_secs(60);
    let mut under_way = Vec::new();
    for count in 1..=4 {
        let mut stream = UnixStream::connect(guard.socket()).await.unwrap();
        stream.write_all(b"POST /reload HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        eventually(async || guard.fake.reloads.lock().unwrap().len() == count).await;
        under_way.push(stream);
    }
    // Nor when nobody waits for them any more.
    under_way.clear();
    for path in ["/reload", "/check"] {
        let refused = guard.post(path, "").await;
        assert_status(&refused, 503);
        assert!(refused.contains("try again when they are done"), "{refused}");
    }
    tokio::time::sleep(Duration::from_secs(61)).await;
    *guard.fake.reload_takes.lock().unwrap() = Duration::ZERO;
    assert_status(&guard.post("/reload", "").await, 200);
}

#[tokio::test(start_paused = true)]
async fn one_configuration_is_in_memory_until_its_check_has_ended() {
    let guard = Running::start().await;
    *guard.fake.reload_takes.lock().unwrap() = Duration::from_secs(30);
    let mut first = UnixStream::connect(guard.socket()).await.unwrap();
    first.write_all(b"POST /check HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\n\r\n#").await.unwrap();
    eventually(async || guard.fake.reloads.lock().unwrap().len() == 1).await;
    drop(first);
    let second = guard.post("/check", "#").await;
    assert_status(&second, 503);
    assert!(second.contains("another configuration is being checked"), "{second}");
    assert_eq!(guard.fake.reloads.lock().unwrap().len(), 1);
    eventually(async || guard.fake.done.load(Ordering::Relaxed) == 1).await;
    *guard.fake.reload_takes.lock().unwrap() = Duration::ZERO;
    assert_status(&guard.post("/check", "#").await, 200);
}

#[tokio::test]
async fn the_33rd_connection_is_closed_at_once() {
    let guard = Running::start().await;
    let mut held = Vec::new();
    // Those that looked whether it is open may not be gone yet.
    eventually(async || guard.get("/healthz").await.contains("200")).await;
    while held.len() < 32 {
        let mut stream = UnixStream::connect(guard.socket()).await.unwrap();
        stream.write_all(b"GET /healthz ").await.unwrap();
        held.push(stream);
    }
    assert_eq!(guard.get("/healthz").await, "");
    let mut first = held.swap_remove(0);
    first.write_all(b"HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    first.read_to_string(&mut answer).await.unwrap();
    assert_status(&answer, 200);
    eventually(async || guard.get("/healthz").await.contains("200")).await;
}

#[tokio::test]
async fn the_socket_is_its_owners_alone_from_the_first_instant() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let bound = socket::BoundSocket::bind(&path).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    // Until owner and mode are settled, nobody is let in.
    assert!(UnixStream::connect(&path).await.is_err());
    let group = getegid().as_raw();
    bound.share(group).unwrap();
    let shared = fs::metadata(&path).unwrap();
    assert_eq!((shared.mode() & 0o7777, shared.gid()), (0o660, group));
    let open = bound.open().unwrap();
    UnixStream::connect(&path).await.unwrap();
    drop(open);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_group_may_use_the_socket_and_one_that_is_unknown_opens_it_to_nobody() {
    let own = Group::from_gid(getegid()).unwrap().unwrap().name;
    for (group, mode) in [(own, 0o660), ("no-such-group-of-epmd-guard".to_owned(), 0o600)] {
        let guard = Running::begin("admin.sock", Some(group), |_| {});
        guard.is_open().await;
        assert_eq!(fs::metadata(guard.socket()).unwrap().mode() & 0o7777, mode);
    }
}

#[tokio::test]
async fn a_folder_that_the_guard_makes_lets_the_group_through() {
    let own = Group::from_gid(getegid()).unwrap().unwrap().name;
    let guard = Running::begin("run/admin.sock", Some(own), |_| {});
    let socket = guard.folder.path().join("run/admin.sock");
    eventually(async || UnixStream::connect(&socket).await.is_ok()).await;
    let folder = fs::metadata(guard.folder.path().join("run")).unwrap();
    assert_eq!((folder.mode() & 0o7777, folder.gid()), (0o750, getegid().as_raw()));
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o7777, 0o660);
}

/// Whoever may write to the directory could make the lock file before a guard does.
#[tokio::test(start_paused = true)]
async fn a_lock_of_a_stranger_keeps_no_guard_from_running() {
    // Only root can make somebody else's file.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (socket, path) = (folder.path().join("admin.sock"), folder.path().join("admin.sock.lock"));
    let lock = fs::File::create(&path).unwrap();
    lock.lock().unwrap();
    // Of one's own, of root or of the directory's owner it is a guard's.
    claim(&socket).unwrap_err();
    std::os::unix::fs::chown(&path, Some(4711), None).unwrap();
    let claimed = claim(&socket).unwrap();
    let settings = AdminSettings { claim: Some(claimed), group: None, listen: Vec::new() };
    let (stop, mut served) = (CancellationToken::new(), JoinSet::new());
    served.spawn(serve(settings, Arc::new(Fake::default()), stop.clone()));
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert!(!socket.exists());
    drop(lock);
    eventually(async || UnixStream::connect(&socket).await.is_ok()).await;
    std::os::unix::fs::chown(folder.path(), Some(4711), None).unwrap();
    claim(&socket).unwrap_err();
}

#[tokio::test]
async fn a_second_claim_fails_and_names_the_socket() {
    let guard = Running::start().await;
    let error = claim(&guard.socket()).unwrap_err();
    assert_eq!(
        error.to_string(),
        format!("another guard runs with the admin socket {}", guard.socket().display())
    );
    assert_status(&guard.get("/healthz").await, 200);
    let socket = guard.socket();
    let _folder = guard.stop().await;
    assert!(!socket.exists());
    claim(&socket).unwrap();
}

#[tokio::test]
async fn a_socket_that_was_left_behind_makes_way() {
    let guard = Running::begin("admin.sock", None, |folder| {
        // Dropping it leaves the file.
        drop(std::os::unix::net::UnixListener::bind(folder.join("admin.sock")).unwrap());
    });
    guard.is_open().await;
    assert_status(&guard.get("/healthz").await, 200);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_ours_is_not_deleted() {
    let guard = Running::begin("admin.sock", None, |folder| {
        fs::write(folder.join("admin.sock"), "precious").unwrap();
    });
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert_eq!(fs::read_to_string(guard.socket()).unwrap(), "precious");
    // Once it is out of the way, the socket opens.
    fs::remove_file(guard.socket()).unwrap();
    guard.is_open().await;

    // And what is put there while we run stays when we end.
    fs::remove_file(guard.socket()).unwrap();
    fs::write(guard.socket(), "precious").unwrap();
    let socket = guard.socket();
    let _folder = guard.stop().await;
    assert_eq!(fs::read_to_string(socket).unwrap(), "precious");
}

#[tokio::test(start_paused = true)]
async fn another_programs_socket_is_left_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("other.sock");
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let fault = socket::BoundSocket::bind(&path).await.unwrap_err();
    assert!(fault.to_string().contains("another program listens"), "{fault}");
    assert!(path.exists());
    drop(other);
}

#[tokio::test(start_paused = true)]
async fn a_directory_that_is_missing_is_made_if_that_can_be_and_waited_for_if_not() {
    let made = Running::begin("run/admin.sock", None, |_| {});
    let socket = made.folder.path().join("run/admin.sock");
    eventually(async || UnixStream::connect(&socket).await.is_ok()).await;
    assert_eq!(fs::metadata(made.folder.path().join("run")).unwrap().permissions().mode() & 0o777, 0o750);

    let waits = Running::begin("deep/run/admin.sock", None, |_| {});
    let socket = waits.folder.path().join("deep/run/admin.sock");
    tokio::time::sleep(Duration::from_secs(25)).await;
    assert!(!socket.exists());
    fs::create_dir(waits.folder.path().join("deep")).unwrap();
    eventually(async || UnixStream::connect(&socket).await.is_ok()).await;
}

#[tokio::test(start_paused = true)]
async fn a_socket_that_is_deleted_comes_back() {
    let guard = Running::start().await;
    fs::remove_file(guard.socket()).unwrap();
    guard.is_open().await;
    assert_status(&guard.get("/healthz").await, 200);
    // With its directory, the lock goes too, and is taken anew.
    fs::remove_dir_all(guard.folder.path()).unwrap();
    guard.is_open().await;
    claim(&guard.socket()).unwrap_err();
}

mod loopback {
    use tokio::net::TcpStream;

    use super::*;
    use crate::transport::Listener;

    struct Loopback {
        addr: SocketAddr,
        fake: Arc<Fake>,
        _served: JoinSet<()>,
    }

    fn start() -> Loopback {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (addr, fake, mut served) = (listener.local_addr(), Arc::new(Fake::default()), JoinSet::new());
        let operations = Arc::clone(&fake);
        let shared = Arc::new(Shared::new(operations));
        served.spawn(door::serve_loopback(listener, shared, CancellationToken::new()));
        Loopback { addr, fake, _served: served }
    }

    impl Loopback {
        #[expect(clippy::disallowed_methods, reason = "a client")]
        async fn reaches(&self) -> bool {
            TcpStream::connect(self.addr).await.is_ok()
        }

        #[expect(clippy::disallowed_methods, reason = "a client")]
        async fn raw(&self, request: &str) -> String {
            exchange_with(TcpStream::connect(self.addr).await.unwrap(), request).await
        }
    }

    #[tokio::test]
    async fn a_loopback_port_is_asked_and_told_nothing() {
        let guard = start();
        assert_status(&guard.raw("GET /status HTTP/1.1\r\nhost: localhost\r\n\r\n").await, 200);
        assert_status(&guard.raw("HEAD /healthz HTTP/1.1\r\nhost: 127.0.0.1:9\r\n\r\n").await, 200);
        for request in [
            "POST /reload",
            "POST /drain",
            "POST /check",
            "GET /reload",
            "GET /check",
            "PUT /status",
            "POST /status",
            "OPTIONS /status",
        ] {
            let answer = guard.raw(&format!("{request} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
            assert_status(&answer, 403);
        }
        assert!(guard.fake.reloads.lock().unwrap().is_empty());
        assert!(guard.fake.drains.lock().unwrap().is_empty());
    }

    #[tokio::test]
    async fn a_web_page_that_calls_itself_127_0_0_1_learns_nothing() {
        let guard = start();
        for host in ["127.0.0.1", "127.0.0.1:9", "[::1]:9", "[::1]", "localhost:9", "LocalHost"] {
            let answer = guard.raw(&format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
            assert_status(&answer, 200);
        }
        for head in [
            "GET /healthz HTTP/1.1\r\nhost: evil.example\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nhost: localhost.evil.example:9\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nhost: 127.0.0.1.evil.example\r\n\r\n",
            "GET /healthz HTTP/1.1\r\nhost: \r\n\r\n",
            "GET /healthz HTTP/1.1\r\nhost: localhost\r\nhost: evil.example\r\n\r\n",
            "GET http://evil.example/healthz HTTP/1.1\r\nhost: localhost\r\n\r\n",
        ] {
            let answer = guard.raw(head).await;
            assert_status(&answer, 403);
        }
        // A browser always says whom it means.
        assert_status(&guard.raw("GET /healthz HTTP/1.1\r\n\r\n").await, 200);
    }

    #[tokio::test]
    async fn a_loopback_port_tells_what_probes_need_and_not_who_talks_to_whom() {
        let guard = start();
        for (path, status) in [
            ("/healthz", 200),
            ("/readyz", 200),
            ("/status", 200),
            ("/metrics", 200),
            ("/links", 403),
            ("/explain?from=192.0.2.7&to=9100", 403),
            ("/nothing", 403),
        ] {
            let answer = guard.raw(&format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")).await;
            assert_status(&answer, status);
            assert_eq!(answer.contains("/healthz, /readyz, /status, /metrics"), status == 403, "{answer}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_port_that_is_taken_is_tried_again() {
        let other = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let (addr, fake, mut served) = (other.local_addr(), Arc::new(Fake::default()), JoinSet::new());
        let settings = AdminSettings { claim: None, group: None, listen: vec![addr] };
        served.spawn(serve(settings, Arc::clone(&fake), CancellationToken::new()));
        tokio::time::sleep(Duration::from_secs(1)).await;
        drop(other);
        let guard = Loopback { addr, fake, _served: served };
        eventually(async || guard.reaches().await).await;
        assert_status(&guard.raw("GET /healthz HTTP/1.1\r\nhost: localhost\r\n\r\n").await, 200);
    }

    #[test]
    fn an_address_that_is_no_loopback_is_never_opened() {
        for addr in ["0.0.0.0:0", "[::]:0", "192.0.2.1:0"] {
            let error = door::bind_loopback(addr.parse().unwrap()).unwrap_err();
            assert_eq!(error.to_string(), "it is no loopback address");
        }
    }
}
