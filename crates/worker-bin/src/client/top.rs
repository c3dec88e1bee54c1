//! `top`: a live view of what VMs use.

mod draw;
mod host;
mod model;
#[cfg(test)]
mod tests;

use std::env;
use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};

use admin::AdminClient;
use anyhow::{Context, Result, bail};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use tokio::time::timeout;
use vm_model::{Timestamp, VmId};

use self::host::Host;
use self::model::{Model, Order};
use super::details::details;
use super::logs::last_lines;
use crate::colours::Colours;

/// How long the view waits for an answer, so that its keys go on working.
const PATIENCE: Duration = Duration::from_secs(2);
/// Lines of a console that are shown.
const CONSOLE_LINES: usize = 1000;
/// Rows that a page key moves.
const PAGE: isize = 10;

/// What is on the screen below the head.
#[derive(Debug)]
enum Pane {
    /// The VMs.
    List,
    /// Something to read.
    Text { title: String, text: String, scroll: u16 },
}

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    /// Leave the program, wherever one is.
    Leave,
    /// Leave what is shown: the text, or the program.
    Back,
    Move(isize),
    Order(Order),
    Reverse,
    Inspect,
    Logs,
    Ignore,
}

/// Whether the view is shown any longer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Goes {
    On,
    Away,
}

/// Shows what VMs use, anew every `interval`, until the user has seen enough.
pub(super) async fn top(client: &AdminClient, interval: Duration) -> Result<()> {
    if !stdout().is_terminal() {
        bail!("top needs a terminal: `procurator-worker ls --json` is for programs");
    }
    let mut view = View {
        model: Model::default(),
        host: Host::default(),
        pane: Pane::List,
        colours: Colours::wanted(true, |name| env::var(name).ok()),
    };
    // A worker that does not answer at all is told of on the usual screen.
    view.model.update(client.list_vms().await?, Instant::now());
    // An earlier worker keeps no past that it could tell of: curves begin now then.
    if let Ok(Ok(past)) = timeout(PATIENCE, client.list_history(draw::CURVE + 1)).await {
        view.model.recall(&past.vms);
    }
    // Restored also when a panic ends the program.
    let mut terminal = ratatui::try_init().context("cannot prepare the terminal")?;
    let done = view.run(client, interval, &mut terminal).await;
    ratatui::try_restore().context("cannot restore the terminal")?;
    done
}

struct View {
    model: Model,
    host: Host,
    pane: Pane,
    colours: Colours,
}

impl View {
    async fn run(
        &mut self,
        client: &AdminClient,
        interval: Duration,
        terminal: &mut DefaultTerminal,
    ) -> Result<()> {
        loop {
            self.host.update();
            let next = Instant::now() + interval;
            while let Some(left) = next.checked_duration_since(Instant::now()) {
                terminal
                    .draw(|frame| draw::draw(frame, &self.model, &self.host, &self.pane, self.colours))
                    .context("cannot draw")?;
                if !event::poll(left).context("cannot read keys")? {
                    break;
                }
                let Event::Key(key) = event::read().context("cannot read keys")? else { continue };
                if self.obey(client, action(key)).await == Goes::Away {
                    return Ok(());
                }
            }
            match timeout(PATIENCE, client.list_vms()).await {
                Ok(Ok(listed)) => self.model.update(listed, Instant::now()),
                Ok(Err(problem)) => self.model.problem = Some(problem.to_string()),
                Err(_) => self.model.problem = Some("the worker does not answer".to_owned()),
            }
        }
    }

    /// Carries out `action`.
    async fn obey(&mut self, client: &AdminClient, action: Action) -> Goes {
        if let Pane::Text { scroll, .. } = &mut self.pane {
            match action {
                Action::Leave => return Goes::Away,
                Action::Back => self.pane = Pane::List,
                Action::Move(by) => {
                    let by = i16::try_from(by).unwrap_or(if by < 0 { i16::MIN } else { i16::MAX });
                    *scroll = scroll.saturating_add_signed(by);
                }
                Action::Order(_) | Action::Reverse | Action::Inspect | Action::Logs | Action::Ignore => {}
            }
            return Goes::On;
        }
        let selected = self.model.selected().map(|(_, vm)| vm.view.clone());
        match (action, selected) {
            (Action::Leave | Action::Back, _) => return Goes::Away,
            (Action::Move(by), _) => self.model.move_by(by),
            (Action::Order(order), _) => self.model.order = order,
            (Action::Reverse, _) => self.model.is_reversed = !self.model.is_reversed,
            (Action::Inspect, Some(vm)) => {
                let text = details(&vm, Timestamp::now());
                self.pane = Pane::Text { title: format!(" {} ", vm.id), text, scroll: 0 };
            }
            (Action::Logs, Some(vm)) => self.pane = console_of(client, &vm.id).await,
            (Action::Inspect | Action::Logs, None) | (Action::Ignore, _) => {}
        }
        Goes::On
    }
}

/// What is kept of a VM's console, at its end.
async fn console_of(client: &AdminClient, vm: &VmId) -> Pane {
    let text = match timeout(PATIENCE, client.get_console(vm)).await {
        Ok(Ok(console)) => last_lines(&console, CONSOLE_LINES),
        Ok(Err(problem)) => problem.to_string(),
        Err(_) => "the worker does not answer".to_owned(),
    };
    let lines = u16::try_from(text.lines().count()).unwrap_or(u16::MAX);
    Pane::Text { title: format!(" console of {vm} "), text, scroll: lines.saturating_sub(15) }
}

fn action(key: KeyEvent) -> Action {
    if key.kind == KeyEventKind::Release {
        return Action::Ignore;
    }
    match key.code {
        KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => Action::Leave,
        KeyCode::Char('q') | KeyCode::Esc => Action::Back,
        KeyCode::Up | KeyCode::Char('k') => Action::Move(-1),
        KeyCode::Down | KeyCode::Char('j') => Action::Move(1),
        KeyCode::PageUp => Action::Move(-PAGE),
        KeyCode::PageDown => Action::Move(PAGE),
        KeyCode::Home => Action::Move(isize::MIN),
        KeyCode::End => Action::Move(isize::MAX),
        KeyCode::Char('c') => Action::Order(Order::Cpu),
        KeyCode::Char('m') => Action::Order(Order::Memory),
        KeyCode::Char('n') => Action::Order(Order::Network),
        KeyCode::Char('d') => Action::Order(Order::Disk),
        KeyCode::Char('i') => Action::Order(Order::Name),
        KeyCode::Char('r') => Action::Reverse,
        KeyCode::Enter => Action::Inspect,
        KeyCode::Char('l') => Action::Logs,
        _ => Action::Ignore,
    }
}
