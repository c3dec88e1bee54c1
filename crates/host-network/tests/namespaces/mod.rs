//! Network namespaces for tests: nothing here touches the machine's own links, addresses or rules.
//!
//! A namespace belongs to a thread, so each test runs on a thread of its own with a runtime that stays on it.
//! What the tests see, they see through `ip` and `nft`, not through the code under test.

#![expect(
    unsafe_code,
    reason = "leaving a namespace is unsafe where descriptors are shared; it is not so here"
)]
#![expect(clippy::print_stdout, reason = "a skipped test says so")]
#![allow(dead_code, reason = "each test program uses its own part")]

use std::future::Future;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use host_network::{DnsServers, KeptNic, LinkName, NetworkConfig, NicAttachment};
use rustix::thread::{UnshareFlags, gettid, unshare_unsafe};
use serde_json::Value;
use tokio::sync::oneshot;
use vm_model::VmId;

pub(crate) const BRIDGE: &str = "br-test";

/// Runs `test` in a network namespace of its own, as root; says so loudly where that cannot be.
pub(crate) fn in_namespace<F: Future<Output = ()>>(test: impl FnOnce() -> F + Send + 'static) {
    if !rustix::process::geteuid().is_root() {
        assert!(
            std::env::var_os("PROCURATOR_SKIP_ROOT_TESTS").is_some_and(|value| value == "1"),
            "this test needs root for a network namespace; PROCURATOR_SKIP_ROOT_TESTS=1 skips it"
        );
        println!("SKIPPED: no root, and PROCURATOR_SKIP_ROOT_TESTS=1");
        return;
    }
    let body = move || {
        enter_new_namespace(UnshareFlags::NEWNET);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(test());
    };
    if let Err(panic) = thread::spawn(body).join() {
        std::panic::resume_unwind(panic);
    }
}

pub(crate) fn enter_new_namespace(kind: UnshareFlags) {
    // SAFETY: only a network or mount namespace is left, by the calling thread alone; no other thread relies on it.
    unsafe { unshare_unsafe(kind) }.expect("root may make namespaces");
}

type Job = Box<dyn FnOnce() + Send>;

/// Another host: a namespace on a thread of its own, which ends with this value.
pub(crate) struct Host {
    jobs: mpsc::Sender<Job>,
    thread: String,
}

impl Host {
    pub(crate) fn new() -> Self {
        let (jobs, inbox) = mpsc::channel::<Job>();
        let (announce, announced) = mpsc::channel();
        thread::spawn(move || {
            enter_new_namespace(UnshareFlags::NEWNET);
            announce.send(gettid().as_raw_nonzero().to_string()).unwrap();
            for job in inbox {
                job();
            }
        });
        let thread = announced.recv().unwrap();
        Self { jobs, thread }
    }

    /// What `ip link set … netns` takes.
    pub(crate) fn name(&self) -> &str {
        &self.thread
    }

    /// Runs `job` there and returns what it comes to. A socket that it opens stays of that host.
    pub(crate) async fn on<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (answer, answered) = oneshot::channel();
        let job = move || {
            // Whoever asked is gone only when its test has failed.
            let _ = answer.send(job());
        };
        self.jobs.send(Box::new(job)).unwrap();
        answered.await.unwrap()
    }

    /// Runs a command there while the test's own tasks go on.
    pub(crate) async fn run(&self, command: &[&str]) -> Result<String, String> {
        let command: Vec<String> = command.iter().map(ToString::to_string).collect();
        self.on(move || {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            try_run(&words)
        })
        .await
    }
}

pub(crate) fn try_run(command: &[&str]) -> Result<String, String> {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}; these tests need it", command[0]));
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() {
        Ok(text(&output.stdout))
    } else {
        Err(format!("{}{}", text(&output.stdout), text(&output.stderr)))
    }
}

/// Runs a command given as one line, which must succeed, in the calling thread's namespace.
pub(crate) fn run(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    try_run(&words).unwrap_or_else(|said| panic!("`{line}` failed: {said}"))
}

/// Every link, as `ip -json` shows it.
pub(crate) fn links() -> Vec<Value> {
    serde_json::from_str(&run("ip -details -json link show")).unwrap()
}

pub(crate) fn link(name: &str) -> Option<Value> {
    links().into_iter().find(|link| link["ifname"] == name)
}

/// The hardware address of a link.
pub(crate) fn mac_of(name: &str) -> [u8; 6] {
    let link = link(name).unwrap();
    link["address"].as_str().unwrap().parse::<vm_model::MacAddress>().unwrap().octets()
}

pub(crate) fn link_names() -> Vec<String> {
    let name = |link: &Value| link["ifname"].as_str().unwrap().to_owned();
    links().iter().map(name).collect()
}

/// The IPv4 addresses on a link, with their prefix lengths.
pub(crate) fn addresses(name: &str) -> Vec<String> {
    let shown: Value = serde_json::from_str(&run(&format!("ip -4 -json address show dev {name}"))).unwrap();
    let entries = shown.as_array().unwrap().iter();
    entries
        .flat_map(|link| link["addr_info"].as_array().cloned().unwrap_or_default())
        .map(|info| format!("{}/{}", info["local"].as_str().unwrap(), info["prefixlen"]))
        .collect()
}

pub(crate) fn config() -> NetworkConfig {
    let mut config = NetworkConfig::new(LinkName::parse(BRIDGE).unwrap(), "10.100.0.0/16".parse().unwrap());
    config.dns = DnsServers::List(vec![Ipv4Addr::new(192, 0, 2, 53)]);
    config
}

/// Interface `net0` of the VM `vm-<number>`.
pub(crate) fn nic(number: u8) -> NicAttachment {
    NicAttachment {
        vm: VmId::new(&format!("vm-{number}")),
        nic: "net0".to_owned(),
        mac: vm_model::MacAddress::new([2, 0x50, 10, 100, 1, number]),
        address: Ipv4Addr::new(10, 100, 1, number),
        mask: None,
        mtu: None,
        tap_hint: None,
        queues: std::num::NonZeroU16::MIN,
        access: vm_model::NetworkAccess::default(),
    }
}

/// The same interface after its VM ran on with the TAP `tap`.
pub(crate) fn kept(number: u8, tap: &LinkName) -> KeptNic {
    let NicAttachment { vm, nic, mac, address, mask, mtu, tap_hint: _, queues: _, access } = nic(number);
    KeptNic { vm, nic, mac, address, mask, mtu, tap: tap.clone(), access }
}

/// Asks again until there is an answer, for at most twenty seconds.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within 20 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
