//! All that is known of one VM, as a plain value.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use vm_model::{Assignment, FailureReason, Generation, MacAddress, StopMethod, VmId, VmStatus};

/// One VM at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmInfo {
    /// Its name.
    pub id: VmId,
    /// Where it is in its life.
    pub status: VmStatus,
    /// What was asked for.
    pub assignment: Assignment,
    /// The desired state it came with last; zero where it was created by a call.
    pub generation: Generation,
    /// Its network interfaces, in the guest's order; empty until they are set up.
    pub nics: Vec<VmNic>,
    /// How often it got as far as its first instruction.
    pub starts: u64,
    /// How often it was started again after a failure or a reset by the guest, in place or as a new machine.
    pub restarts: u64,
    /// How often its machine was made anew in place: after a reset by the guest, which is a restart, or by its reset
    /// button, which is none.
    #[serde(default)]
    pub resets: u64,
    /// How often a start or a run failed.
    pub failures: u64,
    /// What went wrong last. Stays when it runs again.
    pub last_failure: Option<FailureReason>,
    /// What ended it when it was told to stop last.
    pub last_stop: Option<StopMethod>,
    /// How long the steps of its newest start took.
    pub timings: VmTimings,
    /// Whether its machine's thread stands still; nothing that is asked of it is done meanwhile.
    #[serde(default)]
    pub hung: bool,
    /// Settings of its artifact that are ignored here.
    pub warnings: Vec<String>,
    /// Store paths its artifact reaches whose content nobody vouched for.
    pub unverified: Vec<PathBuf>,
}

/// A VM's network interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmNic {
    /// Its name in the machine's description.
    pub id: String,
    /// The guest's address.
    pub address: Ipv4Addr,
    /// The guest's hardware address.
    pub mac: MacAddress,
    /// The host's end, while there is a machine.
    pub tap: Option<String>,
}

/// How long the steps of a start took. A step that is not over yet is `None`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmTimings {
    /// Verifying and opening the artifact, and preparing disks.
    pub artifact: Option<Duration>,
    /// Setting up the network.
    pub network: Option<Duration>,
    /// From the request to build the machine until its first vCPU was entered.
    pub first_entry: Option<Duration>,
    /// From the same request until the guest's first console byte.
    pub first_console_byte: Option<Duration>,
}

impl VmInfo {
    /// A VM about which nothing is known but what was asked for.
    pub(crate) fn new(assignment: Assignment, generation: Generation) -> Self {
        Self {
            id: assignment.id.clone(),
            status: VmStatus::Creating,
            assignment,
            generation,
            nics: Vec::new(),
            starts: 0,
            restarts: 0,
            resets: 0,
            failures: 0,
            last_failure: None,
            last_stop: None,
            timings: VmTimings::default(),
            hung: false,
            warnings: Vec::new(),
            unverified: Vec::new(),
        }
    }
}
