//! Which threads may run at the same time on the siblings of one host core. What runs on one of them learns from the caches
//! and predictors of what runs on the other, so that guests of different owners do not belong on one core together.
//!
//! The kernel lets only threads with the same cookie share a core (`Documentation/admin-guide/hw-vuln/core-scheduling.rst`). A thread has
//! the cookie of the one that starts it. What has none, as all else on the host, never runs beside what has one.

use rustix::io::Errno;
use rustix::thread::{CoreSchedulingScope, create_core_scheduling_cookie, gettid};
use vm_model::CoreScheduling;

/// Gives the calling thread, and with it each vCPU that it starts from now on, a cookie that no other machine has.
pub(super) fn enter_machine(wanted: CoreScheduling) {
    if wanted == CoreScheduling::Vm {
        take_new_cookie();
    }
}

/// Gives the calling thread, a vCPU's, a cookie that no other thread has, where that is wanted.
pub(super) fn enter_vcpu(wanted: CoreScheduling) {
    if wanted == CoreScheduling::Vcpu {
        take_new_cookie();
    }
}

/// A host that cannot do it runs the machine all the same: cores with one thread need nothing, and of a kernel without core
/// scheduling `procurator-worker doctor` warns.
fn take_new_cookie() {
    match create_core_scheduling_cookie(gettid(), CoreSchedulingScope::Thread) {
        Ok(()) => {}
        Err(Errno::NODEV) => tracing::debug!("cores of this host have one thread: none is shared"),
        Err(Errno::INVAL) => tracing::debug!("this kernel has no core scheduling"),
        Err(error) => {
            tracing::warn!(%error, "other guests may run on the same core at the same time: core scheduling was refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use rustix::thread::core_scheduling_cookie;

    use super::*;

    /// On a host that does not have it, the refusal is all there is to compare.
    #[test]
    fn threads_get_the_cookies_of_those_that_start_them_or_their_own() {
        let cookie = || core_scheduling_cookie(gettid(), CoreSchedulingScope::Thread);
        // Of a machine's thread, and of its vCPU's.
        let cookies = |wanted| {
            let machine = move || {
                enter_machine(wanted);
                let vcpu = move || {
                    enter_vcpu(wanted);
                    cookie()
                };
                [cookie(), thread::spawn(vcpu).join().expect("it ends well")]
            };
            thread::spawn(machine).join().expect("it ends well")
        };
        let own = cookie();
        let [one, other, apart, free] =
            [CoreScheduling::Vm, CoreScheduling::Vm, CoreScheduling::Vcpu, CoreScheduling::Off].map(cookies);
        println!("this thread has {own:?}, machines have {one:?} {other:?} {apart:?} {free:?}");
        assert_eq!(free, [own; 2]);
        assert_eq!(one[0], one[1]);
        assert_eq!(apart[0], own);
        if own.is_ok() {
            assert!(one[0] != own && one[0] != other[0] && apart[1] != own);
        }
    }
}
