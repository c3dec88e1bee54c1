//! The measured program of this project: told what to do line by line, so that other programs can be run in between.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::peers::{Footprint, footprint};

/// A running program. It ends when this is dropped.
pub(super) struct Subject {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Path(PathBuf),
    Nanoseconds(Vec<u64>),
    Amounts(Vec<u64>),
}

impl Subject {
    /// Starts `program`, which runs machines in this process or in others that `worker` starts as.
    pub(super) fn start(program: &Path, worker: &Path) -> Result<Self> {
        let mut child = Command::new(program)
            .arg(worker)
            .args(["vm-host", "--log-format", "human"])
            .env("PROCURATOR_LOG", "error")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let orders = child.stdin.take();
        let answers = child.stdout.take().context("the program was started with a pipe")?;
        Ok(Self { child, orders, answers: BufReader::new(answers) })
    }

    /// The kernel that every machine runs.
    pub(super) fn guest(&mut self) -> Result<PathBuf> {
        match self.ask("guest")? {
            Answer::Path(path) => Ok(path),
            Answer::Nanoseconds(_) | Answer::Amounts(_) => bail!("the program answered `guest` with figures"),
        }
    }

    /// Carries out `order` and returns its times in nanoseconds; what they are stands with the order in the program.
    pub(super) fn times(&mut self, order: &str) -> Result<Vec<u64>> {
        match self.ask(order)? {
            Answer::Nanoseconds(times) => Ok(times),
            Answer::Path(_) | Answer::Amounts(_) => bail!("the program did not answer `{order}` with times"),
        }
    }

    /// Carries out `order` and returns its amounts, likewise.
    pub(super) fn amounts(&mut self, order: &str) -> Result<Vec<u64>> {
        match self.ask(order)? {
            Answer::Amounts(amounts) => Ok(amounts),
            Answer::Path(_) | Answer::Nanoseconds(_) => {
                bail!("the program did not answer `{order}` with amounts")
            }
        }
    }

    /// What the program takes of the host now.
    pub(super) fn footprint(&self) -> Result<Footprint> {
        footprint(self.child.id())
    }

    fn ask(&mut self, order: &str) -> Result<Answer> {
        let orders = self.orders.as_mut().context("the program takes no orders any more")?;
        writeln!(orders, "{order}").with_context(|| format!("cannot order `{order}`"))?;
        let mut line = String::new();
        self.answers.read_line(&mut line).with_context(|| format!("no answer to `{order}`"))?;
        serde_json::from_str(&line)
            .with_context(|| format!("`{order}` failed: the program answered {line:?}; its error is above"))
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        // It ends when it has nothing more to read.
        drop(self.orders.take());
        let _ = self.child.wait();
    }
}
