//! `console`: sits a person, or a pipe, at a VM's console. The worker may come and go meanwhile.

mod keyboard;
mod output_thread;
mod relay;
mod terminal;

use std::io::{IsTerminal, stdin};
use std::time::Duration;

use admin::{AdminClient, ClientError, ConsoleInput, ConsoleOutput, ConsoleRequest, ErrorCode, PenRequest};
use anyhow::{Context, Result, bail};
use tokio::time::sleep;
use vm_model::VmId;

use self::keyboard::Keyboard;
pub(super) use self::output_thread::OutputThread;
use self::relay::{Outcome, Relay};
use self::terminal::{Interruption, RawTerminal};
use crate::cli::ConsoleFlags;

/// Pauses between attempts to find a worker again.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// Attaches to the console of VM `id` and stays until the user leaves, or the VM is gone.
pub(super) async fn console(client: &AdminClient, id: &VmId, flags: &ConsoleFlags) -> Result<()> {
    if !flags.read_only && !stdin().is_terminal() {
        refuse_to_type(client, id).await?;
    }
    let mut screen = OutputThread::open(flags.log.as_deref())?;
    let mut interruption = Interruption::listen()?;
    let pen = match flags {
        ConsoleFlags { read_only: true, .. } => PenRequest::None,
        ConsoleFlags { steal: true, .. } => PenRequest::Steal,
        ConsoleFlags { .. } => PenRequest::Ask,
    };
    let first = ConsoleRequest { pen, follow: true, tail: Some(flags.tail), ..ConsoleRequest::default() };
    let mut attached = client.attach_console(id, &first).await?;
    let is_terminal = stdin().is_terminal();
    let _raw = (is_terminal && !flags.read_only).then(RawTerminal::enter).transpose()?;
    let mut keyboard =
        if flags.read_only { Keyboard::absent() } else { Keyboard::start(flags.escape, is_terminal)? };
    if is_terminal {
        let leave = flags.escape.name().filter(|_| !flags.read_only);
        let leave = leave.map_or_else(|| "^C leaves".to_owned(), |key| format!("{key} leaves"));
        screen.note(&format!("attached to {id}; {leave}")).await;
    }
    let mut relay = Relay::new(flags, pen);
    let outcome = loop {
        match relay.run(attached, &mut keyboard, &mut screen, &mut interruption).await? {
            Outcome::WorkerLost => {}
            outcome => break outcome,
        }
        screen
            .note("the worker went away; the guest may go on, and so does this when there is a worker again")
            .await;
        let request = relay.next_request();
        let again = attach_again(client, id, &request);
        // Losing an attempt to attach loses nothing.
        attached = tokio::select! {
            again = again => again?,
            () = keyboard.left() => break Outcome::Left,
            name = interruption.next() => break Outcome::Interrupted(name),
        };
    };
    screen.finish().await?;
    match outcome {
        Outcome::Left | Outcome::WorkerLost => Ok(()),
        Outcome::VmGone => bail!("VM {id} is gone"),
        Outcome::NoPen(who) => bail!("nothing was typed: {who} has the pen; --steal takes it"),
        // That is how one leaves who types nothing.
        Outcome::Interrupted("SIGINT") if flags.read_only => Ok(()),
        Outcome::Interrupted(name) => bail!("ended by {name}"),
        Outcome::Failed(why) => bail!("{why}"),
    }
}

/// Fails where VM `id` has no guest to which what comes through a pipe could be typed.
async fn refuse_to_type(client: &AdminClient, id: &VmId) -> Result<()> {
    let phase = client.get_vm(id).await?.phase;
    match phase.as_str() {
        "stopped" | "failed" => bail!(
            "VM {id} is {phase}: nobody reads what is typed to it; `procurator-worker start {id}` starts it, and with \
             --read-only its console is shown as it was"
        ),
        _ => Ok(()),
    }
}

/// Attaches as soon as a worker answers.
async fn attach_again(
    client: &AdminClient,
    id: &VmId,
    request: &ConsoleRequest,
) -> Result<(ConsoleOutput, ConsoleInput)> {
    let mut pause = FIRST_PAUSE;
    loop {
        match client.attach_console(id, request).await {
            Ok(attached) => return Ok(attached),
            // It is not there yet, or was ending while it was asked.
            Err(ClientError::Unreachable { .. } | ClientError::Broken { .. } | ClientError::Late { .. }) => {}
            Err(ClientError::Refused { error, .. }) if error.code == ErrorCode::Ending => {}
            Err(problem @ (ClientError::Refused { .. } | ClientError::Forbidden { .. })) => {
                return Err(problem).context("the console cannot be attached to again");
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
