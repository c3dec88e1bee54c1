//! The worker's local interface: HTTP with JSON on a Unix socket, and a client for it.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`StatusView`]: the worker itself |
//! | `GET /v1/vms` | `{"vms": [VmView, …]}`, ordered by id |
//! | `GET /v1/vms/{id}` | [`VmView`] |
//! | `GET /v1/vms/{id}/console` | what is kept of the console, as the guest wrote it |
//! | `POST /v1/vms` with an [`AssignRequest`] | [`VerdictView`]: the VM is assigned by this host's administrator |
//! | `DELETE /v1/vms/{id}` | [`VerdictView`]: that assignment is taken back |
//! | `POST /v1/removed/{id}/undelete` | [`VerdictView`]: a removed VM is assigned again as it was |
//! | `POST /v1/plan` with a desired state | [`PlanView`]: what it would change; nothing is done |
//! | `POST /v1/allow-removals` | [`VerdictView`]: the desired state that was held is applied |
//! | `POST /v1/accept-master` | [`VerdictView`]: the master that waits to be accepted is followed |
//! | `GET /v1/volumes` | [`VolumeList`] |
//! | `GET /v1/removed` | [`RemovedList`] |
//! | `POST /v1/gc` with a [`DeletionRequest`] | [`DeletionView`] |
//!
//! A refusal is `{"error": "…"}` with a status of 4xx or 5xx. Who may open the socket may do everything; the file
//! system's permissions decide that. What clients cost is bounded: how many are connected, how long they may take, how
//! much they may send.
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

mod client;
mod connections;
mod machine_view;
mod orders;
mod server;
mod serving;
mod socket_path;
mod status;
mod view;

pub use client::{AdminClient, ClientError};
pub use machine_view::{DiskView, MachineView};
pub use orders::{
    ActionView, AssignRequest, DeletionRequest, DeletionView, PlanView, RemovedList, VerdictView, VolumeList,
};
pub use server::{AdminServer, BindError, StatusSource};
pub use status::{AssignmentsState, AssignmentsView, DamagedVm, MasterState, MasterView, StatusView};
pub use view::{BalloonView, MetricsView, TimingsView, VmList, VmView};

/// The socket's name in the runtime directory.
pub const SOCKET_NAME: &str = "worker.sock";
