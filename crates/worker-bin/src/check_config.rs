//! `check-config`: whether the configuration is sound, what it says, and what of it will not work on this host.
//!
//! The file is held against the table of keys first, which finds every fault with its line; then it is read as `run` reads
//! it, with the environment, and judged as `run` judges it before it starts.

mod assignments;
mod document;
mod fault;
mod in_force;
mod surroundings;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use admin::find_worker_process;
use anyhow::{Context, Error, Result, anyhow, bail};
use clap::{CommandFactory, FromArgMatches, parser::ValueSource};
use serde::Serialize;
use worker::vms::VmManagerConfig;

use self::assignments::WorkerFacts;
use self::document::Document;
pub(crate) use self::fault::Fault;
use self::in_force::{InForce, Origin};
use crate::cli::{CheckConfigFlags, Cli, RunFlags};
use crate::client::{print, print_json};
use crate::doctor::addresses::Complaints;
use crate::printable::printable;
use crate::settings::keys::KEYS;
use crate::settings::{DEFAULT_FILE, Settings};

/// What was found of a configuration.
#[derive(Debug, Serialize)]
pub(crate) struct Checked {
    /// The file, if there is one.
    pub(crate) file: Option<PathBuf>,
    /// What keeps `run` from starting.
    pub(crate) faults: Vec<Fault>,
    /// What will not work on this host.
    pub(crate) warnings: Vec<String>,
    /// What every key is. Not there where that cannot be read.
    pub(crate) settings: Vec<InForce>,
    /// The file's content.
    #[serde(skip)]
    document: Document,
    /// What `run` would work with.
    #[serde(skip)]
    pub(crate) read: Option<Settings>,
}

/// Carries the verb out.
pub(crate) fn run(flags: &CheckConfigFlags, runtime_dir: Option<PathBuf>) -> Result<()> {
    let configuration = flags.config.as_deref().or(flags.file.as_deref());
    if let Some(file) = &flags.assignments {
        // A configuration that cannot be read is told of by a check of its own.
        let read = check(configuration, runtime_dir).ok().and_then(|checked| checked.read);
        let listening = read.as_ref().map(Settings::listening).unwrap_or_default();
        let process = read.as_ref().and_then(|read| find_worker_process(&read.runtime_dir));
        let manager = read.map_or_else(VmManagerConfig::default, |read| read.manager);
        let worker = WorkerFacts { manager: &manager, listening: &listening, process };
        return assignments::run(file, worker, flags.json);
    }
    let mut checked = check(configuration, runtime_dir)?;
    // `doctor` looks for itself.
    if let Some(read) = &checked.read {
        let Complaints { refusals, warnings } = surroundings::network(read);
        checked.faults.extend(refusals.iter().map(|problem| checked.document.fault_of(problem)));
        checked.warnings.extend(warnings);
        checked.warnings.extend(surroundings::safeguards_off(read));
    }
    if flags.json {
        print_json(&checked)?;
    } else if flags.print && checked.faults.is_empty() {
        print(&in_force::document(&checked.settings))?;
        eprint_warnings(&checked.warnings);
    } else {
        print(&report(&checked))?;
    }
    let place = checked.file.as_deref().unwrap_or(Path::new("the environment")).display();
    match checked.faults.len() {
        0 => Ok(()),
        1 => bail!("{place}: one fault"),
        count => bail!("{place}: {count} faults"),
    }
}

/// Checks the configuration that `run` would read from `file`, else from its default place.
///
/// # Errors
/// The file was named and cannot be read, or an environment variable is one that `run` refuses.
pub(crate) fn check(file: Option<&Path>, runtime_dir: Option<PathBuf>) -> Result<Checked> {
    let (flags, from_environment) = flags(file)?;
    let (path, text) = match read(file)? {
        Some((path, text)) => (Some(path), text),
        None => (None, String::new()),
    };
    let document = Document::parse(&text);
    let mut faults = document.faults();
    let mut read = None;
    if faults.is_empty() {
        match Settings::load(flags, runtime_dir.clone()) {
            Ok(settings) => {
                let refusals = settings.refusals();
                faults.extend(refusals.iter().map(|problem| document.fault_of(&format!("{problem:#}"))));
                read = Some(settings);
            }
            Err(problem) => faults.push(document.fault_of(&format!("{problem:#}"))),
        }
    }
    let (mut warnings, mut settings) = (Vec::new(), Vec::new());
    if let Some(read) = &read {
        warnings = surroundings::warnings(read);
        settings = in_force::all(&document, &from_environment);
        if let Some(directory) = runtime_dir {
            // A global flag: it may have been given to this verb itself.
            in_force::set_runtime_dir(&mut settings, &directory);
        }
    }
    Ok(Checked { file: path, faults, warnings, settings, document, read })
}

