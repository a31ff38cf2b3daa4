//! A socket in the data folder, by which commands on this host ask a running node: `hyperion log head` and `hyperion log backup`.
//!
//! A caller writes one [`Ask`] as a line of JSON and reads one answer, then the connection ends. The socket has mode 0600, as the keys
//! beside it have: who may ask is who might as well stop the node and copy its folder.

use std::{
    fs, io,
    io::{BufRead as _, Write as _},
    os::unix::{fs::PermissionsExt as _, net::UnixStream},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixListener,
    sync::{Mutex, Semaphore},
};
use tokio_util::sync::CancellationToken;

use crate::ledger::Ledger;

/// The socket's name in the data folder.
pub(crate) const NAME: &str = "control.sock";
/// A request has this many bytes at most: a path and some.
const LINE_BYTES_MAX: u64 = 16 << 10;
/// A caller has written its line by then.
const LINE_WITHIN: Duration = Duration::from_secs(5);
/// Callers that are heard at a time.
const CALLERS_MAX: usize = 8;
/// How long the socket is left alone if a caller could not be taken.
const AGAIN: Duration = Duration::from_millis(100);

/// What a node is asked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Ask {
    /// Where the log stands.
    Head,
    /// To copy the log into a folder, empty or new, by its whole path.
    Backup {
        /// The folder.
        to: PathBuf,
    },
}

/// Where a log stands.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Standing {
    pub(crate) size: u64,
    pub(crate) root: String,
    pub(crate) height: u64,
}

impl From<hyperion_store::Head> for Standing {
    fn from(head: hyperion_store::Head) -> Self {
        Self { size: head.log_size, root: head.log_root.to_string(), height: head.height }
    }
}

/// What a node answers: where the log stands, of a backup at least that far, or why not.
type Answer = Result<Standing, String>;

/// The socket of a running node.
pub(crate) struct Control {
    listener: UnixListener,
    path: PathBuf,
    ledger: Arc<Ledger>,
    /// One copy at a time: two would only slow each other.
    copying: Mutex<()>,
}

impl Control {
    /// Makes the socket. The caller owns the folder's store, so what lies there is of a node that was killed.
    pub(crate) fn bind(data_dir: &Path, ledger: Arc<Ledger>) -> io::Result<Self> {
        let (path, fresh) = (data_dir.join(NAME), data_dir.join("control.sock.new"));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        // Nobody finds it under its name before it has its mode.
        let listener = UnixListener::bind(&fresh)?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
        fs::rename(&fresh, &path)?;
        Ok(Self { listener, path, ledger, copying: Mutex::new(()) })
    }

    /// Answers until `stop`; a copy that is under way then is finished.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        let (control, places) = (Arc::new(self), Arc::new(Semaphore::new(CALLERS_MAX)));
        loop {
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await.expect("nobody closes it");
                (place, control.listener.accept().await)
            };
            let (place, accepted) = tokio::select! {
                next = next => next,
                () = stop.cancelled() => break,
            };
            match accepted {
                Ok((stream, _)) => {
                    let control = Arc::clone(&control);
                    tokio::spawn(async move {
                        if let Err(error) = control.answer(stream).await {
                            tracing::debug!(%error, "a caller of the control socket went away");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the control socket took no caller");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        }
        // One that is gone already is no trouble.
        let _ = fs::remove_file(&control.path);
        let all = u32::try_from(CALLERS_MAX).expect("a few");
        let _ended = places.acquire_many(all).await.expect("nobody closes it");
    }

    async fn answer(&self, mut stream: tokio::net::UnixStream) -> io::Result<()> {
        let (read, mut write) = stream.split();
        let mut line = String::new();
        let mut reader = BufReader::new(read.take(LINE_BYTES_MAX));
        tokio::time::timeout(LINE_WITHIN, reader.read_line(&mut line)).await??;
        let answer: Answer = match serde_json::from_str(&line) {
            Err(error) => Err(format!("no request: {error}")),
            Ok(Ask::Head) => Ok(self.ledger.store().head().into()),
            Ok(Ask::Backup { to }) => self.backup(to).await,
        };
        let told = serde_json::to_string(&answer).expect("numbers and texts");
        write.write_all(format!("{told}\n").as_bytes()).await
    }

    async fn backup(&self, to: PathBuf) -> Answer {
        if !to.is_absolute() {
            return Err("a backup goes to a whole path".to_owned());
        }
        let Ok(_alone) = self.copying.try_lock() else {
            return Err("another backup is under way".to_owned());
        };
        let ledger = Arc::clone(&self.ledger);
        let copy = move || {
            let head = ledger.store().head();
            ledger.store().backup(&to).map(|()| head.into()).map_err(|error| error.to_string())
        };
        let copied = tokio::task::spawn_blocking(copy).await;
        copied.unwrap_or_else(|_| Err("the copy failed".to_owned()))
    }
}

/// Asks the node that runs on a data folder; `None` where none listens.
///
/// # Errors
///
/// When the node says no, or ends before it has answered.
pub(crate) fn ask(data_dir: &Path, ask: &Ask) -> Result<Option<Standing>> {
    let Ok(mut stream) = UnixStream::connect(data_dir.join(NAME)) else { return Ok(None) };
    let line = serde_json::to_string(ask).expect("a path was text on the command line");
    stream.write_all(format!("{line}\n").as_bytes()).context("asking the running node")?;
    let mut told = String::new();
    io::BufReader::new(stream).read_line(&mut told).context("listening to the running node")?;
    if told.is_empty() {
        return Err(anyhow!(
            "the node ended before it had answered; what it was writing is no backup"
        ));
    }
    let answer: Answer = serde_json::from_str(&told).context("the running node's answer")?;
    answer.map(Some).map_err(|why| anyhow!("the running node says: {why}"))
}
