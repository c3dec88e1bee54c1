//! What a host network costs: making and removing interfaces, and what is left to two neighbours while a third guest sends what it
//! must not. In a network namespace of its own, by the kernel's own bridge and rules; guests are their TAPs' open ends.

use std::net::Ipv4Addr;
use std::num::NonZeroU16;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures_util::StreamExt;
use host_network::{HostNetwork, LinkName, NetworkConfig, NicAttachment, Tap, Teardown, VNET_HEADER_BYTES};
use rustix::thread::{CpuSet, sched_setaffinity};
use test_frames::{BROADCAST, arp, ethernet, ipv4, udp};
use vm_model::{MacAddress, VmId};

use crate::machines::nanoseconds;

/// Interfaces that are made at the same time, as a worker does.
const AT_ONCE: usize = 8;
/// How long neighbours are watched at a time, of processor time of theirs: who else the host runs meanwhile is left out.
const WINDOW: Duration = Duration::from_millis(250);
/// Longer than a port takes to forward.
const PATIENCE: Duration = Duration::from_secs(10);
/// Bytes of a neighbour's frame beside its headers.
const PAYLOAD: usize = 1400;

/// Makes `count` interfaces one after another and removes them, then again as many at the same time as a worker makes. Answers the
/// time of each that was made, that of each that was removed, and that of all of the second round.
pub(crate) fn taps(count: usize) -> Result<Vec<u64>> {
    in_namespace(async move || {
        let network = start().await?;
        let (mut made, mut removed, mut taps) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..count {
            let begun = Instant::now();
            taps.push(network.attach(attachment(number)?).await?);
            made.push(nanoseconds(begun.elapsed()));
        }
        for (number, tap) in taps.into_iter().enumerate() {
            drop(tap);
            let begun = Instant::now();
            network.detach(&attachment(number)?.vm, "net0").await?;
            removed.push(nanoseconds(begun.elapsed()));
        }
        let begun = Instant::now();
        let wanted = (0..count).map(attachment).collect::<Result<Vec<_>>>()?;
        let attaching = wanted.into_iter().map(|wanted| network.attach(wanted));
        let mut attaching = futures_util::stream::iter(attaching).buffer_unordered(AT_ONCE);
        let mut taps = Vec::new();
        while let Some(tap) = attaching.next().await {
            taps.push(tap?);
        }
        let together = nanoseconds(begun.elapsed());
        drop((attaching, taps));
        network.shutdown(Teardown::Remove).await?;
        Ok([made, removed, vec![together]].concat())
    })
}

/// Has two neighbours exchange frames on one processor, by turns alone and while a third guest sends what is dropped or limited
/// as fast as it can on another. Answers, for each of `turns`, the frames that arrived in a quarter of a second of processor time,
/// alone and beside the flood, and the frames of the flood in a second.
pub(crate) fn neighbours(turns: usize) -> Result<Vec<u64>> {
    in_namespace(async move || {
        let network = start().await?;
        let mut taps = Vec::new();
        for number in 0..3 {
            taps.push(network.attach(attachment(number)?).await?);
        }
        let [from, to, hostile] = &taps[..] else { bail!("three TAPs were made") };
        let pair = Pair { from, to, frame: exchanged()? };
        pair.wait_until_forwarding()?;
        pin(0)?;
        let mut figures = Vec::new();
        for _ in 0..turns {
            figures.push(pair.exchange()?);
            let flood = Flood::start(hostile)?;
            let flooded = pair.exchange();
            let sent = flood.stop()?;
            figures.extend([flooded?, sent]);
        }
        drop(taps);
        network.shutdown(Teardown::Remove).await?;
        Ok(figures)
    })
}

/// Runs `measure` on a thread with a network of its own.
pub(crate) fn in_namespace<F: Future<Output = Result<Vec<u64>>>>(
    measure: impl FnOnce() -> F + Send + 'static,
) -> Result<Vec<u64>> {
    let (answer, answered) = channel();
    test_host::isolated(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let measured =
            runtime.context("cannot start a runtime").and_then(|runtime| runtime.block_on(measure()));
        // It is waited for.
        let _ = answer.send(measured);
    });
    answered.recv().context("nothing was measured")?
}

pub(crate) async fn start() -> Result<HostNetwork> {
    let config = NetworkConfig::new(LinkName::parse("bench0")?, "10.78.0.0/16".parse()?);
    Ok(HostNetwork::start(config).await?)
}

pub(crate) fn attachment(number: usize) -> Result<NicAttachment> {
    let number = u16::try_from(number)?.checked_add(2).context("so many VMs have no addresses")?;
    let [high, low] = number.to_be_bytes();
    Ok(NicAttachment {
        vm: VmId::new(&format!("bench-{number}")),
        nic: "net0".to_owned(),
        mac: MacAddress::new([2, 0x50, 10, 78, high, low]),
        address: Ipv4Addr::new(10, 78, high, low),
        mask: None,
        mtu: None,
        tap_hint: None,
        queues: NonZeroU16::MIN,
        access: vm_model::NetworkAccess::default(),
    })
}

/// A frame as it is written to a TAP.
pub(crate) fn on_wire(frame: &[u8]) -> Vec<u8> {
    [&[0; VNET_HEADER_BYTES as usize][..], frame].concat()
}

