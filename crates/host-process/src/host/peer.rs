//! One connection: its handshake, what its worker asks, and what it is told.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use machine_host::{CallFilter, LaunchError};
use syscall_filter::Mode;
use tokio::sync::oneshot;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::timeout;
use vm_model::{Command, VmId, error_chain};

use super::hosted::{ConnectionSlot, Hosted};
use super::launching::launch;
use super::listening::{Place, listen};
use crate::wire::{
    CallId, Connection, FromHost, Hello, Launch, Listener, ToHost, VERSIONS, Welcome, build, choose,
};

/// How long a connection may be silent before its first message.
const HELLO_PATIENCE: Duration = Duration::from_secs(5);
/// The most commands and launches of one connection that are under way.
const CALLS_MAX: usize = 256;

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The process was started with it.
    Parent,
    /// Somebody connected.
    Listener,
}

/// A worker that was welcomed.
pub(super) struct Peer {
    /// Has the worker told why, should a signal end this process. Dropped before the connection is.
    _last_words: Option<last_words::Listener>,
    connection: Connection,
    under_way: RefCell<BTreeMap<CallId, UnderWay>>,
}

/// What was asked and not answered yet.
enum UnderWay {
    Command(AbortHandle),
    /// Dropping it gives the launch up.
    Launch {
        _given_up: oneshot::Sender<()>,
    },
}

/// Why a conversation ends.
struct Refusal(String);

/// Speaks with the worker at the other end of `socket` until either has enough.
pub(super) async fn converse(host: Rc<Hosted>, _seat: ConnectionSlot, socket: OwnedFd, origin: Origin) {
    let connection = match Connection::new(socket) {
        Ok(connection) => connection,
        Err(error) => {
            tracing::warn!(%error, "a connection is of no use");
            return;
        }
    };
    let hello = timeout(HELLO_PATIENCE, connection.receive::<ToHost<OwnedFd>>()).await;
    let hello = match hello {
        Ok(Ok(ToHost::Hello(hello))) => hello,
        Ok(Ok(_)) => return refuse(&connection, "the first message is no hello"),
        Ok(Err(error)) if error.is_closed() => return,
        Ok(Err(error)) => return refuse(&connection, error_chain(&error)),
        Err(_) => return refuse(&connection, "no hello came"),
    };
    let peer = match welcome(&host, connection, hello, origin) {
        Ok(peer) => peer,
        Err((connection, Refusal(reason))) => return refuse(&connection, reason),
    };
    loop {
        let message = match peer.connection.receive().await {
            Ok(message) => message,
            Err(error) if error.is_closed() => break,
            Err(error) => {
                refuse(&peer.connection, error_chain(&error));
                break;
            }
        };
        if let Err(Refusal(reason)) = carry_out(&host, &peer, message) {
            refuse(&peer.connection, reason);
            break;
        }
    }
    peer.give_up_all();
}

fn refuse(connection: &Connection, reason: impl Display) {
    let reason = reason.to_string();
    tracing::warn!(reason, "a connection is refused");
    // Whether it arrives or not, the connection ends.
    let _ = connection.try_send(FromHost::Refused { reason });
    connection.close();
}

/// Answers a hello. From here on the worker is told everything.
fn welcome(
    host: &Rc<Hosted>,
    connection: Connection,
    hello: Hello<OwnedFd>,
    origin: Origin,
) -> Result<Rc<Peer>, (Connection, Refusal)> {
    let Hello { versions, build: theirs, listener } = hello;
    let Some(version) = choose(&versions) else {
        let reason = format!("no common version: {theirs} speaks {versions:?}, this process {VERSIONS:?}");
        return Err((connection, Refusal(reason)));
    };
    if let Some(listener) = listener
        && let Err(refusal) = take_listener(host, listener, origin)
    {
        return Err((connection, refusal));
    }
    let (pid, start_time) = (host.identity.pid, host.identity.start_time);
    let jail = host.jail.clone();
    let filter = match syscall_filter::mode_in_force() {
        Mode::Trap => CallFilter::Trap,
        Mode::Log => CallFilter::Log,
        Mode::Off => CallFilter::Off,
    };
    let is_filtered = filter == CallFilter::Trap;
    let machines = host.listing();
    let build = build();
    let filter = Some(filter);
    let welcome = Welcome { version, pid, start_time, build, jail, is_filtered, filter, machines };
    if let Err(error) = connection.try_send(FromHost::Welcome(welcome)) {
        return Err((connection, Refusal(error_chain(&error))));
    }
    let last_words = last_words::listen(connection.socket().as_fd());
    let peer = Rc::new(Peer { _last_words: last_words, connection, under_way: RefCell::default() });
    host.welcome(&peer);
    Ok(peer)
}