/// Everything that is wrong with the configuration `text`, each with its line; nothing where the table of keys finds no fault.
pub(crate) fn faults_of(text: &str) -> Option<String> {
    let faults = Document::parse(text).faults();
    let told = faults.iter().map(|fault| {
        let line = fault.line.map_or_else(String::new, |line| format!("line {line}: "));
        format!("{line}{}", printable(&fault.to_string()))
    });
    (!faults.is_empty()).then(|| told.collect::<Vec<_>>().join("; "))
}

/// The flags of `run` that the environment sets, and the names of those arguments with their values.
fn flags(file: Option<&Path>) -> Result<(RunFlags, Vec<(&'static str, String)>)> {
    let mut arguments = vec!["procurator-worker".into(), "run".into()];
    if let Some(file) = file {
        arguments.extend(["--config".into(), file.as_os_str().to_owned()]);
    }
    let matches = Cli::command().try_get_matches_from(arguments).map_err(|problem| refused(&problem))?;
    let (_, run) = matches.subcommand().context("`run` is a verb")?;
    let flags = RunFlags::from_arg_matches(run).map_err(|problem| refused(&problem))?;
    let arguments = KEYS.iter().filter_map(|key| key.environment);
    let set = arguments.filter(|(_, argument)| run.value_source(argument) == Some(ValueSource::EnvVariable));
    let values = set.map(|(variable, argument)| {
        (argument, std::env::var_os(variable).unwrap_or_default().to_string_lossy().into_owned())
    });
    Ok((flags, values.collect()))
}

/// What the command line's parser says of the environment: its first paragraph, without what it says of its help.
fn refused(problem: &clap::Error) -> Error {
    let text = problem.to_string();
    let first = text.split("\n\n").next().unwrap_or_default();
    anyhow!("the environment cannot be used: {}", first.trim_start_matches("error: ").trim_end())
}

/// The file and its text; `None` where nobody named one and there is none at the default place.
fn read(file: Option<&Path>) -> Result<Option<(PathBuf, String)>> {
    let path = file.unwrap_or(Path::new(DEFAULT_FILE));
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some((path.to_owned(), text))),
        Err(error) if error.kind() == ErrorKind::NotFound && file.is_none() => Ok(None),
        Err(error) => {
            Err(error).with_context(|| format!("cannot read the configuration file {}", path.display()))
        }
    }
}

/// The verdict for people.
fn report(checked: &Checked) -> String {
    let mut text = String::new();
    let place = checked.file.as_ref().map_or_else(
        || format!("no configuration file {DEFAULT_FILE}; defaults and environment"),
        |file| file.display().to_string(),
    );
    for fault in &checked.faults {
        let line = fault.line.map_or_else(String::new, |line| format!("{line}:"));
        let _ = writeln!(text, "{place}:{line} {}", printable(&fault.to_string()));
    }
    for warning in &checked.warnings {
        let _ = writeln!(text, "warning: {}", printable(warning));
    }
    if checked.faults.is_empty() {
        let told = checked.settings.iter().filter(|setting| setting.origin != Origin::Default).count();
        let but = match checked.warnings.len() {
            0 => String::new(),
            1 => ", but for the warning above".to_owned(),
            count => format!(", but for the {count} warnings above"),
        };
        let _ = writeln!(text, "{place}: sound ({told} of {} keys set){but}", checked.settings.len());
    }
    text
}

fn eprint_warnings(warnings: &[String]) {
    for warning in warnings {
        crate::logging::say(&format!("warning: {}", printable(warning)));
    }
}
