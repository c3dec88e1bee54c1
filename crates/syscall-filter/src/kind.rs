//! The kinds of threads of a host process, and which kind starts which.

/// What a thread of a host process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ThreadKind {
    /// The process' first thread: speaks with workers, starts the others.
    Main,
    /// Builds one machine and starts its guest. Then it becomes an [event loop](Self::EventLoop).
    Machine,
    /// Serves the devices of a machine while its guest runs, until that ends.
    EventLoop,
    /// Runs one vCPU and the register accesses of its guest.
    Vcpu,
    /// Carries out the transfers of one disk, where the host has no `io_uring` or the image is qcow2.
    Disk,
    /// Writes consoles to files.
    Console,
    /// Writes the log, and the lines about VMs beside it.
    Log,
    /// Looks whether machines' threads get on.
    Watch,
    /// Has ended machines taken apart, one after the other, or the next ones begin in their place.
    Reaper,
    /// Takes one ended machine apart, or waits for what is in flight of one of its disks.
    Undertaker,
}

impl ThreadKind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Main,
        Self::Machine,
        Self::EventLoop,
        Self::Vcpu,
        Self::Disk,
        Self::Console,
        Self::Log,
        Self::Watch,
        Self::Reaper,
        Self::Undertaker,
    ];

    /// Its name in messages: "the vCPU thread …".
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Machine => "machine",
            Self::EventLoop => "event-loop",
            Self::Vcpu => "vCPU",
            Self::Disk => "disk",
            Self::Console => "console",
            Self::Log => "log",
            Self::Watch => "watch",
            Self::Reaper => "reaper",
            Self::Undertaker => "undertaker",
        }
    }

    /// The kinds of threads that a thread of this kind starts, or becomes. What they may do, it may do: a thread begins with
    /// the filters of whoever started it, and keeps those that it had.
    #[must_use]
    pub const fn starts(self) -> &'static [Self] {
        match self {
            Self::Main => &[Self::Machine, Self::Console, Self::Log, Self::Watch, Self::Reaper],
            Self::Machine => &[Self::Vcpu, Self::Disk, Self::Undertaker, Self::EventLoop],
            Self::Reaper => &[Self::Machine, Self::Undertaker],
            Self::Undertaker => &[Self::Undertaker],
            Self::EventLoop | Self::Vcpu | Self::Disk | Self::Console | Self::Log | Self::Watch => &[],
        }
    }
}
