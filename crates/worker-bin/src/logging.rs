//! The log: on standard error, for people or for programs; in the journal, where systemd says that standard error leads there.
//!
//! Nobody who logs ever waits for the log or fails because of it. Lines go into a bounded queue, and one thread writes
//! them; what does not fit, or cannot be written, is dropped and counted ([`dropped`]), and the count is logged when there
//! is room. Standard error may be closed, full, a pipe that nobody reads, or a slow terminal.
//!
//! What is about one VM is limited ([`per_vm`]), and how much was left out is told.
//!
//! There is one log a process, because there is one standard error and one panic hook.

mod fields;
mod journal;
mod per_vm;
mod queue;
mod sink;
mod span_fields;
mod vm_files;

use std::backtrace::{Backtrace, BacktraceStatus};
use std::env;
use std::io::{self, IsTerminal, Write, stderr};
use std::panic::{self, PanicHookInfo};
use std::sync::{Arc, LazyLock, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use syscall_filter::ThreadKind;
use tracing::{error, warn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

use self::fields::PrintableFields;
use self::per_vm::{VmLimit, WithinLimit};
use self::queue::{Line as QueuedLine, Queue};
use self::sink::Sink;
use self::span_fields::KeepFields;
use self::vm_files::VmLines;
pub(crate) use self::vm_files::{HandedDirectories, VmFiles};
use crate::cli::LogFormat;
use crate::colours::Colours;
use crate::printable::{is_disguise, printable_json, printable_lines};

/// The environment variable that chooses what is logged, in the form `info,worker=debug`.
const FILTER: &str = "PROCURATOR_LOG";
/// How long the end of the program waits for lines that are still to be written.
const LAST_LINES: Duration = Duration::from_secs(2);

/// What waits to be written, once [`open`] was called.
static QUEUE: OnceLock<Arc<Queue>> = OnceLock::new();

/// How much VMs may say in the log, and in the files beside it.
static VM_LIMIT: LazyLock<VmLimit> = LazyLock::new(VmLimit::default);
static FILES_LIMIT: LazyLock<VmLimit> = LazyLock::new(VmLimit::default);

/// Connects to where the log goes, for a process that soon finds nothing by its path.
pub(crate) fn connect() {
    journal::connect();
}

/// Starts the thread that writes, and sends what panics say the same way. Called before any other thread is started.
///
/// # Errors
/// The host refuses a thread.
pub(crate) fn open() -> Result<()> {
    let queue = Arc::clone(QUEUE.get_or_init(Arc::default));
    thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || {
            syscall_filter::enter(ThreadKind::Log, "");
            write_lines(&queue);
        })
        .context("cannot start the thread that writes the log")?;
    panic::set_hook(Box::new(log_panic));
    Ok(())
}

/// What the environment wants to have logged.
///
/// # Errors
/// It makes no sense.
pub(crate) fn wanted() -> Result<EnvFilter> {
    let wanted = match env::var(FILTER) {
        Ok(wanted) if !wanted.is_empty() => wanted,
        Ok(_) | Err(env::VarError::NotPresent) => "info".to_owned(),
        Err(problem) => return Err(problem).with_context(|| format!("invalid {FILTER}")),
    };
    EnvFilter::try_new(&wanted).with_context(|| {
        format!("invalid {FILTER}={wanted:?}: directives like info,worker=debug are accepted")
    })
}

/// Starts logging in `format`; lines about VMs go to `vm_files`, too. Until then only [`say`] is written.
///
/// # Errors
/// The environment asks for what makes no sense, or the host refuses a thread.
pub(crate) fn start(format: LogFormat, vm_files: Option<VmFiles>) -> Result<()> {
    let filter = wanted()?;
    let vm_lines = vm_files.map(VmLines::start).transpose()?;
    let colours = Colours::wanted(stderr().is_terminal(), |name| env::var(name).ok());
    let vm_lines = vm_lines.map(|lines| lines.with_filter(WithinLimit(&FILES_LIMIT)));
    let registry = Registry::default().with(filter).with(KeepFields).with(vm_lines);
    let limit = || WithinLimit(&VM_LIMIT);
    // What a layer itself has to say would go to standard error past the queue.
    match format {
        LogFormat::Human if journal::takes_standard_error() => {
            registry.with(journal::JournalLayer.with_filter(limit())).init();
        }
        LogFormat::Human => {
            let layer = fmt::layer()
                .log_internal_errors(false)
                .with_target(false)
                .with_ansi(colours == Colours::Used)
                .fmt_fields(PrintableFields)
                .with_writer(|| Line { escape: Escape::Done });
            registry.with(layer.with_filter(limit())).init();
        }
        LogFormat::Json => {
            let layer = fmt::layer()
                .log_internal_errors(false)
                .json()
                .flatten_event(true)
                .with_writer(|| Line { escape: Escape::Json });
            registry.with(layer.with_filter(limit())).init();
        }
    }
    Ok(())
}

/// How many lines were lost: dropped because too many waited, or refused by standard error.
pub(crate) fn dropped() -> u64 {
    QUEUE.get().map_or(0, |queue| queue.dropped())
}

/// How many lines wait to be written.
pub(crate) fn waiting() -> u64 {
    QUEUE.get().map_or(0, |queue| u64::try_from(queue.waiting()).unwrap_or(u64::MAX))
}

/// Says `text` on standard error whatever is logged: the last words of a program. Failures are of no interest to anybody.
pub(crate) fn say(text: &str) {
    let line = format!("procurator-worker: {}\n", printable_lines(text)).into_bytes();
    match QUEUE.get() {
        Some(queue) => queue.push(QueuedLine::Text(line)),
        None => drop(stderr().write_all(&line)),
    }
}

/// Waits a moment for what is still to be written. What the log does not take by then is lost.
pub(crate) fn finish() {
    if let Some(queue) = QUEUE.get() {
        queue.flush(LAST_LINES);
    }
}

/// The thread that writes.
fn write_lines(queue: &Queue) {
    let (mut sink, mut journal) = (Sink::new(stderr()), journal::Sender::default());
    loop {
        let outcome = match queue.next() {
            QueuedLine::Text(line) => sink.write_line(&line),
            QueuedLine::Record(record) => journal.send(&record),
        };
        if let Some(count) = queue.done(outcome) {
            warn!(count, "log lines were dropped: the log did not take them in time");
        }
        for (vm_id, left_out) in VM_LIMIT.take_left_out(Instant::now()) {
            warn!(vm_id, left_out, "lines about the VM were left out: there were too many");
        }
    }
}

/// Takes the place of the standard hook, which writes to standard error itself and waits for it.
fn log_panic(info: &PanicHookInfo<'_>) {
    let current = thread::current();
    let name = current.name().unwrap_or("without a name");
    let message = info.payload_as_str().unwrap_or("its payload is no text");
    let place = info.location().map_or_else(String::new, ToString::to_string);
    let trace = Backtrace::capture();
    let trace = (trace.status() == BacktraceStatus::Captured).then(|| trace.to_string());
    if tracing::dispatcher::has_been_set() {
        error!(thread = name, place, backtrace = trace, "panic: {message}");
    } else {
        say(&format!("panic on thread {name} at {place}: {message}\n{}", trace.unwrap_or_default()));
    }
}

/// Takes one formatted line at a time.
struct Line {
    escape: Escape,
}

/// What is left to escape in a formatted line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Escape {
    /// Nothing: its fields are escaped.
    Done,
    /// What JSON lets stand in a text.
    Json,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(queue) = QUEUE.get() {
            queue.push(QueuedLine::Text(match self.escape {
                Escape::Done => line.to_vec(),
                Escape::Json => json_escaped(line),
            }));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A line of JSON in which no character changes the look of others. They stand in texts only, but for the line's end.
fn json_escaped(line: &[u8]) -> Vec<u8> {
    let text = String::from_utf8_lossy(line);
    if !text.trim_end_matches('\n').contains(is_disguise) {
        return line.to_vec();
    }
    printable_json(&text).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escaped_json_says_the_same() {
        let said = "a\u{202e}b\u{9b}c\u{e0041}é";
        let line = format!("{}\n", serde_json::json!({ "message": said }));
        let escaped = String::from_utf8(json_escaped(line.as_bytes())).expect("text");
        assert!(!escaped.trim_end().contains(is_disguise) && escaped.ends_with("}\n"), "{escaped}");
        let read: serde_json::Value = serde_json::from_str(&escaped).expect("still JSON");
        assert_eq!(read["message"], said);
    }
}
