//! What is taken from requests, with refusals of the one shape.

use axum::RequestPartsExt;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use vm_model::{JsonProblem, VmId, read_json};

use crate::{ApiError, ErrorCode};

/// A JSON body. An empty one is an empty object.
pub(super) struct JsonBody<T>(pub(super) T);

/// A body as text.
pub(super) struct TextBody(pub(super) String);

/// The VM that the path names.
pub(super) struct VmName(pub(super) VmId);

/// The number that the path ends in.
pub(super) struct Number(pub(super) u64);

/// The query's keys.
pub(super) struct Keys<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = Bytes::from_request(request, state).await.map_err(unread)?;
        let text: &[u8] = if body.trim_ascii().is_empty() { b"{}" } else { &body };
        let read = read_json(text).map_err(|JsonProblem { path, problem }| {
            let about = if path.is_empty() { "body".to_owned() } else { path };
            bad_request(&format!("the body cannot be read: {problem}")).about(about)
        })?;
        Ok(Self(read))
    }
}

impl<S: Send + Sync> FromRequest<S> for TextBody {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let body = Bytes::from_request(request, state).await.map_err(unread)?;
        let text = String::from_utf8(body.into());
        text.map(Self)
            .map_err(|problem| bad_request(&format!("the body is no text: {problem}")).about("body"))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for VmName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let name = path_argument(parts).await?;
        let id = VmId::parse(&name);
        id.map(Self).map_err(|problem| bad_request(&problem.to_string()).about(name))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Number {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let text = path_argument(parts).await?;
        let number = text.parse();
        number.map(Self).map_err(|_| bad_request(&format!("{text:?} is no number")).about(text))
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Keys<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let keys = Query::from_request_parts(parts, state).await;
        keys.map(|Query(keys)| Self(keys)).map_err(|problem| bad_request(&problem.body_text()).about("query"))
    }
}

/// The first thing that the path leaves open.
async fn path_argument(parts: &mut Parts) -> Result<String, ApiError> {
    let argument = parts.extract::<Path<String>>().await;
    argument.map(|Path(argument)| argument).map_err(|problem| bad_request(&problem.body_text()).about("path"))
}

/// Why a body did not arrive whole.
fn unread(rejection: BytesRejection) -> ApiError {
    let (code, message) = match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => (
            ErrorCode::BodyTooLarge,
            format!("the body is longer than {} bytes, which is the most that is taken", super::MAX_BODY),
        ),
        _ => (ErrorCode::RequestTimeout, format!("the body did not come whole: {}", rejection.body_text())),
    };
    ApiError::new(code, message).about("body")
}

/// A request that cannot be read.
pub(super) fn bad_request(problem: &impl ToString) -> ApiError {
    ApiError::new(ErrorCode::BadRequest, problem.to_string())
}
