//! Keys about health, credentials and rollouts: members of `procurator`.

use vm_model::{CREDENTIAL_BYTES_MAX, PROBES_MAX};

use super::{KeyRule, ValueKind};
use ValueKind::{Boolean, Choice, DeviceId, List, Named, Section};

const SECONDS: ValueKind = ValueKind::Integer { least: 1, most: 3600 };
const TIMES: ValueKind = ValueKind::Integer { least: 1, most: 1000 };
const STATUS: ValueKind = ValueKind::Integer { least: 100, most: 599 };
const PHRASE: ValueKind = ValueKind::Text { most: 256 };
/// Four characters for each three bytes that were begun.
const BASE64: ValueKind = ValueKind::Text { most: CREDENTIAL_BYTES_MAX.div_ceil(3) * 4 };

/// The rows.
#[rustfmt::skip]
pub(super) static KEYS: &[KeyRule] = &[
    KeyRule::supported("procurator.health", Section, "How it is told whether the guest is well. Default: nothing tells it."),
    KeyRule::supported("procurator.health.systemd", Boolean,
        "`true`: a probe `systemd` for readiness, which the guest's systemd (255 and newer) answers by itself. Default: false."),
    KeyRule::supported("procurator.health.probes", List { most: PROBES_MAX }, "Probes."),
    KeyRule::supported("procurator.health.probes[].id", DeviceId, "The probe's name in reports, unique in the VM. Required."),
    KeyRule::supported("procurator.health.probes[].role", Choice(&["startup", "readiness", "liveness"]),
        "`startup`: until it succeeds no probe of another role is run, and when it fails the VM has failed; `readiness`: \
         whether the guest can serve; `liveness`: when it fails the VM has failed. Required."),
    KeyRule::supported("procurator.health.probes[].kind", Choice(&["console", "tcp", "http", "vsock", "systemd"]),
        "`console`: `marker` has stood on the console since the guest was booted; `tcp`: the guest accepts a connection at \
         `port`; `http`: a web server answers at `port`; `vsock`: the guest accepts a connection at its socket device's \
         `port`; `systemd`: the guest's systemd has reported. Required."),
    KeyRule::supported("procurator.health.probes[].marker", PHRASE, "What has to stand on the console, as it is. Required of kind `console`."),
    KeyRule::supported("procurator.health.probes[].port", ValueKind::Integer { least: 1, most: u32::MAX as u64 - 1 },
        "At most 65535 unless the kind is `vsock`. Required of kinds `tcp`, `http` and `vsock`."),
    KeyRule::supported("procurator.health.probes[].path", ValueKind::Text { most: 1024 },
        "Of kind `http`: what is asked for, starting with `/`, printable ASCII without blanks. Default: `/`."),
    KeyRule::supported("procurator.health.probes[].host", ValueKind::Text { most: 253 },
        "Of kind `http`: whom the request names as host, printable ASCII without blanks. Default: the guest's address."),
    KeyRule::supported("procurator.health.probes[].status_min", STATUS, "Of kind `http`: the least status that is a success. Default: 200."),
    KeyRule::supported("procurator.health.probes[].status_max", STATUS, "Of kind `http`: the greatest status that is a success. Default: 399."),
    KeyRule::supported("procurator.health.probes[].body_contains", PHRASE,
        "Of kind `http`: what has to stand in the first 64 KiB of the answer's body. Default: nothing."),
    KeyRule::supported("procurator.health.probes[].unit", PHRASE,
        "Of kind `systemd`: the unit, like `ssh-access.target`, that has to be reported as active (systemd 256 and newer). \
         Default: none; that booting has finished."),
    KeyRule::supported("procurator.health.probes[].initial_delay_s", ValueKind::Integer { least: 0, most: 3600 },
        "Seconds from the guest's start, or from the success of all startup probes for other roles, to the first run. Default: 0."),
    KeyRule::supported("procurator.health.probes[].period_s", SECONDS, "Seconds from one run to the next. Default: 10."),
    KeyRule::supported("procurator.health.probes[].timeout_s", ValueKind::Integer { least: 1, most: 60 },
        "Seconds that a run may take. Of kinds `tcp`, `http` and `vsock`. Default: 2."),
    KeyRule::supported("procurator.health.probes[].failure_threshold", TIMES,
        "So many failures in a row are a failure. Default: 3; 1 for readiness of kinds `console` and `systemd`."),
    KeyRule::supported("procurator.health.probes[].success_threshold", TIMES,
        "So many successes in a row are a success; more than 1 only for readiness of kinds `tcp`, `http` and `vsock`. Default: 1."),
    KeyRule::supported("procurator.credentials", Named,
        "Credentials for the guest's systemd (252 and newer), by name; see `platform.oem_strings` for how many bytes fit."),
    KeyRule::supported("procurator.credentials.NAME", Section, "One credential. It has one content."),
    KeyRule::supported("procurator.credentials.NAME.value", ValueKind::Text { most: CREDENTIAL_BYTES_MAX },
        "The content. What stands in a store path is no secret: everybody on the host can read it."),
    KeyRule::supported("procurator.credentials.NAME.base64", BASE64, "The content in Base64, with padding; at most 32768 bytes of it."),
    KeyRule::supported("procurator.credentials.NAME.file", ValueKind::Text { most: 4095 },
        "Absolute path of a file of the host that has the content, at most 32768 bytes, below a directory that the worker's \
         settings allow. Read when the machine is started."),
    KeyRule::supported("procurator.rollout", Section, "How a changed definition is put in force."),
    KeyRule::supported("procurator.rollout.ready_deadline_s", SECONDS,
        "Seconds that a machine by the new definition may take until it is ready. Default: 120."),
    KeyRule::supported("procurator.rollout.on_failure", Choice(&["roll_back", "keep"]),
        "When it is not ready by then: `roll_back` puts the definition before in force again; `keep` leaves it. Default: roll_back."),
];
