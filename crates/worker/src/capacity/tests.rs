//! Shares of a host, and what is said to who gets none.

use proptest::prelude::*;
use vm_model::{HugePageSize, MemoryBacking, MemorySpec};

use super::admission::{MachineProcesses, carried};
use super::huge_pages::{HugePool, HugePools};
use super::resources::{HostMemory, Most};
use super::*;
use crate::vms::MemoryOvercommit;

fn memory(size: Bytes) -> MemorySpec {
    MemorySpec { size, backing: MemoryBacking::SharedMemfd, prefault: false }
}

/// Of a machine that takes 4 MiB besides.
fn of(memory: MemorySpec) -> Footprint {
    Footprint { overhead: Bytes::from_mib(4), ..Footprint::of_memory(memory) }
}

fn machine(mib: u64) -> Footprint {
    of(memory(Bytes::from_mib(mib)))
}

fn has(memory: HostMemory) -> HostResources {
    HostResources { memory: Some(memory), ..HostResources::default() }
}

fn host(mib: u64) -> HostResources {
    has(HostMemory { total: Bytes::from_mib(mib), huge_pages: Bytes::new(0) })
}

fn rules(memory: MemoryOvercommit, machines: MachineProcesses) -> CapacityRules {
    CapacityRules { memory, vcpus_per_processor: 4, machines, users: None }
}

fn capacity(memory: MemoryOvercommit) -> Arc<Capacity> {
    Capacity::new(rules(memory, MachineProcesses::Apart))
}

fn limited(percent: u32) -> Arc<Capacity> {
    capacity(MemoryOvercommit::Percent(percent))
}

#[test]
fn what_may_be_promised_is_what_starts_are_held_against() {
    let huge = HostMemory { total: Bytes::from_mib(1380), huge_pages: Bytes::from_mib(100) };
    assert_eq!(limited(100).assignable_memory(&has(huge)), Some(Bytes::from_mib(1024)));
    assert_eq!(limited(150).assignable_memory(&host(1280)), Some(Bytes::from_mib(1664)));
    assert_eq!(capacity(MemoryOvercommit::Unlimited).assignable_memory(&host(1280)), None);
    assert_eq!(limited(100).assignable_memory(&HostResources::default()), None);
}

#[test]
fn shares_add_up_and_come_back() {
    let capacity = limited(100);
    let first = capacity.take(&machine(500), &host(1280), None).expect("fits");
    let _second = capacity.take(&machine(512), &host(1280), None).expect("fits");
    let refused = capacity.take(&machine(1), &host(1280), None).expect_err("1020 of 1024 MiB are promised");
    insta::assert_snapshot!(refused, @"not enough memory: the machine takes 5 MiB, 1020 MiB are promised already (machines: 2), and this host's machines may have 1024 MiB together (100 % of 1280 MiB, less a reserve of 256 MiB)");
    drop(first);
    capacity.take(&machine(504), &host(1280), None).expect("fits again");
}

#[test]
fn a_ratio_stretches_and_shrinks_what_is_promised() {
    let twice = limited(200);
    let _one = twice.take(&machine(1000), &host(1000), None).expect("fits");
    twice.take(&machine(736), &host(1000), None).expect("2000 MiB less the reserve are 1744");
    twice.take(&machine(737), &host(1000), None).expect_err("a MiB too many");
    twice.take(&machine(1001), &host(1000), None).expect_err("no machine is larger than its host");
    limited(50)
        .take(&machine(300), &host(1000), None)
        .expect_err("half as much, less the reserve, is 244 MiB");
    limited(100).take(&machine(16), &host(200), None).expect_err("the reserve is more than there is");
}

#[test]
fn without_a_limit_a_machine_must_fit_by_itself() {
    let capacity = capacity(MemoryOvercommit::Unlimited);
    let _one = capacity.take(&machine(100), &host(100), None).expect("fits");
    let _two = capacity.take(&machine(100), &host(100), None).expect("nothing is added up");
    let refused = capacity.take(&machine(101), &host(100), None).expect_err("too large");
    insta::assert_snapshot!(refused, @"not enough memory: the machine is to have 101 MiB, this host has 100 MiB in all");
    limited(100)
        .take(&machine(1 << 20), &HostResources::default(), None)
        .expect("a host that does not say refuses nothing");
}

