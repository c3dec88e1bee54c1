//! The border that a panic on a machine's thread does not cross.
//!
//! Catching a panic yields its payload, not its place: only the panic hook is told that. The hook is the
//! process's, so the one installed here adds itself to whatever is there: it notes the place for a thread that is inside
//! [`contain`], and lets the previous hook print for every thread as before.

use std::cell::RefCell;
use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;
use std::thread;

use vm_model::panic_message;

thread_local! {
    /// `Some` inside [`contain`]; then the place of the thread's last panic, once there was one.
    static PANIC_PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Adds to the process's panic hook what [`contain`] needs to name a panic's place. Once a process; without it
/// panics are contained all the same, with less said.
pub(crate) fn note_places_of_panics() {
    static INSTALLED: Once = Once::new();
    INSTALLED.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            note_place(info);
            previous(info);
        }));
    });
}

fn note_place(info: &PanicHookInfo<'_>) {
    let Some(location) = info.location() else { return };
    // A thread that panics while it ends has no such variable any more, and nobody left to tell.
    let _ = PANIC_PLACE.try_with(|place| {
        if let Ok(mut place) = place.try_borrow_mut()
            && place.is_some()
        {
            *place = Some(format!(" at {}:{}", location.file(), location.line()));
        }
    });
}

/// Runs `body`; a panic in it becomes an error that names thread, message and place.
///
/// What `body` was changing may be left half done. Callers use it no further than to dispose of it.
pub(crate) fn contain<T>(body: impl FnOnce() -> T) -> Result<T, String> {
    PANIC_PLACE.set(Some(String::new()));
    let result = panic::catch_unwind(AssertUnwindSafe(body));
    let place = PANIC_PLACE.take().unwrap_or_default();
    result.map_err(|payload| {
        let message = panic_message(payload.as_ref()).to_owned();
        dispose(payload);
        let thread = thread::current();
        format!("panic on thread {}: {message}{place}", thread.name().unwrap_or("without a name"))
    })
}

/// Drops `value` whatever its destructor does; a panic in it is reported and goes no further.
pub(crate) fn dispose(value: impl Sized) {
    let dropped = panic::catch_unwind(AssertUnwindSafe(move || drop(value)));
    if let Err(payload) = dropped {
        tracing::error!(
            message = panic_message(payload.as_ref()),
            "a destructor panicked; what it owned may be leaked"
        );
        // A payload whose own destructor panics would panic here: better leaked than another round.
        std::mem::forget(payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_an_error_that_names_thread_message_and_place() {
        note_places_of_panics();
        let thread = thread::Builder::new().name("vm:test".into());
        let joined = thread
            .spawn(|| {
                let number = 7;
                let line = line!() + 1;
                (contain(|| assert_eq!(number, 8, "bad number {number}")), line)
            })
            .expect("a thread starts")
            .join();
        let (result, line) = joined.expect("the panic was contained");
        let error = result.expect_err("it panicked");
        assert!(
            error.starts_with("panic on thread vm:test: assertion `left == right` failed: bad number 7"),
            "{error}"
        );
        assert!(error.ends_with(&format!("containment.rs:{line}")), "{error}");
    }

    #[test]
    fn without_a_panic_the_value_comes_back() {
        assert_eq!(contain(|| 5), Ok(5));
    }

    #[test]
    fn a_destructor_may_panic() {
        struct Bomb;
        impl Drop for Bomb {
            fn drop(&mut self) {
                panic!("a destructor that panics");
            }
        }
        dispose(Bomb);
        assert!(contain(|| panic::panic_any(Bomb)).is_err());
    }
}
