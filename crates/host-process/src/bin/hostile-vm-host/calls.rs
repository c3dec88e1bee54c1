//! Bare system calls: no library between an act and the filter of its thread.

use std::ffi::{CStr, c_int, c_long};
use std::io;

/// The number of an error (errno(3)).
pub(crate) type Errno = c_int;

/// What an argument of a system call is made of.
pub(crate) trait Argument {
    fn word(self) -> c_long;
}

impl Argument for c_long {
    fn word(self) -> c_long {
        self
    }
}

impl Argument for c_int {
    fn word(self) -> c_long {
        self.into()
    }
}

impl Argument for &CStr {
    fn word(self) -> c_long {
        self.as_ptr().word()
    }
}

impl<T> Argument for *const T {
    fn word(self) -> c_long {
        self.expose_provenance().cast_signed() as c_long
    }
}

/// Makes the system call `$number`, with up to six arguments.
macro_rules! call {
    ($number:expr $(, $argument:expr)* $(,)?) => {
        $crate::calls::make($number, &[$($crate::calls::Argument::word($argument)),*])
    };
}
pub(crate) use call;

/// Makes a system call; what it answers.
pub(crate) fn make(number: c_long, arguments: &[c_long]) -> Result<c_long, Errno> {
    let word = |index: usize| arguments.get(index).copied().unwrap_or_default();
    let [a, b, c, d, e, f] = std::array::from_fn(word);
    // SAFETY: what the arguments point to is alive and of the right kind, which each act sees to; the kernel writes only to
    // what they point to.
    let answer = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    if answer == -1 {
        return Err(io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO));
    }
    Ok(answer)
}

/// Ends the process with this status.
pub(crate) fn exit(status: c_int) -> ! {
    let _ = call!(libc::SYS_exit_group, status);
    // Nothing comes after that call, whether it is allowed or not.
    std::process::abort()
}
