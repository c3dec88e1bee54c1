//! Traffic of running VMs passes without a break while the worker goes and comes again.
//!
//! Each stream sends one message at a time and waits for its echo, so whatever is dropped on the way is counted as a
//! loss once its wait is over: a moment without forwarding cannot pass unseen.

use std::net::UdpSocket;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use host_network::{HostNetwork, NetworkConfig, NicAttachment, Tap, Teardown, VNET_HEADER_BYTES};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use crate::namespaces::{BRIDGE, Host, config, eventually, in_namespace, kept, link, nic, run};
use test_frames::{ethernet, ipv4, udp};

/// After which an echo counts as lost: far longer than any takes on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(2);
/// How many round trips each stream makes between two steps of a test.
const ROUND_TRIPS: u32 = 200;
/// How many round trips pass on one connection: both old and new ones must be let through at any moment.
const NEW_CONNECTION_EVERY: u32 = 16;
const HEADER: usize = VNET_HEADER_BYTES as usize;
/// Where the payload of a UDP datagram lies in a frame.
const PAYLOAD: usize = 14 + 20 + 8;

/// Counts the round trips of a thread until it is stopped.
struct Stream {
    name: &'static str,
    counts: Arc<Counts>,
    thread: JoinHandle<()>,
}

#[derive(Default)]
struct Counts {
    done: AtomicU32,
    lost: AtomicU32,
    is_over: AtomicBool,
}

impl Stream {
    /// `round_trip` makes the one with the number it is given, and says whether its echo came.
    fn start(name: &'static str, mut round_trip: impl FnMut(u32) -> bool + Send + 'static) -> Self {
        let counts = Arc::<Counts>::default();
        let shared = Arc::clone(&counts);
        let thread = thread::spawn(move || {
            let mut number = 0;
            while !shared.is_over.load(Ordering::Relaxed) {
                let counter = if round_trip(number) { &shared.done } else { &shared.lost };
                counter.fetch_add(1, Ordering::Relaxed);
                number += 1;
            }
        });
        Self { name, counts, thread }
    }

    fn done(&self) -> u32 {
        self.counts.done.load(Ordering::Relaxed)
    }

    fn lost(&self) -> u32 {
        self.counts.lost.load(Ordering::Relaxed)
    }

