//! A hostile Linux guest on a network with a neighbour: whatever it puts on the wire changes neither the neighbour nor the
//! host. What each frame meets is in `docs/networking.md`.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use end_to_end::{
    Assignment, ObservedVm, SHORT_DEADLINE, Worker, figure, http_get, http_post, noise, ping, until,
};
use test_frames::{
    ALL_NODES, BROADCAST, Mac, arp, ethernet, fragment, icmpv6, ipv4, ipv4_with_options, ipv6, router_alert,
    udp,
};

use crate::environment;

const BRIDGE: &str = "br-procurator";
const ROUTER: Ipv4Addr = Ipv4Addr::new(10, 100, 0, 1);
/// Who is on no network here, and whom frames speak for.
const STRANGER: Ipv4Addr = Ipv4Addr::new(10, 100, 9, 9);
/// What the guest's page `frames` takes as one frame. The rest of a shorter one is padding.
const FRAME: usize = 128;
const ARP: u16 = 0x0806;
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const ICMPV6: u8 = 58;

/// A guest as its neighbours know it.
#[derive(Clone, Copy)]
struct Station {
    mac: Mac,
    address: Ipv4Addr,
}

#[test]
#[ignore = "full: floods"]
fn a_hostile_guest_changes_neither_its_neighbour_nor_its_host() -> Result<()> {
    let environment = environment();
    let worker = Worker::start(&environment)?;
    let mallory = Assignment::of(&environment.image("everything")?, "mallory");
    let alice = Assignment::of(&environment.image("guest")?, "alice");
    worker.assign(&[mallory.clone(), alice.clone()])?;
    let mallorys = station(&worker.wait_until_answering("mallory")?)?;
    let alices = station(&worker.wait_until_answering("alice")?)?;

    a_good_frame_arrives(mallorys, alices)?;
    let before = Seen::of(alices)?;
    send(mallorys.address, &lies(mallorys, alices)?, 3)?;
    before.ensure_same_as(&Seen::of(alices)?)?;
    ensure!(ping(alices.address).is_ok(), "the neighbour does not answer any more");
    let counted = dropped()?;
    for what in [
        "another's MAC address",
        "another's MAC address in ARP",
        "another's IPv4 address in ARP",
        "another's IPv4 address",
        "plays a DHCP server",
        "plays a router",
        "an extension header, a fragment, or no protocol of a VM",
        "advertises another's IPv6 address",
        "another's IPv6 address",
        "neither IP nor ARP",
    ] {
        ensure!(
            counted.get(what).is_some_and(|count| *count > 0),
            "nothing was dropped as {what:?}: {counted:?}"
        );
    }

    a_flood_leaves_nothing_behind(mallorys, alices)?;
    before.ensure_same_as(&Seen::of(alices)?)?;

    // Somebody who asks for an address meanwhile gets it from the worker.
    let said = http_get(mallorys.address, "/cgi-bin/dhcp-server")?;
    ensure!(said == b"serving\n", "{}", String::from_utf8_lossy(&said));
    let carol = Assignment::of(&environment.image("guest")?, "carol");
    worker.assign(&[mallory, alice, carol])?;
    let carols = station(&worker.wait_until_answering("carol")?)?;
    let way = format!("route default via {ROUTER}");
    let known = page(carols.address)?;
    ensure!(known.contains(&way), "no {way:?}: {known}");
    assert!(worker.terminate()?.status.success());
    Ok(())
}

fn station(vm: &ObservedVm) -> Result<Station> {
    let written = vm.mac.clone().context("it has no MAC address")?;
    let octets: Result<Vec<u8>, _> = written.split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
    let octets = octets.with_context(|| format!("{written:?} is no MAC address"))?;
    let mac = Mac::try_from(octets).map_err(|_| anyhow::anyhow!("{written:?} is no MAC address"))?;
    Ok(Station { mac, address: vm.address()? })
}

/// Without this, all that follows would pass where nothing is sent at all.
fn a_good_frame_arrives(from: Station, to: Station) -> Result<()> {
    let known = |who: Ipv4Addr| anyhow::Ok(page(to.address)?.contains(&format!("neighbour {who} ")));
    ensure!(!known(from.address)?, "they know each other already");
    send(
        from.address,
        &[ethernet(BROADCAST, from.mac, ARP, &arp(1, from.mac, from.address, to.address))],
        1,
    )?;
    until("a question is heard", SHORT_DEADLINE, || {
        ensure!(known(from.address)?, "the neighbour knows nobody");
        Ok(())
    })
}

