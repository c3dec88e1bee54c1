//! Where a binary cache lies.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use thiserror::Error;
use vm_model::shown_text;

/// A binary cache: `https://host[:port][/path]`, `http://…` or `file:///directory`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CacheUrl(pub(crate) Place);

/// How a cache is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Place {
    Http(HttpPlace),
    Directory(PathBuf),
}

/// Something that a web server has.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HttpPlace {
    pub(crate) server: Server,
    /// Begins with a slash where it is not empty; ends without one.
    pub(crate) path: String,
}

/// A web server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Server {
    pub(crate) is_secure: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Why a text is no [`CacheUrl`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{text} is no binary cache: https://host[:port][/path], http://… or file:///directory is accepted")]
pub struct InvalidCacheUrl {
    text: String,
}

impl FromStr for CacheUrl {
    type Err = InvalidCacheUrl;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refuse = || InvalidCacheUrl { text: shown_text(text) };
        if let Some(path) = text.strip_prefix("file://") {
            return if path.starts_with('/') {
                Ok(Self(Place::Directory(path.trim_end_matches('/').into())))
            } else {
                Err(refuse())
            };
        }
        HttpPlace::parse(text).map(|place| Self(Place::Http(place))).ok_or_else(refuse)
    }
}

impl HttpPlace {
    /// Reads an `http` or `https` address without query and fragment.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (is_secure, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("http://")?),
        };
        if !rest.bytes().all(|byte| byte.is_ascii_graphic()) || rest.contains(['@', '#', '\\']) {
            return None;
        }
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (host, port) = split_authority(authority)?;
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port != 0)?,
            None if is_secure => 443,
            None => 80,
        };
        let server = Server { is_secure, host: host.to_owned(), port };
        Some(Self { server, path: path.trim_end_matches('/').to_owned() })
    }

    /// What lies at `path` below this.
    pub(crate) fn below(&self, path: &str) -> Self {
        Self { server: self.server.clone(), path: format!("{}/{path}", self.path) }
    }
}

/// Host and port; an IPv6 address stands in brackets, which it keeps here.
fn split_authority(authority: &str) -> Option<(&str, Option<&str>)> {
    let end = if authority.starts_with('[') { authority.find(']')? + 1 } else { 0 };
    let (host, port) = match authority[end..].find(':') {
        Some(colon) => (&authority[..end + colon], Some(&authority[end + colon + 1..])),
        None => (authority, None),
    };
    (!host.is_empty()).then_some((host, port))
}

impl Server {
    /// What a request calls it.
    pub(crate) fn authority(&self) -> String {
        let is_usual = self.port == if self.is_secure { 443 } else { 80 };
        if is_usual { self.host.clone() } else { format!("{}:{}", self.host, self.port) }
    }
}

impl fmt::Display for HttpPlace {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.server.is_secure { "https" } else { "http" };
        write!(formatter, "{scheme}://{}{}", self.server.authority(), self.path)
    }
}

impl fmt::Display for CacheUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Http(place) => place.fmt(formatter),
            Place::Directory(path) => write!(formatter, "file://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_and_written_as_they_are() {
        for (text, written) in [
            ("https://cache.example", "https://cache.example"),
            ("https://cache.example:443/", "https://cache.example"),
            ("http://127.0.0.1:8080/a/b/", "http://127.0.0.1:8080/a/b"),
            ("http://[::1]:8080", "http://[::1]:8080"),
            ("https://[2001:db8::1]/x", "https://[2001:db8::1]/x"),
            ("file:///srv/cache/", "file:///srv/cache"),
        ] {
            let url: CacheUrl = text.parse().expect(text);
            assert_eq!(url.to_string(), written);
        }
    }

    #[test]
    fn what_is_none_is_refused() {
        for text in [
            "",
            "cache.example",
            "ftp://x",
            "https://",
            "https://:80",
            "https://x:0",
            "https://x:70000",
            "file://srv",
            "https://user:secret@x",
            "https://a b",
            "http://[::1",
            "s3://bucket",
        ] {
            text.parse::<CacheUrl>().expect_err(text);
        }
    }
}
