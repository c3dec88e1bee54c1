//! One task a VM that brings it where it should be and keeps it there.
//!
//! The task is the only writer of the VM's status and the only one that starts, stops or removes it. It is told
//! *where* the VM should be (a [`Target`]) and finds its own way, one [`step`] at a time, so that orders that
//! come while it is busy are never lost and never overtake each other.

mod acquired;
mod adopted;
mod aftermath;
mod candidate;
mod cloud_init;
mod context;
mod ending;
mod given_up;
mod guest;
mod guest_secrets;
mod handle;
mod held;
mod held_network;
mod host_ports;
mod jitter;
mod limiting;
mod live;
mod look_ahead;
mod machine_slot;
mod network;
mod networks;
mod news;
mod nic_wish;
mod nics;
mod notes;
mod policy;
mod prepare;
mod publisher;
mod record;
mod removing;
mod reviving;
mod rollout;
mod socket_path;
mod stage;
mod stage_work;
mod start;
mod step;
mod stopping;
mod store_files;
mod taking_back;
mod target;
mod task;
mod telling;
mod trial;
mod turns;
mod verify;
mod vhost;

pub(crate) use adopted::RunningMachine;
pub(crate) use context::{HostContext, Lifecycle};
pub(crate) use given_up::GivenUp;
pub(crate) use guest_secrets::read_secrets;
pub(crate) use handle::{Birth, Origin, Supervisor};
pub(crate) use held_network::{HeldBack, find_bridge_problem, keeps_for_vms, unfit_vms};
pub(crate) use host_ports::{HostPorts, PortClaims};
pub(crate) use limiting::{judge_limits, unenforced};
pub(crate) use look_ahead::{LookedAt, OwnPlaces, check_nics, load, look_ahead, look_before_restart};
pub(crate) use machine_slot::MachineSlot;
pub(crate) use network::{NetworkState, WaitingNetwork};
pub(crate) use networks::Networks;
pub(crate) use nic_wish::foresee_leases;
pub(crate) use notes::noted_uuid;
pub use notes::{NotesError, check_notes};
pub(crate) use policy::RestartPolicy;
pub(crate) use publisher::Changes;
pub(crate) use stage::volume_requests;
pub(crate) use step::{Goal, OrderNumber};
pub(crate) use target::{Freshness, Patience, Target};
pub(crate) use turns::StartTurns;
pub(crate) use verify::check_content;
