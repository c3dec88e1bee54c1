//! The verbs that speak with a running worker. Answers go to standard output, everything else to standard error.

mod table;

use std::io::{ErrorKind, IsTerminal, Write, stdout};
use std::path::PathBuf;

use admin::{AdminClient, SOCKET_NAME, VmView};
use anyhow::{Context, Result};
use serde::Serialize;
use tokio::runtime::Builder;

use crate::cli::ClientVerb;
use crate::settings::runtime_dir;
use table::Table;

/// Carries out `verb`.
pub(crate) fn run(verb: &ClientVerb, runtime_directory: Option<PathBuf>) -> Result<()> {
    let client = AdminClient::new(runtime_dir(runtime_directory).join(SOCKET_NAME));
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    runtime.block_on(async {
        match verb {
            ClientVerb::Ls { json: true } => print_json(&client.list_vms().await?),
            ClientVerb::Ls { json: false } => print(&list(&client.list_vms().await?)),
            ClientVerb::Inspect { id, json: true } => print_json(&client.get_vm(id).await?),
            ClientVerb::Inspect { id, json: false } => print(&details(&client.get_vm(id).await?)),
            ClientVerb::Logs { id, tail } => print_console(&client.get_console(id).await?, *tail),
        }
    })
}

fn print_json(value: &impl Serialize) -> Result<()> {
    let mut text = serde_json::to_string_pretty(value).context("the answer has no JSON form")?;
    text.push('\n');
    print(&text)
}

fn print(text: &str) -> Result<()> {
    match stdout().write_all(text.as_bytes()).and_then(|()| stdout().flush()) {
        // Who reads has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Prints what a guest wrote: as it is to files and programs, without control characters to a terminal, which
/// they could otherwise command.
fn print_console(console: &[u8], tail: Option<usize>) -> Result<()> {
    let text = String::from_utf8_lossy(console);
    let text = last_lines(&text, tail);
    if stdout().is_terminal() { print(&without_control(&text)) } else { print(&text) }
}

fn without_control(text: &str) -> String {
    text.chars().filter(|character| matches!(character, '\n' | '\t') || !character.is_control()).collect()
}

/// What may stand in a line: what guests and artifacts had a hand in must neither command a terminal nor look like
/// another line.
fn printable(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() || is_format(character) {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

/// Whether a character has no form of its own but changes that of others (Unicode, directional formatting and
/// separators of lines).
fn is_format(character: char) -> bool {
    matches!(character, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

fn list(vms: &[VmView]) -> String {
    let mut table = Table::new(["ID", "PHASE", "ADDRESS", "CPU", "MEMORY", "RESTARTS", "REASON"]);
    for vm in vms {
        // What was sampled of a machine that is gone says nothing of now, and neither does what was overcome.
        let metrics = vm.metrics.filter(|_| matches!(vm.phase.as_str(), "running" | "paused" | "stopping"));
        let reason = vm.reason.as_ref().filter(|_| matches!(vm.phase.as_str(), "failed" | "restarting"));
        table.row([
            vm.id.to_string(),
            vm.phase.clone(),
            vm.address.map_or_else(String::new, |address| address.to_string()),
            metrics.map_or_else(String::new, |metrics| format!("{:.0} %", metrics.cpu_percent)),
            metrics.map_or_else(String::new, |metrics| format!("{} MiB", metrics.memory_mb)),
            vm.restarts.to_string(),
            reason.map_or_else(String::new, |reason| reason.message.clone()),
        ]);
    }
    table.to_string()
}

fn details(vm: &VmView) -> String {
    let mut table = Table::without_heading();
    let mut add = |name: &str, value: String| table.row([name.to_owned(), value]);
    add("id", vm.id.to_string());
    add("phase", vm.phase.clone());
    if let Some(reason) = &vm.reason {
        add("reason", reason.message.clone());
    }
    add("store path", vm.store_path.display().to_string());
    add("hash", vm.hash.clone());
    add("generation", vm.generation.to_string());
    add("address", vm.address.map_or_else(|| "none".to_owned(), |address| address.to_string()));
    add("mac", vm.mac.map_or_else(|| "none".to_owned(), |mac| mac.to_string()));
    add("tap", vm.tap.clone().unwrap_or_else(|| "none".to_owned()));
    add("restarts", vm.restarts.to_string());
    add("resets in place", vm.resets.to_string());
    for warning in &vm.warnings {
        add("warning", warning.clone());
    }
    for path in &vm.unverified {
        add("unverified", path.display().to_string());
    }
    if let Some(metrics) = vm.metrics {
        add("cpu", format!("{:.1} % of one core", metrics.cpu_percent));
        add("memory", format!("{} of {} MiB", metrics.memory_mb, metrics.memory_size_bytes >> 20));
        if let Some(balloon) = metrics.balloon {
            let (actual, target) = (balloon.actual_bytes >> 20, balloon.target_bytes >> 20);
            add("balloon", format!("{actual} of {target} MiB given up"));
        }
        add("network", format!("{} B in, {} B out", metrics.network_rx_bytes, metrics.network_tx_bytes));
        add("disk", format!("{} B read, {} B written", metrics.disk_read_bytes, metrics.disk_write_bytes));
    }
    if let Some(reason) = vm.reason.as_ref().filter(|reason| !reason.console_tail.is_empty()) {
        let lines: Vec<String> = reason.console_tail.iter().map(|line| printable(line)).collect();
        return format!("{table}last console lines:\n  {}\n", lines.join("\n  "));
    }
    table.to_string()
}

/// The last `count` lines of `text`; all of it where no count is given.
fn last_lines(text: &str, count: Option<usize>) -> String {
    let Some(count) = count else { return text.to_owned() };
    let lines: Vec<&str> = text.lines().collect();
    let kept = &lines[lines.len().saturating_sub(count)..];
    kept.iter().flat_map(|line| [line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tail_is_whole_lines() {
        assert_eq!(last_lines("a\nb\nc", Some(2)), "b\nc\n");
        assert_eq!(last_lines("a\nb\nc", Some(9)), "a\nb\nc\n");
        assert_eq!(last_lines("a\nb\nc", None), "a\nb\nc");
    }

    #[test]
    fn what_stands_in_a_line_stays_in_it() {
        let mut table = Table::new(["REASON"]);
        table.row(["disk \"a\nb\x1b[2J\u{9b}1m\u{202e}x\" é".to_owned()]);
        assert_eq!(table.to_string(), "REASON\ndisk \"a\\nb\\u{1b}[2J\\u{9b}1m\\u{202e}x\" é\n");
    }

    #[test]
    fn a_guest_cannot_command_the_terminal() {
        assert_eq!(without_control("a\x1b[2Jb\r\n\x07c"), "a[2Jb\nc");
    }
}
