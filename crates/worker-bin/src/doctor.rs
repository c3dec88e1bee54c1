//! `doctor`: what of this host, its configuration and the running worker keeps VMs from running, and what mends it.
//!
//! Each check has two parts: `look` observes and never judges, `judge` is a pure function from what was observed to
//! [`Finding`]s. It works with and without a running worker.

pub(crate) mod addresses;
mod capabilities;
mod certificates;
mod cgroups;
mod clock;
mod configuration;
mod devices;
mod directories;
mod filters;
mod finding;
mod host;
mod jail;
mod kvm;
mod limits;
mod managers;
mod master;
mod network;
mod report;
mod side_channels;
mod web;
mod worker;

use std::io::{IsTerminal, stdout};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use tokio::runtime::Builder;

use self::finding::{Finding, Verdict};
use self::host::Host;
use crate::cli::DoctorFlags;
use crate::client::{print, print_json};
use crate::colours::Colours;
use crate::settings::{Settings, runtime_dir};

/// What is printed with `--json`.
#[derive(Serialize)]
struct Answer<'a> {
    verdict: Verdict,
    findings: &'a [Finding],
}

/// Carries the verb out. Fails where a check fails.
pub(crate) fn run(flags: &DoctorFlags, runtime_directory: Option<PathBuf>) -> Result<()> {
    let findings = examine(flags, runtime_directory)?;
    let verdict = findings.iter().map(|finding| finding.verdict).max().unwrap_or(Verdict::Ok);
    if flags.json {
        print_json(&Answer { verdict, findings: &findings })?;
    } else {
        let colours = Colours::wanted(stdout().is_terminal(), |name| std::env::var(name).ok());
        print(&report::text(&findings, colours))?;
    }
    match findings.iter().filter(|finding| finding.verdict == Verdict::Fail).count() {
        0 => Ok(()),
        1 => bail!("one check failed"),
        count => bail!("{count} checks failed"),
    }
}

/// Every check, in the order in which they are worth mending.
fn examine(flags: &DoctorFlags, runtime_directory: Option<PathBuf>) -> Result<Vec<Finding>> {
    let host = Host::this();
    let runtime = Builder::new_current_thread().enable_all().build().context("cannot start the runtime")?;
    let (mut findings, settings) = configuration::check(flags.config.as_deref(), runtime_directory.clone());
    let answering = match (&settings, runtime_directory) {
        (_, Some(directory)) => directory,
        (Some(settings), None) => settings.runtime_dir.clone(),
        (None, None) => runtime_dir(None),
    };
    findings.extend(kvm::judge(&kvm::look(&host)));
    findings.extend(capabilities::judge(&capabilities::look(&host)));
    findings.extend(cgroups::judge(&cgroups::look(&host)));
    findings.extend(side_channels::judge(&side_channels::look(&host)));
    findings.extend(clock::judge(clock::look(&host)));
    let worker = runtime.block_on(worker::look(&answering));
    let used = directories::used(worker.directories(), settings.as_ref());
    findings.extend(used.iter().flat_map(|used| directories::judge(&directories::look(used))));
    if let Some(settings) = &settings {
        findings.extend(configured(&host, settings, &runtime.block_on(addresses::look(settings))));
        if let Some(master) = &settings.master {
            findings.extend(master::judge(&runtime.block_on(master::look(master))));
        }
    }
    let web = settings.as_ref().and_then(|settings| settings.web.as_ref());
    findings.extend(web.into_iter().flat_map(|web| web::judge(&web::look(web))));
    findings.extend(worker::judge(&worker));
    Ok(findings)
}

/// The checks of what the configuration speaks of.
fn configured(host: &Host, settings: &Settings, addresses: &[addresses::Facts]) -> Vec<Finding> {
    let mut findings = devices::judge(&devices::look(host, settings));
    findings.extend(jail::judge(&jail::look(host, settings)));
    findings.extend(limits::judge(&limits::look(host, settings)));
    findings.extend(cgroups::judge_limits(settings));
    findings.extend(filters::judge(filters::look(settings)));
    findings.extend(addresses.iter().flat_map(addresses::judge));
    findings.extend(network::judge(&network::look(host, settings, addresses)));
    findings.extend(managers::judge(&managers::look(host, settings)));
    findings
}