/// What a guest has no right to say.
fn lies(own: Station, other: Station) -> Result<Vec<Vec<u8>>> {
    let router = mac_of_bridge()?;
    let (own_six, other_six) = (link_local(own.mac), link_local(other.mac));
    let six = |from, next, payload: &[u8]| {
        ethernet([0x33, 0x33, 0, 0, 0, 1], own.mac, IPV6, &ipv6(from, ALL_NODES, next, payload))
    };
    let four =
        |mac, from, payload: &[u8]| ethernet(other.mac, mac, IPV4, &ipv4(from, other.address, 17, payload));
    let advertisement = icmpv6(own_six, ALL_NODES, 134, [64, 0, 0x0e, 0x10], &prefix());
    let of_another = [&other_six.octets()[..], &[2, 1], &own.mac].concat();
    let offer = udp(67, 68, &[2, 1, 6, 0]);
    let mut tagged = vec![0, 5];
    tagged.extend(IPV6.to_be_bytes());
    tagged.extend(ipv6(own_six, ALL_NODES, ICMPV6, &advertisement));
    Ok(vec![
        four(other.mac, own.address, &udp(9, 9, b"by its MAC address")),
        four(router, ROUTER, &udp(9, 9, b"as the router")),
        four(own.mac, STRANGER, &udp(9, 9, b"from nowhere")),
        ethernet(BROADCAST, own.mac, ARP, &arp(2, own.mac, ROUTER, other.address)),
        ethernet(other.mac, own.mac, ARP, &arp(2, own.mac, ROUTER, other.address)),
        ethernet(router, own.mac, ARP, &arp(2, own.mac, other.address, ROUTER)),
        ethernet(other.mac, own.mac, ARP, &arp(1, own.mac, STRANGER, other.address)),
        ethernet(other.mac, own.mac, ARP, &arp(1, router, own.address, other.address)),
        four(own.mac, own.address, &offer),
        ethernet(other.mac, own.mac, IPV4, &ipv4_with_options(own.address, other.address, 17, &offer)),
        six(own_six, ICMPV6, &advertisement),
        six(own_six, 0, &router_alert(ICMPV6, &advertisement)),
        six(own_six, 60, &router_alert(ICMPV6, &advertisement)),
        six(own_six, 44, &fragment(ICMPV6, 0, false, &advertisement)),
        six(own_six, 44, &fragment(ICMPV6, 0, true, &advertisement[..8])),
        six(own_six, 44, &fragment(ICMPV6, 8, false, &advertisement[8..])),
        six(own_six, ICMPV6, &icmpv6(own_six, ALL_NODES, 136, [0x20, 0, 0, 0], &of_another)),
        six(other_six, 17, &udp(5353, 5353, b"by its IPv6 address")),
        ethernet(BROADCAST, own.mac, VLAN, &tagged),
        ethernet([1, 0x80, 0xc2, 0, 0, 0], own.mac, 0x88cc, b"below IP"),
    ])
}

/// Times of a router advertisement, and 2001:db8:1::/64 for autoconfiguration (RFC 4861 §4.2, §4.6.2).
fn prefix() -> Vec<u8> {
    let mut body = vec![0; 8];
    body.extend([3, 4, 64, 0xc0]);
    body.extend(86_400_u32.to_be_bytes());
    body.extend(86_400_u32.to_be_bytes());
    body.extend([0; 4]);
    body.extend(Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 0).octets());
    body
}

/// Thousands of frames from hundreds of MAC addresses, while the neighbour is asked for its page.
#[expect(clippy::print_stdout, reason = "how much passed tells what a flood costs")]
fn a_flood_leaves_nothing_behind(mallory: Station, alice: Station) -> Result<()> {
    const POSTS: u32 = 8;
    const ROUNDS: u32 = 2;
    let mut frames = noise(1, 512 * FRAME);
    for frame in frames.chunks_mut(FRAME) {
        // To somebody, from a station that there could be, of a kind that is let through.
        frame[0] &= 0xfe;
        frame[6] &= 0xfe;
        frame[12..14].copy_from_slice(&IPV4.to_be_bytes());
    }
    let (entries, kernel) = (bridge_entries()?, figure("/proc/meminfo", "SUnreclaim")?);
    let quiet = pages_in(alice.address, Duration::from_secs(4))?;
    let (is_over, pages) = (AtomicBool::new(false), AtomicU32::new(0));
    let start = Instant::now();
    let (sent, asked) = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                http_get(alice.address, "/")?;
                pages.fetch_add(1, Ordering::Relaxed);
            }
            anyhow::Ok(())
        });
        let sent = (0..POSTS).try_for_each(|_| put_on_the_wire(mallory.address, &frames, ROUNDS));
        is_over.store(true, Ordering::Relaxed);
        (sent, asking.join().expect("no panic"))
    });
    sent?;
    asked.context("the neighbour during the flood")?;
    let grown = figure("/proc/meminfo", "SUnreclaim")?.saturating_sub(kernel);
    println!(
        "{} frames in {:.1?}; the neighbour's page came {} times meanwhile, {:.1} times a second before; \
         the kernel has {grown} KiB more",
        POSTS * ROUNDS * 512,
        start.elapsed(),
        pages.into_inner(),
        quiet,
    );
    ensure!(bridge_entries()? == entries, "the bridge has learnt from the flood");
    ensure!(grown < 4 << 10, "the kernel has {grown} KiB more");
    Ok(())
}

/// How often a second the page comes.
fn pages_in(address: Ipv4Addr, time: Duration) -> Result<f64> {
    let (start, mut pages) = (Instant::now(), 0);
    while start.elapsed() < time {
        http_get(address, "/")?;
        pages += 1;
    }
    Ok(f64::from(pages) / start.elapsed().as_secs_f64())
}

