//! `logs`: what a guest wrote, and writes; and what is logged about it.

mod about;
mod escaping;

use std::collections::VecDeque;
use std::io::{IsTerminal, stdout};

use admin::{
    AdminClient, BootView, ClientError, ConsoleEnd, ConsoleRequest, ErrorCode, ServerFrame, VmLogSource,
};
use anyhow::{Result, bail};
use tokio::time::sleep;
use vm_model::{Timestamp, VmId};
use worker::vms::ConsolePosition;

use self::escaping::LineEscaper;
use super::console::OutputThread;
use super::table::Table;
use super::{print, print_json};
use crate::cli::{LogSource, LogsFlags};

/// Pause before a worker that went away is looked for again.
const PAUSE: std::time::Duration = std::time::Duration::from_millis(250);

/// Prints what `flags` ask for.
pub(super) async fn logs(client: &AdminClient, id: &VmId, flags: &LogsFlags) -> Result<()> {
    let source = match flags.source {
        LogSource::Console => None,
        LogSource::Vmm => Some(VmLogSource::Vmm),
        LogSource::Worker => Some(VmLogSource::Worker),
    };
    if let Some(source) = source {
        if flags.boots || flags.boot.is_some() {
            bail!("boots are of the console: leave out --source, or --boot and --boots");
        }
        return about::logs(client, id, source, flags).await;
    }
    if flags.boots {
        let list = client.list_boots(id).await?;
        return if flags.json { print_json(&list) } else { print(&boots(&list.boots)) };
    }
    let mut request = first_request(client, id, flags).await?;
    let mut printer = Printer {
        screen: OutputThread::open(None)?,
        escaper: stdout().is_terminal().then(LineEscaper::default),
        // Following begins with the tail; otherwise the tail of all that comes is printed.
        tail: flags.tail.filter(|_| !flags.follow || request.tail.is_none()).map(Tail::of),
    };
    loop {
        match stream(client, id, &request, &mut printer).await? {
            Ended::Complete => break,
            Ended::WorkerLost(place) => {
                printer.screen.note("the worker went away; going on when there is one again").await;
                request = ConsoleRequest {
                    follow: true,
                    boot: Some(i64::from(place.boot)),
                    offset: Some(place.offset),
                    ..ConsoleRequest::default()
                };
            }
        }
    }
    printer.finish().await
}

/// The last `count` lines of what a guest wrote, fit for a terminal.
pub(super) fn last_lines(bytes: &[u8], count: usize) -> String {
    let mut tail = Tail::of(count);
    tail.push(bytes);
    let mut escaper = LineEscaper::default();
    let shown: String = tail.lines().map(|line| escaper.escape(&line)).collect();
    shown + &escaper.finish()
}

/// Where to begin.
async fn first_request(client: &AdminClient, id: &VmId, flags: &LogsFlags) -> Result<ConsoleRequest> {
    let follow = flags.follow;
    let plain = ConsoleRequest { follow, ..ConsoleRequest::default() };
    if let Some(ago) = flags.since {
        let moment = Timestamp::from_millis(
            Timestamp::now().as_millis().saturating_sub(u64::try_from(ago.0.as_millis()).unwrap_or(u64::MAX)),
        );
        let list = client.list_boots(id).await?;
        let wrote = list.boots.iter().find(|boot| boot.last_written_at.is_some_and(|at| at >= moment));
        return match wrote {
            Some(boot) => Ok(ConsoleRequest { boot: Some(i64::from(boot.number)), ..plain }),
            None if follow => Ok(ConsoleRequest { tail: Some(0), ..plain }),
            None => bail!("VM {id} has written nothing since {moment}"),
        };
    }
    Ok(match flags.boot {
        Some(boot) => ConsoleRequest { boot: Some(boot), one_boot: !follow, ..plain },
        None if follow => ConsoleRequest { tail: flags.tail, ..plain },
        None => plain,
    })
}

/// Why a stream ended.
enum Ended {
    Complete,
    WorkerLost(ConsolePosition),
}

