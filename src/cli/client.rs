//! Asking the running guard over its admin socket.
//!
//! Owns finding the socket, one request and its deadlines. Never knows what an answer says.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::header::{HOST, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use nix::unistd::{Gid, Group};
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use super::terminal::shown;
use super::{ConfigArguments, complain};
use crate::config::{self, Files, LoadError};
use crate::control::documents::{Refusal, Status};

const CONNECT_WITHIN: Duration = Duration::from_secs(2);
const ALL_WITHIN: Duration = Duration::from_secs(60);
/// For the guard that is in the way of another one.
const INTRODUCED_WITHIN: Duration = Duration::from_secs(1);
/// The largest answer that is read.
const MAX_ANSWER: usize = 64 << 20;

/// Which guard is meant.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct GuardArguments {
    /// The guard's configuration, which names its admin socket [default: /etc/epmd-guard/epmd-guard.toml]
    #[arg(long, short, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// The guard's admin socket, whatever the configuration says
    #[arg(long, value_name = "PATH")]
    pub(super) socket: Option<PathBuf>,
}

/// A guard, by its socket.
#[derive(Debug, Clone)]
pub(super) struct Client {
    place: Place,
    /// Whether the user knows already that it is asked elsewhere.
    told: Arc<Once>,
}

/// Where a guard is asked.
#[derive(Debug, Clone)]
enum Place {
    /// There.
    Named(PathBuf),
    /// Where this configuration says, if it says so. The guard may have been started with another one, as the
    /// socket changes with a restart only, so that it is looked for at the default place, too.
    Configured { socket: Option<PathBuf>, source: String },
}

/// What the guard said.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

/// Why there is no answer, and what to do.
#[derive(Debug, thiserror::Error)]
pub(super) enum AskError {
    #[error(
        "[admin] socket is empty in {source_name}: if the guard was started with it, it cannot be asked; give it a \
         socket and restart it; if it was started with another one, name that with --socket"
    )]
    NoSocket { source_name: String },
    #[error(
        "no guard answers at {}: is it running? name its socket with --socket or its configuration with --config",
        .0.display()
    )]
    NotThere(PathBuf),
    #[error(
        "no guard answers at {}, the [admin] socket of {source_name}: is it running? if it was started with another \
         one, name that with --socket",
        socket.display()
    )]
    NotConfigured { socket: PathBuf, source_name: String },
    #[error("the guard at {} may be asked by root{who} only", socket.display())]
    NotAllowed { socket: PathBuf, who: String },
    #[error("cannot ask the guard at {}", socket.display())]
    Connect {
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("the guard at {} did not answer within {} s: look at its log", socket.display(), within.as_secs())]
    Late { socket: PathBuf, within: Duration },
    #[error("the guard at {} hung up, as it does when too many ask at one time: try again", socket.display())]
    Broken {
        socket: PathBuf,
        #[source]
        source: hyper::Error,
    },
    #[error("the answer of the guard at {} is larger than {} MiB", .0.display(), MAX_ANSWER >> 20)]
    TooLarge(PathBuf),
    #[error("the guard refuses ({status}): {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the guard's answer is not understood, as may be if it is of another version than this command")]
    NotUnderstood {
        #[source]
        source: serde_json::Error,
    },
    #[error("{path:?} cannot be asked for")]
    BadPath {
        path: String,
        #[source]
        source: hyper::http::Error,
    },
}

impl GuardArguments {
    /// The guard that is meant. A configuration that cannot be used must not keep anybody from asking the
    /// guard that runs with the one before.
    pub(super) fn client(&self) -> Client {
        if let Some(socket) = &self.socket {
            return Client::new(socket);
        }
        let file = ConfigArguments { config: self.config.clone(), allow: Vec::new() }.source();
        match file.load_with(Files::Leave) {
            Ok((loaded, source)) => Client::configured(loaded.config.admin.socket, source),
            Err(error) => {
                let socket = file.socket();
                let place = socket.as_deref().map_or_else(String::new, |path| path.display().to_string());
                complain(&format!(
                    "epmd-guard: {}; asking at {place} (--socket names another place)",
                    shown(&why_unusable(&error))
                ));
                Client::configured(socket, file.path().display().to_string())
            }
        }
    }
}