/// What the neighbours exchange.
fn exchanged() -> Result<Vec<u8>> {
    let (from, to) = (attachment(0)?, attachment(1)?);
    let packet = ipv4(from.address, to.address, 17, &udp(7, 7, &[0; PAYLOAD]));
    Ok(on_wire(&ethernet(to.mac.octets(), from.mac.octets(), 0x0800, &packet)))
}

/// What the third guest sends: in another's name, to everybody, to the DHCP server and to the name server, and beyond the network
/// from a new port each time.
fn hostile_frames() -> Result<Vec<Vec<u8>>> {
    let (own, other) = (attachment(2)?, attachment(0)?);
    let (mac, address, gateway) = (own.mac.octets(), own.address, Ipv4Addr::new(10, 78, 0, 1));
    let unspecified = Ipv4Addr::UNSPECIFIED;
    let four = |to: [u8; 6], from: [u8; 6], packet: &[u8]| on_wire(&ethernet(to, from, 0x0800, packet));
    let question = |port| ipv4(address, gateway, 17, &udp(port, 53, &[0; 40]));
    let mut frames = Vec::new();
    for port in 1024..1280 {
        frames.extend([
            four(
                BROADCAST,
                other.mac.octets(),
                &ipv4(address, Ipv4Addr::BROADCAST, 17, &udp(port, 9, &[0; 100])),
            ),
            four(other.mac.octets(), mac, &ipv4(other.address, address, 17, &udp(port, 9, &[0; 100]))),
            on_wire(&ethernet(BROADCAST, mac, 0x0806, &arp(2, mac, gateway, other.address))),
            four(BROADCAST, mac, &ipv4(address, Ipv4Addr::BROADCAST, 17, &udp(port, 9, &[0; 100]))),
            four(BROADCAST, mac, &ipv4(unspecified, Ipv4Addr::BROADCAST, 17, &udp(68, 67, &[0; 240]))),
            four(BROADCAST, mac, &question(port)),
        ]);
    }
    Ok(frames)
}

/// Two neighbours, seen from their TAPs.
struct Pair<'a> {
    from: &'a Tap,
    to: &'a Tap,
    frame: Vec<u8>,
}

impl Pair<'_> {
    /// A port forwards a moment after it is up.
    fn wait_until_forwarding(&self) -> Result<()> {
        let begun = Instant::now();
        while self.pass()? == 0 {
            ensure!(begun.elapsed() < PATIENCE, "no frame came from neighbour to neighbour");
            thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    }

    /// Sends a frame, and counts those of its length that have arrived; broadcasts of others are taken along.
    fn pass(&self) -> Result<u64> {
        rustix::io::write(self.from.fds[0].as_fd(), &self.frame).context("the TAP takes no frame")?;
        let (mut arrived, mut buffer) = (0, [0; 2048]);
        while let Ok(length) = rustix::io::read(self.to.fds[0].as_fd(), &mut buffer) {
            arrived += u64::from(length == self.frame.len());
        }
        Ok(arrived)
    }

    /// Frames that arrive within a [`WINDOW`].
    fn exchange(&self) -> Result<u64> {
        let (begun, mut arrived) = (processor_time()?, 0);
        while processor_time()?.saturating_sub(begun) < WINDOW {
            for _ in 0..256 {
                arrived += self.pass()?;
            }
        }
        Ok(arrived)
    }
}

/// For how long this thread has run on a processor, in its own code and in the kernel.
fn processor_time() -> Result<Duration> {
    let text =
        std::fs::read_to_string("/proc/thread-self/schedstat").context("the kernel does not count time")?;
    let run = text.split_whitespace().next().context("the kernel counts no time")?;
    Ok(Duration::from_nanos(run.parse().context("the kernel counts in no number")?))
}

/// A thread that sends [`hostile_frames`] again and again.
struct Flood {
    is_over: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    begun: Instant,
    thread: thread::JoinHandle<Result<()>>,
}

impl Flood {
    fn start(tap: &Tap) -> Result<Self> {
        let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let wire = tap.fds[0].try_clone().context("cannot share a TAP")?;
        let (over, count, frames) = (Arc::clone(&is_over), Arc::clone(&sent), hostile_frames()?);
        let thread = thread::spawn(move || flood(&wire, &frames, &over, &count));
        Ok(Self { is_over, sent, begun: Instant::now(), thread })
    }

    /// How many frames it has sent in a second.
    fn stop(self) -> Result<u64> {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| anyhow::anyhow!("the flood has failed"))??;
        let milliseconds = u64::try_from(self.begun.elapsed().as_millis())?.max(1);
        Ok(self.sent.load(Ordering::Relaxed) * 1000 / milliseconds)
    }
}

fn flood(wire: &OwnedFd, frames: &[Vec<u8>], is_over: &AtomicBool, sent: &AtomicU64) -> Result<()> {
    pin(1)?;
    let mut buffer = [0; 2048];
    while !is_over.load(Ordering::Relaxed) {
        for frame in frames {
            rustix::io::write(wire, frame).context("the TAP takes no frame")?;
        }
        sent.fetch_add(u64::try_from(frames.len())?, Ordering::Relaxed);
        // What it is told is of no interest.
        while rustix::io::read(wire, &mut buffer).is_ok() {}
    }
    Ok(())
}

/// Keeps this thread on one processor, where there is more than one.
fn pin(processor: usize) -> Result<()> {
    if thread::available_parallelism().is_ok_and(|count| count.get() > processor) {
        let mut only = CpuSet::new();
        only.set(processor);
        sched_setaffinity(None, &only).context("cannot stay on one processor")?;
    }
    Ok(())
}
