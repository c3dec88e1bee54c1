//! Whether what is written is coloured.

/// Whether what is written is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colours {
    Used,
    Unused,
}

impl Colours {
    /// On a terminal that knows them, unless `NO_COLOR` says otherwise (<https://no-color.org>).
    pub(crate) fn wanted(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> Self {
        let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
        let dumb = variable("TERM").is_some_and(|value| value == "dumb");
        if is_terminal && !refused && !dumb { Self::Used } else { Self::Unused }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_for_terminals_whose_users_want_them() {
        let wanted = |is_terminal, name: &'static str, value: &'static str| {
            Colours::wanted(is_terminal, |asked| (asked == name).then(|| value.to_owned()))
        };
        assert_eq!(wanted(true, "TERM", "xterm"), Colours::Used);
        assert_eq!(wanted(true, "NO_COLOR", ""), Colours::Used);
        for (is_terminal, name, value) in
            [(false, "TERM", "xterm"), (true, "NO_COLOR", "1"), (true, "TERM", "dumb")]
        {
            assert_eq!(wanted(is_terminal, name, value), Colours::Unused, "{name}={value}");
        }
    }
}
