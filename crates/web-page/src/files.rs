//! The page's files, as they are in the program, and how they are answered.

use std::hash::{DefaultHasher, Hash, Hasher};

use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

include!(concat!(env!("OUT_DIR"), "/terminal.rs"));

/// One file of `assets`.
macro_rules! asset {
    ($name:literal) => {
        ($name, include_bytes!(concat!("../assets/", $name)).as_slice())
    };
}

/// What is answered at `/`.
const INDEX: &str = "index.html";

const FILES: &[(&str, &[u8])] = &[
    asset!("index.html"),
    asset!("page.css"),
    asset!("icon.svg"),
    asset!("api.js"),
    asset!("connection.js"),
    asset!("console.js"),
    asset!("dialogs.js"),
    asset!("dom.js"),
    asset!("events.js"),
    asset!("format.js"),
    asset!("frames.js"),
    asset!("keyboard.js"),
    asset!("list.js"),
    asset!("main.js"),
    asset!("plan.js"),
    asset!("plots.js"),
    asset!("power.js"),
    asset!("session.js"),
    asset!("store.js"),
    asset!("stream.js"),
    asset!("vm.js"),
    asset!("worker.js"),
];

/// What every answer says: nothing runs but the page's own programs, no other page shows this one, and no type is guessed.
const PROTECTION: [(&str, &str); 6] = [
    (
        "content-security-policy",
        "default-src 'self'; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "no-referrer"),
    ("cross-origin-resource-policy", "same-origin"),
    ("cross-origin-opener-policy", "same-origin"),
];

/// Puts the headers on an answer by which a browser keeps a guest's text and other sites from doing anything with it.
pub fn protect(headers: &mut HeaderMap) {
    headers.extend(
        PROTECTION.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))),
    );
}

/// The paths of the page. They hold nothing of the worker: whoever may connect may have them.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new().route("/", get(|headers: HeaderMap| async move { answer(INDEX, &headers) })).route(
        "/page/{file}",
        get(|Path(file): Path<String>, headers: HeaderMap| async move { answer(&file, &headers) }),
    )
}

/// Whether this build has a terminal for consoles.
pub fn has_terminal() -> bool {
    !TERMINAL.is_empty()
}

fn answer(name: &str, asked: &HeaderMap) -> Response {
    let Some((name, content)) = FILES.iter().chain(TERMINAL).find(|(known, _)| *known == name) else {
        return (StatusCode::NOT_FOUND, "the page has no such file\n").into_response();
    };
    let tag = tag(content);
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, content_type(name));
    // Asked for anew each time, and sent anew only where it has changed: after an upgrade no file is of another version.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    let is_known = asked.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes());
    headers.extend(HeaderValue::try_from(tag).ok().map(|tag| (ETAG, tag)));
    if is_known {
        return (StatusCode::NOT_MODIFIED, headers).into_response();
    }
    (headers, Body::from(*content)).into_response()
}

/// Tells one content of a file from another.
fn tag(content: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    format!("\"{:016x}\"", hasher.finish())
}

fn content_type(name: &str) -> HeaderValue {
    HeaderValue::from_static(match name.rsplit_once('.').map(|(_, ending)| ending) {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("js" | "mjs") => "text/javascript; charset=utf-8",
        Some(_) | None => "application/octet-stream",
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_is_served_with_its_type_and_only_once_to_who_has_it() {
        for (name, content) in FILES.iter().chain(TERMINAL) {
            let first = answer(name, &HeaderMap::new());
            assert_eq!(first.status(), StatusCode::OK, "{name}");
            let kind = first.headers()[CONTENT_TYPE].to_str().expect("text");
            assert!(kind.starts_with("text/") || kind == "image/svg+xml", "{name}: {kind}");
            let known = HeaderMap::from_iter([(IF_NONE_MATCH, first.headers()[ETAG].clone())]);
            assert_eq!(answer(name, &known).status(), StatusCode::NOT_MODIFIED, "{name}");
            assert!(!content.is_empty());
        }
        assert_eq!(answer("../Cargo.toml", &HeaderMap::new()).status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn all_assets_are_listed_and_none_needs_more_than_its_own_host() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/assets");
        let there: BTreeSet<String> = std::fs::read_dir(folder)
            .expect("it is there")
            .map(|entry| entry.expect("readable").file_name().into_string().expect("text"))
            .collect();
        let listed: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(there, listed);
        let mut lines = 0;
        for (name, content) in FILES {
            let text = std::str::from_utf8(content).expect("text");
            // Text of guests goes in as text. What would take it as markup or as a program is not there to be misused.
            for forbidden in [
                "innerHTML",
                "outerHTML",
                "insertAdjacentHTML",
                "document.write",
                "eval(",
                "https://",
                "src=\"http",
                " style=",
                "onclick=",
            ] {
                assert!(!text.contains(forbidden), "{name} has {forbidden}");
            }
            if name.ends_with(".js") {
                lines += text.lines().count();
            }
        }
        assert!(lines < 1500, "the page's programs have {lines} lines");
    }
}
