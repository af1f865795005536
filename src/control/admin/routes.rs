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
use super::reply::{self, Refused, Reply, json, refuse};
use super::{Act, Consent, ExplainQuery, Operations, ReloadRequest, Shared};
use crate::config;
use crate::control::documents::{
    Drained, GuardState, LinksDocument, Readiness, Refusal, ReloadReport, ReloadResult, Status,
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Route {
    Healthz,
    Readyz,
    Status,
    Links,
    Metrics,
    Explain,
    Reload,
    Check,
    Drain,
}

const ROUTES: &[(&str, Route)] = &[
    ("/healthz", Route::Healthz),
    ("/readyz", Route::Readyz),
    ("/status", Route::Status),
    ("/links", Route::Links),
    ("/metrics", Route::Metrics),
    ("/explain", Route::Explain),
    ("/reload", Route::Reload),
    ("/check", Route::Check),
    ("/drain", Route::Drain),
];

/// What a request does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    /// It asks.
    Read,
    /// It changes something, or has the guard work on what it is given.
    Write,
}

impl Route {
    fn verb(self) -> Verb {
        match self {
            Self::Healthz | Self::Readyz | Self::Status | Self::Links | Self::Metrics | Self::Explain => {
                Verb::Read
            }
            Self::Reload | Self::Check | Self::Drain => Verb::Write,
        }
    }

    /// Whether anybody may ask for it: what a probe and Prometheus need.
    fn is_for_anybody(self) -> bool {
        match self {
            Self::Healthz | Self::Readyz | Self::Status | Self::Metrics => true,
            Self::Links | Self::Explain | Self::Reload | Self::Check | Self::Drain => false,
        }
    }
}

/// The pairs behind the `?`.
struct Question(Vec<(String, String)>);

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
    if route.map(Route::verb) == Some(Verb::Write) {
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
    if reads && find_path(parts.uri.path()).is_some_and(Route::is_for_anybody) {
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

fn find_path(path: &str) -> Option<Route> {
    ROUTES.iter().find(|(known, _)| *known == path).map(|(_, route)| *route)
}

fn find(parts: &Parts) -> Result<Route, Refused> {
    let Some(route) = find_path(parts.uri.path()) else {
        let paths = ROUTES.iter().map(|(path, _)| (*path).to_owned()).collect();
        let error = "there is no such path; paths lists those there are".to_owned();
        let refusal = Refusal { error, paths };
        return Err(Refused { status: StatusCode::NOT_FOUND, allowed: None, refusal });
    };
    let (fits, allowed) = match route.verb() {
        Verb::Read => (parts.method == Method::GET || parts.method == Method::HEAD, "GET, HEAD"),
        Verb::Write => (parts.method == Method::POST, "POST"),
    };
    if fits {
        return Ok(route);
    }
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
        Route::Healthz => Ok(reply::text(StatusCode::OK, "ok\n")),
        Route::Readyz => shared.ask(visitor, |guard| readiness(&guard.readiness())).await,
        Route::Status => {
            shared.ask(visitor, move |guard| json(StatusCode::OK, &status(guard, visitor))).await
        }
        Route::Links => {
            let links = |guard: &O| json(StatusCode::OK, &LinksDocument { links: guard.links() });
            shared.ask(visitor, links).await
        }
        Route::Metrics => shared.ask(visitor, |guard| reply::metrics(guard.metrics())).await,
        Route::Explain => {
            let query = question.explained()?;
            let explain = |guard: &O| match guard.explain(query) {
                Ok(explanation) => json(StatusCode::OK, &explanation),
                Err(why) => refuse(StatusCode::BAD_REQUEST, why).into(),
            };
            shared.ask(visitor, explain).await
        }
        Route::Reload => {
            question.knows_only(&["yes"])?;
            let consent = if question.is_on("yes")? { Consent::Yes } else { Consent::Ask };
            let order = shared.order()?;
            read_body(body, SMALL_BODY).await?;
            shared.reload(ReloadRequest { text: None, consent, act: Act::Reload }, order).await
        }
        Route::Check => {
            question.knows_only(&[])?;
            let order = shared.order()?;
            let (text, large) = read_configuration(body, shared).await?;
            let how = ReloadRequest { text: Some(text), consent: Consent::Ask, act: Act::Check };
            shared.reload(how, (order, large)).await
        }
        Route::Drain => {
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
    }
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

impl Question {
    fn of(parts: &Parts) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// What is mistyped must not be passed over where something is changed.
    fn knows_only(&self, known: &[&str]) -> Result<(), Refused> {
        let (mut seen, Self(pairs)) = (Vec::new(), self);
        for (key, _) in pairs {
            if !known.contains(&key.as_str()) || seen.contains(&key) {
                let error = format!("{key:?} means nothing here, or stands twice; known: {known:?}");
                return Err(refuse(StatusCode::BAD_REQUEST, error));
            }
            seen.push(key);
        }
        Ok(())
    }

    fn value(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }

    fn is_on(&self, key: &str) -> Result<bool, Refused> {
        match self.value(key) {
            Some("1" | "true") => Ok(true),
            None | Some("0" | "false") => Ok(false),
            Some(other) => {
                let error = format!("{key} is {other:?} and can be 1 or 0");
                Err(refuse(StatusCode::BAD_REQUEST, error))
            }
        }
    }

    fn explained(&self) -> Result<ExplainQuery, Refused> {
        self.knows_only(&["from", "as", "to"])?;
        let given = |key| self.value(key).filter(|value| !value.is_empty()).map(str::to_owned);
        let (Some(from), Some(to)) = (given("from"), given("to")) else {
            let error = "say who connects and to what: /explain?from=ADDRESS&to=PORT-or-NODE, and as=NODE \
                         for the name that it claims";
            return Err(refuse(StatusCode::BAD_REQUEST, error));
        };
        Ok(ExplainQuery { from, as_node: given("as"), to })
    }
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
