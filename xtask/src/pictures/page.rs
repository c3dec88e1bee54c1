//! Pictures of the page: what a real browser shows of real guests while the tests of the page run.

use anyhow::{Context, Result};

use crate::workspace::Workspace;
use crate::{packages, process, terminal};

/// Where the tests put them.
const VARIABLE: &str = "PROCURATOR_PAGE_PICTURES";

/// Makes them in the folder of pictures.
pub(super) fn make(workspace: &Workspace) -> Result<()> {
    packages::ensure_browser()?;
    terminal::ensure(workspace)?;
    let mut tests = workspace.cargo();
    tests.args(["test", "--package", "worker-bin", "--test", "daemon", "page::"]);
    tests.env(VARIABLE, workspace.root().join(super::FOLDER));
    process::run(&mut tests).context("the page could not be shown")
}