/// What keeps the command from learning the socket. Who asks need not be who the guard runs as: the file need
/// not be for them.
fn why_unusable(error: &LoadError) -> String {
    match error {
        LoadError::Read { path, source } if source.kind() == io::ErrorKind::PermissionDenied => {
            format!("you may not read {}, which names the socket", path.display())
        }
        LoadError::Read { path, source } => format!("cannot read {}: {source}", path.display()),
        LoadError::TooLarge { .. } | LoadError::NotUtf8 { .. } | LoadError::Invalid(_) => {
            format!("{error}, as `epmd-guard check` tells")
        }
    }
}

fn default_socket() -> Option<PathBuf> {
    config::defaults(&config::Overrides::default()).config.admin.socket
}

impl Client {
    pub(super) fn new(socket: &Path) -> Self {
        Self { place: Place::Named(socket.to_owned()), told: Arc::new(Once::new()) }
    }

    /// The guard whose configuration, which is called `source`, names this socket.
    pub(super) fn configured(socket: Option<PathBuf>, source: String) -> Self {
        Self { place: Place::Configured { socket, source }, told: Arc::new(Once::new()) }
    }

    /// Asks for a path, with what is behind its `?`.
    pub(super) async fn get(&self, path: &str) -> Result<Answer, AskError> {
        self.ask(Method::GET, path, Bytes::new(), ALL_WITHIN).await
    }

    /// Gives an order.
    pub(super) async fn post(&self, path: &str, body: Bytes) -> Result<Answer, AskError> {
        self.ask(Method::POST, path, body, ALL_WITHIN).await
    }

    /// Who it is, such as `the process 4711 with /etc/epmd-guard/epmd-guard.toml`, for those who find the
    /// socket taken. `None`: it does not say so within a second.
    pub(super) async fn introduce(&self) -> Option<String> {
        let answer = self.ask(Method::GET, "/status", Bytes::new(), INTRODUCED_WITHIN).await.ok()?;
        let Status { pid, config, .. } = answer.document().ok()?;
        Some(format!("the process {pid} with {}", shown(&config)))
    }

    async fn ask(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        within: Duration,
    ) -> Result<Answer, AskError> {
        let (stream, socket) = self.reach().await?;
        let late = |_| AskError::Late { socket: socket.clone(), within };
        let bad_path = |source| AskError::BadPath { path: path.to_owned(), source };
        let uri: Uri = path.parse().map_err(|fault| bad_path(hyper::http::Error::from(fault)))?;
        let request = Request::builder()
            .method(method)
            .uri(uri)
            .header(HOST, HeaderValue::from_static("localhost"))
            .body(Full::new(body))
            .map_err(bad_path)?;
        tokio::time::timeout(within, exchange(stream, &socket, request)).await.map_err(late)?
    }

    /// A connection, and where it leads.
    async fn reach(&self) -> Result<(UnixStream, PathBuf), AskError> {
        let (socket, source) = match &self.place {
            Place::Named(socket) => {
                return Ok((connect(socket).await?, socket.clone()));
            }
            Place::Configured { socket, source } => (socket, source),
        };
        let absent = match socket {
            Some(socket) => match connect(socket).await {
                Ok(stream) => return Ok((stream, socket.clone())),
                Err(AskError::NotThere(socket)) => {
                    AskError::NotConfigured { socket, source_name: source.clone() }
                }
                Err(error) => return Err(error),
            },
            None => AskError::NoSocket { source_name: source.clone() },
        };
        let Some(elsewhere) = default_socket().filter(|elsewhere| Some(elsewhere) != socket.as_ref()) else {
            return Err(absent);
        };
        let Ok(stream) = connect(&elsewhere).await else { return Err(absent) };
        self.told.call_once(|| {
            let absent = shown(&absent.to_string());
            complain(&format!("epmd-guard: {absent}; asking the one at {}", elsewhere.display()));
        });
        Ok((stream, elsewhere))
    }
}

