//! `cargo xtask pictures`: draws what an operator sees, into `docs/pictures`. Nothing in them is made up: the worker runs
//! Linux guests in the lab, its verbs run on terminals, and what these were sent is drawn. The page is shown by a browser.

mod page;
mod svg;

use std::collections::BTreeMap;
use std::fs;
use std::num::NonZeroU16;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, ValueEnum};

use crate::lab::host::{Afterwards, Session};
use crate::lab::loss::with_second_try;
use crate::lab::programs;
use crate::lab::{Lab, SCRIPT_VARIABLES};
use crate::workspace::Workspace;
use crate::{packages, terminal};

const DEADLINE: Duration = Duration::from_secs(15 * 60);
/// Where the pictures lie.
const FOLDER: &str = "docs/pictures";
/// What a line of the program begins with that has a part of a picture.
const MARK: &str = "picture ";
/// More lines than any verb writes: what is not drawn on one screen is drawn whole.
const LINES_MAX: NonZeroU16 = NonZeroU16::new(300).expect("it is not zero");

/// What one terminal was sent.
#[derive(Debug)]
struct Recording {
    columns: NonZeroU16,
    bytes: Vec<u8>,
}

/// Options of the task.
#[derive(Args, Debug)]
pub(crate) struct Pictures {
    /// Makes these only.
    #[arg(long, value_enum)]
    only: Option<Subject>,
}

/// What pictures are of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Subject {
    /// What verbs write to terminals.
    Terminals,
    /// The page in a browser.
    Page,
}

impl Pictures {
    /// Makes the pictures; answers whether that went well.
    pub(crate) fn run(&self, workspace: &Workspace) -> Result<bool> {
        if self.only != Some(Subject::Page) {
            draw_terminals(workspace)?;
        }
        if self.only != Some(Subject::Terminals) {
            page::make(workspace)?;
        }
        Ok(true)
    }
}

/// Draws what verbs write.
fn draw_terminals(workspace: &Workspace) -> Result<()> {
    packages::ensure()?;
    terminal::ensure(workspace)?;
    let mut built = programs::build_shipped(workspace)?;
    built.extend(programs::build(workspace, &["build", "--package", "end-to-end", "--bin", "pictures"])?);
    let lab = Lab::prepare(workspace)?.with_stock_guest()?;
    let session = Session {
        lab: &lab,
        programs: &built,
        script: &format!("{SCRIPT_VARIABLES}\nexec /lab/bin/pictures\n"),
        kept: None,
        deadline: DEADLINE,
        afterwards: Afterwards::PowerOff,
    };
    let mut recordings = BTreeMap::new();
    let status = with_second_try(|| {
        recordings.clear();
        session.run(|line| take(&mut recordings, line))
    })?;
    ensure!(status == 0 && !recordings.is_empty(), "nothing was shown");
    let folder = workspace.root().join(FOLDER);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    for (name, recording) in &recordings {
        let path = folder.join(format!("{name}.svg"));
        fs::write(&path, draw(recording)).with_context(|| format!("cannot write {}", path.display()))?;
        println!("drawn    {}", path.display());
    }
    Ok(())
}

/// Takes in a line of the program: a part of a picture, or something to be read.
fn take(recordings: &mut BTreeMap<String, Recording>, line: &str) {
    match line.trim_end().strip_prefix(MARK).map(parse) {
        None => println!("{line}"),
        Some(Err(problem)) => println!("{line}: {problem:#}"),
        Some(Ok((name, columns, bytes))) => {
            let begin = || Recording { columns, bytes: Vec::new() };
            recordings.entry(name.to_owned()).or_insert_with(begin).bytes.extend(bytes);
        }
    }
}

/// Name, columns, rows and the bytes in hexadecimal digits.
fn parse(line: &str) -> Result<(&str, NonZeroU16, Vec<u8>)> {
    let [name, columns, _rows, digits] = line.split(' ').collect::<Vec<_>>()[..] else {
        bail!("not four words");
    };
    let pairs = digits.as_bytes().chunks(2).map(|pair| {
        let pair = std::str::from_utf8(pair).context("no digits")?;
        u8::from_str_radix(pair, 16).context("no digits")
    });
    Ok((name, columns.parse().context("no number")?, pairs.collect::<Result<_>>()?))
}

/// The screen at the end, without the empty lines below.
fn draw(recording: &Recording) -> String {
    let mut parser = vt100::Parser::new(LINES_MAX, recording.columns, 0);
    parser.process(&recording.bytes);
    svg::drawn(parser.screen())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_in_parts_is_drawn_whole() {
        let mut recordings = BTreeMap::new();
        for line in ["picture ls 40 24 1b5b33326d7275", "something else", "picture ls 40 24 6e1b5b6d3c0d0a"] {
            take(&mut recordings, line);
        }
        let picture = draw(&recordings["ls"]);
        assert!(picture.contains(">run</tspan>") && picture.contains("&lt;"), "{picture}");
        assert!(picture.contains("#4e9a06"), "it is green: {picture}");
        parse("ls 40 24 xy").expect_err("no digits");
        parse("ls 40").expect_err("not whole");
    }
}
