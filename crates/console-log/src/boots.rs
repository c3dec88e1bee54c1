//! Which bytes of a console are of which boot, and how far they were copied elsewhere. Pure.

use std::collections::VecDeque;

use crate::log::ConsoleLog;

/// Boots whose beginning is known: more than files keep. Of the older ones only the bytes are known.
const KNOWN_BOOTS: usize = 8;

/// One boot of the machines that write a console one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Boot {
    /// Counted from 0.
    number: u64,
    /// Bytes that were written before it.
    start: u64,
}

/// The newest boots of a console, oldest first; never empty.
#[derive(Debug)]
pub(crate) struct Boots {
    known: VecDeque<Boot>,
}

impl Default for Boots {
    /// The first boot, which began with the console.
    fn default() -> Self {
        Self { known: VecDeque::from([Boot { number: 0, start: 0 }]) }
    }
}

/// How far a console was copied elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cursor {
    boot: Boot,
    /// The next byte to copy, counted from the first ever written.
    offset: u64,
}

/// The answer to [`Boots::copy_next`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Copied {
    /// Bytes of the cursor's boot, which begin at this offset of the boot. The cursor stays where it is.
    Bytes { offset: u64 },
    /// None: the cursor is moved to the beginning of a later boot.
    NextBoot,
    /// None: the cursor is at the goal, and more was written since.
    AtGoal,
    /// None: everything was copied.
    AtEnd,
}

impl Boots {
    /// Another boot begins where `start` bytes were written.
    pub(crate) fn begin(&mut self, start: u64) {
        let number = self.known.back().map_or(0, |boot| boot.number.saturating_add(1));
        if self.known.len() == KNOWN_BOOTS {
            self.known.pop_front();
        }
        self.known.push_back(Boot { number, start });
    }

    /// Replaces the content of `bytes` by what is kept in `log` from the cursor on: of its boot, without a gap, and
    /// nothing where it has come to `goal`, which is a number of bytes written.
    pub(crate) fn copy_next(
        &self,
        log: &ConsoleLog,
        cursor: &mut Cursor,
        goal: u64,
        bytes: &mut Vec<u8>,
    ) -> Copied {
        bytes.clear();
        let next = self.known.iter().find(|boot| boot.number > cursor.boot.number);
        let boot_end = next.map_or(log.total(), |boot| boot.start);
        // Where its boot ended is forgotten. Nobody keeps so many boots.
        let is_forgotten = next.is_some_and(|boot| boot.number - cursor.boot.number > 1);
        if cursor.offset < boot_end && !is_forgotten {
            if cursor.offset >= goal {
                return Copied::AtGoal;
            }
            let limit = usize::try_from(boot_end - cursor.offset).unwrap_or(usize::MAX);
            let begin = log.copy_from(cursor.offset, limit, bytes);
            // Bytes may begin later than was asked for, and then more come than the boot has.
            let of_boot = usize::try_from(boot_end.saturating_sub(begin)).unwrap_or(usize::MAX);
            bytes.truncate(of_boot);
            if !bytes.is_empty() {
                return Copied::Bytes { offset: begin.saturating_sub(cursor.boot.start) };
            }
            // Nothing of the boot's rest is kept.
            cursor.offset = boot_end;
        }
        match next {
            Some(boot) => {
                *cursor = Cursor { boot: *boot, offset: boot.start };
                Copied::NextBoot
            }
            None => Copied::AtEnd,
        }
    }
}

impl Cursor {
    /// Before the first byte.
    pub(crate) fn start() -> Self {
        Self { boot: Boot { number: 0, start: 0 }, offset: 0 }
    }

    /// Everything of its boot before `offset` of the boot was copied.
    pub(crate) fn move_to(&mut self, offset: u64) {
        self.offset = self.boot.start.saturating_add(offset);
    }

    /// Bytes written, of all boots, up to the cursor.
    pub(crate) fn position(&self) -> u64 {
        self.offset
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ConsoleLimits;

    #[derive(Clone, Debug)]
    enum Event {
        Write(usize),
        Begin,
        Copy,
    }

    fn events() -> impl Strategy<Value = Vec<Event>> {
        let event = prop_oneof![
            4 => (0..40usize).prop_map(Event::Write),
            2 => Just(Event::Begin),
            2 => Just(Event::Copy),
        ];
        proptest::collection::vec(event, 0..40)
    }

    proptest! {
        /// Whatever is written between copies: each byte that is copied is of the boot and at the offset it is said to be,
        /// boots come in order, and the end is reached.
        #[test]
        fn copies_are_of_the_right_boot(events in events()) {
            let mut log = ConsoleLog::new(ConsoleLimits { head: 16, tail: 16 });
            let (mut boots, mut cursor, mut bytes) = (Boots::default(), Cursor::start(), Vec::new());
            let mut written: Vec<Vec<u8>> = vec![Vec::new()];
            let mut copied_to = (0, 0);
            for event in events.into_iter().chain([Event::Copy]) {
                match event {
                    Event::Write(count) => {
                        let salt = written.concat().len();
                        let new: Vec<u8> = (salt..salt + count).map(|byte| u8::try_from(byte % 251).expect("small")).collect();
                        log.append(&new);
                        written.last_mut().expect("a boot").extend(new);
                    }
                    Event::Begin => {
                        boots.begin(log.total());
                        written.push(Vec::new());
                    }
                    Event::Copy => loop {
                        let goal = log.total();
                        match boots.copy_next(&log, &mut cursor, goal, &mut bytes) {
                            Copied::Bytes { offset } => {
                                let boot = usize::try_from(cursor.boot.number).expect("small");
                                let at = usize::try_from(offset).expect("small");
                                prop_assert!((boot, at) >= copied_to && !bytes.is_empty());
                                prop_assert_eq!(&bytes[..], &written[boot][at..at + bytes.len()]);
                                copied_to = (boot, at + bytes.len());
                                cursor.move_to(offset + bytes.len() as u64);
                            }
                            Copied::NextBoot => prop_assert!(bytes.is_empty()),
                            Copied::AtGoal => prop_assert!(false, "the goal is the end"),
                            Copied::AtEnd => break,
                        }
                    },
                }
            }
            prop_assert_eq!(cursor.position(), log.total());
            prop_assert_eq!(cursor.boot.number, written.len() as u64 - 1);
        }
    }

    #[test]
    fn a_copy_stops_at_its_goal() {
        let mut log = ConsoleLog::new(ConsoleLimits::default());
        let (boots, mut cursor, mut bytes) = (Boots::default(), Cursor::start(), Vec::new());
        log.append(b"more than the goal");
        assert_eq!(boots.copy_next(&log, &mut cursor, 4, &mut bytes), Copied::Bytes { offset: 0 });
        assert_eq!(bytes, b"more than the goal");
        cursor.move_to(10);
        assert_eq!(boots.copy_next(&log, &mut cursor, 4, &mut bytes), Copied::AtGoal);
    }
}
