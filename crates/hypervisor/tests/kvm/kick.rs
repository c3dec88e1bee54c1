//! Kicks from other threads: none is lost, none reaches what is gone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hypervisor::Exit;

use crate::harness::{kvm_test, machine};

const DEADLINE: Duration = Duration::from_secs(20);
/// jmp to itself
const ENDLESS_LOOP: &[u8] = &[0xeb, 0xfe];

kvm_test!(a_kick_breaks_an_endless_loop, {
    let (_vm, mut vcpu, _memory) = machine(ENDLESS_LOOP);
    let kicker = vcpu.kicker();
    let (running, is_running) = mpsc::channel();
    let thread = std::thread::spawn(move || {
        let _binding = vcpu.bind_to_current_thread().unwrap();
        running.send(()).unwrap();
        matches!(vcpu.run().unwrap(), Exit::Interrupted)
    });
    is_running.recv_timeout(DEADLINE).unwrap();
    kicker.kick();
    assert!(thread.join().unwrap());
});

kvm_test!(a_kick_before_binding_and_running_is_not_lost, {
    let (_vm, mut vcpu, _memory) = machine(ENDLESS_LOOP);
    vcpu.kicker().kick();
    let _binding = vcpu.bind_to_current_thread().unwrap();
    assert_eq!(vcpu.run().unwrap(), Exit::Interrupted);
    vcpu.kicker().kick();
    vcpu.kicker().kick();
    assert_eq!(vcpu.run().unwrap(), Exit::Interrupted);
});

kvm_test!(a_kick_while_an_exit_is_handled_comes_at_the_next_run, {
    // out 0xe9, al; jmp to itself
    let (_vm, mut vcpu, _memory) = machine(&[0xe6, 0xe9, 0xeb, 0xfe]);
    let _binding = vcpu.bind_to_current_thread().unwrap();
    let kicker = vcpu.kicker();
    assert!(matches!(vcpu.run().unwrap(), Exit::IoOut { port: 0xe9, .. }));
    kicker.kick();
    assert_eq!(vcpu.run().unwrap(), Exit::Interrupted);
});

kvm_test!(a_kick_after_the_end_does_nothing, {
    let (_vm, vcpu, _memory) = machine(ENDLESS_LOOP);
    let kicker = vcpu.kicker();
    let vcpu = std::thread::spawn(move || {
        drop(vcpu.bind_to_current_thread().unwrap());
        vcpu
    })
    .join()
    .unwrap();
    kicker.kick();
    drop(vcpu);
    kicker.kick();
});

kvm_test!(no_request_is_lost_under_a_storm_of_kicks, {
    const REQUESTS: u32 = 2_000;
    // inc ax; jmp back
    let (_vm, mut vcpu, _memory) = machine(&[0x40, 0xeb, 0xfd]);
    let kicker = vcpu.kicker();
    let requested = Arc::new(AtomicU32::new(0));
    let answered = Arc::new(AtomicU32::new(0));
    let gave_up = Arc::new(AtomicBool::new(false));
    let thread = {
        let (requested, answered) = (Arc::clone(&requested), Arc::clone(&answered));
        std::thread::spawn(move || {
            let _binding = vcpu.bind_to_current_thread().unwrap();
            while answered.load(Ordering::Relaxed) < REQUESTS {
                assert!(matches!(vcpu.run().unwrap(), Exit::Interrupted));
                answered.store(requested.load(Ordering::Relaxed), Ordering::Relaxed);
            }
        })
    };
    // One thread asks and waits for each answer with a single kick; the other kicks for no reason.
    let noise = {
        let (kicker, gave_up, answered) = (kicker.clone(), Arc::clone(&gave_up), Arc::clone(&answered));
        std::thread::spawn(move || {
            while answered.load(Ordering::Relaxed) < REQUESTS && !gave_up.load(Ordering::Relaxed) {
                for _ in 0..8 {
                    kicker.kick();
                }
                std::thread::yield_now();
            }
        })
    };
    let start = Instant::now();
    for request in 1..=REQUESTS {
        requested.store(request, Ordering::Relaxed);
        kicker.kick();
        while answered.load(Ordering::Relaxed) < request {
            if start.elapsed() > DEADLINE {
                gave_up.store(true, Ordering::Relaxed);
                panic!("request {request} was never seen");
            }
            std::thread::yield_now();
        }
    }
    thread.join().unwrap();
    noise.join().unwrap();
});
