//! What a machine is built with besides its description.

use devices::serial::ConsoleSink;

#[cfg(any(test, feature = "fault-injection"))]
use crate::vcpu::InjectedPanic;

/// What a machine is built with besides its description.
pub struct BuildOptions {
    /// The machine's name in thread names, errors and logs.
    pub(super) name: String,
    /// Takes what the guest writes to its recorded consoles.
    pub(super) console: Box<dyn ConsoleSink>,
    #[cfg(any(test, feature = "fault-injection"))]
    pub(super) injected_panic: Option<InjectedPanic>,
}

impl BuildOptions {
    /// Options for a machine called `name` whose recorded consoles go to `console`.
    ///
    /// A vCPU's thread is called `vcpu<index>:<name>`, cut to the 15 bytes the kernel keeps.
    #[must_use]
    pub fn new(name: impl Into<String>, console: Box<dyn ConsoleSink>) -> Self {
        Self {
            name: name.into(),
            console,
            #[cfg(any(test, feature = "fault-injection"))]
            injected_panic: None,
        }
    }

    /// Makes the thread of vCPU `index` panic before it first enters the guest. For tests of containment.
    #[cfg(any(test, feature = "fault-injection"))]
    #[doc(hidden)]
    #[must_use]
    pub fn panicking_vcpu(mut self, index: u8) -> Self {
        self.injected_panic = Some(InjectedPanic { vcpu: index });
        self
    }
}

impl std::fmt::Debug for BuildOptions {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("BuildOptions").field("name", &self.name).finish_non_exhaustive()
    }
}
