//! `schema`: descriptions of what programs read or ask for. No worker needs to run.
//!
//! Of documents that people and programs write for the worker there are JSON Schemas (draft 2020-12). Such a schema accepts
//! everything that the worker accepts. It refuses most of what the worker refuses, but not what takes a look at other keys or
//! at files: `plan` and `check-config` say that.

mod assignments;
mod vm_config;
mod worker_config;
mod worker_toml;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod validator;

use anyhow::{Context, Result};
use clap::ValueEnum;
use serde_json::Value;

use crate::client;

/// The dialect of all schemas.
const DIALECT: &str = "https://json-schema.org/draft/2020-12/schema";

/// What `schema` can describe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaKind {
    /// The machine description of an artifact, `vm-config.json`
    VmConfig,
    /// The assignments file
    Assignments,
    /// The configuration file, `worker.toml`, as JSON
    WorkerConfig,
    /// A configuration file in which every key is a comment, with what it means, takes and defaults to
    WorkerToml,
    /// The interface on the admin socket, as an OpenAPI document
    Openapi,
}

/// Prints the description of `kind`.
pub(crate) fn print(kind: SchemaKind) -> Result<()> {
    let schema = match kind {
        SchemaKind::VmConfig => titled("vm-config.json of a VM's artifact", vm_config::schema()),
        SchemaKind::Assignments => titled("Assignments of a Procurator worker", assignments::schema()),
        SchemaKind::WorkerConfig => titled("Configuration of a Procurator worker", worker_config::schema()),
        SchemaKind::WorkerToml => return client::print(&worker_toml::text()),
        SchemaKind::Openapi => {
            let text = admin::openapi_text().context("the OpenAPI document has no JSON form")?;
            return client::print(&format!("{text}\n"));
        }
    };
    client::print_json(&schema)
}

/// The schema of a document as a whole.
fn titled(title: &str, mut schema: Value) -> Value {
    if let Some(members) = schema.as_object_mut() {
        members.insert("$schema".to_owned(), DIALECT.into());
        members.insert("title".to_owned(), title.into());
    }
    schema
}
