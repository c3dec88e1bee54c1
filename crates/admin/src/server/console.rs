//! Consoles: which boots are kept, and attaching to one.

mod desk;
mod pens;
mod session;
mod web_socket;

use std::sync::Arc;

use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::task::spawn_blocking;
use tracing::debug;
use vm_model::{Timestamp, VmId};
use worker::vms::{BootSummary, ConsolePosition, VmManager, VmManagerError};

use self::desk::PenDesk;
use self::pens::Pens;
use self::session::{Extent, Session};
use super::Answers;
use super::extract::{Keys, VmName, bad_request};
use super::refusal::of_vm;
use super::stay::Stay;
use crate::access::{Access, Peer};
use crate::connections::{Connections, Entry, Party, Place};
use crate::console::{BootList, BootView, CONSOLE_PROTOCOL, ConsoleRequest, PenRequest};
use crate::{ApiError, ErrorCode};

/// Clients that may be attached at the same time. Each costs a few descriptors and less than 128 KiB. As of all places, a
/// user other than the worker's own has a quarter, and they all together three.
const MOST_ATTACHED: usize = 64;
/// Those among them that came by the socket for reading only: they keep nobody from a console who may type.
const MOST_READING: usize = 16;

/// What attached clients share.
#[derive(Debug)]
pub(super) struct Consoles {
    pens: Arc<Pens>,
    places: Arc<Connections>,
    read_only_places: Arc<Connections>,
}

impl Default for Consoles {
    fn default() -> Self {
        Self {
            pens: Arc::default(),
            places: Connections::new(MOST_ATTACHED - MOST_READING, Party::worker(), Entry::Closed),
            read_only_places: Connections::new(MOST_READING, Party::worker(), Entry::Closed),
        }
    }
}

impl Consoles {
    /// A place for `peer`, until it is dropped.
    fn place(&self, peer: Peer) -> Result<Place, ApiError> {
        let (places, most) = match peer.access {
            Access::Full => (&self.places, MOST_ATTACHED - MOST_READING),
            Access::ReadOnly => (&self.read_only_places, MOST_READING),
        };
        places.hold(peer.caller.into()).ok_or_else(|| {
            let message = format!(
                "so many clients are attached to consoles already that {} may have no more of the {most} places",
                peer.caller
            );
            let hint =
                "a user or network has a quarter of them, and three quarters are for others than the worker's user";
            ApiError::new(ErrorCode::TooMany, message).hint(Some(hint.to_owned()))
        })
    }
}

/// List the boots of a VM whose console is kept.
#[utoipa::path(
    get, path = "/v1/vms/{id}/console/boots", tag = "console",
    params(("id" = String, Path, description = "The VM's name")),
    responses((status = 200, description = "Oldest first", body = BootList))
)]
pub(super) async fn boots(
    State(answers): State<Answers>,
    VmName(id): VmName,
) -> Result<Json<BootList>, ApiError> {
    let boots = look(&answers, &id, VmManager::list_console_boots).await?;
    Ok(Json(BootList { boots: boots.iter().map(view).collect() }))
}

/// Attach to a VM's console: the connection is upgraded to `procurator-console`, whose frames docs/console.md describes.
#[utoipa::path(
    get, path = "/v1/vms/{id}/console/attach", tag = "console",
    params(("id" = String, Path, description = "The VM's name"), ConsoleRequest),
    responses((status = 101, description = "Frames both ways"))
)]
pub(super) async fn attach(
    State(answers): State<Answers>,
    Extension(peer): Extension<Peer>,
    stay: Option<Extension<Stay>>,
    VmName(id): VmName,
    Keys(wanted): Keys<ConsoleRequest>,
    request: Request,
) -> Result<Response, ApiError> {
    let upgrade = Upgrade::of(request).await?;
    if wanted.pen != PenRequest::None && peer.access == Access::ReadOnly {
        return Err(peer.only_looks().about("pen"));
    }
    let place = answers.consoles.place(peer)?;
    let (start, extent) = begin(&answers, &id, &wanted).await?;
    let follower = answers.vm_manager.follow_console(&id, start);
    let follower = follower.map_err(|problem| of_vm(&answers.vm_manager, &id, problem))?;
    let info =
        answers.vm_manager.watch_vm(&id).map_err(|problem| of_vm(&answers.vm_manager, &id, problem))?;
    let Answers { vm_manager, consoles, ended, .. } = answers;
    let desk = PenDesk { pens: Arc::clone(&consoles.pens), vm_manager, vm: id.clone(), peer };
    let (pen, pen_state) = desk.attach(wanted.pen);
    let session = Session { desk, follower, info, extent, pen, pen_state, ended };
    let Extension(stay) = stay.unwrap_or_default();
    Ok(upgrade.answer(session, place, stay))
}

