//! The lines of `strace`. Pure.

use syscall_filter::ThreadKind;

/// A call that a thread made.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct MadeCall<'a> {
    pub(super) name: &'a str,
    /// As the thread gave them; 0 where there was none.
    pub(super) arguments: [u64; 6],
}

/// The call of a line, if it is the line of one.
pub(super) fn call(line: &str) -> Option<MadeCall<'_>> {
    let (name, rest) = line.split_once('(')?;
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let mut arguments = [0; 6];
    if name == "seccomp" {
        // The one that is told in words.
        arguments[0] = u64::from(rest.starts_with("SECCOMP_SET_MODE_FILTER"));
        return Some(MadeCall { name, arguments });
    }
    let rest = rest.split([')', '<']).next().unwrap_or_default();
    for (place, text) in arguments.iter_mut().zip(rest.split(',')) {
        let text = text.trim();
        let number =
            text.strip_prefix("0x").map_or_else(|| text.parse(), |digits| u64::from_str_radix(digits, 16));
        *place = number.unwrap_or_default();
    }
    Some(MadeCall { name, arguments })
}

/// The kind of thread whose filter a line shows being loaded.
pub(super) fn loaded_filter(line: &str) -> Option<ThreadKind> {
    const TRAP: &str = "SECCOMP_RET_TRAP";
    if !line.starts_with("seccomp(SECCOMP_SET_MODE_FILTER") || !line.ends_with("= 0") {
        return None;
    }
    let answer = &line[line.find(TRAP)? + TRAP.len()..];
    let digits = answer.strip_prefix("|0x").map(|rest| rest.split(')').next().unwrap_or_default());
    let number = digits.map_or(Ok(0), |digits| usize::from_str_radix(digits, 16)).ok()?;
    ThreadKind::ALL.get(number).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls_are_read_with_their_arguments() {
        let read = call("ioctl(0x10, 0xae80, 0)                   = 0").expect("a call");
        assert_eq!((read.name, &read.arguments[..3]), ("ioctl", &[0x10, 0xae80, 0][..]));
        let read = call("futex(0x5, 0x89, 0xffffffff <unfinished ...>").expect("a call");
        assert_eq!(read.arguments[..3], [5, 0x89, 0xffff_ffff]);
        let read = call("gettid()                                = 0x55c").expect("a call");
        assert_eq!(read.arguments, [0; 6]);
        let read = call("seccomp(SECCOMP_SET_MODE_FILTER, 0, {len=1, filter=[]}) = 0").expect("a call");
        assert_eq!(read.arguments[0], 1);
        for other in ["--- SIGHUP {si_signo=SIGHUP} ---", "+++ exited with 0 +++", "", "(x)"] {
            assert_eq!(call(other), None, "{other}");
        }
    }

    #[test]
    fn a_filter_tells_whose_it_is() {
        let load = |answer: &str| {
            format!(
                "seccomp(SECCOMP_SET_MODE_FILTER, 0, {{len=3, filter=[BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_KILL_PROCESS), \
                 BPF_STMT(BPF_RET|BPF_K, {answer}), BPF_STMT(BPF_RET|BPF_K, SECCOMP_RET_ALLOW)]}}) = 0"
            )
        };
        assert_eq!(loaded_filter(&load("SECCOMP_RET_TRAP")), Some(ThreadKind::Main));
        let of_vcpu = format!("SECCOMP_RET_TRAP|{:#x}", ThreadKind::Vcpu as u32);
        assert_eq!(loaded_filter(&load(&of_vcpu)), Some(ThreadKind::Vcpu));
        assert_eq!(loaded_filter(&load("SECCOMP_RET_TRAP|0xff")), None);
        assert_eq!(loaded_filter(&load("SECCOMP_RET_ERRNO|0x26")), None);
        assert_eq!(loaded_filter("seccomp(SECCOMP_GET_ACTION_AVAIL, 0, [SECCOMP_RET_TRAP]) = 0"), None);
    }
}
