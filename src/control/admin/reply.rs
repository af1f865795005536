//! Answers in the making.

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde::Serialize;

use crate::control::documents::Refusal;
use crate::telemetry::Metrics;

/// An answer.
pub(super) type Reply = Response<Full<Bytes>>;

/// A request that is not answered.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    /// The methods that the path knows, where it was asked for with another one.
    pub(super) allowed: Option<&'static str>,
    pub(super) refusal: Refusal,
}

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";

/// An answer for people and probes.
pub(super) fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    reply(status, TEXT, body.into())
}

/// An answer for Prometheus.
pub(super) fn metrics(body: String) -> Reply {
    reply(StatusCode::OK, Metrics::CONTENT_TYPE, body.into())
}

/// A document, over several lines: it is read by people too.
pub(super) fn json(status: StatusCode, document: &impl Serialize) -> Reply {
    match serde_json::to_vec_pretty(document) {
        Ok(mut body) => {
            body.push(b'\n');
            reply(status, JSON, body.into())
        }
        Err(error) => {
            tracing::error!(%error, help = "this is a fault of the guard: please report it", "admin_answer_failed");
            text(StatusCode::INTERNAL_SERVER_ERROR, "the guard's log has the reason\n")
        }
    }
}

/// No, and why.
pub(super) fn refuse(status: StatusCode, error: impl Into<String>) -> Refused {
    Refused { status, allowed: None, refusal: Refusal { error: error.into(), paths: Vec::new() } }
}

impl From<Refused> for Reply {
    fn from(refused: Refused) -> Self {
        let mut reply = json(refused.status, &refused.refusal);
        if let Some(allowed) = refused.allowed {
            reply.headers_mut().insert(ALLOW, HeaderValue::from_static(allowed));
        }
        reply
    }
}

fn reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Reply {
    let mut reply = Response::new(Full::new(body));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    reply
}