async fn stream(
    client: &AdminClient,
    id: &VmId,
    request: &ConsoleRequest,
    printer: &mut Printer,
) -> Result<Ended> {
    let is_resumed = request.offset.is_some();
    let (mut output, _input) = loop {
        match client.attach_console(id, request).await {
            Ok(attached) => break attached,
            Err(ClientError::Unreachable { .. } | ClientError::Broken { .. }) if is_resumed => {
                sleep(PAUSE).await
            }
            Err(ClientError::Refused { error, .. }) if is_resumed && error.code == ErrorCode::Ending => {
                sleep(PAUSE).await
            }
            Err(problem) => return Err(problem.into()),
        }
    };
    let mut place = ConsolePosition::default();
    loop {
        match output.next().await {
            Ok(Some(ServerFrame::Output(bytes))) => {
                place.offset = place.offset.saturating_add(bytes.len() as u64);
                printer.take(bytes).await;
            }
            Ok(Some(ServerFrame::Place(next))) => place = next,
            Ok(Some(ServerFrame::Missed(count))) => {
                printer.take(format!("\n[{count} bytes are not kept]\n").into_bytes()).await;
            }
            Ok(Some(ServerFrame::End(ConsoleEnd::Complete))) => return Ok(Ended::Complete),
            Ok(Some(ServerFrame::End(ConsoleEnd::VmGone))) => bail!("VM {id} is gone"),
            Ok(Some(ServerFrame::End(ConsoleEnd::Failed(why)))) => bail!("{why}"),
            Ok(Some(ServerFrame::Pen(_) | ServerFrame::InputDropped(_))) => {}
            Ok(Some(ServerFrame::End(ConsoleEnd::WorkerEnding)) | None) | Err(_) => {
                if request.follow {
                    return Ok(Ended::WorkerLost(place));
                }
                bail!("the worker went away before everything was printed");
            }
        }
        if printer.screen.is_closed() {
            return Ok(Ended::Complete);
        }
    }
}

/// Prints as it comes, or the tail at the end; fit for a terminal where it goes to one.
struct Printer {
    screen: OutputThread,
    escaper: Option<LineEscaper>,
    tail: Option<Tail>,
}

impl Printer {
    async fn take(&mut self, bytes: Vec<u8>) {
        match &mut self.tail {
            Some(tail) => tail.push(&bytes),
            None => self.show(bytes).await,
        }
    }

    async fn show(&mut self, bytes: Vec<u8>) {
        let shown = match &mut self.escaper {
            Some(escaper) => escaper.escape(&bytes).into_bytes(),
            None => bytes,
        };
        if !shown.is_empty() {
            self.screen.write(shown).await;
        }
    }

    async fn finish(mut self) -> Result<()> {
        if let Some(tail) = self.tail.take() {
            for line in tail.lines() {
                self.show(line).await;
            }
        }
        if let Some(escaper) = &mut self.escaper {
            let rest = escaper.finish();
            self.screen.write(rest.into_bytes()).await;
        }
        self.screen.finish().await
    }
}

/// The last lines of a stream.
struct Tail {
    count: usize,
    lines: VecDeque<Vec<u8>>,
    line: Vec<u8>,
}

impl Tail {
    fn of(count: usize) -> Self {
        Self { count, lines: VecDeque::new(), line: Vec::new() }
    }

    fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.line.extend_from_slice(piece);
            if piece.ends_with(b"\n") {
                self.lines.push_back(std::mem::take(&mut self.line));
                if self.lines.len() > self.count {
                    self.lines.pop_front();
                }
            }
        }
    }

    fn lines(mut self) -> impl Iterator<Item = Vec<u8>> {
        if !self.line.is_empty() {
            self.lines.push_back(self.line);
        }
        let surplus = self.lines.len().saturating_sub(self.count);
        self.lines.into_iter().skip(surplus)
    }
}

fn boots(boots: &[BootView]) -> String {
    let time = |time: Option<Timestamp>| time.map_or_else(|| "-".to_owned(), |time| time.to_string());
    let newest = boots.last().map(|boot| boot.number);
    let mut table = Table::new(["BOOT", "BEGAN", "LAST WRITTEN", "BYTES"]);
    for boot in boots {
        let bytes = match boot.bytes - boot.kept_bytes.min(boot.bytes) {
            0 => boot.bytes.to_string(),
            dropped => format!("{} ({dropped} not kept)", boot.bytes),
        };
        let name = if newest == Some(boot.number) {
            format!("{} (newest)", boot.number)
        } else {
            boot.number.to_string()
        };
        table.row([name, time(boot.began_at), time(boot.last_written_at), bytes]);
    }
    table.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail(count: usize, pieces: &[&str]) -> String {
        let mut tail = Tail::of(count);
        for piece in pieces {
            tail.push(piece.as_bytes());
        }
        String::from_utf8(tail.lines().collect::<Vec<_>>().concat()).expect("text")
    }

    #[test]
    fn the_tail_is_whole_lines() {
        assert_eq!(tail(2, &["a\nb", "\nc"]), "b\nc");
        assert_eq!(tail(2, &["a\nb\nc\n"]), "b\nc\n");
        assert_eq!(tail(9, &["a\nb"]), "a\nb");
        assert_eq!(tail(0, &["a\nb"]), "");
        assert_eq!(last_lines(b"a\nb\x07\nc", 2), "b\\u{7}\nc");
    }
}