async fn exchange(
    stream: UnixStream,
    socket: &Path,
    request: Request<Full<Bytes>>,
) -> Result<Answer, AskError> {
    let broken = |source| AskError::Broken { socket: socket.to_owned(), source };
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
    // Ends with this function, whatever becomes of the request.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(broken)?.into_parts();
    match Limited::new(body, MAX_ANSWER).collect().await {
        Ok(body) => Ok(Answer { status: head.status, body: body.to_bytes() }),
        Err(error) if error.is::<LengthLimitError>() => Err(AskError::TooLarge(socket.to_owned())),
        Err(error) => Err(match error.downcast::<hyper::Error>() {
            Ok(source) => broken(*source),
            Err(error) => AskError::Connect { socket: socket.to_owned(), source: io::Error::other(error) },
        }),
    }
}

async fn connect(socket: &Path) -> Result<UnixStream, AskError> {
    match tokio::time::timeout(CONNECT_WITHIN, UnixStream::connect(socket)).await {
        Ok(Ok(stream)) => Ok(stream),
        Err(_) => Err(AskError::Late { socket: socket.to_owned(), within: CONNECT_WITHIN }),
        Ok(Err(source)) => Err(not_connected(socket.to_owned(), source)),
    }
}

fn not_connected(socket: PathBuf, source: io::Error) -> AskError {
    let kind = source.kind();
    if kind == io::ErrorKind::NotFound || kind == io::ErrorKind::ConnectionRefused {
        AskError::NotThere(socket)
    } else if kind == io::ErrorKind::PermissionDenied {
        let who = who_may(&socket);
        AskError::NotAllowed { socket, who }
    } else {
        AskError::Connect { socket, source }
    }
}

impl Answer {
    /// The document, if the guard gave one. An error status is no document unless it comes with one of this
    /// kind, as for a reload that is refused.
    pub(super) fn document<T: DeserializeOwned>(&self) -> Result<T, AskError> {
        match serde_json::from_slice(&self.body) {
            Ok(document) => Ok(document),
            Err(source) if self.status.is_success() => Err(AskError::NotUnderstood { source }),
            Err(_) => {
                let refusal = serde_json::from_slice::<Refusal>(&self.body);
                let message = refusal.map_or_else(|_| "it does not say why".to_owned(), |why| why.error);
                Err(AskError::Refused { status: self.status, message: shown(&message) })
            }
        }
    }

    /// The document as it came, for other programs, once it is known to be one.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).trim_end().to_owned()
    }
}

