//! A million calls of a pool against a model that is as naive as can be: a list of leases and a queue of free addresses.

#![expect(clippy::unwrap_used, reason = "a test's own set-up may fail by panic")]

use std::collections::VecDeque;
use std::net::Ipv4Addr;

use ipam::{AllocationError, Lease, Pool, Wish};
use proptest::prelude::*;
use vm_model::{MacAddress, VmId};

const CASES: u32 = 1_000;
const CALLS: usize = 1_000;
const VMS: u64 = 40;
/// The network has 61 addresses for VMs, of which 10 are reserved: 51 for up to 80 interfaces, so that it runs out.
const LEASABLE: std::ops::RangeInclusive<u8> = 2..=62;
const RESERVED: std::ops::RangeInclusive<u8> = 10..=19;

fn empty() -> Pool {
    Pool::with_reserved("10.9.0.0/26".parse().unwrap(), &["10.9.0.10-10.9.0.19".parse().unwrap()]).unwrap()
}

fn address(last: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 9, 0, last)
}

#[derive(Debug)]
struct Model {
    leases: Vec<Lease>,
    queue: VecDeque<Ipv4Addr>,
}

impl Model {
    fn new(leases: Vec<Lease>) -> Self {
        let is_free = |last: &u8| {
            !RESERVED.contains(last) && leases.iter().all(|lease| lease.address != address(*last))
        };
        let queue = LEASABLE.filter(is_free).map(address).collect();
        Self { leases, queue }
    }

    /// The lease that a call has to answer, or `None` where it has to be refused.
    fn allocate(&mut self, vm: &VmId, nic: &str, wish: Wish) -> Option<Lease> {
        if let Some(held) = self.leases.iter().find(|lease| lease.vm == *vm && lease.nic == nic) {
            let is_granted =
                wish.ip.is_none_or(|ip| ip == held.address) && wish.mac.is_none_or(|mac| mac == held.mac);
            return is_granted.then(|| held.clone());
        }
        let address = wish.ip.or_else(|| self.queue.front().copied())?;
        let is_leasable = LEASABLE.contains(&address.octets()[3]);
        if !is_leasable || self.leases.iter().any(|lease| lease.address == address) {
            return None;
        }
        let is_mac_free = |mac: &MacAddress| self.leases.iter().all(|lease| lease.mac != *mac);
        let derived = |tag| MacAddress::new([2, tag, 10, 9, 0, address.octets()[3]]);
        let mac = match wish.mac {
            Some(mac) => Some(mac).filter(is_mac_free)?,
            None => (0x50..=0xff).map(derived).find(is_mac_free)?,
        };
        self.queue.retain(|free| *free != address);
        let lease = Lease { vm: vm.clone(), nic: nic.to_owned(), address, mac };
        self.leases.push(lease.clone());
        Some(lease)
    }

    fn release(&mut self, vm: &VmId) {
        // The pool ends them in the order of their interfaces.
        let mut ended: Vec<Lease> = self.leases.extract_if(.., |lease| lease.vm == *vm).collect();
        ended.sort_by(|one, other| one.nic.cmp(&other.nic));
        let addresses = ended.into_iter().map(|lease| lease.address);
        self.queue.extend(addresses.filter(|address| !RESERVED.contains(&address.octets()[3])));
    }
}

/// Takes a number below `bound` out of `code`.
fn draw(code: &mut u64, bound: u64) -> u64 {
    let drawn = *code % bound;
    *code /= bound;
    drawn
}

/// Carries one call out on the pool and on the model, and compares what they answer.
fn call(pool: &mut Pool, model: &mut Model, mut code: u64) -> Result<(), TestCaseError> {
    let kind = draw(&mut code, 100);
    let vm = VmId::new(&format!("vm-{}", draw(&mut code, VMS)));
    let nic = ["net0", "net1"][usize::from(draw(&mut code, 2) == 1)];
    match kind {
        // Started or assigned again, also within the grace after a removal: without a wish.
        0..45 => compare(pool, model, &vm, nic, Wish::default())?,
        45..65 => {
            let ip = address(u8::try_from(draw(&mut code, 66)).unwrap());
            compare(pool, model, &vm, nic, Wish { ip: Some(ip), mac: None })?;
        }
        65..70 => {
            // Some of these are what the pool would derive.
            let mac = MacAddress::new([2, 0x50, 10, 9, 0, u8::try_from(draw(&mut code, 64)).unwrap()]);
            compare(pool, model, &vm, nic, Wish { ip: None, mac: Some(mac) })?;
        }
        // The end of a grace.
        70..92 => {
            let held = model.leases.iter().filter(|lease| lease.vm == vm).count();
            prop_assert_eq!(pool.release(&vm).len(), held);
            model.release(&vm);
        }
        // A change that was not written.
        92..98 => {
            let before = pool.clone();
            let mut change = pool.change();
            change.release(&vm);
            let _ = change.allocate_all(&VmId::new("other"), &[(nic, Wish::default())]);
            drop(change);
            prop_assert_eq!(&*pool, &before, "what was taken back has left something");
        }
        _ => {
            *pool = empty().import(&pool.export()).unwrap();
            *model = Model::new(std::mem::take(&mut model.leases));
        }
    }
    prop_assert_eq!(pool.leases().count(), model.leases.len());
    Ok(())
}

fn compare(
    pool: &mut Pool,
    model: &mut Model,
    vm: &VmId,
    nic: &str,
    wish: Wish,
) -> Result<(), TestCaseError> {
    let answer = pool.allocate(vm, nic, wish);
    let is_full = model.queue.is_empty();
    prop_assert_eq!(answer.clone().ok(), model.allocate(vm, nic, wish));
    if let Err(AllocationError::Exhausted { capacity, reserved, .. }) = answer {
        prop_assert!(is_full && capacity == 51 && reserved == 10);
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    /// No address or MAC address is ever held twice; what an interface holds it keeps until it is released; addresses are
    /// given in the order that is promised, and reserved ones to nobody that has not asked.
    #[test]
    fn a_pool_answers_as_its_model(codes in prop::collection::vec(any::<u64>(), CALLS)) {
        let (mut pool, mut model) = (empty(), Model::new(Vec::new()));
        for code in codes {
            call(&mut pool, &mut model, code)?;
        }
        let leases: Vec<Lease> = pool.leases().collect();
        model.leases.sort_by(|one, other| (&one.vm, &one.nic).cmp(&(&other.vm, &other.nic)));
        prop_assert_eq!(leases, model.leases);
    }
}
