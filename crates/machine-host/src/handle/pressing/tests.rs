//! Presses against guests of every kind: how soon their system takes events, how soon somebody listens there, and when they
//! say that they go.

use proptest::prelude::*;

use super::*;

/// A guest that takes the interrupt, and reads its event a while later, from `reads_from` on, of which somebody takes notice from `listens_from` on, and that says
/// so `says_after` later if it does. It is never quick enough for the stop.
#[derive(Clone, Copy, Debug)]
struct Guest {
    reads_from: Duration,
    reads_after: Duration,
    listens_from: Duration,
    says_after: Option<Duration>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Raised {
    at: Duration,
    /// Whether the press before had been read, so that this is another one.
    is_another: bool,
    /// When that was.
    before_read_at: Option<Duration>,
}

/// What a stop of `patience` does to `guest`, in steps of 50 milliseconds.
fn stopped(guest: Guest, patience: Duration) -> Vec<Raised> {
    let begun = Instant::now();
    let mut presses = Presses::begin(begun);
    let mut raised = vec![Raised { at: Duration::ZERO, is_another: true, before_read_at: None }];
    let (mut button, mut read_at, mut heard_at) = (PowerButton::Pressed, None, None);
    // An edge that comes while its interrupt is masked is lost; one that is taken leads to a look at the register.
    let look = |at: Duration| (at >= guest.reads_from).then_some(at + guest.reads_after);
    let mut looks: Vec<_> = look(Duration::ZERO).into_iter().collect();
    let mut passed = Duration::ZERO;
    while passed < patience {
        let looked = looks.iter().any(|at| *at <= passed);
        looks.retain(|at| *at > passed);
        if looked && button == PowerButton::Pressed {
            (button, read_at) = (PowerButton::Seen, Some(passed));
            heard_at = heard_at.or((passed >= guest.listens_from).then_some(passed));
        }
        let now = begun + passed;
        presses.look(button, now);
        let is_going = heard_at.zip(guest.says_after).is_some_and(|(heard, after)| passed >= heard + after);
        if presses.next(button, is_going).is_some_and(|due| due <= now) {
            let before_read_at = (button == PowerButton::Seen).then_some(read_at).flatten();
            raised.push(Raised { at: passed, is_another: button != PowerButton::Pressed, before_read_at });
            presses.note(button, now);
            button = PowerButton::Pressed;
            looks.extend(look(passed));
        }
        passed += STEP;
    }
    raised
}

const STEP: Duration = Duration::from_millis(50);

fn any_guest() -> impl Strategy<Value = Guest> {
    let moment = || (0_u64..120_000).prop_map(Duration::from_millis);
    let reads_after = (0_u64..900).prop_map(Duration::from_millis);
    let says_after = proptest::option::of((0_u64..4_000).prop_map(Duration::from_millis));
    (moment(), reads_after, moment(), says_after).prop_map(|(reads_from, reads_after, more, says_after)| {
        Guest { reads_from, reads_after, listens_from: reads_from + more, says_after }
    })
}

proptest! {
    /// A guest that has read nothing is told of one press, whatever it takes; it hears of it soon after it can.
    #[test]
    fn what_is_not_read_stays_one_press(guest in any_guest()) {
        let raised = stopped(guest, Duration::from_secs(150));
        let unread = raised.iter().skip(1).take_while(|raised| raised.at <= guest.reads_from);
        prop_assert!(unread.clone().all(|raised| !raised.is_another), "{raised:?}");
        let taken = raised.iter().find(|raised| raised.at >= guest.reads_from).expect("it is reminded");
        prop_assert!(taken.at <= guest.reads_from + LONGEST_REMINDER + STEP, "{raised:?}");
    }

    /// No two interrupts follow one another at once, and another press follows the one before ever more seldom.
    #[test]
    fn pauses_grow(guest in any_guest()) {
        let raised = stopped(guest, Duration::from_secs(300));
        for pair in raised.windows(2) {
            prop_assert!(pair[1].at - pair[0].at >= FIRST_REMINDER, "{raised:?}");
        }
        for raised in raised.iter().skip(1).filter(|raised| raised.is_another) {
            let read = raised.before_read_at.expect("it is another one because that was read");
            prop_assert!(raised.at - read >= FIRST_REPEAT, "{raised:?}");
        }
        let others: Vec<_> = raised.iter().filter(|raised| raised.is_another).map(|raised| raised.at).collect();
        let pauses: Vec<_> = others.windows(2).map(|pair| pair[1] - pair[0]).collect();
        for (pause, before) in pauses.iter().skip(2).zip(pauses.iter().skip(1)) {
            // A guest takes up to a second to read each.
            let least = (*before * 2).min(LONGEST_REPEAT) - Duration::from_secs(2);
            prop_assert!(*pause >= least, "{pauses:?}");
        }
        prop_assert!(others.len() <= 8, "{others:?}");
    }

    /// A guest that says that it goes is left alone from then on.
    #[test]
    fn one_that_goes_is_left_alone(guest in any_guest()) {
        let raised = stopped(guest, Duration::from_secs(600));
        let heard = raised.iter().find(|raised| raised.at >= guest.listens_from.max(guest.reads_from));
        if let (Some(heard), Some(says_after)) = (heard, guest.says_after) {
            let said = heard.at + guest.reads_after + says_after + 2 * STEP;
            prop_assert!(raised.iter().all(|raised| raised.at <= said), "{guest:?}: {raised:?}");
        }
    }

    /// Somebody who listens half-way through a stop of the usual length is heard of: the guest is not killed for it.
    #[test]
    fn one_that_listens_in_time_is_asked_in_time(listens_from in 0_u64..14_000, reads_from in 0_u64..14_000) {
        let listens_from = Duration::from_millis(listens_from.max(reads_from));
        let reads_from = Duration::from_millis(reads_from);
        let guest = Guest { reads_from, reads_after: Duration::ZERO, listens_from, says_after: None };
        let raised = stopped(guest, Duration::from_secs(30));
        prop_assert!(raised.iter().any(|raised| raised.at >= listens_from), "{raised:?}");
    }
}

#[test]
fn the_pauses_are_those_of_the_page() {
    let begun = Instant::now();
    let after = |mut presses: Presses, button, times: usize| {
        let due = std::iter::from_fn(|| {
            let due = presses.next(button, false)?;
            presses.note(button, due);
            Some((due - begun).as_secs())
        });
        due.take(times).collect::<Vec<_>>()
    };
    let unread = after(Presses::begin(begun), PowerButton::Pressed, 5);
    assert_eq!(unread, [1, 3, 7, 11, 15]);
    for button in [PowerButton::Seen, PowerButton::Untouched] {
        assert_eq!(after(Presses::begin(begun), button, 5), [5, 15, 35, 75, 155]);
    }
    assert_eq!(Presses::begin(begun).next(PowerButton::Seen, true), None);
    assert_eq!(Presses::begin(begun).next(PowerButton::Pressed, true), None);
}

#[test]
fn counts_do_not_overflow() {
    let now = Instant::now();
    let presses = Presses { presses: u32::MAX, interrupts: u32::MAX, is_read: false, last: now };
    assert_eq!(presses.next(PowerButton::Pressed, false), Some(now + LONGEST_REMINDER));
    assert_eq!(presses.next(PowerButton::Seen, false), Some(now + LONGEST_REPEAT));
}