/// What a client's connection becomes.
enum Upgrade {
    /// A stream of frames.
    Frames(OnUpgrade),
    /// Messages with frames in them, for browsers.
    WebSocket(WebSocketUpgrade),
}

impl Upgrade {
    /// What `request` asks for.
    async fn of(mut request: Request) -> Result<Self, ApiError> {
        let asked = request.headers().get(header::UPGRADE).and_then(|value| value.to_str().ok());
        match asked {
            Some(asked) if asked.eq_ignore_ascii_case(CONSOLE_PROTOCOL) => {
                Ok(Self::Frames(hyper::upgrade::on(&mut request)))
            }
            Some(asked) if asked.eq_ignore_ascii_case("websocket") => {
                let (mut parts, _) = request.into_parts();
                let upgrade = WebSocketUpgrade::from_request_parts(&mut parts, &()).await;
                let upgrade =
                    upgrade.map_err(|problem| bad_request(&problem.body_text()).about("upgrade"))?;
                Ok(Self::WebSocket(web_socket::bounded(upgrade)))
            }
            Some(_) | None => {
                let problem =
                    format!("this path is for connections upgraded to {CONSOLE_PROTOCOL} or websocket");
                Err(bad_request(&problem).about("upgrade"))
            }
        }
    }

    /// Answers, and has `session` run once the connection is what it should become. It ends with the client, with the VM's
    /// console, or when the worker ends.
    /// Who is no longer let in is cut off.
    fn answer(self, session: Session, place: Place, stay: Stay) -> Response {
        let vm_id = session.desk.vm.clone();
        match self {
            Self::Frames(upgrade) => {
                tokio::spawn(async move {
                    let _place = place;
                    match upgrade.await {
                        Ok(stream) => note(&vm_id, stay.limit(session.run(TokioIo::new(stream))).await),
                        Err(problem) => debug!(%vm_id, %problem, "a client of a console never came"),
                    }
                });
                let headers = [(header::CONNECTION, "upgrade"), (header::UPGRADE, CONSOLE_PROTOCOL)];
                (StatusCode::SWITCHING_PROTOCOLS, headers).into_response()
            }
            Self::WebSocket(upgrade) => upgrade.on_upgrade(async move |socket| {
                let _place = place;
                note(&vm_id, stay.limit(web_socket::serve(session, socket)).await);
            }),
        }
    }
}

/// Notes how a client's session ended.
fn note(vm_id: &VmId, ended: Option<std::io::Result<()>>) {
    match ended {
        Some(Ok(())) => {}
        Some(Err(problem)) => debug!(%vm_id, %problem, "a client of a console broke off"),
        None => debug!(%vm_id, "a client of a console is no longer let in"),
    }
}

/// Where what was asked for begins, and how far it goes.
async fn begin(
    answers: &Answers,
    id: &VmId,
    wanted: &ConsoleRequest,
) -> Result<(ConsolePosition, Extent), ApiError> {
    let boots = look(answers, id, VmManager::list_console_boots).await?;
    if boots.is_empty() && !wanted.follow {
        return Err(VmManagerError::NeverRan { id: id.clone() }.into());
    }
    let extent = match (wanted.follow, wanted.one_boot) {
        (true, _) => Extent::Follow,
        (false, true) => Extent::OneBoot,
        (false, false) => Extent::ToTheEnd,
    };
    let start = match *wanted {
        // A place that was told before is taken as it is: what is no longer kept of it is told of as missed.
        ConsoleRequest { boot: Some(boot), offset: Some(offset), .. } if boot >= 0 => {
            let boot = u32::try_from(boot).map_err(|problem| bad_request(&problem).about("boot"))?;
            ConsolePosition { boot, offset }
        }
        ConsoleRequest { boot: Some(boot), offset, .. } => {
            let boot = chosen(&boots, boot).ok_or_else(|| no_such_boot(id, boot, &boots))?;
            ConsolePosition { boot, offset: offset.unwrap_or(0) }
        }
        ConsoleRequest { tail: Some(lines), .. } => {
            look(answers, id, move |vm_manager, id| vm_manager.console_tail(id, lines)).await?
        }
        ConsoleRequest { .. } => {
            let boot = boots.last().map_or(0, |boot| boot.number);
            ConsolePosition { boot, offset: wanted.offset.unwrap_or(0) }
        }
    };
    Ok((start, extent))
}

