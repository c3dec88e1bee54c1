//! `procurator.health`: probes, each of whose keys fits its kind and its role.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use vm_model::{
    HealthSpec, HttpCheck, PROBES_MAX, ProbeCheck, ProbeRole, ProbeSpec, ProbeTiming, SerialMode, shown_text,
};

use super::machine::{Reader, contradiction};
use super::refusal::Refusal;
use super::section::Section;

/// The id of the probe that `health.systemd` asks for.
const SYSTEMD_PROBE: &str = "systemd";
/// Which keys belong to some kinds of probes only.
const KEYS_OF_KINDS: &[(&str, &[&str])] = &[
    ("marker", &["console"]),
    ("port", &["tcp", "http", "vsock"]),
    ("path", &["http"]),
    ("host", &["http"]),
    ("status_min", &["http"]),
    ("status_max", &["http"]),
    ("body_contains", &["http"]),
    ("unit", &["systemd"]),
    ("timeout_s", &["tcp", "http", "vsock"]),
];

impl Reader<'_> {
    /// The probes; `None` where there are none.
    pub(super) fn health(&self) -> Result<Option<HealthSpec>, Box<Refusal>> {
        let Some(health) = self.health_section() else { return Ok(None) };
        let mut probes: Vec<ProbeSpec> = Vec::new();
        if health.boolean("systemd") == Some(true) {
            probes.push(systemd_probe());
        }
        for entry in health.list("probes") {
            let probe = self.probe(entry)?;
            if probes.iter().any(|earlier| earlier.id == probe.id) {
                let value = shown_text(&probe.id);
                return Err(refuse(entry, "id", value, "an earlier probe has this id", "one of its own"));
            }
            probes.push(probe);
        }
        if probes.len() > PROBES_MAX {
            let value = format!("{} probes, that of \"systemd\" among them", probes.len());
            return Err(refuse(health, "probes", value, "each costs", &format!("at most {PROBES_MAX}")));
        }
        Ok((!probes.is_empty()).then_some(HealthSpec { probes }))
    }

    /// Whether a probe reaches the guest, or is told by it, through a socket device.
    pub(super) fn probes_need_vsock(&self) -> bool {
        self.health_section().is_some_and(|health| {
            let needs = |probe: &Section| matches!(probe.text("kind"), Some("vsock" | "systemd"));
            health.boolean("systemd") == Some(true) || health.list("probes").iter().any(needs)
        })
    }

    fn health_section(&self) -> Option<&Section> {
        self.top.section("procurator")?.section("health")
    }

    fn probe(&self, entry: &Section) -> Result<ProbeSpec, Box<Refusal>> {
        let required = |name: &str, accepted: &str| {
            entry
                .text(name)
                .ok_or_else(|| refuse(entry, name, "missing".to_owned(), "every probe has one", accepted))
        };
        let id = required("id", "a name")?.to_owned();
        let role = match required("role", "\"startup\", \"readiness\" or \"liveness\"")? {
            "startup" => ProbeRole::Startup,
            "liveness" => ProbeRole::Liveness,
            _ => ProbeRole::Readiness,
        };
        let kind = required("kind", "a kind of probe")?;
        for (key, kinds) in KEYS_OF_KINDS {
            if entry.has(key) && !kinds.contains(&kind) {
                let rule = format!("a probe of kind {kind:?} has no such key");
                return Err(refuse(entry, key, "set".to_owned(), &rule, "leaving it out"));
            }
        }
        let check = self.check_of(entry, kind)?;
        if check.is_reported_by_guest() && role == ProbeRole::Liveness {
            let rule = format!("what a probe of kind {kind:?} finds stays true when the guest stops working");
            return Err(refuse(
                entry,
                "role",
                "\"liveness\"".to_owned(),
                &rule,
                "\"startup\" or \"readiness\"",
            ));
        }
        let timing = timing(entry, role, &check)?;
        Ok(ProbeSpec { id, role, check, timing })
    }

    fn check_of(&self, entry: &Section, kind: &str) -> Result<ProbeCheck, Box<Refusal>> {
        match kind {
            "console" => self.console_check(entry),
            "vsock" => Ok(ProbeCheck::Vsock { port: port(entry)? }),
            "systemd" => Ok(ProbeCheck::Systemd { unit: entry.text("unit").map(str::to_owned) }),
            _ if self.top.list("net").is_empty() => Err(refuse(
                entry,
                "kind",
                format!("{kind:?}"),
                "the machine has no network interface",
                "an interface under \"net\", or another kind",
            )),
            "http" => http_check(entry),
            _ => Ok(ProbeCheck::Tcp { port: network_port(entry)? }),
        }
    }

    fn console_check(&self, entry: &Section) -> Result<ProbeCheck, Box<Refusal>> {
        if self.serial() == SerialMode::Null && !self.virtio_console() {
            let accepted = "a serial port or console that is recorded, or another kind";
            let value = "\"console\"".to_owned();
            return Err(refuse(entry, "kind", value, "what the guest writes is not recorded", accepted));
        }
        match entry.text("marker") {
            Some(marker) if !marker.is_empty() => Ok(ProbeCheck::Console { marker: marker.to_owned() }),
            Some(_) | None => Err(refuse(
                entry,
                "marker",
                "missing".to_owned(),
                "it is what is looked for",
                "a text that the guest writes when it is ready",
            )),
        }
    }
}

