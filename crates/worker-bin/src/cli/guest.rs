//! The verbs that bring one to a guest: its console, its logs, a shell in it.

use std::ffi::OsString;
use std::path::PathBuf;
use std::str::FromStr;

use clap::{Args, Subcommand, ValueEnum};

use super::span::Span;
use crate::client::naming::VmName;

/// How one comes to a guest.
#[derive(Debug, Subcommand)]
pub(crate) enum GuestVerb {
    /// Print what a VM wrote to its console, or what is logged about it
    Logs(LogsFlags),
    /// Attach to a VM's console: read and type; several clients may read, one types
    Console(ConsoleFlags),
    /// Run a shell or a command in a VM by the OpenSSH client, over vsock where the guest listens there
    Ssh(SshFlags),
}

/// What `ssh` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct SshFlags {
    /// The VM: its name, or the beginning of it that no other has
    pub(crate) vm: VmName,
    /// The user to be in the guest [default: what the OpenSSH client makes of its configuration]
    #[arg(long, short, value_name = "USER")]
    pub(crate) login: Option<String>,
    /// Where the keys of VMs are kept that were met before
    #[arg(long, value_name = "FILE", default_value = "~/.ssh/procurator_known_hosts")]
    pub(crate) known_hosts: String,
    /// A command, and options of ssh before it: what would stand after the host's name
    #[arg(value_name = "COMMAND", trailing_var_arg = true, allow_hyphen_values = true)]
    pub(crate) rest: Vec<OsString>,
}

/// Who says what is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogSource {
    /// The guest, on its console
    #[default]
    Console,
    /// The process that runs the VM
    Vmm,
    /// The worker, about the VM
    Worker,
}

/// What `console` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct ConsoleFlags {
    /// The VM: its name, or the beginning of it that no other has
    pub(crate) vm: VmName,
    /// Take the right to type from whoever has it; that client goes on reading
    #[arg(long)]
    pub(crate) steal: bool,
    /// Only read; standard input is not touched
    #[arg(long, conflicts_with = "steal")]
    pub(crate) read_only: bool,
    /// The key that leaves the console: a character, `^` and a letter for a control key, or `none`
    #[arg(long, value_name = "KEY", default_value = "^]")]
    pub(crate) escape: EscapeKey,
    /// Append what the guest writes to this file, too
    #[arg(long, value_name = "FILE")]
    pub(crate) log: Option<PathBuf>,
    /// Lines that are shown of what was written before
    #[arg(long, value_name = "COUNT", default_value_t = 100, value_parser = super::amounts::count)]
    pub(crate) tail: usize,
    /// How long the guest must be silent before a console whose input came from a file or a pipe, and has ended, is left
    #[arg(long, value_name = "SECONDS", default_value_t = 1, value_parser = super::amounts::silence)]
    pub(crate) linger: u64,
}

/// What `logs` takes.
#[derive(Clone, Debug, Args)]
pub(crate) struct LogsFlags {
    /// The VM: its name, or the beginning of it that no other has
    pub(crate) vm: VmName,
    /// Who says it
    #[arg(long, value_name = "SOURCE", default_value = "console")]
    pub(crate) source: LogSource,
    /// Go on with what comes later, over restarts of the guest and of the worker
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Print only the last lines
    #[arg(long, short = 'n', visible_alias = "lines", value_name = "COUNT", value_parser = super::amounts::count)]
    pub(crate) tail: Option<usize>,
    /// Print a boot: its number as `--boots` lists it, 0 for the newest, -1 for the one before
    #[arg(long, value_name = "BOOT", allow_negative_numbers = true, conflicts_with = "since", value_parser = super::amounts::boot)]
    pub(crate) boot: Option<i64>,
    /// Print what was logged since then; of a console, the boots that wrote something, whole: a time like `10m`, `2h` or `3d` ago
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Span>,
    /// List the boots that are kept
    #[arg(long, conflicts_with_all = ["follow", "tail", "boot", "since"])]
    pub(crate) boots: bool,
    /// Print the list of boots as JSON
    #[arg(long, requires = "boots")]
    pub(crate) json: bool,
}

/// The byte that leaves a console, if any does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EscapeKey(pub(crate) Option<u8>);

impl EscapeKey {
    /// As it is written on keyboards.
    pub(crate) fn name(self) -> Option<String> {
        let byte = self.0?;
        Some(if byte < 0x20 { format!("^{}", char::from(byte + 0x40)) } else { char::from(byte).to_string() })
    }
}

impl FromStr for EscapeKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.as_bytes() {
            b"none" => Ok(Self(None)),
            [byte] if byte.is_ascii_graphic() => Ok(Self(Some(*byte))),
            [b'^', key @ (b'@'..=b'_' | b'a'..=b'z')] => Ok(Self(Some(key.to_ascii_uppercase() - 0x40))),
            _ => Err("a character, ^ and one of @ A to Z [ \\ ] ^ _, or none is accepted".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_written_as_on_keyboards() {
        for (text, byte) in [("^]", 0x1d), ("^a", 1), ("^A", 1), ("^@", 0), ("~", b'~'), ("^", b'^')] {
            assert_eq!(text.parse(), Ok(EscapeKey(Some(byte))), "{text}");
        }
        assert_eq!(EscapeKey(Some(0x1d)).name().as_deref(), Some("^]"));
        assert_eq!("none".parse(), Ok(EscapeKey(None)));
        for text in ["", "^1", "ab", "^]]", "é"] {
            text.parse::<EscapeKey>().expect_err(text);
        }
    }
}
