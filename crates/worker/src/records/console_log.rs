//! What a guest wrote to its console, kept when its machine has ended: of its newest run and of the one before.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use console_log::ConsoleSnapshot;

const NEWEST: &str = "console.log";
const BEFORE: &str = "console.1.log";

/// Keeps `console` in a VM's `directory`; what was kept before becomes the log of the run before. Nothing is
/// kept of a guest that wrote nothing.
pub(crate) fn keep_console(directory: &Path, console: &ConsoleSnapshot) -> io::Result<()> {
    if console.total == 0 {
        return Ok(());
    }
    match fs::rename(directory.join(NEWEST), directory.join(BEFORE)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut file = File::create(directory.join(NEWEST))?;
    file.write_all(&console.head)?;
    if console.omitted > 0 {
        writeln!(file, "\n[{} bytes were not kept]", console.omitted)?;
    }
    file.write_all(&console.tail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(head: &str, omitted: u64, tail: &str) -> ConsoleSnapshot {
        let total = head.len() as u64 + omitted + tail.len() as u64;
        ConsoleSnapshot { total, head: head.into(), omitted, tail: tail.into() }
    }

    #[test]
    fn two_runs_are_kept_and_a_silent_one_displaces_none() {
        let directory = tempfile::tempdir().expect("a directory");
        for run in
            [console("one", 0, ""), console("two", 0, ""), console("three", 9, "end"), console("", 0, "")]
        {
            keep_console(directory.path(), &run).expect("kept");
        }
        let text = |name: &str| fs::read_to_string(directory.path().join(name)).expect("there");
        assert_eq!(text(NEWEST), "three\n[9 bytes were not kept]\nend");
        assert_eq!(text(BEFORE), "two");
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 2);
    }
}
