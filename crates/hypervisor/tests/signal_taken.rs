//! A process that uses the kick signal itself is told so. A program of its own: handlers belong to the process.

use hypervisor::{KickSignalError, install_kick_signal};
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

extern "C" fn somebody_elses(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

#[test]
fn a_signal_in_use_is_not_taken_over() {
    register_signal_handler(SIGRTMIN(), somebody_elses).unwrap();
    for _ in 0..2 {
        let error = install_kick_signal().unwrap_err();
        assert!(matches!(error, KickSignalError::Taken { signal } if signal == SIGRTMIN()), "{error}");
    }
}
