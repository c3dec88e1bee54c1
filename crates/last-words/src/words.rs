//! The words: a text in a buffer of fixed size, composed without an allocation.

use crate::calls::call_name;
use crate::speaker::Speaker;

/// Bytes of the longest text; what does not fit is left out.
const WORDS_BYTES: usize = 512;

/// What the kernel calls a sender that has no number here.
const OUTSIDE: i32 = 0;

/// What a thread did that ends the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It made a system call that its filter forbids.
    Call { number: i64 },
    /// Memory that it touched was found broken by the host's hardware.
    BrokenMemory { address: usize },
    /// The file behind memory that it touched has shrunk, or has no room.
    LostMemory { address: usize },
    /// It came to the end of its stack.
    Stack,
    /// It touched an address without memory.
    Address { address: usize },
    /// It gave up by itself.
    Abort,
    /// Somebody sent it one of the signals.
    Sent { signal: i32, by: i32 },
    /// Another of the signals.
    Other { signal: i32 },
}

/// A text that grows in place. Bytes that JSON would have to escape are replaced.
pub(crate) struct Words {
    bytes: [u8; WORDS_BYTES],
    length: usize,
}

impl Words {
    pub(crate) const fn new() -> Self {
        Self { bytes: [0; WORDS_BYTES], length: 0 }
    }

    /// What `speaker` has to say of `fault`.
    pub(crate) fn compose(speaker: &Speaker, fault: Fault) -> Self {
        let mut words = Self::new();
        words.name(speaker);
        words.fault(fault);
        words
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }

    /// Adds bytes as they are.
    pub(crate) fn raw(&mut self, text: &[u8]) {
        for byte in text {
            if let Some(place) = self.bytes.get_mut(self.length) {
                *place = *byte;
                self.length += 1;
            }
        }
    }

    fn text(&mut self, text: &[u8]) {
        for byte in text {
            let plain = matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\');
            self.raw(&[if plain { *byte } else { b'?' }]);
        }
    }

    fn name(&mut self, speaker: &Speaker) {
        self.text(b"the ");
        self.text(if speaker.kind.is_empty() { b"unnamed" } else { speaker.kind.as_bytes() });
        self.text(b" thread");
        for (before, name) in [(b" ".as_slice(), &speaker.thread), (b" of ", &speaker.vm)] {
            if !name.bytes().is_empty() && name.bytes() != speaker.kind.as_bytes() {
                self.text(before);
                self.text(name.bytes());
            }
        }
    }

    fn fault(&mut self, fault: Fault) {
        match fault {
            Fault::Call { number } => {
                self.text(b" made the system call ");
                self.text(call_name(number).unwrap_or("of number").as_bytes());
                self.text(b" (");
                self.decimal(number);
                self.text(b"), which its filter does not allow");
            }
            Fault::BrokenMemory { address } => {
                self.text(b" touched memory that the host's hardware found broken, at ");
                self.address(address);
            }
            Fault::LostMemory { address } => {
                self.text(b" touched memory that the host could not provide (its file shrank, or no page is left), at ");
                self.address(address);
            }
            Fault::Stack => self.text(b" overflowed its stack"),
            Fault::Address { address } => {
                self.text(b" touched an address without memory, ");
                self.address(address);
            }
            Fault::Abort => self.text(b" gave up, as for an allocation that fails; standard error says why"),
            Fault::Sent { signal, by } => {
                self.text(b" was sent ");
                self.signal(signal);
                if by == OUTSIDE {
                    self.text(b" by a process outside of its PID namespace");
                } else {
                    self.text(b" by process ");
                    self.decimal(i64::from(by));
                }
            }
            Fault::Other { signal } => {
                self.text(b" was ended by ");
                self.signal(signal);
            }
        }
    }

    fn signal(&mut self, signal: i32) {
        let name: &[u8] = match signal {
            libc::SIGSYS => b"SIGSYS",
            libc::SIGSEGV => b"SIGSEGV",
            libc::SIGBUS => b"SIGBUS",
            libc::SIGABRT => b"SIGABRT",
            libc::SIGILL => b"SIGILL",
            libc::SIGFPE => b"SIGFPE",
            _ => b"a signal",
        };
        self.text(name);
    }

    fn decimal(&mut self, number: i64) {
        if number < 0 {
            self.text(b"-");
        }
        self.digits(number.unsigned_abs(), 10);
    }

    fn address(&mut self, address: usize) {
        self.text(b"0x");
        self.digits(address as u64, 16);
    }

    fn digits(&mut self, number: u64, base: u64) {
        // The longest is a 64-bit number in decimal.
        let mut digits = [0; 20];
        let (mut first, mut left) = (digits.len(), number);
        while first > 0 {
            first -= 1;
            let digit = u8::try_from(left % base).unwrap_or_default();
            digits[first] = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
            left /= base;
            if left == 0 {
                break;
            }
        }
        self.text(&digits[first..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::speaker::testing::speaker;

    fn said(speaker: &Speaker, fault: Fault) -> String {
        String::from_utf8(Words::compose(speaker, fault).bytes().to_vec()).expect("plain text")
    }

    #[test]
    fn every_fault_says_who_and_what() {
        let vcpu = speaker("vCPU", "vcpu0:web-1", "web-1");
        let told = [
            (
                Fault::Call { number: 101 },
                "made the system call ptrace (101), which its filter does not allow",
            ),
            (Fault::Call { number: 9999 }, "made the system call of number (9999), which its filter"),
            (Fault::BrokenMemory { address: 0x7f00_0000_1000 }, "hardware found broken, at 0x7f0000001000"),
            (Fault::LostMemory { address: 0 }, "no page is left), at 0x0"),
            (Fault::Stack, "overflowed its stack"),
            (Fault::Address { address: usize::MAX }, "without memory, 0xffffffffffffffff"),
            (Fault::Abort, "gave up, as for an allocation that fails"),
            (Fault::Sent { signal: libc::SIGSEGV, by: 4711 }, "was sent SIGSEGV by process 4711"),
            (
                Fault::Sent { signal: libc::SIGBUS, by: OUTSIDE },
                "SIGBUS by a process outside of its PID namespace",
            ),
            (Fault::Other { signal: libc::SIGILL }, "was ended by SIGILL"),
        ];
        for (fault, expected) in told {
            let text = said(&vcpu, fault);
            assert!(text.starts_with("the vCPU thread vcpu0:web-1 of web-1 "), "{text}");
            assert!(text.contains(expected), "{text:?} lacks {expected:?}");
        }
    }

    #[test]
    fn names_need_no_escape_and_have_an_end() {
        let text = said(&speaker("disk", "a\"b\\c\n\u{e9}", ""), Fault::Stack);
        assert_eq!(text, "the disk thread a?b?c??? overflowed its stack");
        assert_eq!(said(&Speaker::of_this_thread(), Fault::Stack), "the unnamed thread overflowed its stack");
        let mut words = Words::compose(&speaker("disk", &"x".repeat(99), "y"), Fault::Abort);
        for _ in 0..99 {
            words.raw(b"0123456789");
        }
        assert_eq!(words.bytes().len(), WORDS_BYTES);
    }
}
