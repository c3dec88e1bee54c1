//! Which paths there are, and the document that describes them.

use std::sync::Arc;

use axum::extract::DefaultBodyLimit;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::get;
use axum::{Json, Router};
use utoipa::openapi::response::ResponseBuilder;
use utoipa::openapi::{Components, Content, Info, OpenApi, Ref, RefOr};
use utoipa::{PartialSchema, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use vm_model::Event;

use super::audit::{Audit, watch_over};
use super::guard::only_own_page;
use super::query::{KnownKeys, only_known_keys};
use super::{
    Answers, MAX_BODY, assigning, console, dump, events, history, images, metrics, operations, orders, power,
    status, vm_log, vms,
};
use crate::{ApiError, ErrorCode, EventGap, PenRequest};

/// Where the document is served.
const DOCUMENT: &str = "/v1/openapi.json";

/// What is answered, and to whom.
pub(super) fn router(answers: Answers) -> Router {
    let audit = Audit::new(Arc::clone(answers.vm_manager.events()));
    let (router, document) = described().split_for_parts();
    let known_keys = KnownKeys::of(&document);
    let document = Arc::new(complete(document));
    router
        .route(DOCUMENT, get(|| async move { Json(OpenApi::clone(&document)) }))
        .route_layer(from_fn_with_state(known_keys, only_known_keys))
        .merge(web_page::router())
        .fallback(no_such_path)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(from_fn_with_state(audit, watch_over))
        .with_state(answers)
}

/// `router` for what programs and the worker's own page ask, and for no other site's.
pub(super) fn guarded(router: Router) -> Router {
    router.layer(from_fn(only_own_page))
}

/// Every path with its description. What is not here is not answered.
fn described() -> OpenApiRouter<Answers> {
    OpenApiRouter::new()
        .routes(routes!(status::status))
        .routes(routes!(metrics::metrics))
        .routes(routes!(vms::list, assigning::assign))
        .routes(routes!(vms::inspect, assigning::change, assigning::remove))
        .routes(routes!(vms::console))
        .routes(routes!(history::of_one))
        .routes(routes!(history::of_all))
        .routes(routes!(console::boots))
        .routes(routes!(console::attach))
        .routes(routes!(dump::dump))
        .routes(routes!(vm_log::log))
        .routes(routes!(power::power))
        .routes(routes!(operations::list))
        .routes(routes!(operations::get))
        .routes(routes!(events::events))
        .routes(routes!(orders::plan))
        .routes(routes!(orders::show_removals, orders::allow_removals))
        .routes(routes!(orders::show_master, orders::accept_master))
        .routes(routes!(orders::volumes))
        .routes(routes!(orders::removed))
        .routes(routes!(assigning::undelete))
        .routes(routes!(orders::gc))
        .routes(routes!(images::collect))
}

/// The OpenAPI document of this interface.
pub fn openapi() -> OpenApi {
    complete(described().into_openapi())
}

/// The OpenAPI document of this interface, as JSON text.
///
/// # Errors
/// The document has no JSON form.
pub fn openapi_text() -> Result<String, serde_json::Error> {
    openapi().to_pretty_json()
}

/// Adds to `document` what holds for every path: its name, and how all of them refuse.
fn complete(mut document: OpenApi) -> OpenApi {
    document.info = Info::new("Procurator worker", env!("CARGO_PKG_VERSION"));
    let about = "The local interface of a Procurator worker: HTTP on a Unix socket. docs/api.md describes it in prose.";
    document.info.description = Some(about.to_owned());
    let components = document.components.get_or_insert_with(Components::new);
    // Those that no path names: the refusal, what a stream has in it, and what stands in queries.
    let mut schemas = vec![
        (PenRequest::name().into_owned(), PenRequest::schema()),
        (ApiError::name().into_owned(), ApiError::schema()),
        (Event::name().into_owned(), Event::schema()),
        (EventGap::name().into_owned(), EventGap::schema()),
    ];
    <ApiError as ToSchema>::schemas(&mut schemas);
    <Event as ToSchema>::schemas(&mut schemas);
    for (name, schema) in schemas {
        components.schemas.entry(name).or_insert(schema);
    }
    let refusal = ResponseBuilder::new()
        .description("Refused")
        .content("application/json", Content::new(Some(Ref::from_schema_name(ApiError::name()))))
        .build();
    for item in document.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.post, &mut item.delete, &mut item.put, &mut item.patch];
        for operation in operations.into_iter().flatten() {
            operation.responses.responses.insert("default".to_owned(), RefOr::T(refusal.clone()));
        }
    }
    document
}

async fn no_such_path() -> ApiError {
    let hint = format!("GET {DOCUMENT} tells what there is");
    ApiError::new(ErrorCode::NoSuchPath, "this worker has nothing at this path").hint(Some(hint))
}

async fn method_not_allowed() -> ApiError {
    let hint = format!("GET {DOCUMENT} tells what there is");
    ApiError::new(ErrorCode::MethodNotAllowed, "this path takes other methods").hint(Some(hint))
}

#[cfg(test)]
mod tests;
