//! What stands behind the `?` of a request.

use std::time::Duration;

use hyper::StatusCode;
use hyper::http::request::Parts;

use super::reply::{Refused, refuse};
use super::{ExplainQuery, ModeOrder, Pardon, Visibility};
use crate::policy::{Mode, Target};

/// The pairs behind the `?`.
pub(super) struct Question(Vec<(String, String)>);

impl Question {
    pub(super) fn of(parts: &Parts) -> Self {
        let query = parts.uri.query().unwrap_or_default();
        Self(form_urlencoded::parse(query.as_bytes()).into_owned().collect())
    }

    /// What is mistyped must not be passed over where something is changed.
    pub(super) fn knows_only(&self, known: &[&str]) -> Result<(), Refused> {
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

    pub(super) fn is_on(&self, key: &str) -> Result<bool, Refused> {
        match self.value(key) {
            Some("1" | "true") => Ok(true),
            None | Some("0" | "false") => Ok(false),
            Some(other) => {
                let error = format!("{key} is {other:?} and can be 1 or 0");
                Err(refuse(StatusCode::BAD_REQUEST, error))
            }
        }
    }

    pub(super) fn explained(&self) -> Result<ExplainQuery, Refused> {
        self.knows_only(&["from", "as", "to", "hidden"])?;
        let given = |key| self.value(key).filter(|value| !value.is_empty()).map(str::to_owned);
        let (Some(from), Some(to)) = (given("from"), given("to")) else {
            let error = "say who connects and to what: /explain?from=ADDRESS&to=PORT-or-NODE, and as=NODE \
                         for the name that it claims, hidden=1 for a hidden node";
            return Err(refuse(StatusCode::BAD_REQUEST, error));
        };
        let visibility = if self.is_on("hidden")? { Visibility::Hidden } else { Visibility::Usual };
        Ok(ExplainQuery { from, as_node: given("as"), visibility, to })
    }

    pub(super) fn mode(&self) -> Result<ModeOrder, Refused> {
        self.knows_only(&["to", "for"])?;
        let mode = match self.value("to") {
            Some("enforce") => Mode::Enforce,
            Some("observe") => Mode::Observe,
            Some(_) | None => {
                let error = "say which mode: /mode?to=observe&for=15m, or /mode?to=enforce";
                return Err(refuse(StatusCode::BAD_REQUEST, error));
            }
        };
        let lasts = self.value("for").map(duration).transpose()?;
        Ok(ModeOrder { mode, lasts })
    }

    pub(super) fn pardon(&self) -> Result<Pardon, Refused> {
        self.knows_only(&["net", "all"])?;
        let error = match (self.value("net"), self.is_on("all")?) {
            (None, true) => return Ok(Pardon::All),
            (Some(text), false) => match text.parse::<Target>() {
                Ok(Target::Net(net)) => return Ok(Pardon::Net(net)),
                Ok(Target::Host(_)) => format!("{text:?} is no address: bans are of addresses and networks"),
                Err(fault) => format!("{text:?} {fault}"),
            },
            (None, false) | (Some(_), true) => {
                "say whose bans are to be lifted: /unban?net=ADDRESS-or-NETWORK, or /unban?all=1".to_owned()
            }
        };
        Err(refuse(StatusCode::BAD_REQUEST, error))
    }
}

fn duration(text: &str) -> Result<Duration, Refused> {
    humantime::parse_duration(text).map_err(|_| {
        let error = format!("for is {text:?} and must be a time with its unit, such as 15m or 2h");
        refuse(StatusCode::BAD_REQUEST, error)
    })
}
