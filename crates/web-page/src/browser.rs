//! Which requests of browsers are the page's own.
//!
//! Whoever has a browser open may have a page of any site in it, and that page may send requests to the worker: across
//! origins, or as if it were the worker itself, by a name of its own that is made to mean this host (DNS rebinding). Browsers
//! say where a request comes from (Fetch Metadata, Fetch § 3.1 "origin"), and they cannot be talked out of the `host`.

use std::net::IpAddr;

use axum::http::header::{ACCEPT_LANGUAGE, HOST, ORIGIN, USER_AGENT};
use axum::http::{HeaderMap, Method};
use thiserror::Error;

/// Where browsers say which site asks.
const FETCH_SITE: &str = "sec-fetch-site";
/// What the answer is for: a page, a script, data.
const FETCH_DEST: &str = "sec-fetch-dest";
/// Everything below it is the interface, not the page.
const INTERFACE: &str = "/v1/";

/// How a client came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// By a Unix socket: a browser by way of a forwarded port. Nothing but this check stands between it and other sites.
    Socket,
    /// By an address with a certificate and a token. The host may have any name.
    Network,
    /// By an address that answers anybody's programs, which call the host as they like; a browser is held to what only means
    /// this host.
    Figures,
}

/// A request, as far as this check looks at it.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Its method.
    pub method: &'a Method,
    /// Its path.
    pub path: &'a str,
    /// Its headers.
    pub headers: &'a HeaderMap,
}

/// Why a request is not answered.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Stranger {
    /// It is for a host of another name.
    #[error(
        "the host {host:?} is not this one: localhost, an IP address, or outside of browsers any name without a dot is answered"
    )]
    Host {
        /// The name.
        host: String,
    },
    /// A page of another origin asks.
    #[error("a page of {origin:?} asks, and only the worker's own page is answered")]
    Origin {
        /// The origin.
        origin: String,
    },
    /// A page of another site asks.
    #[error("a page of another site asks ({site:?}), and only the worker's own page is answered")]
    Site {
        /// What the browser says of it.
        site: String,
    },
}

/// Whether `question` may be answered that came in by `door`. What no browser sent passes.
///
/// # Errors
/// It is another site's.
pub fn judge(question: Question<'_>, door: Door) -> Result<(), Stranger> {
    let Question { method, path, headers } = question;
    let text = |name: &str| headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let host = text(HOST.as_str()).unwrap_or_default();
    match door {
        Door::Socket | Door::Figures if !is_ours(&host, is_browser(headers), door) => {
            return Err(Stranger::Host { host: host.into_owned() });
        }
        Door::Socket | Door::Figures | Door::Network => {}
    }
    if let Some(origin) = text(ORIGIN.as_str()) {
        let authority = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
        if !authority.is_some_and(|authority| authority.eq_ignore_ascii_case(&host)) {
            return Err(Stranger::Origin { origin: origin.into_owned() });
        }
    }
    match text(FETCH_SITE) {
        Some(site) if site != "same-origin" && site != "none" => {
            // A link from elsewhere may lead to the page, which holds nothing and asks for everything itself.
            let is_link = method == Method::GET
                && !path.starts_with(INTERFACE)
                && text(FETCH_DEST).is_some_and(|destination| destination == "document");
            if is_link { Ok(()) } else { Err(Stranger::Site { site: site.into_owned() }) }
        }
        Some(_) | None => Ok(()),
    }
}

/// Whether a browser asks: one of these headers is on each request of one, and no page can take the last off.
fn is_browser(headers: &HeaderMap) -> bool {
    let agent = headers.get(USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"Mozilla/"));
    agent
        || headers.contains_key(ORIGIN)
        || headers.contains_key(FETCH_SITE)
        || headers.contains_key(ACCEPT_LANGUAGE)
}

