//! Commands whose effect outlasts the machine: they set the state of the world around it, which is the same for the
//! machine that is rebuilt in its place.
//!
//! A link that was taken down stays down, because whoever did so wants no frames to pass; a terminal keeps its size. A
//! balloon's target is no such thing: it was agreed on with a guest that is gone, and the description's holds again.

use std::collections::BTreeMap;

use vm_model::{Command, LinkState};

use crate::engine::Controls;
use crate::error::Cause;

/// The orders that still hold.
#[derive(Debug, Default)]
pub(crate) struct StandingOrders {
    /// Of interfaces that were told anything.
    links: BTreeMap<String, LinkState>,
    /// Columns and rows.
    console: Option<(u16, u16)>,
}

impl StandingOrders {
    /// Remembers `command`, which was carried out, if it is one that lasts.
    pub(crate) fn note(&mut self, command: &Command) {
        match command {
            Command::SetLink { nic, link } => {
                self.links.insert(nic.clone(), *link);
            }
            Command::ResizeConsole { columns, rows } => self.console = Some((*columns, *rows)),
            Command::Pause { .. }
            | Command::Resume
            | Command::PressPowerButton
            | Command::RequestShutdown
            | Command::WriteConsole { .. }
            | Command::SetBalloon { .. }
            | Command::Announce { .. }
            | Command::InjectNmi { .. }
            | Command::DumpVcpus { .. }
            | Command::Reset
            | Command::Kill => {}
        }
    }

    /// Repeats them to a machine that was just built and has not started.
    pub(crate) fn repeat(&self, controls: &mut dyn Controls) -> Result<(), Cause> {
        for (nic, link) in &self.links {
            controls.set_link(nic, *link)?;
        }
        match self.console {
            Some((columns, rows)) => controls.resize_console(columns, rows),
            None => Ok(()),
        }
    }
}
