//! `schema`: descriptions of what programs read or ask for. No worker needs to run.

use anyhow::{Context, Result};

use crate::cli::Schema;
use crate::client;

/// Prints the description of `what`.
pub(crate) fn print(what: Schema) -> Result<()> {
    match what {
        Schema::Openapi => {
            let text = admin::openapi_text().context("the OpenAPI document has no JSON form")?;
            client::print(&format!("{text}\n"))
        }
    }
}