#[test]
fn huge_pages_are_the_kernels_to_promise() {
    let aside = has(HostMemory { total: Bytes::from_mib(4096), huge_pages: Bytes::from_mib(3072) });
    let backing = MemoryBacking::HugePages(HugePageSize::TwoMib);
    let huge = of(MemorySpec { backing, ..memory(Bytes::from_mib(3072)) });
    limited(100).take(&huge, &aside, None).expect("only what is beside them counts");
    limited(100).take(&machine(800), &aside, None).expect_err("1024 MiB are left, less the reserve");
}

#[test]
fn too_few_huge_pages_are_told_before_a_machine_is_stopped_for_them() {
    let pool = HugePool { unpromised: 8, ..HugePool::default() };
    let pools = HugePools { two_mib: Some(pool), one_gib: Some(HugePool::default()) };
    let host = HostResources { huge_pages: pools, ..HostResources::default() };
    let huge = |mib, size| {
        of(MemorySpec { backing: MemoryBacking::HugePages(size), ..memory(Bytes::from_mib(mib)) })
    };
    let (capacity, small) = (limited(100), huge(32, HugePageSize::TwoMib));
    let freed = Some(Demand::of(&small));
    capacity.check(&huge(48, HugePageSize::TwoMib), &host, freed).expect("16 are its own, and 8 are free");
    let refused = capacity.check(&huge(50, HugePageSize::TwoMib), &host, freed).expect_err("one too many");
    insta::assert_snapshot!(refused, @"not enough huge pages of 2 MiB: the machine takes 25, and 24 are free with those that are given back before (vm.nr_hugepages)");
    let refused =
        capacity.check(&huge(1024, HugePageSize::OneGib), &host, freed).expect_err("of another size");
    insta::assert_snapshot!(refused, @"not enough huge pages of 1 GiB: the machine takes 1, and 0 are free (vm.nr_hugepages)");
    let shrunk = HugePools { two_mib: Some(HugePool { surplus: 16, unpromised: 0, overcommit: 0 }), ..pools };
    let shrunk = HostResources { huge_pages: shrunk, ..host.clone() };
    capacity.check(&small, &shrunk, freed).expect_err("its own are kept no more");
    let added = Demand::of(&huge(10, HugePageSize::TwoMib));
    let change = DemandChange { freed: Demand::of(&small), added };
    capacity.check_after(&huge(38, HugePageSize::TwoMib), &host, &change).expect("another gets 5 of them");
    capacity.check_after(&huge(40, HugePageSize::TwoMib), &host, &change).expect_err("one too many");
}

/// On a host where nothing runs out but what `limit` says.
fn refused_on(limit: impl FnOnce(&mut HostResources), machines: MachineProcesses, others: usize) -> String {
    let mut host = HostResources::default();
    limit(&mut host);
    let capacity = Capacity::new(rules(MemoryOvercommit::Unlimited, machines));
    let machine = Footprint { threads: 10, descriptors: 60, vcpus: 3, ..machine(64) };
    let shares: Vec<Share> =
        (0..others).map(|_| capacity.take(&machine, &host, None).expect("it fits")).collect();
    let refused = capacity.take(&machine, &host, None).expect_err("one too many").to_string();
    drop(shares);
    capacity.take(&machine, &host, None).expect("fits again");
    refused
}

#[test]
fn what_is_counted_runs_out_with_figures() {
    let apart = MachineProcesses::Apart;
    let threads = |host: &mut HostResources| {
        host.threads = Some(Most { most: 535, by: "/proc/sys/kernel/threads-max".to_owned() });
    };
    insta::assert_snapshot!(refused_on(threads, apart, 2), @"not enough threads: the machine takes 10, 20 are promised already (machines: 2), and this host's machines may have 23 together (535 by /proc/sys/kernel/threads-max, less a reserve of 512)");
    let vcpus = |host: &mut HostResources| host.processors = Some(2);
    insta::assert_snapshot!(refused_on(vcpus, apart, 2), @"not enough vCPUs: the machine takes 3, 6 are promised already (machines: 2), and this host's machines may have 8 together (processors: 2; limits.vcpus_per_processor: 4)");
    let files = |host: &mut HostResources| host.descriptors = Some(304);
    insta::assert_snapshot!(refused_on(files, apart, 3), @"not enough descriptors of the worker: the machine takes 16, 48 are promised already (machines: 3), and this host's machines may have 48 together (RLIMIT_NOFILE 304, less a reserve of 256; LimitNOFILE= of its service)");
    let inside = |host: &mut HostResources| host.descriptors = Some(400);
    insta::assert_snapshot!(refused_on(inside, MachineProcesses::This, 2), @"not enough descriptors of the worker: the machine takes 60, 120 are promised already (machines: 2), and this host's machines may have 144 together (RLIMIT_NOFILE 400, less a reserve of 256; LimitNOFILE= of its service)");
    let few = HostResources { descriptors: Some(50), ..HostResources::default() };
    let refused = limited(100).take(&Footprint { descriptors: 60, ..machine(64) }, &few, None);
    insta::assert_snapshot!(refused.expect_err("too few"), @"not enough descriptors: the machine needs up to 60, and a process may have 50 open here (RLIMIT_NOFILE of the worker; LimitNOFILE= of its service)");
}

