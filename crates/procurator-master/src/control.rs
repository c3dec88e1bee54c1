//! The master's own socket: one question a connection, a line of JSON, and one answer.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use master_protocol::wire::WorkerId;
use master_protocol::wire::v1::VmReport;
use serde::{Deserialize, Serialize};
use thiserror::Error;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;
use vm_model::VmId;

use crate::fleet::{VmPage, WorkerStatus, WorkerVms};

const FILE: &str = "master.sock";
/// The longest question.
const QUESTION_MOST_BYTES: u64 = 4 << 10;
/// The longest answer: what is known of many workers, without their VMs.
const ANSWER_MOST_BYTES: u64 = 256 << 20;
/// How long a question and its answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// Clients that are answered side by side.
const CLIENTS_MOST: usize = 16;

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// How all workers are.
    Workers,
    /// How the VMs of a worker are whose names come after a name.
    Vms {
        /// The worker.
        worker: WorkerId,
        /// The last name of the page before.
        after: Option<VmId>,
    },
    /// Switches off the VMs of a worker, and gives it no new ones.
    Drain(WorkerId),
    /// Takes that back.
    Undrain(WorkerId),
}

/// What is answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// How all workers are.
    Workers(Vec<WorkerStatus>),
    /// How some VMs of a worker are.
    Vms(VmPage),
    /// It is done, and on stable storage.
    Done,
    /// It is not done.
    Problem(String),
}

/// A question and where its answer goes.
pub type Asked = (Question, oneshot::Sender<Answer>);

/// Why a question got no answer.
#[derive(Debug, Error)]
pub enum ControlError {
    /// Nobody listens.
    #[error("no master answers at {}: is it running, and is this its --state-dir?", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The answer did not come whole.
    #[error("the master at {} gave no answer", path.display())]
    NoAnswer {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The socket cannot be made.
    #[error("cannot listen on {}", path.display())]
    Listen {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// Listens in `directory`, for its owner alone. Whoever calls has made sure that no other master does.
///
/// # Errors
/// The host refuses.
pub fn listen(directory: &Path) -> Result<UnixListener, ControlError> {
    let path = directory.join(FILE);
    let failed = |source| ControlError::Listen { path: path.clone(), source };
    match fs::remove_file(&path) {
        Err(problem) if problem.kind() != io::ErrorKind::NotFound => return Err(failed(problem)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Hands questions on until nobody takes them.
pub async fn serve(listener: UnixListener, questions: mpsc::Sender<Asked>) {
    let mut clients = JoinSet::new();
    loop {
        // All arms are cancel-safe.
        tokio::select! {
            () = questions.closed() => return,
            Some(_) = clients.join_next() => {}
            accepted = listener.accept(), if clients.len() < CLIENTS_MOST => match accepted {
                Ok((stream, _)) => {
                    let questions = questions.clone();
                    clients.spawn(async move {
                        let answered = timeout(PATIENCE, answer(stream, questions)).await;
                        if let Ok(Err(problem)) = answered {
                            tracing::debug!(%problem, "a client of the control socket got no answer");
                        }
                    });
                }
                Err(problem) => {
                    tracing::warn!(%problem, "a client of the control socket was not let in");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn answer(stream: UnixStream, questions: mpsc::Sender<Asked>) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut line = String::new();
    BufReader::new(reader.take(QUESTION_MOST_BYTES)).read_line(&mut line).await?;
    let answer = match serde_json::from_str(&line) {
        Ok(question) => {
            let (sender, answer) = oneshot::channel();
            let gone = |_| io::Error::other("the master is ending");
            questions.send((question, sender)).await.map_err(|_| io::Error::other("the master is ending"))?;
            answer.await.map_err(gone)?
        }
        Err(problem) => Answer::Problem(format!("not understood: {problem}")),
    };
    let mut line = serde_json::to_vec(&answer)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    writer.shutdown().await
}

/// Asks the master whose state lies in `directory`.
///
/// # Errors
/// Nobody answers.
pub async fn ask(directory: &Path, question: &Question) -> Result<Answer, ControlError> {
    let path = directory.join(FILE);
    let connected = UnixStream::connect(&path).await;
    let stream = connected.map_err(|source| ControlError::Unreachable { path: path.clone(), source })?;
    let asked = timeout(PATIENCE, exchange(stream, question)).await;
    let asked = asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    asked.map_err(|source| ControlError::NoAnswer { path, source })
}

/// The VMs of `worker`, page by page.
///
/// # Errors
/// Nobody answers.
pub async fn ask_vms(directory: &Path, status: WorkerStatus) -> Result<WorkerVms, ControlError> {
    let mut vms: Vec<VmReport> = Vec::new();
    loop {
        let after = vms.last().map(|vm| vm.vm.clone());
        let question = Question::Vms { worker: status.worker.clone(), after };
        match ask(directory, &question).await? {
            Answer::Vms(page) => {
                let is_last = !page.more || page.vms.is_empty();
                vms.extend(page.vms);
                if is_last {
                    return Ok(WorkerVms { status, vms });
                }
            }
            Answer::Workers(_) | Answer::Done | Answer::Problem(_) => {
                let (path, source) = (directory.join(FILE), io::ErrorKind::InvalidData.into());
                return Err(ControlError::NoAnswer { path, source });
            }
        }
    }
}

async fn exchange(stream: UnixStream, question: &Question) -> io::Result<Answer> {
    let (reader, mut writer) = stream.into_split();
    let mut line = serde_json::to_vec(question)?;
    line.push(b'\n');
    writer.write_all(&line).await?;
    let mut answer = Vec::new();
    reader.take(ANSWER_MOST_BYTES).read_to_end(&mut answer).await?;
    Ok(serde_json::from_slice(&answer)?)
}
