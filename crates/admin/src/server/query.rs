//! Which keys the query of a request may have: those that the document names for its path. A key that nobody reads would not
//! be obeyed, and who wrote it should hear of that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::{MatchedPath, Query, Request, State};
use axum::http::{Method, Uri};
use axum::middleware::Next;
use axum::response::Response;
use utoipa::openapi::path::{Operation, ParameterIn};
use utoipa::openapi::{OpenApi, RefOr};

use super::extract::bad_request;
use crate::ApiError;

/// The keys that are read, by path and method.
#[derive(Clone, Debug)]
pub(super) struct KnownKeys(Arc<BTreeMap<(String, &'static str), BTreeSet<String>>>);

impl KnownKeys {
    /// Those of `document`.
    pub(super) fn of(document: &OpenApi) -> Self {
        let known = document.paths.paths.iter().flat_map(|(path, item)| {
            let operations = [
                ("GET", &item.get),
                ("POST", &item.post),
                ("PATCH", &item.patch),
                ("PUT", &item.put),
                ("DELETE", &item.delete),
            ];
            operations.into_iter().filter_map(move |(method, operation)| {
                Some(((path.clone(), method), keys(operation.as_ref()?)))
            })
        });
        Self(Arc::new(known.collect()))
    }

    /// Whether all keys of `uri`, which was found to be `path`, are known.
    fn check(&self, method: &Method, path: &str, uri: &Uri) -> Result<(), ApiError> {
        let shown = Query::<Vec<(String, String)>>::try_from_uri(uri);
        let Query(shown) = shown.map_err(|problem| bad_request(&problem.body_text()).about("query"))?;
        let method = if method == Method::HEAD { "GET" } else { method.as_str() };
        let none = BTreeSet::new();
        let known = self.0.iter().find(|((known, by), _)| known == path && *by == method);
        let known = known.map_or(&none, |(_, keys)| keys);
        match shown.into_iter().find(|(key, _)| !known.contains(key)) {
            None => Ok(()),
            Some((key, _)) => {
                let accepted: Vec<&str> = known.iter().map(String::as_str).collect();
                let hint = match accepted.as_slice() {
                    [] => format!("{method} {path} takes none"),
                    keys => format!("{method} {path} takes {}", keys.join(", ")),
                };
                let message = format!("the query has a key {key:?} that is not known here");
                Err(bad_request(&message).about(key).hint(Some(hint)))
            }
        }
    }
}

/// The keys that `operation` reads of the query.
fn keys(operation: &Operation) -> BTreeSet<String> {
    let parameters = operation.parameters.iter().flatten().filter_map(|parameter| match parameter {
        RefOr::T(parameter) => Some(parameter),
        // None is shared: each stands where it is read.
        RefOr::Ref(_) => None,
    });
    let in_query = parameters.filter(|parameter| parameter.parameter_in == ParameterIn::Query);
    in_query.map(|parameter| parameter.name.clone()).collect()
}

/// Passes on requests all keys of whose query are read.
pub(super) async fn only_known_keys(
    State(known): State<KnownKeys>,
    path: MatchedPath,
    request: Request,
    next: Next,
) -> Result<Response, ApiError> {
    known.check(request.method(), path.as_str(), request.uri())?;
    Ok(next.run(request).await)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::openapi;

    #[test]
    fn keys_that_nobody_reads_are_refused_by_name() {
        let known = KnownKeys::of(&openapi());
        let check = |method: &Method, path: &str, uri: &str| {
            let refused = known.check(method, path, &uri.parse().expect("a URI"));
            refused.err().map(|error| (error.what.unwrap_or_default(), error.hint.unwrap_or_default()))
        };
        let vm = "/v1/vms/{id}";
        assert_eq!(check(&Method::PATCH, vm, "/v1/vms/a?dry_run=true"), None);
        assert_eq!(check(&Method::GET, "/v1/vms", "/v1/vms"), None);
        assert_eq!(check(&Method::HEAD, "/v1/events", "/v1/events?follow=true&since=1&vm=a"), None);
        for (method, path, uri, key, hint) in [
            (Method::DELETE, vm, "/v1/vms/a?dry_run=true", "dry_run", "DELETE /v1/vms/{id} takes none"),
            (
                Method::PATCH,
                vm,
                "/v1/vms/a?dry%5Frun=true&dryrun",
                "dryrun",
                "PATCH /v1/vms/{id} takes dry_run",
            ),
            (Method::POST, "/v1/gc", "/v1/gc?dry=true", "dry", "POST /v1/gc takes dry_run"),
            (Method::GET, "/v1/openapi.json", "/v1/openapi.json?x", "x", "GET /v1/openapi.json takes none"),
        ] {
            assert_eq!(check(&method, path, uri), Some((key.to_owned(), hint.to_owned())), "{uri}");
        }
    }

    #[test]
    fn what_a_console_reads_is_in_the_document() {
        let known = KnownKeys::of(&openapi());
        let path = "/v1/vms/{id}/console/attach";
        let uri = "/?pen=ask&follow=true&one_boot=true&boot=0&offset=1&tail=2".parse().expect("a URI");
        known.check(&Method::GET, path, &uri).expect("all of them");
    }
}
