//! An entry of a table: a system call, what its arguments may be, and why it is there where that is not plain.

/// A system call that a kind of thread may make.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    pub(crate) number: i64,
    /// The name of its number's constant: `SYS_read`.
    pub(crate) constant: &'static str,
    /// What its arguments may be.
    pub arguments: Arguments,
    /// Why it is allowed although no ordinary run makes it.
    pub seldom: Option<&'static str>,
}

/// What the arguments of a call may be.
#[derive(Clone, Copy, Debug)]
pub enum Arguments {
    /// Anything.
    Any,
    /// One argument, counted from zero, is one of these. Its lower half counts, as the kernel takes these as 32 bits.
    OneOf {
        /// Which argument.
        index: u8,
        /// What it may be.
        values: &'static [Value],
    },
    /// One argument has none of these bits.
    Without {
        /// Which argument.
        index: u8,
        /// What it may not have.
        bits: u32,
    },
    /// A signal, argument 2, to a thread of this very process, argument 0.
    OwnSignal {
        /// Which signals.
        values: &'static [Value],
    },
}

/// A value of an argument, with its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// The value.
    pub number: u32,
    /// The name of its constant.
    pub name: &'static str,
    /// Why it is allowed although no ordinary run uses it.
    pub seldom: Option<&'static str>,
}

/// A call that fails in place of ending the process. What makes it goes on without, as on a kernel or in a root that lacks
/// what it asks for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal {
    pub(crate) number: i64,
    pub(crate) error: u32,
}

impl Call {
    pub(crate) const fn new(number: i64, constant: &'static str) -> Self {
        Self { number, constant, arguments: Arguments::Any, seldom: None }
    }

    /// Its number.
    #[must_use]
    pub fn number(&self) -> i64 {
        self.number
    }

    /// Its name: `read`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        self.constant.strip_prefix("SYS_").unwrap_or(self.constant)
    }

    pub(crate) const fn with(mut self, index: u8, values: &'static [Value]) -> Self {
        self.arguments = Arguments::OneOf { index, values };
        self
    }

    pub(crate) const fn without(mut self, index: u8, bits: u32) -> Self {
        self.arguments = Arguments::Without { index, bits };
        self
    }

    pub(crate) const fn own_signal(mut self, values: &'static [Value]) -> Self {
        self.arguments = Arguments::OwnSignal { values };
        self
    }

    pub(crate) const fn seldom(mut self, why: &'static str) -> Self {
        self.seldom = Some(why);
        self
    }
}

impl Value {
    pub(crate) const fn seldom(mut self, why: &'static str) -> Self {
        self.seldom = Some(why);
        self
    }
}

/// A call by its constant in `libc`.
macro_rules! call {
    ($constant:ident) => {
        $crate::call::Call::new(libc::$constant, stringify!($constant))
    };
}

/// A value by its constant in `libc`, or one that has its name from here.
macro_rules! value {
    ($constant:ident) => {
        $crate::call::Value { number: libc::$constant as u32, name: stringify!($constant), seldom: None }
    };
    ($name:ident = $number:expr) => {
        $crate::call::Value { number: $number, name: stringify!($name), seldom: None }
    };
}

/// A call by its constant, and the error that it fails with by that one's.
macro_rules! refusal {
    ($constant:ident, $error:ident) => {
        $crate::call::Refusal { number: libc::$constant, error: libc::$error.cast_unsigned() }
    };
}

pub(crate) use {call, refusal, value};