#[test]
fn each_machine_takes_a_user() {
    let users = Some("7000-7001".parse().expect("a range"));
    let rules = CapacityRules { users, ..rules(MemoryOvercommit::Unlimited, MachineProcesses::Apart) };
    let (capacity, host) = (Capacity::new(rules), HostResources::default());
    let _shares = [(); 2].map(|()| capacity.take(&machine(64), &host, None).expect("it fits"));
    let refused = capacity.take(&machine(64), &host, None).expect_err("there are two");
    insta::assert_snapshot!(refused, @"not enough users for jails: the machine takes 1, 2 are promised already (machines: 2), and this host's machines may have 2 together (jail_users: 7000-7001)");
}

#[test]
fn what_a_machine_gives_back_is_there_for_its_next_one() {
    let host = HostResources { processors: Some(1), ..HostResources::default() };
    let capacity = limited(100);
    let with = |vcpus| Footprint { vcpus, ..machine(64) };
    let share = capacity.take(&with(3), &host, None).expect("fits");
    capacity.check(&with(4), &host, None).expect_err("7 of 4");
    capacity.check(&with(4), &host, Some(share.demand())).expect("in its place");
    let freed = share.demand();
    capacity
        .check_after(&with(4), &host, &DemandChange { freed, ..DemandChange::default() })
        .expect("as planned");
    capacity.take(&with(4), &host, Some(share)).expect("as planned");
}

proptest! {
    #[test]
    fn never_more_is_promised_than_the_host_carries(
        total in any::<u64>(), huge_pages in any::<u64>(), percent in 1_u32..=10_000,
        steps in proptest::collection::vec(prop_oneof![
            (0_u64..1 << 44).prop_map(Some), (0_u64..1 << 32).prop_map(Some), Just(None),
            any::<u64>().prop_map(Some),
        ], 0..40),
    ) {
        let host = has(HostMemory { total: Bytes::new(total), huge_pages: Bytes::new(huge_pages) });
        let capacity = limited(percent);
        let most = carried(Bytes::new(total.saturating_sub(huge_pages)), percent);
        let mut shares: Vec<Share> = Vec::new();
        for step in steps {
            match step {
                None => drop(shares.pop()),
                Some(size) => {
                    let footprint = of(memory(Bytes::new(size)));
                    let before = *capacity.promised();
                    match capacity.take(&footprint, &host, None) {
                        Ok(share) => shares.push(share),
                        Err(CapacityError::Overcommitted { .. }) => {
                            prop_assert_eq!(*capacity.promised(), before, "a refusal takes nothing");
                            prop_assert!(before.with(&Demand::of(&footprint)).memory > most);
                        }
                        Err(problem @ (CapacityError::Exhausted { .. } | CapacityError::ProcessTooSmall { .. } | CapacityError::TooFewHugePages { .. })) => {
                            panic!("memory alone is known: {problem}");
                        }
                        Err(CapacityError::LargerThanHost { .. }) => {
                            prop_assert_eq!(*capacity.promised(), before, "a refusal takes nothing");
                            prop_assert!(size > total);
                        }
                    }
                }
            }
            let promised = *capacity.promised();
            prop_assert!(promised.memory <= most || shares.is_empty());
            prop_assert_eq!(promised.machines, shares.len() as u64);
            prop_assert_eq!(promised.memory.get(), shares.iter().map(|share| share.demand.memory.get()).sum::<u64>());
        }
        shares.clear();
        prop_assert_eq!(*capacity.promised(), Demand::default());
    }
}
