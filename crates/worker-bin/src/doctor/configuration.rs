//! The configuration, as `check-config` finds it.

use std::path::{Path, PathBuf};

use super::finding::{Finding, advice, command};
use crate::check_config::{self, Checked};
use crate::settings::{DEFAULT_FILE, Settings};

const CHECK: &str = "configuration";

/// What is to be said of the configuration, and what the worker would run with, if it is sound.
pub(super) fn check(file: Option<&Path>, runtime_dir: Option<PathBuf>) -> (Vec<Finding>, Option<Settings>) {
    match check_config::check(file, runtime_dir) {
        Ok(checked) => (judge(&checked), checked.read),
        Err(problem) => {
            let found = format!("{problem:#}");
            (vec![Finding::fail(CHECK, found, command("procurator-worker check-config"))], None)
        }
    }
}

fn judge(checked: &Checked) -> Vec<Finding> {
    let place = checked.file.as_deref().map_or_else(
        || format!("no {DEFAULT_FILE}: defaults and the environment"),
        |file| file.display().to_string(),
    );
    if let Some(first) = checked.faults.first() {
        let line = first.line.map_or_else(String::new, |line| format!(" line {line}:"));
        let found = format!("{place}:{line} {first} (faults: {})", checked.faults.len());
        let file = checked.file.as_deref().map_or_else(String::new, |file| format!(" {}", file.display()));
        return vec![Finding::fail(CHECK, found, command(format!("procurator-worker check-config{file}")))];
    }
    let mut findings = vec![Finding::ok(CHECK, format!("{place}: sound"))];
    let fix = "mend what it names, or change the key";
    findings.extend(checked.warnings.iter().map(|warning| Finding::warn(CHECK, warning, advice(fix))));
    findings
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn faults_fail_and_warnings_warn() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = folder.path().join("worker.toml");
        fs::write(&path, "\nbrigde = 1\nlog_format = 'x'\n").expect("written");
        let (findings, settings) = check(Some(&path), None);
        assert!(settings.is_none());
        assert!(findings[0].found.contains("line 2: brigde = 1"), "{findings:?}");
        assert!(findings[0].found.ends_with("(faults: 2)"), "{findings:?}");
        let directory = folder.path().display();
        let text = format!("store_roots = ['{directory}']\nassignments = '/nonexistent/vms.json'\n");
        fs::write(&path, text).expect("written");
        let (findings, settings) = check(Some(&path), None);
        assert!(settings.is_some());
        let verdicts: Vec<Verdict> = findings.iter().map(|finding| finding.verdict).collect();
        assert_eq!(verdicts, [Verdict::Ok, Verdict::Warn]);
        assert_eq!(check(Some(Path::new("/nonexistent/x")), None).0[0].verdict, Verdict::Fail);
    }
}