/// What a guest and its host go by.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    /// Addresses and routes of the neighbour.
    guest: Vec<String>,
    /// The MAC address by which the neighbour knows its router.
    router: Option<String>,
    /// Routes and addresses of the host.
    host: String,
    /// The MAC address by which the host knows the neighbour.
    arp: Option<String>,
    /// Which address is behind which port of the bridge.
    ports: Vec<String>,
}

impl Seen {
    fn of(guest: Station) -> Result<Self> {
        let page = page(guest.address)?;
        let is_settled = |line: &&str| !line.starts_with("neighbour ");
        let ask = |words: &[&str]| busybox(words);
        let mut host = ask(&["ip", "-4", "route"])?;
        host += &ask(&["ip", "-6", "route"])?;
        host += &ask(&["ip", "-6", "address", "show", "dev", BRIDGE])?;
        let known = format!("neighbour {STRANGER} ");
        ensure!(!page.contains(&known), "the neighbour believes in a stranger: {page}");
        Ok(Self {
            guest: page.lines().filter(is_settled).map(str::to_owned).collect(),
            router: mac_in(&page, &format!("neighbour {ROUTER} ")),
            host,
            arp: mac_in(&ask(&["ip", "neigh", "show"])?, &format!("{} ", guest.address)),
            ports: bridge_entries()?,
        })
    }

    fn ensure_same_as(&self, now: &Self) -> Result<()> {
        ensure!(
            self.router.is_some() && self.arp.is_some(),
            "host and guest do not know each other: {self:?}"
        );
        ensure!(self == now, "it was {self:#?}, and is {now:#?}");
        Ok(())
    }
}

/// The word after `lladdr` in the line that begins with `beginning`.
fn mac_in(text: &str, beginning: &str) -> Option<String> {
    let line = text.lines().find(|line| line.starts_with(beginning))?;
    let (_, mac) = line.split_once("lladdr ")?;
    mac.split_whitespace().next().map(str::to_owned)
}

fn page(address: Ipv4Addr) -> Result<String> {
    Ok(String::from_utf8_lossy(&http_get(address, "/cgi-bin/neighbours")?).into_owned())
}

fn send(by: Ipv4Addr, frames: &[Vec<u8>], rounds: u32) -> Result<()> {
    let mut posted = Vec::new();
    for frame in frames {
        ensure!(frame.len() <= FRAME, "a frame of {} bytes", frame.len());
        posted.extend(frame);
        posted.resize(posted.len().next_multiple_of(FRAME), 0);
    }
    put_on_the_wire(by, &posted, rounds)
}

fn put_on_the_wire(by: Ipv4Addr, frames: &[u8], rounds: u32) -> Result<()> {
    let said = http_post(by, &format!("/cgi-bin/frames?{rounds}"), frames)?;
    ensure!(said == b"sent\n", "not sent: {}", String::from_utf8_lossy(&said));
    Ok(())
}

/// The bridge's table of addresses, each with its port's number: entries of 16 bytes (`struct __fdb_entry` of
/// `linux/if_bridge.h`).
fn bridge_entries() -> Result<Vec<String>> {
    let path = format!("/sys/class/net/{BRIDGE}/brforward");
    let table = std::fs::read(&path).with_context(|| format!("cannot read {path}"))?;
    let mut entries: Vec<String> =
        table.chunks_exact(16).map(|entry| format!("{:02x?} at port {}", &entry[..6], entry[6])).collect();
    entries.sort();
    Ok(entries)
}

/// How many frames each rule of the ports has dropped, by its comment.
fn dropped() -> Result<BTreeMap<String, u64>> {
    let output = Command::new("nft").args(["list", "table", "bridge", "procurator"]).output();
    let text = String::from_utf8_lossy(&output.context("cannot start nft")?.stdout).into_owned();
    let rule = |line: &str| {
        let (_, after) = line.split_once("counter packets ")?;
        let (count, _) = after.split_once(' ')?;
        let (_, comment) = line.split_once("comment \"")?;
        Some((comment.trim_end().trim_end_matches('"').to_owned(), count.parse().ok()?))
    };
    let mut counted = BTreeMap::new();
    for (comment, count) in text.lines().filter_map(rule) {
        let _: &mut u64 = counted.entry(comment).and_modify(|sum| *sum += count).or_insert(count);
    }
    Ok(counted)
}

fn mac_of_bridge() -> Result<Mac> {
    let path = format!("/sys/class/net/{BRIDGE}/address");
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let octets: Result<Vec<u8>, _> =
        text.trim().split(':').map(|octet| u8::from_str_radix(octet, 16)).collect();
    Mac::try_from(octets.context("no MAC address")?).map_err(|_| anyhow::anyhow!("no MAC address"))
}

fn link_local([a, b, c, d, e, f]: Mac) -> Ipv6Addr {
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

fn busybox(words: &[&str]) -> Result<String> {
    let output = Command::new("busybox").args(words).output().context("cannot start busybox")?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` failed: {}", words.join(" "), errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
