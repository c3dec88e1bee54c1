//! The one shape in which the worker says no.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;
use utoipa::ToSchema;

/// Why a request was not carried out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema, Error)]
pub struct ApiError {
    /// What kind of refusal it is, for programs.
    pub code: ErrorCode,
    /// What is wrong, for people.
    pub message: String,
    /// What it is about: a VM's name, a key of the request's body, a path.
    #[serde(default)]
    pub what: Option<String>,
    /// What can be done about it.
    #[serde(default)]
    pub hint: Option<String>,
}

impl ApiError {
    /// A refusal without anything more to say.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into(), what: None, hint: None }
    }

    /// The same about `what`.
    #[must_use]
    pub fn about(self, what: impl Into<String>) -> Self {
        Self { what: Some(what.into()), ..self }
    }

    /// The same with advice, if there is any.
    #[must_use]
    pub fn hint(self, hint: Option<String>) -> Self {
        Self { hint, ..self }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)?;
        match &self.hint {
            Some(hint) => write!(formatter, "; {hint}"),
            None => Ok(()),
        }
    }
}

/// Kinds of refusals. Each has one HTTP status.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request's body, query or path cannot be read.
    BadRequest,
    /// Who asks has not shown the token of the page's address.
    LoginNeeded,
    /// The socket or address is one for reading only.
    ReadOnly,
    /// A browser asks for a page that is not the worker's own.
    OtherSite,
    /// The worker has nothing at this path.
    NoSuchPath,
    /// There is no VM of that name.
    NoSuchVm,
    /// There is no operation of that number, or it ended long ago.
    NoSuchOperation,
    /// Nothing is kept of the VM or disk that was named.
    NothingKept,
    /// The VM has not run yet, so there is nothing to show.
    NeverRan,
    /// The path is there and takes other methods.
    MethodNotAllowed,
    /// The request did not come in time.
    RequestTimeout,
    /// What was asked for goes against something that holds: a source's word, a held state that is not there.
    Conflict,
    /// What is on disk of the VM cannot be read and is left alone.
    Damaged,
    /// The VM is in a phase in which this cannot be done.
    WrongPhase,
    /// The VM did not start, or failed.
    VmFailed,
    /// The request's body is longer than the worker takes.
    BodyTooLarge,
    /// Something of this host failed.
    Internal,
    /// This worker cannot do that.
    Unsupported,
    /// So much is being done already that nothing more is begun.
    TooMany,
    /// The worker is ending.
    Ending,
    /// It was not done in time; it goes on being tried.
    Late,
    /// A code that a newer worker answers with.
    #[serde(other)]
    Unknown,
}

impl ErrorCode {
    /// All codes that this worker answers with.
    pub const ALL: [Self; 21] = [
        Self::BadRequest,
        Self::LoginNeeded,
        Self::ReadOnly,
        Self::OtherSite,
        Self::NoSuchPath,
        Self::NoSuchVm,
        Self::NoSuchOperation,
        Self::NothingKept,
        Self::NeverRan,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Conflict,
        Self::Damaged,
        Self::WrongPhase,
        Self::VmFailed,
        Self::BodyTooLarge,
        Self::Internal,
        Self::Unsupported,
        Self::TooMany,
        Self::Ending,
        Self::Late,
    ];

    /// The HTTP status that it comes with.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest => 400,
            Self::LoginNeeded => 401,
            Self::ReadOnly | Self::OtherSite => 403,
            Self::NoSuchPath
            | Self::NoSuchVm
            | Self::NoSuchOperation
            | Self::NothingKept
            | Self::NeverRan => 404,
            Self::MethodNotAllowed => 405,
            Self::RequestTimeout => 408,
            Self::Conflict | Self::Damaged | Self::WrongPhase | Self::VmFailed => 409,
            Self::BodyTooLarge => 413,
            Self::Internal | Self::Unknown => 500,
            Self::Unsupported => 501,
            Self::TooMany | Self::Ending => 503,
            Self::Late => 504,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_is_documented_with_its_status() {
        let documented = include_str!("../../../docs/api.md");
        for code in ErrorCode::ALL {
            let name = serde_json::to_value(code).expect("codes serialise");
            let row = format!("| `{}` | {} |", name.as_str().expect("a name"), code.status());
            assert!(documented.contains(&row), "docs/api.md has no row {row}");
        }
    }

    #[test]
    fn a_code_of_a_newer_worker_is_read() {
        let error = r#"{"code":"out_of_luck","message":"no","more":1}"#;
        let error: ApiError = serde_json::from_str(error).expect("read");
        assert_eq!((error.code, error.to_string()), (ErrorCode::Unknown, "no".to_owned()));
    }

    #[test]
    fn advice_follows_what_is_wrong() {
        let error = ApiError::new(ErrorCode::NoSuchVm, "there is no VM wbe-1").about("wbe-1");
        let error = error.hint(Some("the nearest is web-1".to_owned()));
        assert_eq!(error.to_string(), "there is no VM wbe-1; the nearest is web-1");
    }
}