/// Whom the socket is for, as far as one who may not use it can see.
fn who_may(socket: &Path) -> String {
    let Ok(file) = fs::metadata(socket) else {
        let folder = socket.parent().unwrap_or(socket).display();
        return format!(
            ", the user that it runs as and the group of [admin] group, if there is one, who may enter {folder}, which \
             you may not,"
        );
    };
    let for_group = file.file_type().is_socket() && file.mode() & 0o060 == 0o060;
    if !for_group {
        return " and the user that it runs as (no [admin] group is set)".to_owned();
    }
    let group = match Group::from_gid(Gid::from_raw(file.gid())) {
        Ok(Some(group)) => group.name,
        Ok(None) | Err(_) => file.gid().to_string(),
    };
    format!(", the user that it runs as and the group {group} ([admin] group)")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::admin::tests::{Running, a_link, a_status};
    use crate::control::documents::{LinksDocument, ReloadReport, ReloadResult};

    #[tokio::test]
    async fn a_guard_that_runs_answers_with_its_documents() {
        let guard = Running::start().await;
        let client = Client::new(&guard.socket());
        let status: Status = client.get("/status").await.unwrap().document().unwrap();
        assert_eq!(status, a_status());
        let LinksDocument { links } = client.get("/links").await.unwrap().document().unwrap();
        assert_eq!(links, [a_link(7)]);
        let introduced = client.introduce().await;
        assert_eq!(introduced.as_deref(), Some("the process 4711 with /etc/epmd-guard/epmd-guard.toml"));
    }

    #[tokio::test]
    async fn a_report_of_a_refusal_is_read_and_any_other_refusal_is_told() {
        let guard = Running::start().await;
        *guard.fake.result.lock().unwrap() = ReloadResult::NeedsYes;
        let client = Client::new(&guard.socket());
        let answer = client.post("/reload", Bytes::new()).await.unwrap();
        assert_eq!(answer.document::<ReloadReport>().unwrap().result, ReloadResult::NeedsYes);

        let error = client.get("/reload").await.unwrap().document::<ReloadReport>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the guard refuses (405 Method Not Allowed): /reload is asked for with POST"
        );
        let error = client.get("/status").await.unwrap().document::<ReloadReport>().unwrap_err();
        assert!(error.to_string().contains("of another version"), "{error}");
    }

    #[tokio::test]
    async fn a_large_configuration_arrives_whole() {
        let guard = Running::start().await;
        let text = "# line\n".repeat(1 << 20);
        let client = Client::new(&guard.socket());
        client.post("/check", text.clone().into()).await.unwrap();
        assert!(
            guard.fake.reloads.lock().unwrap().first().is_some_and(|how| how.text.as_ref() == Some(&text))
        );
    }

    #[tokio::test]
    async fn without_a_guard_the_error_says_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let told = |path: &Path| {
            let client = Client::new(path);
            async move { client.get("/status").await.unwrap_err().to_string() }
        };
        let expected = format!(
            "no guard answers at {}: is it running? name its socket with --socket or its configuration with --config",
            path.display()
        );
        assert_eq!(told(&path).await, expected);
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert_eq!(told(&path).await, expected);
        assert!(Client::new(&path).introduce().await.is_none());
    }

    #[tokio::test]
    async fn a_socket_of_a_file_may_not_be_the_one_that_the_guard_was_started_with() {
        // The tests run where no guard has the default place.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let asked = |socket| async move {
            let client = Client::configured(socket, "x.toml".to_owned());
            client.get("/status").await.unwrap_err().to_string()
        };
        let absent = asked(Some(path.clone())).await;
        assert!(absent.contains(&format!("{}, the [admin] socket of x.toml", path.display())), "{absent}");
        assert!(absent.contains("started with another one, name that with --socket"), "{absent}");
        let none = asked(None).await;
        assert!(none.contains("[admin] socket is empty in x.toml") && none.contains("--socket"), "{none}");
    }

    #[test]
    fn who_may_not_read_the_file_is_not_told_to_let_the_guard_read_it() {
        let source = io::Error::from(io::ErrorKind::PermissionDenied);
        let why = why_unusable(&LoadError::Read { path: "/etc/x".into(), source });
        assert_eq!(why, "you may not read /etc/x, which names the socket");
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_that_hangs_is_not_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let _deaf = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let error = Client::new(&path).get("/status").await.unwrap_err();
        assert!(error.to_string().contains("did not answer within 60 s"), "{error}");
    }

    #[test]
    fn who_may_not_use_the_socket_learns_who_may() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("admin.sock");
        let _socket = std::os::unix::net::UnixListener::bind(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o660)).unwrap();
        let own = Group::from_gid(nix::unistd::getegid()).unwrap().unwrap().name;
        assert_eq!(who_may(&path), format!(", the user that it runs as and the group {own} ([admin] group)"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        assert!(who_may(&path).contains("no [admin] group"));
        let hidden = who_may(&folder.path().join("x"));
        assert!(hidden.contains(&format!("may enter {}", folder.path().display())), "{hidden}");
    }
}
