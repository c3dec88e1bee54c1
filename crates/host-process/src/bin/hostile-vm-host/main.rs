//! A host process in which code of an attacker runs: for tests of this crate alone.
//!
//! It is `vm-host`, with the same jail and filters, and one difference: what its guest writes to [`fail_points::COMMAND_PORT`]
//! names an act, which is done on the thread of that vCPU, or on the process' first thread. So what is done is what somebody
//! can do who broke out of a guest, from where he would do it.
//!
//! `hostile-vm-host --acts` prints the name of each act, in the order of their numbers. Otherwise the arguments are those of
//! `vm-host`; what the acts are about lies in the directory of `--tree=` ([`ground::Ground`]).
#![expect(unsafe_code, reason = "an attacker is not kept from making bare system calls")]

mod acts;
mod calls;
mod ground;
#[path = "../vm-host/program.rs"]
mod program;
mod ring;
mod words;

use std::convert::Infallible;
use std::io::Write;
use std::sync::OnceLock;

use anyhow::Context;
use fail_points::on_command;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use acts::Act;
use calls::exit;
use ground::Ground;

/// A command with this bit is for the first thread; the others are for the vCPU that it came from.
const ON_MAIN: u8 = 0x80;

/// What acts need. A static, because it is a thread of the machine that gets to it.
static HOSTILE: OnceLock<Hostile> = OnceLock::new();

struct Hostile {
    ground: Ground,
    main: UnboundedSender<u8>,
}

fn main() -> anyhow::Result<()> {
    if std::env::args().nth(1).is_some_and(|argument| argument == "--acts") {
        let mut lines = std::io::stdout();
        return acts::ALL
            .iter()
            .try_for_each(|(name, _)| writeln!(lines, "{name}"))
            .context("nobody listens");
    }
    let tree = std::env::args().find_map(|argument| argument.strip_prefix("--tree=").map(str::to_owned));
    let (main, commands) = unbounded_channel();
    // A process that is only asked for its jail has no ground.
    let prepared = tree.and_then(|tree| Ground::survey(tree.as_ref()).ok());
    program::run(|worker| {
        if let Some(ground) = prepared.map(|ground| ground.with_worker(worker)) {
            let _ = HOSTILE.set(Hostile { ground, main });
            on_command(obey);
        }
        obey_on_main(commands)
    })
}

/// What a vCPU's thread does when its guest commands.
fn obey(command: u8) {
    let Some(hostile) = HOSTILE.get() else { return };
    if command & ON_MAIN == 0 {
        act(command, &hostile.ground);
    } else {
        let _ = hostile.main.send(command & !ON_MAIN);
    }
}

async fn obey_on_main(mut commands: UnboundedReceiver<u8>) -> Infallible {
    while let Some(command) = commands.recv().await {
        if let Some(hostile) = HOSTILE.get() {
            act(command, &hostile.ground);
        }
    }
    std::future::pending().await
}

/// Does the act of this number. An attempt ends the process, and the status that it exits with is the number of its error, or 0;
/// after words that were said the process goes on.
fn act(number: u8, ground: &Ground) {
    let outcome = match acts::ALL.get(usize::from(number)) {
        Some((_, Act::Attempt(attempt))) => attempt(ground).map(|()| exit(0)),
        Some((_, Act::Words(speak))) => speak(ground.worker),
        None => Err(libc::ENOSYS),
    };
    if let Err(error) = outcome {
        exit(error);
    }
}
