//! The worker's local interface: HTTP with JSON on Unix sockets, and a client for it.
//!
//! `docs/api.md` describes it for people who write programs against it; [`openapi`] describes it for programs.
//!
//! A refusal is an [`ApiError`] with a status of 4xx or 5xx. Who may open a socket may do what that socket is for; the file
//! system's permissions decide who that is, and the kernel tells who asked. What clients cost is bounded: how many are
//! connected, how long they may take, how much they may send, how much is made ready for them.
//!
//! What is not here: what a VM is (`worker`), and how answers are shown to people (`worker-bin`).
//!
//! ```no_run
//! # async fn example() -> Result<(), admin::ClientError> {
//! let client = admin::AdminClient::new("/run/procurator/worker.sock");
//! for vm in client.list_vms().await? {
//!     println!("{} is {}", vm.id, vm.phase);
//! }
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod access;
mod client;
mod connections;
mod console;
mod error;
mod event_list;
mod history;
mod interface_view;
mod machine_view;
mod operation;
mod orders;
mod process_view;
mod server;
mod serving;
mod socket_path;
mod status;
mod unknown_name;
mod view;
mod vm_log;
mod worker_process;

pub use access::{Access, Peer};
pub use client::{AdminClient, ClientError, ConsoleInput, ConsoleOutput, EventStream};
pub use console::{
    BootList, BootView, CONSOLE_PROTOCOL, ClientFrame, ConsoleEnd, ConsoleRequest, FrameError, FrameReader,
    MAX_INPUT, PenRequest, PenState, ServerFrame, WireFrame,
};
pub use error::{ApiError, ErrorCode};
pub use event_list::{EventGap, EventList, EventMessage};
pub use history::{HistoryList, HistoryView, UsagePoint};
pub use interface_view::InterfaceView;
pub use machine_view::{DiskView, DumpView, MachineView};
pub use operation::{OperationList, OperationState, OperationView, PowerRequest, PowerVerb};
pub use orders::{
    ActionView, AssignRequest, ChangeRequest, CollectionRequest, CollectionView, DeletionRequest,
    DeletionView, PlanView, RemovedList, VerdictView, VolumeList,
};
pub use process_view::ProcessView;
pub use server::{
    AdminServer, BindError, Listening, Served, SocketGroup, SocketSettings, StatusSource, WebError,
    WebSettings, openapi, openapi_text,
};
pub use status::{
    AssignmentsState, AssignmentsView, DamagedVm, DirectoriesView, MasterState, MasterView, NetworkView,
    StatusView,
};
pub use unknown_name::{gone_vm, no_such_vm, removed_vm};
pub use view::{BalloonView, HostUseView, MetricsView, TimingsView, VmList, VmView};
pub use vm_log::{VM_LOG_SIZE, VmLogSource, VmLogView};
pub use worker_process::find_worker_process;

/// The socket's name in the runtime directory.
pub const SOCKET_NAME: &str = "worker.sock";
/// The name of the socket for reading only.
pub const READ_SOCKET_NAME: &str = "worker-read.sock";
