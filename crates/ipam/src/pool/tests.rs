//! Rules one by one, then a model that runs any sequence of calls against them.

use std::collections::HashSet;

use proptest::prelude::*;

use vm_model::error_chain;

use super::*;

fn pool(subnet: &str) -> Pool {
    Pool::new(subnet.parse().unwrap()).unwrap()
}

fn vm(name: &str) -> VmId {
    VmId::new(name)
}

fn wish_ip(text: &str) -> Wish {
    Wish { ip: Some(text.parse().unwrap()), mac: None }
}

fn wish_mac(text: &str) -> Wish {
    Wish { ip: None, mac: Some(text.parse().unwrap()) }
}

#[test]
fn refusals_name_who_what_and_why() {
    let mut pool = pool("10.100.0.0/16");
    pool.allocate(&vm("db"), "net0", wish_ip("10.100.0.9")).unwrap();
    pool.allocate(&vm("web"), "net0", wish_mac("52:54:00:00:00:01")).unwrap();
    let mut refusal = |nic: &str, wish: Wish| pool.allocate(&vm("web"), nic, wish).unwrap_err().to_string();

    insta::assert_snapshot!(refusal("net1", wish_ip("10.101.0.1")), @"web/net1 cannot have address 10.101.0.1: it is outside the network 10.100.0.0/16");
    insta::assert_snapshot!(refusal("net1", wish_ip("10.100.0.0")), @"web/net1 cannot have address 10.100.0.0: it is the network address of 10.100.0.0/16");
    insta::assert_snapshot!(refusal("net1", wish_ip("10.100.0.1")), @"web/net1 cannot have address 10.100.0.1: it is the gateway address of 10.100.0.0/16");
    insta::assert_snapshot!(refusal("net1", wish_ip("10.100.255.255")), @"web/net1 cannot have address 10.100.255.255: it is the broadcast address of 10.100.0.0/16");
    insta::assert_snapshot!(refusal("net1", wish_ip("10.100.0.9")), @"web/net1 cannot have address 10.100.0.9 of 10.100.0.0/16: db/net0 holds it");
    insta::assert_snapshot!(refusal("net1", wish_mac("52:54:00:00:00:01")), @"web/net1 cannot have MAC address 52:54:00:00:00:01: web/net0 of the network 10.100.0.0/16 holds it");
    insta::assert_snapshot!(refusal("net1", wish_mac("01:00:5e:00:00:01")), @"web/net1 cannot have MAC address 01:00:5e:00:00:01: it is no unicast address; one with an even first byte is accepted, like 02:00:00:12:34:56");
    insta::assert_snapshot!(refusal("net0", wish_ip("10.100.0.77")), @"web/net0 cannot have address 10.100.0.77: it holds 10.100.0.2 with MAC address 52:54:00:00:00:01 until its VM is released");
    assert_eq!(pool.leases().count(), 2, "a refusal changes nothing");
}

#[test]
fn exhaustion_has_figures_and_ends_with_a_release() {
    let mut pool = pool("10.0.0.0/29");
    for index in 0..5 {
        pool.allocate(&vm(&format!("vm-{index}")), "net0", Wish::default()).unwrap();
    }
    let refusal = pool.allocate(&vm("late"), "net0", Wish::default()).unwrap_err();
    insta::assert_snapshot!(refusal, @"no address is left for late/net0: all 5 of the network 10.0.0.0/29 are leased");

    let released = pool.release(&vm("vm-3"));
    let lease = pool.allocate(&vm("late"), "net0", Wish::default()).unwrap();
    assert_eq!(lease.address, released[0].address);
}

#[test]
fn reserved_addresses_are_given_to_those_that_ask_and_told_when_nothing_else_is_left() {
    let reserved = ["10.0.0.2-10.0.0.4".parse().unwrap()];
    let mut pool = Pool::with_reserved("10.0.0.0/29".parse().unwrap(), &reserved).unwrap();
    assert_eq!((pool.capacity(), pool.reserved()), (5, 3));
    for last in [5, 6] {
        let lease = pool.allocate(&vm(&format!("vm-{last}")), "net0", Wish::default()).unwrap();
        assert_eq!(lease.address, Ipv4Addr::new(10, 0, 0, last));
    }
    let refusal = pool.allocate(&vm("late"), "net0", Wish::default()).unwrap_err();
    insta::assert_snapshot!(refusal, @"no address is left for late/net0: all 2 of the network 10.0.0.0/29 are leased, but for 3 reserved ones, which a VM has only if its description asks for them");

    pool.allocate(&vm("static"), "net0", wish_ip("10.0.0.3")).unwrap();
    pool.allocate(&vm("late"), "net0", wish_ip("10.0.0.3")).unwrap_err();
    pool.release(&vm("static"));
    pool.allocate(&vm("late"), "net0", Wish::default()).unwrap_err();
    pool.allocate(&vm("late"), "net0", wish_ip("10.0.0.3")).unwrap();
}

