//! What an operator sees: verbs on real terminals, at a worker with guests that have something to do. `cargo xtask pictures`
//! sets it up, and draws what is printed here: what each terminal was sent.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "it is there to be read")]

use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use end_to_end::{
    Assignment, Environment, Never, ObservedVm, STOCK_BOOT_DEADLINE, Terminal, TerminalSize, Worker,
    http_get, until,
};
use serde_json::json;

/// The guest that is a whole distribution.
const DEBIAN: &str = "debian";
/// Small guests.
const SMALL: [&str; 3] = ["db-1", "web-1", "web-2"];
/// The guest with something to do.
const BUSY: &str = "web-1";
/// What is wider than most terminals' default, as people have it who look after hosts.
const WIDE: TerminalSize = TerminalSize { columns: 100, rows: 24 };
/// Bytes a line of output.
const CHUNK: usize = 120;
/// How long a console is watched: its history comes at once.
const ATTACHED: Duration = Duration::from_secs(10);
/// How long the live view is watched: some of its samples.
const WATCHED: Duration = Duration::from_secs(25);

fn main() -> ExitCode {
    match show() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("there are no pictures: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn show() -> Result<()> {
    let environment = Environment::from_variables()?;
    let settings = "metrics_poll_interval_seconds = 1\nstop_timeout_seconds = 5\n";
    let worker = Worker::start_with(&environment, settings)?;
    let (small, stock) = (environment.image("guest")?, environment.image("stock")?);
    let mut all: Vec<Assignment> = SMALL.iter().map(|id| Assignment::of(&small, id)).collect();
    all.push(Assignment::of(&stock, DEBIAN).with_procurator("health", json!({ "systemd": true })));
    worker.assign(&all)?;
    let mut small = Vec::new();
    for id in SMALL {
        small.push(worker.wait_until_answering(id)?);
    }
    until("the distribution is ready", STOCK_BOOT_DEADLINE, || {
        let vm = worker.vm(DEBIAN)?;
        ensure!(vm.phase != "failed", Never(vm.state()));
        vm.ready().map(drop)
    })?;

    let busy = small.iter().find(|vm| vm.id == BUSY).context("it is one of them")?;
    live_view(&worker, busy)?;
    whole(&worker, "ls", &["ls"])?;
    whole(&worker, "inspect", &["inspect", DEBIAN])?;
    whole(&worker, "doctor", &["doctor"])?;
    console(&worker)?;
    worker.terminate().map(drop)
}

/// The live view, while a guest has something to do.
fn live_view(worker: &Worker, busy: &ObservedVm) -> Result<()> {
    let address = busy.address()?;
    let load = thread::spawn(move || -> Result<()> {
        for path in
            ["/cgi-bin/compute?32", "/megabyte", "/cgi-bin/disk?8", "/megabyte", "/cgi-bin/compute?64"]
        {
            http_get(address, path)?;
        }
        Ok(())
    });
    let mut command = worker.command();
    command.arg("top").env("TERM", "xterm-256color");
    let mut terminal = Terminal::run(command, TerminalSize::default())?;
    terminal.watch(WATCHED)?;
    print("top", TerminalSize::default(), terminal.shown());
    terminal.type_in("q")?;
    terminal.wait_for_end()?;
    load.join().ok().context("the load's thread panicked")?
}

/// A guest's console, attached to after it has booted: its history, and its prompt.
fn console(worker: &Worker) -> Result<()> {
    let size = TerminalSize::default();
    let mut command = worker.command();
    command.args(["console", DEBIAN]);
    let mut terminal = Terminal::run(command, size)?;
    terminal.watch(ATTACHED)?;
    let mut shown = prompt(&["console", DEBIAN]);
    shown.extend_from_slice(terminal.shown());
    print("console", size, &shown);
    Ok(())
}

/// A verb that says what it has to say and ends.
fn whole(worker: &Worker, name: &str, words: &[&str]) -> Result<()> {
    let mut command = worker.command();
    command.args(words).env("TERM", "xterm-256color");
    let mut terminal = Terminal::run(command, WIDE)?;
    terminal.wait_for_end()?;
    let mut shown = prompt(words);
    shown.extend_from_slice(terminal.shown());
    print(name, WIDE, &shown);
    Ok(())
}

/// What a shell shows of a verb that is typed.
fn prompt(words: &[&str]) -> Vec<u8> {
    format!("\x1b[1m# procurator-worker {}\x1b[0m\r\n", words.join(" ")).into_bytes()
}

/// Says what a terminal was sent, in lines that the lab passes on.
fn print(name: &str, TerminalSize { columns, rows }: TerminalSize, shown: &[u8]) {
    for bytes in shown.chunks(CHUNK) {
        let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("picture {name} {columns} {rows} {digits}");
    }
}
