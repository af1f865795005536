//! The Unix socket as a file: made, shared, watched and removed.
//!
//! Nobody can connect before `listen(2)`, so owner, group and mode are settled between `bind` and `listen`,
//! and no instant exists in which the wrong user gets in; setting the mode of the socket before `bind` makes
//! Linux create the file with it, so that no instant exists either in which the file looks open to all. A
//! file with another name and a rename would do as well, but `ss` would show the other name for ever, and a
//! process-wide umask would meet other threads.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::{UnixListener, UnixStream};

/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 64;
/// How long whoever listens at the path may take to show that it does.
const ALIVE_WITHIN: Duration = Duration::from_secs(1);
const OWNER_ONLY: u32 = 0o600;
const OWNER_AND_GROUP: u32 = 0o660;

/// Why the Unix socket is not open.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("another guard holds {}", path.display())]
    Held { path: PathBuf },
    #[error("cannot create the directory {}", path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot lock {}", path.display())]
    Lock {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} is locked by somebody else than a guard: it belongs to uid {owner}", path.display())]
    Stranger { path: PathBuf, owner: u32 },
    #[error("cannot lock {}: it belongs to uid {owner}, and a guard of that user runs or ran here", path.display())]
    Foreign { path: PathBuf, owner: u32 },
    #[error("{} is there and is no socket", path.display())]
    NotASocket { path: PathBuf },
    #[error("another program listens at {}", path.display())]
    InUse { path: PathBuf },
    #[error("cannot open {}", path.display())]
    Bind {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl Fault {
    /// What to do.
    pub(super) fn help(&self) -> &'static str {
        match self {
            Self::Held { .. } => "end the other guard, or give this one a path of its own in [admin] socket",
            Self::Folder { .. } => {
                "create the directory and let the guard's user write to it (RuntimeDirectory= of systemd does \
                 both), or name another path in [admin] socket; it is tried again"
            }
            Self::Lock { .. } | Self::Bind { .. } => {
                "let the guard's user write to the directory of the socket, or name another path in [admin] \
                 socket; it is tried again"
            }
            Self::Stranger { .. } => {
                "remove the file, and let nobody but the guard's user write to the directory of the socket; it is \
                 tried again"
            }
            Self::Foreign { .. } => {
                "run one guard only, as one user: end the other one, if it still runs, and remove the file; or \
                 name another path in [admin] socket; it is tried again"
            }
            Self::NotASocket { .. } => {
                "the guard does not delete what it has not made: move it away, or name another path in \
                 [admin] socket; it is tried again"
            }
            Self::InUse { .. } => "name another path in [admin] socket; it is tried again",
        }
    }
}

/// The socket, bound: its file is there, and nobody can connect to it yet.
#[derive(Debug)]
pub(super) struct BoundSocket {
    socket: Socket,
    file: SocketFile,
}

/// The socket, open.
#[derive(Debug)]
pub(super) struct OpenSocket {
    listener: UnixListener,
    file: SocketFile,
}

/// A socket's file, removed with this value if it is still the same one.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    id: (u64, u64),
}

impl BoundSocket {
    /// Makes the socket at `path`, for its owner alone. A socket that nobody listens on any more makes way.
    pub(super) async fn bind(path: &Path) -> Result<Self, Fault> {
        clear(path).await?;
        bind(path).map_err(|source| Fault::Bind { path: path.to_owned(), source })
    }

    /// Lets a group use it too.
    pub(super) fn share(&self, group: u32) -> io::Result<()> {
        self.file.share(group)
    }

    pub(super) fn open(self) -> Result<OpenSocket, Fault> {
        let Self { socket, file } = self;
        let open = socket.listen(BACKLOG).and_then(|()| UnixListener::from_std(socket.into()));
        match open {
            Ok(listener) => Ok(OpenSocket { listener, file }),
            Err(source) => Err(Fault::Bind { path: file.path.clone(), source }),
        }
    }
}

impl OpenSocket {
    /// The next connection. Cancel-safe.
    pub(super) async fn accept(&self) -> io::Result<UnixStream> {
        self.listener.accept().await.map(|(stream, _)| stream)
    }

    /// Lets a group use it too.
    pub(super) fn share(&self, group: u32) -> io::Result<()> {
        self.file.share(group)
    }

    /// Whether a client that asks for the path still finds this socket.
    pub(super) fn is_in_place(&self) -> bool {
        self.file.is_in_place()
    }
}

impl SocketFile {
    fn share(&self, group: u32) -> io::Result<()> {
        lchown(&self.path, None, Some(group))?;
        fs::set_permissions(&self.path, Permissions::from_mode(OWNER_AND_GROUP))
    }

    fn is_in_place(&self) -> bool {
        id_of(&self.path).is_ok_and(|id| id == self.id)
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.is_in_place()
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(path = %self.path.display(), %error, "admin_socket_not_removed");
        }
    }
}

fn bind(path: &Path) -> io::Result<BoundSocket> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    fchmod(&socket, Mode::RUSR | Mode::WUSR)?;
    socket.bind(&SockAddr::unix(path)?)?;
    let file = SocketFile { path: path.to_owned(), id: id_of(path)? };
    // The umask may have taken more away than it should.
    fs::set_permissions(path, Permissions::from_mode(OWNER_ONLY))?;
    Ok(BoundSocket { socket, file })
}

fn id_of(path: &Path) -> io::Result<(u64, u64)> {
    let file = fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino()))
}

/// Removes what a guard left behind that was killed, and nothing else: the path may be mistyped.
async fn clear(path: &Path) -> Result<(), Fault> {
    let fault = |source| Fault::Bind { path: path.to_owned(), source };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(fault(error)),
        Ok(found) if !found.file_type().is_socket() => {
            return Err(Fault::NotASocket { path: path.to_owned() });
        }
        Ok(_) => {}
    }
    match tokio::time::timeout(ALIVE_WITHIN, UnixStream::connect(path)).await {
        // The kernel's answer for a socket that no process listens on.
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            fs::remove_file(path).map_err(fault)
        }
        Ok(Err(error)) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(Err(error)) => Err(fault(error)),
        Ok(Ok(_)) | Err(_) => Err(Fault::InUse { path: path.to_owned() }),
    }
}
