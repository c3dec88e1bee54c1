//! Errors and panics as text, for where only text can go: a status, a reply, a line of a log.

use std::any::Any;
use std::error::Error;

/// `error` and its causes in one line, outermost first, joined by `: `.
///
/// A cause that the text before it ends with already, as some libraries write it, is not repeated.
pub fn error_chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let part = error.to_string();
        if !text.ends_with(&part) {
            text.push_str(": ");
            text.push_str(&part);
        }
        cause = error.source();
    }
    text
}

/// The message of a caught panic, from the payload that `catch_unwind` or a thread's join returns.
pub fn panic_message(payload: &(dyn Any + Send)) -> &str {
    if let Some(text) = payload.downcast_ref::<&'static str>() {
        text
    } else if let Some(text) = payload.downcast_ref::<String>() {
        text
    } else {
        "no message"
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{catch_unwind, panic_any};

    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("cannot open {file}")]
    struct Outer {
        file: &'static str,
        #[source]
        source: Middle,
    }

    #[derive(Debug, Error)]
    #[error("denied: {0}")]
    struct Middle(#[source] std::io::Error);

    #[test]
    fn causes_follow_their_error_and_are_not_repeated() {
        let error = Outer { file: "kernel", source: Middle(std::io::Error::other("no permission")) };
        assert_eq!(error_chain(&error), "cannot open kernel: denied: no permission");
        assert_eq!(error_chain(&std::io::Error::other("alone")), "alone");
    }

    #[test]
    fn panics_with_and_without_text_have_a_message() {
        let message =
            |body: fn()| panic_message(catch_unwind(body).expect_err("it panics").as_ref()).to_owned();
        assert_eq!(message(|| panic!("literal")), "literal");
        assert_eq!(message(|| panic!("number {}", std::hint::black_box(7))), "number 7");
        assert_eq!(message(|| panic_any(7_u8)), "no message");
    }
}