    fn stop(self) {
        self.counts.is_over.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

/// Waits until each stream has made some more round trips.
async fn more_round_trips(streams: &[Stream]) {
    for stream in streams {
        let goal = stream.done() + ROUND_TRIPS;
        eventually(stream.name, async || (stream.done() >= goal).then_some(())).await;
    }
}

/// A stream of UDP from a machine on the bridge to a host beyond, which sees the host's own address.
async fn masqueraded_stream(vm: &Host, beyond: &Host) -> Stream {
    let server = beyond.on(|| UdpSocket::bind("198.51.100.2:7").unwrap()).await;
    thread::spawn(move || {
        let mut buffer = [0; 64];
        // It ends with the test's process.
        while let Ok((length, from)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&buffer[..length], from);
        }
    });
    // A thread is in the namespace of the one that started it.
    vm.on(|| {
        let mut client = connection();
        Stream::start("UDP beyond the host", move |number| {
            if number % NEW_CONNECTION_EVERY == 0 {
                client = connection();
            }
            let mut buffer = [0; 64];
            if client.send(&number.to_be_bytes()).is_err() {
                return false;
            }
            // A late echo of a message that was given up is none of this one.
            while let Ok(length) = client.recv(&mut buffer) {
                if buffer[..length] == number.to_be_bytes() {
                    return true;
                }
            }
            false
        })
    })
    .await
}

/// From a port of its own, so that the host's packet filter takes it for a new one.
fn connection() -> UdpSocket {
    let socket = UdpSocket::bind("10.100.1.9:0").unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.connect("198.51.100.2:7").unwrap();
    socket
}

/// A stream of frames from the guest of `near` to the guest of `far` and back.
fn frame_stream(near: &Tap, far: &Tap) -> Stream {
    let descriptor = |tap: &Tap| tap.fds[0].try_clone().unwrap();
    let (near, far) = (descriptor(near), descriptor(far));
    let (there, back) = ((nic(2), nic(3)), (nic(3), nic(2)));
    Stream::start("frames between VMs", move |number| {
        send(&near, &there, number)
            && receive(&far, number)
            && send(&far, &back, number)
            && receive(&near, number)
    })
}

fn send(tap: &OwnedFd, (from, to): &(NicAttachment, NicAttachment), number: u32) -> bool {
    let datagram = udp(7, 7, &number.to_be_bytes());
    let packet = ipv4(from.address, to.address, 17, &datagram);
    let mut bytes = vec![0; HEADER];
    bytes.extend(ethernet(to.mac.octets(), from.mac.octets(), 0x0800, &packet));
    rustix::io::write(tap, &bytes).is_ok()
}

fn receive(tap: &OwnedFd, number: u32) -> bool {
    let patience = Timespec::try_from(PATIENCE).unwrap();
    let mut buffer = [0; 2048];
    loop {
        let mut waited = [PollFd::new(tap, PollFlags::IN)];
        if !poll(&mut waited, Some(&patience)).is_ok_and(|ready| ready > 0) {
            return false;
        }
        let Ok(length) = rustix::io::read(tap.as_fd(), &mut buffer) else {
            return false;
        };
        let frame = &buffer[HEADER..length];
        if frame.get(PAYLOAD..PAYLOAD + 4) == Some(&number.to_be_bytes()) {
            return true;
        }
    }
}

/// A machine on the bridge with the address 10.100.1.9, and a host beyond that knows no way back into the VMs' network.
async fn machine_and_host_beyond() -> (Host, Host) {
    let (vm, beyond) = (Host::new(), Host::new());
    run(&format!("ip link add near type veth peer name eth0 netns {}", vm.name()));
    run(&format!("ip link set near master {BRIDGE} up"));
    run(&format!("ip link add wan type veth peer name eth0 netns {}", beyond.name()));
    run("ip address add 198.51.100.1/24 dev wan");
    // It takes a while to settle on an IPv6 address, which would look like a change.
    run("ip link set wan addrgenmode none up");
    for (host, address) in [(&vm, "10.100.1.9/16"), (&beyond, "198.51.100.2/24")] {
        host.run(&["ip", "address", "add", address, "dev", "eth0"]).await.unwrap();
        host.run(&["ip", "link", "set", "eth0", "up"]).await.unwrap();
    }
    vm.run(&["ip", "route", "add", "default", "via", "10.100.0.1"]).await.unwrap();
    (vm, beyond)
}

/// What `ip` shows of the links that carry traffic, and the addresses on them.
fn carriers(taps: &[&Tap]) -> Vec<Value> {
    let links = taps.iter().map(|tap| tap.name.as_str()).chain([BRIDGE, "wan"]);
    let shown = links.map(|name| run(&format!("ip -json -details address show dev {name}")));
    let mut shown: Vec<Value> = shown.map(|text| serde_json::from_str(&text).unwrap()).collect();
    // A bridge's timers run.
    for link in shown.iter_mut().filter_map(Value::as_array_mut).flatten() {
        link["linkinfo"] = Value::Null;
    }
    shown
}

#[test]
fn nothing_is_lost_while_the_worker_is_away_and_comes_again() {
    in_namespace(async || {
        run("sysctl -q net.ipv4.ip_forward=0");
        let state = tempfile::tempdir().unwrap();
        let config = || NetworkConfig { state_dir: Some(state.path().to_owned()), ..config() };
        let mut network = HostNetwork::start(config()).await.unwrap();
        let (vm, beyond) = machine_and_host_beyond().await;
        let (near, far) = (network.attach(nic(2)).await.unwrap(), network.attach(nic(3)).await.unwrap());
        eventually("the way beyond", async || {
            vm.run(&["busybox", "ping", "-c", "1", "-W", "1", "198.51.100.2"]).await.ok()
        })
        .await;
        eventually("the ports forward", async || {
            let forwards = |tap: &Tap| {
                link(tap.name.as_str()).unwrap()["linkinfo"]["info_slave_data"]["state"] == "forwarding"
            };
            (forwards(&near) && forwards(&far)).then_some(())
        })
        .await;
        let (before, rules) = (carriers(&[&near, &far]), run("nft -s list ruleset"));
        let streams = [masqueraded_stream(&vm, &beyond).await, frame_stream(&near, &far)];
        more_round_trips(&streams).await;

        for _restart in 0..5 {
            network.shutdown(Teardown::Keep).await.unwrap();
            more_round_trips(&streams).await;
            let kept = vec![kept(2, &near.name), kept(3, &far.name)];
            network = HostNetwork::resume(config(), kept).await.unwrap();
            assert_eq!(network.report().warnings, []);
            more_round_trips(&streams).await;
        }
        let lost = streams.each_ref().map(|stream| (stream.name, stream.lost()));
        assert!(lost.iter().all(|(_, lost)| *lost == 0), "{lost:?}");
        assert_eq!(carriers(&[&near, &far]), before, "no link and no address was touched");
        assert_eq!(run("nft -s list ruleset"), rules);

        // Were something lost, it would be seen.
        let outcome = network.shutdown(Teardown::Remove).await.unwrap();
        assert!(matches!(outcome, host_network::TeardownOutcome::InUse { .. }), "{outcome:?}");
        for stream in streams {
            eventually("a loss", async || (stream.lost() > 0).then_some(())).await;
            stream.stop();
        }
        assert_eq!(run("sysctl -n net.ipv4.conf.wan.forwarding"), "0\n", "as before the first start");
    });
}
