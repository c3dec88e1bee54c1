//! What answers are shown on: how wide it is, and whether it has colours.

use std::env;
use std::io::{IsTerminal, stdout};

use crate::colours::Colours;

/// Where answers are shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct Screen {
    /// Characters in a line; `None` where lines are read by a program or a file, which cut nothing.
    pub(super) width: Option<usize>,
    pub(super) colours: Colours,
}

/// What a word means to its reader, shown by its colour.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tone {
    /// Nothing special.
    #[default]
    Plain,
    /// All is well.
    Good,
    /// Under way, or to be looked at some time.
    Warning,
    /// To be looked at now.
    Bad,
    /// Of less interest.
    Faint,
}

/// `text` in place of what was on the screen; below it where it is written to a file or a program.
pub(super) fn frame(text: &str, screen: Screen) -> String {
    match screen.width {
        // To the upper left corner, each line to its end, and whatever was below.
        Some(_) => format!("\x1b[H{}\x1b[J", text.replace('\n', "\x1b[K\n")),
        None => format!("{text}\n"),
    }
}

impl Screen {
    /// Standard output as it is now.
    pub(super) fn of_stdout() -> Self {
        let is_terminal = stdout().is_terminal();
        let width = rustix::termios::tcgetwinsize(stdout()).ok().map(|size| usize::from(size.ws_col));
        Self {
            width: width.filter(|width| is_terminal && *width > 0),
            colours: Colours::wanted(is_terminal, |name| env::var(name).ok()),
        }
    }

    /// `text`, which is `tone`.
    pub(super) fn painted(self, text: &str, tone: Tone) -> String {
        let code = match (self.colours, tone) {
            (Colours::Unused, _) | (Colours::Used, Tone::Plain) => return text.to_owned(),
            (Colours::Used, Tone::Good) => "32",
            (Colours::Used, Tone::Warning) => "33",
            (Colours::Used, Tone::Bad) => "31",
            (Colours::Used, Tone::Faint) => "2",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}