fn systemd_probe() -> ProbeSpec {
    ProbeSpec {
        id: SYSTEMD_PROBE.to_owned(),
        role: ProbeRole::Readiness,
        check: ProbeCheck::Systemd { unit: None },
        timing: ProbeTiming { failure_threshold: NonZeroU32::MIN, ..ProbeTiming::default() },
    }
}

fn http_check(entry: &Section) -> Result<ProbeCheck, Box<Refusal>> {
    let path = entry.text("path").unwrap_or("/");
    if !path.starts_with('/') || !is_graphic(path) {
        let accepted = "'/' and printable ASCII without blanks";
        return Err(refuse(entry, "path", shown_text(path), "it goes into a request", accepted));
    }
    let host = entry.text("host");
    if let Some(host) = host.filter(|host| host.is_empty() || !is_graphic(host)) {
        let accepted = "printable ASCII without blanks";
        return Err(refuse(entry, "host", shown_text(host), "it goes into a request", accepted));
    }
    let least_status = entry.integer("status_min").unwrap_or(200);
    let greatest_status = entry.integer("status_max").unwrap_or(399);
    if least_status > greatest_status {
        let rule = format!("status_max is {greatest_status}");
        let value = least_status.to_string();
        return Err(refuse(entry, "status_min", value, &rule, "at most status_max"));
    }
    Ok(ProbeCheck::Http(HttpCheck {
        port: network_port(entry)?,
        path: path.to_owned(),
        host: host.map(str::to_owned),
        least_status,
        greatest_status,
        body_contains: entry.text("body_contains").map(str::to_owned),
    }))
}

fn timing(entry: &Section, role: ProbeRole, check: &ProbeCheck) -> Result<ProbeTiming, Box<Refusal>> {
    let defaults = ProbeTiming::default();
    let seconds = |name, default| entry.integer(name).map_or(default, Duration::from_secs);
    let times = |name| entry.integer(name).and_then(NonZeroU32::new);
    let is_told = check.is_reported_by_guest();
    let success_threshold = times("success_threshold").unwrap_or(defaults.success_threshold);
    if success_threshold > NonZeroU32::MIN && (is_told || role != ProbeRole::Readiness) {
        let rule = "only readiness that is asked for can need several successes";
        let value = success_threshold.to_string();
        return Err(refuse(entry, "success_threshold", value, rule, "1"));
    }
    let failures = match role {
        ProbeRole::Readiness if is_told => NonZeroU32::MIN,
        ProbeRole::Readiness | ProbeRole::Startup | ProbeRole::Liveness => defaults.failure_threshold,
    };
    Ok(ProbeTiming {
        initial_delay: seconds("initial_delay_s", defaults.initial_delay),
        period: seconds("period_s", defaults.period),
        timeout: seconds("timeout_s", defaults.timeout),
        failure_threshold: times("failure_threshold").unwrap_or(failures),
        success_threshold,
    })
}

fn port(entry: &Section) -> Result<u32, Box<Refusal>> {
    entry.integer("port").ok_or_else(|| {
        refuse(entry, "port", "missing".to_owned(), "it is where the guest is asked", "a port")
    })
}

fn network_port(entry: &Section) -> Result<NonZeroU16, Box<Refusal>> {
    let port = port(entry)?;
    u16::try_from(port).ok().and_then(NonZeroU16::new).ok_or_else(|| {
        refuse(entry, "port", port.to_string(), "it is a port of the network", "an integer from 1 to 65535")
    })
}

fn is_graphic(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic())
}

fn refuse(entry: &Section, key: &str, value: String, rule: &str, accepted: &str) -> Box<Refusal> {
    contradiction(entry.path_of(key), value, rule.to_owned(), accepted.to_owned())
}