#[test]
fn a_change_of_a_full_pool_copies_nothing() {
    let mut pool = pool("10.0.0.0/16");
    for number in 0..pool.capacity() {
        pool.allocate(&vm(&format!("vm-{number}")), "net0", Wish::default()).unwrap();
    }
    // A copy of this pool takes some milliseconds, and that many some minutes.
    for number in 0..pool.capacity() {
        let mut change = pool.change();
        let id = vm(&format!("vm-{number}"));
        assert_eq!(change.release(&id).len(), 1);
        assert!(change.leases_of(&id).next().is_none());
        change.allocate_all(&vm("new"), &[("net0", Wish::default())]).unwrap();
        drop(change);
        assert_eq!(pool.leases_of(&id).count(), 1);
    }
    assert!(pool.lease(&vm("new"), "net0").is_none());
}

#[test]
fn a_released_address_rests_while_others_are_free() {
    let mut pool = pool("10.0.0.0/29");
    let first = pool.allocate(&vm("a"), "net0", Wish::default()).unwrap().address;
    let mut met = Vec::new();
    for _ in 0..4 {
        pool.release(&vm("a"));
        met.push(pool.allocate(&vm("a"), "net0", Wish::default()).unwrap().address);
    }
    assert!(!met.contains(&first), "{first} came back among {met:?}");
    pool.release(&vm("a"));
    assert_eq!(pool.allocate(&vm("a"), "net0", Wish::default()).unwrap().address, first);
}

#[test]
fn a_derived_mac_steps_aside_for_a_wished_one() {
    let mut pool = pool("10.0.0.0/24");
    pool.allocate(&vm("a"), "net0", wish_mac("02:50:0a:00:00:03")).unwrap();
    let lease = pool.allocate(&vm("b"), "net0", Wish::default()).unwrap();
    assert_eq!(lease.mac.to_string(), "02:51:0a:00:00:03");
}

#[test]
fn releasing_a_vm_releases_all_its_interfaces_and_no_others() {
    let mut pool = pool("10.0.0.0/24");
    for (id, nic) in [("a", "net0"), ("a", "net1"), ("a-b", "net0"), ("b", "net0")] {
        pool.allocate(&vm(id), nic, Wish::default()).unwrap();
    }
    assert_eq!(pool.release(&vm("a")).len(), 2);
    let left: Vec<String> = pool.leases().map(|lease| lease.vm.to_string()).collect();
    assert_eq!(left, ["a-b", "b"]);
    assert!(pool.release(&vm("a")).is_empty());
}

#[test]
fn the_book_has_one_stable_form() {
    let mut pool = pool("10.100.0.0/16");
    pool.allocate(&vm("web-1"), "net0", Wish::default()).unwrap();
    pool.allocate(&vm("db"), "net0", wish_ip("10.100.0.9")).unwrap();
    insta::assert_json_snapshot!(pool.export(), @r#"
    {
      "version": 1,
      "subnet": "10.100.0.0/16",
      "leases": [
        {
          "vm": "db",
          "nic": "net0",
          "address": "10.100.0.9",
          "mac": "02:50:0a:64:00:09"
        },
        {
          "vm": "web-1",
          "nic": "net0",
          "address": "10.100.0.2",
          "mac": "02:50:0a:64:00:02"
        }
      ]
    }
    "#);
}

#[test]
fn a_book_that_cannot_be_trusted_is_refused() {
    let mut pool = pool("10.0.0.0/24");
    pool.allocate(&vm("a"), "net0", Wish::default()).unwrap();
    let good = pool.export();
    let refusal = |change: fn(&mut LeaseBook)| {
        let mut book = good.clone();
        change(&mut book);
        error_chain(&Pool::new("10.0.0.0/24".parse().unwrap()).unwrap().import(&book).unwrap_err())
    };
    insta::assert_snapshot!(refusal(|book| book.version = 2), @"the lease book has version 2; version 1 is read");
    insta::assert_snapshot!(refusal(|book| book.subnet = "10.1.0.0/24".parse().unwrap()), @"the lease book is of the network 10.1.0.0/24, but 10.0.0.0/24 is configured");
    insta::assert_snapshot!(refusal(|book| book.leases.push(book.leases[0].clone())), @"the lease book has two leases for a/net0");
    insta::assert_snapshot!(refusal(|book| book.leases[0].address = [10, 2, 0, 1].into()), @"the lease book's entry 0 (counted from 0) cannot be kept: a/net0 cannot have address 10.2.0.1: it is outside the network 10.0.0.0/24");
    insta::assert_snapshot!(refusal(|book| {
        let mut lease = book.leases[0].clone();
        lease.vm = VmId::new("b");
        book.leases.push(lease);
    }), @"the lease book's entry 1 (counted from 0) cannot be kept: b/net0 cannot have address 10.0.0.2 of 10.0.0.0/24: a/net0 holds it");
}

#[derive(Clone, Debug)]
enum Step {
    Allocate(u8, u8, Option<u8>, Option<u8>),
    Release(u8),
    ReleaseInterface(u8, u8),
    Reload,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0_u8..12, 0_u8..2, prop::option::of(0_u8..34), prop::option::weighted(0.2, 0_u8..6))
            .prop_map(|(vm, nic, ip, mac)| Step::Allocate(vm, nic, ip, mac)),
        2 => (0_u8..12).prop_map(Step::Release),
        1 => (0_u8..12, 0_u8..2).prop_map(|(vm, nic)| Step::ReleaseInterface(vm, nic)),
        1 => Just(Step::Reload),
    ]
}