/// Whether `host` can only mean this host. A name that is no address may be anybody's who has a domain; one without a dot
/// is nobody's, but a network that a browser is in may give it a meaning.
fn is_ours(host: &str, is_browser: bool, door: Door) -> bool {
    if !is_browser && door == Door::Figures {
        return true;
    }
    let name = without_port(host);
    let is_address = name.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    let name = name.to_ascii_lowercase();
    is_address
        || name == "localhost"
        || name.ends_with(".localhost")
        || (!is_browser && !name.trim_end_matches('.').contains('.'))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => name,
        Some(_) | None => host,
    }
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn asked(method: &Method, path: &str, headers: &[(&str, &str)], door: Door) -> Result<(), Stranger> {
        let headers = headers.iter().map(|(name, value)| {
            let name: HeaderName = name.parse().expect("a name");
            (name, HeaderValue::from_str(value).expect("a value"))
        });
        let headers: HeaderMap = headers.collect();
        judge(Question { method, path, headers: &headers }, door)
    }

    fn get(headers: &[(&str, &str)]) -> Result<(), Stranger> {
        asked(&Method::GET, "/v1/vms", headers, Door::Socket)
    }

    #[test]
    fn programs_ask_by_any_name_that_is_nobodys() {
        for host in
            ["worker", "w", "localhost", "LOCALHOST:80", "127.0.0.1:8080", "[::1]:1", "::1", "192.0.2.1", ""]
        {
            assert_eq!(get(&[("host", host)]), Ok(()), "{host}");
        }
        assert_eq!(get(&[]), Ok(()));
        for host in
            ["evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.nip.io", "a.b."]
        {
            assert!(matches!(get(&[("host", host)]), Err(Stranger::Host { .. })), "{host}");
        }
    }

    #[test]
    fn a_browser_asks_by_a_name_that_only_means_this_host() {
        for mark in
            [("user-agent", "Mozilla/5.0 (X11)"), ("accept-language", ""), ("sec-fetch-site", "same-origin")]
        {
            assert_eq!(get(&[("host", "localhost:8080"), mark]), Ok(()));
            assert_eq!(get(&[("host", "w1.localhost:8080"), mark]), Ok(()));
            assert!(matches!(get(&[("host", "worker"), mark]), Err(Stranger::Host { .. })), "{mark:?}");
        }
        let headers = [("host", "w1.example:7444"), ("user-agent", "Mozilla/5.0")];
        assert_eq!(
            asked(&Method::GET, "/v1/vms", &headers, Door::Network),
            Ok(()),
            "its certificate says so"
        );
    }

    #[test]
    fn figures_are_for_programs_by_any_name_and_for_browsers_by_none_of_others() {
        let ask = |headers: &[(&str, &str)]| asked(&Method::GET, "/metrics", headers, Door::Figures);
        let rebound = ("host", "evil.example:9090");
        assert_eq!(ask(&[rebound]), Ok(()));
        assert!(matches!(ask(&[rebound, ("accept-language", "en")]), Err(Stranger::Host { .. })));
        assert_eq!(ask(&[("host", "192.0.2.1:9090"), ("accept-language", "en")]), Ok(()));
        assert!(ask(&[("host", "192.0.2.1:9090"), ("origin", "http://evil.example")]).is_err());
    }

    #[test]
    fn another_origin_is_refused_whatever_it_asks() {
        for door in [Door::Socket, Door::Network] {
            for (origin, is_own) in [
                ("http://localhost:8080", true),
                ("https://LOCALHOST:8080", true),
                ("http://localhost:3000", false),
                ("http://localhost", false),
                ("https://evil.example", false),
                ("null", false),
                ("", false),
                ("http://localhost:8080.evil.example", false),
            ] {
                let headers = [("host", "localhost:8080"), ("origin", origin)];
                for method in [Method::GET, Method::POST] {
                    let answer = asked(&method, "/v1/vms/a/stop", &headers, door);
                    assert_eq!(answer.is_ok(), is_own, "{origin}: {answer:?}");
                }
            }
        }
    }

    #[test]
    fn another_site_may_lead_to_the_page_and_to_nothing_else() {
        let link =
            [("host", "localhost:8080"), ("sec-fetch-site", "cross-site"), ("sec-fetch-dest", "document")];
        let ask = |method: &Method, path: &str, headers: &[(&str, &str)]| {
            asked(method, path, headers, Door::Socket)
        };
        assert_eq!(ask(&Method::GET, "/", &link), Ok(()));
        assert!(ask(&Method::GET, "/v1/status", &link).is_err(), "no data");
        assert!(ask(&Method::POST, "/login", &link).is_err(), "nothing is done");
        for site in ["cross-site", "same-site"] {
            let frame = [("host", "localhost:8080"), ("sec-fetch-site", site), ("sec-fetch-dest", "iframe")];
            assert!(ask(&Method::GET, "/", &frame).is_err(), "no frame of {site}");
            let script = [("host", "localhost:8080"), ("sec-fetch-site", site)];
            assert!(ask(&Method::GET, "/page/main.js", &script).is_err(), "no script for {site}");
        }
        for site in ["same-origin", "none"] {
            assert_eq!(
                ask(&Method::POST, "/v1/gc", &[("host", "localhost"), ("sec-fetch-site", site)]),
                Ok(())
            );
        }
    }
}