fn take_listener(host: &Rc<Hosted>, listener: Listener<OwnedFd>, origin: Origin) -> Result<(), Refusal> {
    if origin != Origin::Parent || host.has_place() {
        return Err(Refusal("only the first connection may bring a listener".to_owned()));
    }
    let Listener { socket, directory, name } = listener;
    let place = Place::new(directory, name).map_err(|error| Refusal(error_chain(&error)))?;
    listen(host, socket).map_err(|error| Refusal(error_chain(&error)))?;
    host.set_place(place);
    Ok(())
}

fn carry_out(host: &Rc<Hosted>, peer: &Rc<Peer>, message: ToHost<OwnedFd>) -> Result<(), Refusal> {
    match message {
        ToHost::Hello(_) => return Err(Refusal("a second hello".to_owned())),
        ToHost::Launch(request) => return begin_launch(host, peer, *request),
        ToHost::Call { call, vm, command } => return begin_command(host, peer, call, &vm, command),
        ToHost::Cancel { call } => peer.give_up(call),
        ToHost::Counters { call, vm } => peer.tell(match host.machine(&vm) {
            Some(machine) => FromHost::Counters { call, counters: machine.counters() },
            None => FromHost::NotTaken { call },
        }),
        ToHost::Forget { vm } => host.forget(&vm),
        ToHost::ShutDown { patience } => host.end(patience),
        ToHost::Unknown => {}
    }
    Ok(())
}

fn begin_launch(host: &Rc<Hosted>, peer: &Rc<Peer>, request: Launch<OwnedFd>) -> Result<(), Refusal> {
    let (call, vm) = (request.call, request.vm.clone());
    peer.has_room_for(call)?;
    let failure = if host.is_ending() {
        LaunchError::ShuttingDown { vm }
    } else if !host.begin(&vm, request.notes.clone()) {
        LaunchError::AlreadyHosted { vm }
    } else {
        let (given_up, is_given_up) = oneshot::channel();
        peer.under_way.borrow_mut().insert(call, UnderWay::Launch { _given_up: given_up });
        spawn_local(launch(host.clone(), peer.clone(), request, is_given_up));
        return Ok(());
    };
    peer.tell(FromHost::Launched { call, failure: Some(failure) });
    Ok(())
}

fn begin_command(
    host: &Rc<Hosted>,
    peer: &Rc<Peer>,
    call: CallId,
    vm: &VmId,
    command: Command,
) -> Result<(), Refusal> {
    peer.has_room_for(call)?;
    let Some(machine) = host.machine(vm) else {
        peer.tell(FromHost::NotTaken { call });
        return Ok(());
    };
    let teller = peer.clone();
    let task = spawn_local(async move {
        let answer = match machine.port().call(command).await {
            Ok(reply) => FromHost::Reply { call, reply },
            Err(_) => FromHost::NotTaken { call },
        };
        teller.answered(call);
        teller.tell(answer);
    });
    peer.under_way.borrow_mut().insert(call, UnderWay::Command(task.abort_handle()));
    Ok(())
}

impl Peer {
    /// Tells the worker something, or ends the connection where it cannot be told at once.
    pub(super) fn tell(&self, message: FromHost) {
        if let Err(error) = self.connection.try_send(message) {
            if !error.is_closed() {
                tracing::warn!(error = error_chain(&error), "a worker cannot be told, and is disconnected");
            }
            self.connection.close();
        }
    }

    /// Tells the worker that its launch came to be; whether it was told.
    pub(super) fn tell_launched(&self, call: CallId) -> bool {
        self.connection.try_send(FromHost::Launched { call, failure: None }).is_ok()
    }

    pub(super) fn answered(&self, call: CallId) {
        self.under_way.borrow_mut().remove(&call);
    }

    fn has_room_for(&self, call: CallId) -> Result<(), Refusal> {
        let under_way = self.under_way.borrow();
        if under_way.contains_key(&call) {
            return Err(Refusal(format!("call {} is under way already", call.0)));
        }
        if under_way.len() >= CALLS_MAX {
            return Err(Refusal(format!("more than {CALLS_MAX} calls are under way")));
        }
        Ok(())
    }

    fn give_up(&self, call: CallId) {
        let given_up = self.under_way.borrow_mut().remove(&call);
        if let Some(UnderWay::Command(task)) = given_up {
            task.abort();
        }
    }

    fn give_up_all(&self) {
        let all = self.under_way.take();
        for under_way in all.into_values() {
            if let UnderWay::Command(task) = under_way {
                task.abort();
            }
        }
    }
}