/// What holds after any step, whatever happened before.
fn assert_sound(pool: &Pool) {
    let leases: Vec<Lease> = pool.leases().collect();
    let addresses: HashSet<_> = leases.iter().map(|lease| lease.address).collect();
    let macs: HashSet<_> = leases.iter().map(|lease| lease.mac).collect();
    assert_eq!(addresses.len(), leases.len(), "addresses are shared: {leases:?}");
    assert_eq!(macs.len(), leases.len(), "MAC addresses are shared: {leases:?}");
    for lease in &leases {
        assert!(pool.subnet().contains(lease.address) && lease.mac.is_unicast());
        assert!(pool.subnet.reserved(lease.address).is_none());
    }
}

proptest! {
    #[test]
    fn any_sequence_of_calls_keeps_leases_apart(steps in prop::collection::vec(step(), 0..80)) {
        let mut pool = pool("10.9.0.0/28");
        for step in steps {
            match step {
                Step::Allocate(id, nic, ip, mac) => {
                    let (id, nic) = (vm(&format!("vm-{id}")), format!("net{nic}"));
                    let wish = Wish {
                        // Some of these are reserved or outside.
                        ip: ip.map(|low| Ipv4Addr::new(10, 9, 0, low)),
                        // Some of these are what the pool would derive.
                        mac: mac.map(|low| MacAddress::new([2, 0x50, 10, 9, 0, low])),
                    };
                    let before = pool.lease(&id, &nic);
                    let count = pool.leases().count();
                    match pool.allocate(&id, &nic, wish) {
                        Ok(lease) => {
                            prop_assert!(before.as_ref().is_none_or(|held| *held == lease));
                            prop_assert!(wish.ip.is_none_or(|ip| ip == lease.address));
                            prop_assert!(wish.mac.is_none_or(|mac| mac == lease.mac));
                            prop_assert_eq!(pool.holder(lease.address).map(|held| &held.vm), Some(&id));
                        }
                        Err(AllocationError::Exhausted { capacity, .. }) => {
                            prop_assert_eq!(u32::try_from(count).unwrap(), capacity);
                        }
                        Err(_) => {
                            prop_assert!(wish != Wish::default());
                            prop_assert_eq!(pool.lease(&id, &nic), before);
                        }
                    }
                }
                Step::Release(id) => {
                    let id = vm(&format!("vm-{id}"));
                    for lease in pool.release(&id) {
                        prop_assert_eq!(pool.holder(lease.address), None);
                    }
                    prop_assert!(pool.leases().all(|lease| lease.vm != id));
                }
                Step::ReleaseInterface(id, nic) => {
                    let (id, nic) = (vm(&format!("vm-{id}")), format!("net{nic}"));
                    let held = pool.lease(&id, &nic);
                    prop_assert_eq!(pool.release_interface(&id, &nic), held);
                }
                Step::Reload => {
                    let json = serde_json::to_string(&pool.export()).unwrap();
                    let book: LeaseBook = serde_json::from_str(&json).unwrap();
                    let reloaded = Pool::new(pool.subnet()).unwrap().import(&book).unwrap();
                    prop_assert_eq!(reloaded.export(), pool.export());
                    pool = reloaded;
                }
            }
            assert_sound(&pool);
        }
    }
}