/// The number of the boot that `asked` means: a number of the list, 0 for the newest, or so many before it.
fn chosen(boots: &[BootSummary], asked: i64) -> Option<u32> {
    if asked > 0 {
        return boots.iter().map(|boot| boot.number).find(|number| i64::from(*number) == asked);
    }
    let before = usize::try_from(asked.unsigned_abs()).ok()?;
    boots.iter().rev().nth(before).map(|boot| boot.number)
}

fn no_such_boot(id: &VmId, asked: i64, boots: &[BootSummary]) -> ApiError {
    let numbers: Vec<String> = boots.iter().map(|boot| boot.number.to_string()).collect();
    let hint = match numbers.as_slice() {
        [] => "it has not run yet".to_owned(),
        numbers => format!("kept are {}; 0 is the newest, -1 the one before it", numbers.join(", ")),
    };
    ApiError::new(ErrorCode::NothingKept, format!("no boot {asked} is kept of VM {id}'s console"))
        .about(id.as_str())
        .hint(Some(hint))
}

/// Has `question` answered on a thread that may wait for files.
async fn look<T: Send + 'static>(
    answers: &Answers,
    id: &VmId,
    question: impl FnOnce(&VmManager, &VmId) -> Result<T, VmManagerError> + Send + 'static,
) -> Result<T, ApiError> {
    let (vm_manager, vm) = (Arc::clone(&answers.vm_manager), id.clone());
    let answer = spawn_blocking(move || question(&vm_manager, &vm)).await;
    let answer = answer.map_err(VmManagerError::TaskLost)?;
    answer.map_err(|problem| of_vm(&answers.vm_manager, id, problem))
}

fn view(boot: &BootSummary) -> BootView {
    BootView {
        number: boot.number,
        began_at: boot.begun.map(Timestamp::from),
        last_written_at: boot.last_written.map(Timestamp::from),
        bytes: boot.total,
        kept_bytes: boot.kept,
    }
}

#[cfg(test)]
mod tests {
    use vm_model::Caller;

    use super::*;

    fn peer(uid: u32, access: Access) -> Peer {
        Peer { caller: Caller::process(uid, 0, None), access }
    }

    #[test]
    fn who_only_reads_keeps_nobody_from_a_console_who_may_type() {
        let consoles = Consoles::default();
        let own = rustix::process::geteuid().as_raw();
        let (reader, typist) = (peer(own, Access::ReadOnly), peer(own, Access::Full));
        let reading: Vec<_> =
            (0..MOST_READING).map(|_| consoles.place(reader).expect("there is room")).collect();
        let refused = consoles.place(reader).expect_err("there is none");
        assert_eq!(refused.code, ErrorCode::TooMany);
        assert!(refused.message.ends_with("of the 16 places"), "{refused}");
        let typing: Vec<_> = (0..MOST_ATTACHED - MOST_READING)
            .map(|_| consoles.place(typist).expect("readers take none of these"))
            .collect();
        assert_eq!(consoles.place(typist).expect_err("there is none").code, ErrorCode::TooMany);
        drop(reading);
        consoles.place(typist).expect_err("their places are for readers");
        drop(consoles.place(reader).expect("one has left"));
        drop(typing);
    }

    #[test]
    fn a_member_of_the_sockets_group_has_a_quarter_and_the_workers_user_always_some() {
        let consoles = Consoles::default();
        let own = rustix::process::geteuid().as_raw();
        let member = |number: u32| peer(own + number, Access::Full);
        let mut held: Vec<_> = (0..12).map(|_| consoles.place(member(1)).expect("a quarter")).collect();
        let refused = consoles.place(member(1)).expect_err("no more than that");
        assert!(refused.message.contains(&format!("uid {}", own + 1)), "{refused}");
        for number in [2, 3] {
            held.extend((0..12).map(|_| consoles.place(member(number)).expect("a quarter")));
        }
        consoles.place(member(4)).expect_err("the last quarter is not for members");
        consoles.place(member(0)).expect("it is the worker's own user's");
    }

    #[test]
    fn a_boot_is_chosen_by_its_number_or_from_the_newest_back() {
        let boots: Vec<BootSummary> = [3, 4, 7]
            .map(|number| BootSummary {
                number,
                total: 0,
                kept: 0,
                omitted: 0,
                begun: None,
                last_written: None,
            })
            .into();
        for (asked, number) in
            [(4, Some(4)), (0, Some(7)), (-1, Some(4)), (-2, Some(3)), (-3, None), (5, None)]
        {
            assert_eq!(chosen(&boots, asked), number, "{asked}");
        }
        assert_eq!(chosen(&boots, i64::MIN), None);
        assert_eq!(chosen(&[], 0), None);
    }
}
