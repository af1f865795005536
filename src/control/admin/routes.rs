//! From a request to its answer.
//!
//! Owns the paths, who may ask for which, and how large a body may be.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Bytes, Incoming};
use hyper::header::HOST;
use hyper::http::request::Parts;
use hyper::http::uri::Authority;
use hyper::{Method, Request, StatusCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::exchange::Visitor;
use super::question::Question;
use super::reply::{self, Refused, Reply, json, refuse};
use super::{Act, Consent, Operations, Orderer, ReloadRequest, Shared};
use crate::config;
use crate::control::documents::{
    BansDocument, Drained, GuardState, LinksDocument, Readiness, Refusal, ReloadReport, ReloadResult, Status,
    Unbanned,
};
use crate::policy::Intake;

/// For a whole body.
const BODY_WITHIN: Duration = Duration::from_secs(5);
/// For the guard's own work.
const WORK_WITHIN: Duration = Duration::from_secs(20);
/// For those who were there before.
const TURN_WITHIN: Duration = Duration::from_secs(5);
/// A body where none is needed.
const SMALL_BODY: u64 = 64 << 10;

/// What a request is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    /// It asks.
    Ask(Ask),
    /// It changes something, or has the guard work on what it is given.
    Order(Order),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ask {
    Healthz,
    Readyz,
    Status,
    Links,
    Metrics,
    Explain,
    Mode,
    Bans,
    Learn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Reload,
    Check,
    Drain,
    Mode,
    Unban,
}

const ROUTES: &[(&str, Route)] = &[
    ("/healthz", Route::Ask(Ask::Healthz)),
    ("/readyz", Route::Ask(Ask::Readyz)),
    ("/status", Route::Ask(Ask::Status)),
    ("/links", Route::Ask(Ask::Links)),
    ("/metrics", Route::Ask(Ask::Metrics)),
    ("/explain", Route::Ask(Ask::Explain)),
    ("/mode", Route::Ask(Ask::Mode)),
    ("/bans", Route::Ask(Ask::Bans)),
    ("/learn", Route::Ask(Ask::Learn)),
    ("/reload", Route::Order(Order::Reload)),
    ("/check", Route::Order(Order::Check)),
    ("/drain", Route::Order(Order::Drain)),
    ("/mode", Route::Order(Order::Mode)),
    ("/unban", Route::Order(Order::Unban)),
];

impl Route {
    /// Whether anybody may ask for it: what a probe and Prometheus need.
    fn is_for_anybody(self) -> bool {
        match self {
            Self::Ask(Ask::Healthz | Ask::Readyz | Ask::Status | Ask::Metrics) => true,
            Self::Ask(Ask::Links | Ask::Explain | Ask::Mode | Ask::Bans | Ask::Learn) | Self::Order(_) => {
                false
            }
        }
    }

    /// Whether this is the method that it is asked for with.
    fn fits(self, method: &Method) -> bool {
        match self {
            Self::Ask(_) => method == Method::GET || method == Method::HEAD,
            Self::Order(_) => method == Method::POST,
        }
    }
}

/// Answers a request and has it logged.
pub(super) async fn answer<O: Operations>(
    request: Request<Incoming>,
    visitor: Visitor,
    shared: &Shared<O>,
) -> Reply {
    let (parts, body) = request.into_parts();
    let found = check_visitor(&parts, visitor).and_then(|()| find(&parts));
    let route = found.as_ref().ok().copied();
    let reply = match found {
        Ok(route) => perform(route, (&parts, body), visitor, shared).await,
        Err(refused) => Err(refused),
    };
    let reply = reply.unwrap_or_else(Reply::from);
    tell(&parts, visitor, route, reply.status());
    reply
}

/// Who the links are with is for those alone who may ask for the links.
fn status<O: Operations>(guard: &O, visitor: Visitor) -> Status {
    let mut status = guard.status();
    match visitor {
        Visitor::Anybody(_) => status.peers.clear(),
        Visitor::Trusted { .. } => {}
    }
    status
}

/// Orders are worth a line; the paths and what is behind them are whatever a client makes up.
fn tell(parts: &Parts, visitor: Visitor, route: Option<Route>, status: StatusCode) {
    let (verb, status) = (parts.method.as_str(), status.as_u16());
    let path = parts.uri.path().escape_default().to_string();
    let query = parts.uri.query().map(|query| query.escape_default().to_string());
    let (uid, pid) = (visitor.uid(), visitor.pid());
    if let Some(Route::Order(_)) = route {
        tracing::info!(verb, path, query, status, uid, pid, "admin_request");
    } else {
        let peer = visitor.peer().map(tracing::field::display);
        tracing::debug!(verb, path, query, status, uid, pid, peer, "admin_request");
    }
}

/// On loopback anybody asks, so nobody tells, and not all is answered. A web page may have its own name answered with 127.0.0.1 and
/// then read what a browser gets there (DNS rebinding); its requests carry that name. What names nobody at all
/// is no browser's.
fn check_visitor(parts: &Parts, visitor: Visitor) -> Result<(), Refused> {
    let Visitor::Anybody(_) = visitor else { return Ok(()) };
    let mut hosts = parts.headers.get_all(HOST).iter();
    let is_address = match (hosts.next(), hosts.next()) {
        (None, _) => true,
        (Some(host), None) => {
            host.to_str().is_ok_and(|host| host.parse::<Authority>().is_ok_and(|host| is_no_name(&host)))
        }
        (Some(_), Some(_)) => false,
    };
    if !is_address || !parts.uri.authority().is_none_or(is_no_name) {
        let error = "the Host header must be an address or localhost: ask for http://127.0.0.1:PORT/";
        return Err(refuse(StatusCode::FORBIDDEN, error));
    }
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    if reads && find_path(parts.uri.path()).any(Route::is_for_anybody) {
        return Ok(());
    }
    let open: Vec<&str> =
        ROUTES.iter().filter(|(_, route)| route.is_for_anybody()).map(|(path, _)| *path).collect();
    let error = format!(
        "here the guard can only be asked, with GET and HEAD, for {}: for all else use the Unix socket",
        open.join(", ")
    );
    Err(refuse(StatusCode::FORBIDDEN, error))
}

fn is_no_name(authority: &Authority) -> bool {
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    host.eq_ignore_ascii_case("localhost") || bare.parse::<std::net::IpAddr>().is_ok()
}

/// What a path can be asked for; one may be both asked and told.
fn find_path(path: &str) -> impl Iterator<Item = Route> {
    ROUTES.iter().filter(move |(known, _)| *known == path).map(|(_, route)| *route)
}

fn find(parts: &Parts) -> Result<Route, Refused> {
    let known: Vec<Route> = find_path(parts.uri.path()).collect();
    if known.is_empty() {
        let mut paths: Vec<String> = ROUTES.iter().map(|(path, _)| (*path).to_owned()).collect();
        paths.sort_unstable();
        paths.dedup();
        let error = "there is no such path; paths lists those there are".to_owned();
        let refusal = Refusal { error, paths };
        return Err(Refused { status: StatusCode::NOT_FOUND, allowed: None, refusal });
    }
    if let Some(route) = known.iter().find(|route| route.fits(&parts.method)) {
        return Ok(*route);
    }
    let is_asked = known.iter().any(|route| matches!(route, Route::Ask(_)));
    let is_ordered = known.iter().any(|route| matches!(route, Route::Order(_)));
    let allowed = match (is_asked, is_ordered) {
        (true, true) => "GET, HEAD, POST",
        (true, false) => "GET, HEAD",
        (false, _) => "POST",
    };
    let error = format!("{} is asked for with {allowed}", parts.uri.path());
    Err(Refused { allowed: Some(allowed), ..refuse(StatusCode::METHOD_NOT_ALLOWED, error) })
}

async fn perform<O: Operations>(
    route: Route,
    (parts, body): (&Parts, Incoming),
    visitor: Visitor,
    shared: &Shared<O>,
) -> Result<Reply, Refused> {
    let question = Question::of(parts);
    match route {
        Route::Ask(ask) => tell_of(ask, &question, visitor, shared).await,
        Route::Order(order) => obey(order, (&question, body), visitor, shared).await,
    }
}

/// Answers what changes nothing.
async fn tell_of<O: Operations>(
    ask: Ask,
    question: &Question,
    visitor: Visitor,
    shared: &Shared<O>,
) -> Result<Reply, Refused> {
    match ask {
        Ask::Healthz => Ok(reply::text(StatusCode::OK, "ok\n")),
        Ask::Readyz => shared.ask(visitor, |guard| readiness(&guard.readiness())).await,
        Ask::Status => shared.ask(visitor, move |guard| json(StatusCode::OK, &status(guard, visitor))).await,
        Ask::Links => {
            let links = |guard: &O| json(StatusCode::OK, &LinksDocument { links: guard.links() });
            shared.ask(visitor, links).await
        }
        Ask::Metrics => shared.ask(visitor, |guard| reply::metrics(guard.metrics())).await,
        Ask::Explain => {
            let query = question.explained()?;
            let explain = |guard: &O| match guard.explain(query) {
                Ok(explanation) => json(StatusCode::OK, &explanation),
                Err(why) => refuse(StatusCode::BAD_REQUEST, why).into(),
            };
            shared.ask(visitor, explain).await
        }
        Ask::Mode => shared.ask(visitor, |guard| json(StatusCode::OK, &guard.mode())).await,
        Ask::Bans => {
            let bans = |guard: &O| json(StatusCode::OK, &BansDocument { bans: guard.bans() });
            shared.ask(visitor, bans).await
        }
        Ask::Learn => shared.ask(visitor, |guard| json(StatusCode::OK, &guard.learn())).await,
    }
}

/// Does what changes something. What is mistyped is told before the body is read.
async fn obey<O: Operations>(
    order: Order,
    (question, body): (&Question, Incoming),
    visitor: Visitor,
    shared: &Shared<O>,
) -> Result<Reply, Refused> {
    let by = Orderer { uid: visitor.uid(), pid: visitor.pid() };
    match order {
        Order::Check => {
            question.knows_only(&[])?;
            let order = shared.order()?;
            let (text, large) = read_configuration(body, shared).await?;
            let how = ReloadRequest { text: Some(text), consent: Consent::Ask, act: Act::Check };
            shared.reload(how, (order, large)).await
        }
        Order::Drain => {
            question.knows_only(&["off"])?;
            let (intake, state) = if question.is_on("off")? {
                (Intake::Open, GuardState::Open)
            } else {
                (Intake::Draining, GuardState::Draining)
            };
            read_body(body, SMALL_BODY).await?;
            let drain = move |guard: &O| {
                guard.drain(intake);
                json(StatusCode::OK, &Drained { state })
            };
            shared.ask(visitor, drain).await
        }
        Order::Mode => {
            check_owner(by)?;
            let order = question.mode()?;
            read_body(body, SMALL_BODY).await?;
            let set = move |guard: &O| match guard.set_mode(order, by) {
                Ok(mode) => json(StatusCode::OK, &mode),
                Err(fault) => refuse(StatusCode::BAD_REQUEST, fault.to_string()).into(),
            };
            shared.ask(visitor, set).await
        }
        Order::Unban => {
            let whom = question.pardon()?;
            read_body(body, SMALL_BODY).await?;
            let unban = move |guard: &O| json(StatusCode::OK, &Unbanned { lifted: guard.unban(whom, by) });
            shared.ask(visitor, unban).await
        }
        Order::Reload => {
            question.knows_only(&["yes"])?;
            let consent = if question.is_on("yes")? { Consent::Yes } else { Consent::Ask };
            let order = shared.order()?;
            read_body(body, SMALL_BODY).await?;
            shared.reload(ReloadRequest { text: None, consent, act: Act::Reload }, order).await
        }
    }
}

/// The mode takes the guard's own rules away, which a member of the group that may look at it may not.
fn check_owner(by: Orderer) -> Result<(), Refused> {
    let own = nix::unistd::geteuid().as_raw();
    if by.uid.is_some_and(|uid| uid == 0 || uid == own) {
        return Ok(());
    }
    let error = "only root and the user that the guard runs as may change the mode; the group of [admin] group \
                 may ask for it";
    Err(refuse(StatusCode::FORBIDDEN, error))
}

impl<O: Operations> Shared<O> {
    /// Lets the guard answer where it may block and where a panic ends nothing else.
    async fn ask(
        &self,
        visitor: Visitor,
        question: impl FnOnce(&O) -> Reply + Send + 'static,
    ) -> Result<Reply, Refused> {
        let [trusted, anybody] = &self.questions;
        let turn = match visitor {
            Visitor::Trusted { .. } => trusted,
            Visitor::Anybody(_) => anybody,
        };
        let turn = take_turn(turn, "the guard still works on earlier questions").await?;
        let operations = Arc::clone(&self.operations);
        let work = move || {
            // Until the thread is free again, whoever waits for it.
            let _turn = turn;
            question(&operations)
        };
        let late = "the guard has no answer after 20 s: look at its log";
        finish(self.works.spawn_blocking(work), late).await
    }

    /// The right to have a reload or a check begun.
    fn order(&self) -> Result<OwnedSemaphorePermit, Refused> {
        Arc::clone(&self.orders).try_acquire_owned().map_err(|_| {
            let error = "several reloads and checks are under way already: try again when they are done";
            refuse(StatusCode::SERVICE_UNAVAILABLE, error)
        })
    }

    /// `held` is what it keeps from others until it has ended, whoever waits for it.
    async fn reload(&self, how: ReloadRequest, held: impl Send + 'static) -> Result<Reply, Refused> {
        let operations = Arc::clone(&self.operations);
        let late = match how.act {
            Act::Reload => "it is not done after 20 s and goes on: `epmd-guard status` tells of its end",
            Act::Check => "it is not done after 20 s: try again",
        };
        let work = async move {
            let report = report(&operations.reload(how).await);
            drop(held);
            report
        };
        finish(self.works.spawn(work), late).await
    }
}

/// Waits for one's turn, and not for long.
async fn take_turn(turns: &Arc<Semaphore>, busy: &str) -> Result<OwnedSemaphorePermit, Refused> {
    match tokio::time::timeout(TURN_WITHIN, Arc::clone(turns).acquire_owned()).await {
        Ok(Ok(turn)) => Ok(turn),
        Ok(Err(_)) | Err(_) => {
            Err(refuse(StatusCode::SERVICE_UNAVAILABLE, format!("{busy}: try again in a moment")))
        }
    }
}

/// Waits for what is under way, which goes on if nobody waits any more.
async fn finish(work: tokio::task::JoinHandle<Reply>, late: &str) -> Result<Reply, Refused> {
    match tokio::time::timeout(WORK_WITHIN, work).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(_)) => {
            let error = "this is a fault of the guard: please report it, with what its log says";
            Err(refuse(StatusCode::INTERNAL_SERVER_ERROR, error))
        }
        Err(_) => Err(refuse(StatusCode::GATEWAY_TIMEOUT, late)),
    }
}

