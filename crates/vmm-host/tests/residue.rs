//! What machines on real KVM leave behind: nothing. One test, alone in its process, as counting needs it.

#[path = "support/holdings.rs"]
mod holdings;
#[path = "../../vmm/tests/interfaces/mod.rs"]
mod interfaces;
mod support;

use std::fs;
use std::os::fd::OwnedFd;
use std::time::Duration;

use machine_host::{LaunchRequest, StopPolicy};
use tempfile::TempDir;
use tiny_guest::TinyGuest;
use vm_model::{
    BalloonSpec, DiskAccess, DiskFormat, DiskOptions, DiskSpec, GuestServices, MacAddress, MachineExit,
    MemoryBacking, NicOptions, NicSpec, VsockSpec,
};
use vmm_host::VmmHost;

use holdings::{holdings, mappings_by_name, resident_kib};
use support::{file_with, host, launch, request, within};

/// Lives at the same time; each ends in another way.
const TOGETHER: usize = 4;

/// What all machines have, so that only what one makes for itself can be left behind.
struct Bench {
    host: VmmHost,
    disk: OwnedFd,
    /// One a life at the same time.
    sockets: [TempDir; TOGETHER],
    /// `None` where tests must do without root.
    tap: Option<OwnedFd>,
}

impl Bench {
    fn new() -> Option<Self> {
        Some(Self {
            host: host()?,
            disk: file_with(&[0; 1 << 16]),
            sockets: std::array::from_fn(|_| tempfile::tempdir().expect("a temporary directory")),
            tap: interfaces::tap_of_no_network(),
        })
    }

    /// A machine with every device there is.
    fn request(&self, round: usize, place: usize, guest: &TinyGuest) -> LaunchRequest {
        const BACKINGS: [MemoryBacking; 3] =
            [MemoryBacking::SharedMemfd, MemoryBacking::AnonymousHuge, MemoryBacking::AnonymousMergeable];
        let mut request = request(&format!("vm-{place}"), guest);
        let clone = |fd: &OwnedFd| fd.try_clone().expect("a descriptor");
        let spec = &mut request.spec;
        spec.memory.backing = BACKINGS[round % BACKINGS.len()];
        spec.disks.push(DiskSpec {
            direct_file: None,
            id: "root".into(),
            file: clone(&self.disk),
            format: DiskFormat::Raw,
            access: DiskAccess::ReadWrite,
            serial: None,
            queue_size: 128,
            options: DiskOptions::default(),
        });
        spec.nics.extend(self.tap.as_ref().map(|tap| NicSpec {
            id: "net0".into(),
            taps: vec![clone(tap)],
            mac: MacAddress::new([2, 0, 0, 0, 0, 1]),
            mtu: None,
            queue_size: 256,
            vhost: None,
            options: NicOptions::default(),
        }));
        spec.rng = true;
        let directory = fs::File::open(self.sockets[place].path()).expect("it is there").into();
        spec.services = GuestServices {
            balloon: Some(BalloonSpec { free_page_reporting: true, ..BalloonSpec::default() }),
            vsock: Some(VsockSpec { cid: 3, directory }),
            console: true,
            watchdog: true,
            ..GuestServices::default()
        };
        request
    }

    /// The life of one of a round's machines.
    async fn life(&self, round: usize, place: usize) {
        let start = async |guest| launch(&self.host, self.request(round, place, &guest)).await;
        match place {
            0 | 1 => {
                let guest = if place == 0 { TinyGuest::block() } else { TinyGuest::entropy() };
                let machine = start(guest).await;
                assert_eq!(within(machine.exited()).await, MachineExit::PoweredOff);
                within(machine.released()).await;
            }
            2 => {
                let machine = start(TinyGuest::spin()).await;
                within(machine.stop(StopPolicy::KILL)).await.expect("it stops");
                within(machine.released()).await;
            }
            _ => drop(start(TinyGuest::idle()).await),
        }
    }

    /// Four machines at the same time, until nothing is left of them that the host knows of.
    async fn round(&self, round: usize) {
        tokio::join!(self.life(round, 0), self.life(round, 1), self.life(round, 2), self.life(round, 3));
        within(async {
            while self.host.counts().hosted > 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await;
    }
}

#[tokio::test]
async fn a_thousand_machines_leave_nothing_behind() {
    /// By then the allocator holds on to as much as it ever will.
    const SETTLED: usize = 500;
    const LIVES: usize = 1000;
    let Some(bench) = Bench::new() else { return };
    for round in 0..6 {
        bench.round(round).await;
    }
    let (before, mapped) = (holdings(), mappings_by_name());
    let mut settled_kib = 0;
    for round in 0..LIVES / TOGETHER {
        if round == SETTLED / TOGETHER {
            settled_kib = resident_kib();
        }
        bench.round(round).await;
    }
    let after = holdings();
    assert_eq!(after.descriptors, before.descriptors);
    assert_eq!(after.threads, before.threads);
    // The allocator and cached thread stacks may take a few mappings more; machines take several each.
    assert!(
        after.mappings <= before.mappings + 16,
        "{before:?} became {after:?}: {mapped:?} became {:?}",
        mappings_by_name()
    );
    let growth_kib = resident_kib().saturating_sub(settled_kib);
    assert!(growth_kib < (LIVES - SETTLED) as u64, "{growth_kib} KiB more after {SETTLED} lives more");

    let report = within(bench.host.shut_down(Duration::from_secs(10))).await;
    assert_eq!(report.remaining, []);
    assert!(holdings().threads < before.threads, "the reaper has ended");
}
