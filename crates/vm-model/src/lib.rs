//! Plain values that every other crate speaks in: who a virtual machine is, what it is made of, what phase it is
//! in, how it ended and what it has used.
//!
//! Nothing here does I/O, holds a lock or knows an operating system. The values cross thread, process and
//! network borders, so each has one serialised form and validates itself when it is parsed.
//!
//! ```
//! use vm_model::{Bytes, VmId};
//!
//! let id: VmId = "web-1".parse()?;
//! assert_eq!(id.as_str(), "web-1");
//! assert_eq!(Bytes::from_mib(128).get(), 134_217_728);
//! assert!("Web_1".parse::<VmId>().is_err());
//! # Ok::<(), vm_model::InvalidVmId>(())
//! ```

#![forbid(unsafe_code)]

mod assignment;
mod calendar;
mod collection;
mod command;
mod condition;
mod counters;
mod credentials;
mod disk_options;
mod document;
mod durations;
mod error_text;
mod event;
mod failure_class;
mod file_identity;
mod footprint;
mod health;
mod health_spec;
mod host_use;
mod id;
mod ipv6_subnet;
mod isolation;
mod lifecycle;
mod limits;
mod machine;
mod machine_status;
mod nar_hash;
mod network_access;
mod network_name;
mod nic_mismatch;
mod nic_options;
mod node_status;
mod oem_strings;
mod operator_order;
mod printable;
mod processors;
mod qcow2;
mod read_json;
mod resets;
mod resource_limits;
mod rollout;
mod run_end;
mod schema;
mod services;
mod shown;
mod source;
mod store_name;
mod timestamp;
mod units;
mod unrepeated;
mod vcpu_counters;
mod vcpu_dump;
mod vm_info;
mod volumes;

pub use assignment::{
    Assignment, AssignmentSet, AssignmentsError, DesiredState, Overrides, RefusedEntry, nearest,
};
pub use calendar::CalendarTime;
pub use collection::{CollectedPath, CollectionCause, CollectionRule};
pub use command::{Command, CommandKind, Reply};
pub use condition::{Condition, ConditionKind, refresh_conditions};
pub use counters::{BalloonCounters, BlockCounters, DiskLatency, MachineCounters, NicCounters};
pub use credentials::{
    CLOUD_INIT_BYTES_MAX, CREDENTIAL_BYTES_MAX, CREDENTIAL_NAME_MAX, CredentialFile, CredentialName,
    InvalidCredentialName, Secret, credential_string, hide_secrets,
};
pub use disk_options::{DiskCaching, DiskErasure, DiskOptions, OnIoError, RateLimitSpec, TokenBucketSpec};
pub use durations::{DURATION_BOUNDS, DurationCounts, DurationRecorder};
pub use error_text::{error_chain, panic_message};
pub use event::{Caller, Event, EventKind, EventReason};
pub use failure_class::{BootTrouble, FailureClass};
pub use file_identity::{BootIdentities, FileIdentity};
pub use footprint::Footprint;
pub use health::{Health, ProbeHealth, ProbeOutcome, Readiness, SystemdReport};
pub use health_spec::{
    HealthSpec, HttpCheck, PROBES_MAX, ProbeCheck, ProbeRole, ProbeSpec, ProbeTiming, SYSTEMD_NOTIFY_PORT,
};
pub use host_use::{HostUse, Pressure, Pressures};
pub use id::{InvalidVmId, VmId};
pub use ipv6_subnet::{InvalidIpv6Subnet, Ipv6Subnet, link_local};
pub use isolation::Isolation;
pub use lifecycle::{
    BootTimings, FailureKind, FailureReason, GuestPanic, MachineExit, ResetSource, StopMethod, VmStatus,
};
pub use limits::{MEMORY_LEAST, MEMORY_MOST, MEMORY_PAGE, VCPUS_MOST, VMS_MOST, is_possible_memory};
pub use machine::{
    BootSpec, DiskAccess, DiskFormat, DiskSpec, FileRole, HugePageSize, HugePageSupport, MachineSpec,
    MemoryBacking, MemorySpec, NicSpec, PCI_DEVICES_MAX, SerialMode, VhostSpec,
};
pub use machine_status::{InitialState, MachinePhase, MachineStatus, PowerButton, ThreadHealth};
pub use nar_hash::{InvalidNarHash, NarHash};
pub use network_access::{
    EGRESS_RULES_MAX, EgressRule, InvalidEgressRule, InvalidPortForward, NetworkAccess, PORT_FORWARDS_MAX,
    PortForward, Transport,
};
pub use network_name::{InvalidNetworkName, NetworkName};
pub use nic_mismatch::NicMismatch;
pub use nic_options::{LinkState, NicOffloads, NicOptions, Offload};
pub use node_status::{HeldSet, HoldReason, NodeStatus, SourceStatus};
pub use oem_strings::{OEM_STRINGS_BYTES_MAX, OEM_STRINGS_MAX, OemStrings, OemStringsError};
pub use operator_order::OperatorOrder;
pub use printable::{is_disguise, printable, printable_json};
pub use processors::{CoreScheduling, CpuSpec, CpuTopology, VcpuAffinity};
pub use qcow2::{QCOW2_HEADER_BYTES, Qcow2Error, Qcow2Feature, check_qcow2_header};
pub use read_json::{JsonProblem, read_json, with_ranges};
pub use resets::{RecentResets, ResetBudget, ResetCounts, ResetLimit, ResetPolicy};
pub use resource_limits::{
    Cores, DESCRIPTORS_LEAST, DESCRIPTORS_MOST, InvalidCores, MEMORY_LIMIT_LEAST, MEMORY_LIMIT_MOST,
    PROCESSES_LEAST, PROCESSES_MOST, RATE_LEAST, RATE_MOST, ResourceLimits, WEIGHT_LEAST, WEIGHT_MOST,
};
pub use rollout::{OnTrial, RolloutFailure, RolloutSpec};
pub use run_end::{EndCause, EndMethod, RunEnd};
pub use services::{BalloonSpec, GuestServices, VsockSpec};
pub use shown::{shown_key, shown_number, shown_path, shown_text, shown_value};
pub use source::{InvalidLineage, Lineage, Source, SourceKind};
pub use store_name::{InvalidStoreName, StoreName};
pub use timestamp::Timestamp;
pub use units::{Bytes, Generation, InvalidMacAddress, MacAddress};
pub use vcpu_counters::{ExitCounts, KvmCounters, ThreadCounters, VcpuCounters};
pub use vcpu_dump::{VcpuActivity, VcpuDump, VcpuRegisters, VcpuReport};
pub use vm_info::{
    AddressSource, CRASH_LOOP_FAILURES, DiskTrouble, Fetching, MachineShape, Verifying, VmDisk, VmInfo,
    VmNic, VmTimings, WantedChange,
};
pub use volumes::{RemovedVm, VolumeInfo, VolumeKeep, VolumePolicy};
