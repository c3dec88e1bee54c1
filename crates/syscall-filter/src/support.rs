//! Whether this kernel does what a mode needs.
#![expect(unsafe_code, reason = "the kernel is asked by a system call that no crate wraps")]

use crate::confine::Mode;

impl Mode {
    /// Whether this kernel can do it. Every kernel can do nothing.
    #[must_use]
    pub fn is_supported(self) -> bool {
        match self {
            Self::Trap => has(libc::SECCOMP_RET_TRAP),
            // From Linux 4.14 on.
            Self::Log => has(libc::SECCOMP_RET_LOG),
            Self::Off => true,
        }
    }
}

fn has(action: u32) -> bool {
    let action = &raw const action;
    // SAFETY: the kernel reads the one number that the pointer leads to, which lives until the call returns.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, action) };
    answer == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_that_nobody_has_is_not_there() {
        assert!(!has(0x1234_5678));
        assert!(Mode::Off.is_supported());
    }
}
