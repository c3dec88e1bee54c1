//! Leaves a guest running on a host that is about to be shut down.

use anyhow::{Context, Result};
use end_to_end::{Assignment, Service};

use crate::environment;

#[test]
fn a_guest_is_left_to_the_shutdown() -> Result<()> {
    let environment = environment();
    let service = Service::start(&environment, "")?;
    service.assign(&[Assignment::of(&environment.image("guest")?, "last")])?;
    let answers = service.wait_until_answering("last");
    answers.with_context(|| Service::journal().unwrap_or_default())?;
    let console = Service::kept_console("last")?;
    assert!(!console.contains("Power down"), "{console}");
    Ok(())
}