fn report(report: &ReloadReport) -> Reply {
    let status = match report.result {
        ReloadResult::Reloaded | ReloadResult::Unchanged | ReloadResult::Checked => StatusCode::OK,
        ReloadResult::Refused | ReloadResult::NeedsYes => StatusCode::CONFLICT,
    };
    json(status, report)
}

fn readiness(readiness: &Readiness) -> Reply {
    let mut lines = Vec::new();
    let status = if readiness.ready {
        lines.push("ready\n".to_owned());
        StatusCode::OK
    } else {
        lines.extend(readiness.reasons.iter().map(|reason| format!("not ready: {reason}\n")));
        if lines.is_empty() {
            lines.push("not ready\n".to_owned());
        }
        StatusCode::SERVICE_UNAVAILABLE
    };
    lines.extend(readiness.warnings.iter().map(|warning| format!("warning: {warning}\n")));
    reply::text(status, lines.concat())
}

/// A configuration, of which only one is in memory at a time, and the right to have it there.
async fn read_configuration<O>(
    body: Incoming,
    shared: &Shared<O>,
) -> Result<(String, OwnedSemaphorePermit), Refused> {
    let turn = take_turn(&shared.large, "another configuration is being checked").await?;
    let bytes = read_body(body, config::MAX_BYTES).await?;
    let text = String::from_utf8(bytes.into()).map_err(|error| {
        let good = error.utf8_error().valid_up_to();
        refuse(StatusCode::BAD_REQUEST, format!("the configuration is not UTF-8 at byte {good}"))
    })?;
    Ok((text, turn))
}

async fn read_body(body: Incoming, most: u64) -> Result<Bytes, Refused> {
    let too_large = || {
        let error = format!("the body is larger than the {most} bytes that are read");
        refuse(StatusCode::PAYLOAD_TOO_LARGE, error)
    };
    if body.size_hint().lower() > most {
        return Err(too_large());
    }
    let limited = Limited::new(body, usize::try_from(most).unwrap_or(usize::MAX));
    match tokio::time::timeout(BODY_WITHIN, limited.collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(_)) => Err(refuse(StatusCode::BAD_REQUEST, "the body is broken off or malformed")),
        Err(_) => {
            Err(refuse(StatusCode::REQUEST_TIMEOUT, "the body was not whole after 5 s: send it at once"))
        }
    }
}
