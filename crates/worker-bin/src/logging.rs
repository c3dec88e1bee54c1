//! The log: on standard error, for people or for programs.

use std::env;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

use crate::cli::LogFormat;

/// The environment variable that chooses what is logged, in the form `info,worker=debug`.
const FILTER: &str = "PROCURATOR_LOG";

/// Starts logging.
///
/// # Errors
/// The environment asks for what makes no sense.
pub(crate) fn start(format: LogFormat) -> Result<()> {
    let wanted = match env::var(FILTER) {
        Ok(wanted) if !wanted.is_empty() => wanted,
        Ok(_) | Err(env::VarError::NotPresent) => "info".to_owned(),
        Err(problem) => return Err(problem).with_context(|| format!("invalid {FILTER}")),
    };
    let filter = EnvFilter::try_new(&wanted).with_context(|| {
        format!("invalid {FILTER}={wanted:?}: directives like info,worker=debug are accepted")
    })?;
    let builder = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Human => builder.with_target(false).init(),
        LogFormat::Json => builder.json().flatten_event(true).init(),
    }
    Ok(())
}
