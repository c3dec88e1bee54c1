//! Browsers that have shown the token: each is known by two random numbers, for half a day.
//!
//! One is in a cookie, which no program of a page can read. But browsers send a host's cookies to all of its ports, and behind
//! another one may be a guest. So the other one is kept by the page, in what a browser keeps apart by port, and is sent with
//! each request: neither will do alone.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use axum::http::header::{COOKIE, InvalidHeaderValue, SEC_WEBSOCKET_PROTOCOL};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use data_encoding::BASE64URL_NOPAD;
use ring::digest::{SHA256, digest};
use ring::error::Unspecified;
use ring::rand::{SecureRandom, SystemRandom};

/// How long a browser is known.
pub const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Sessions at a time; the oldest makes room for one more.
const MOST: usize = 64;
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;
/// The prefix has browsers keep it to this host, to TLS and to the whole path (RFC 6265bis § 4.1.3).
const COOKIE_NAME: &str = "__Host-procurator";
/// Where the page shows its part.
const PAGE_HEADER: HeaderName = HeaderName::from_static("x-procurator-session");
/// A page cannot put headers on a WebSocket: there its part follows this, as a subprotocol that is never chosen.
const PAGE_PROTOCOL: &str = "procurator-session.";

/// What a browser shows: random, and known to nobody else.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey {
    cookie: Secret,
    page: Secret,
}

#[derive(Clone, PartialEq, Eq)]
struct Secret(String);

/// Those that have not ended.
#[derive(Debug, Default)]
pub struct Sessions {
    /// By the digest of what is in the cookie: finding one tells nothing about it by the time it takes.
    begun: BTreeMap<[u8; 32], Session>,
}

struct Session {
    begun: Instant,
    /// The page's part, which each tab of the browser is told anew.
    page: Secret,
}

impl fmt::Debug for Session {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Session").field("begun", &self.begun).finish_non_exhaustive()
    }
}

impl Sessions {
    /// Begins a session for a browser that has sent `headers`. One that is in a session goes on with it: its other tabs are.
    ///
    /// # Errors
    /// The host has no random numbers.
    pub fn begin(&mut self, headers: &HeaderMap, now: Instant) -> Result<SessionKey, Unspecified> {
        self.begun.retain(|_, session| is_current(session.begun, now));
        if let Some(cookie) = Secret::in_cookie(headers)
            && let Some(session) = self.begun.get_mut(&cookie.digest())
        {
            session.begun = now;
            return Ok(SessionKey { cookie, page: session.page.clone() });
        }
        let key = SessionKey { cookie: Secret::random()?, page: Secret::random()? };
        if self.begun.len() >= MOST {
            let oldest = self.begun.iter().min_by_key(|(_, session)| session.begun).map(|(key, _)| *key);
            oldest.and_then(|oldest| self.begun.remove(&oldest));
        }
        self.begun.insert(key.cookie.digest(), Session { begun: now, page: key.page.clone() });
        Ok(key)
    }

    /// When the session of `key` ends if nobody ends it before; nothing where there is none, or it has ended.
    pub fn end_of(&self, key: &SessionKey, now: Instant) -> Option<Instant> {
        let session = self.begun.get(&key.cookie.digest())?;
        // By their digests: what is compared is nothing that anybody could choose.
        let is_whole = session.page.digest() == key.page.digest();
        (is_whole && is_current(session.begun, now)).then(|| session.begun + LIFETIME)
    }

    /// Ends the session of `key`, if there is one.
    pub fn end(&mut self, key: &SessionKey, now: Instant) {
        if self.end_of(key, now).is_some() {
            self.begun.remove(&key.cookie.digest());
        }
    }
}

fn is_current(begun: Instant, now: Instant) -> bool {
    now.saturating_duration_since(begun) < LIFETIME
}

impl SessionKey {
    /// The one that a request shows, both parts of it.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        Some(Self { cookie: Secret::in_cookie(headers)?, page: Secret::of_page(headers)? })
    }

    /// The header that has a browser show the cookie's part from now on.
    ///
    /// # Errors
    /// Never: its characters are those of base 64.
    pub fn cookie(&self) -> Result<HeaderValue, InvalidHeaderValue> {
        let Secret(cookie) = &self.cookie;
        let seconds = LIFETIME.as_secs();
        HeaderValue::try_from(format!(
            "{COOKIE_NAME}={cookie}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Strict"
        ))
    }

    /// The page's part.
    pub fn page(&self) -> &str {
        &self.page.0
    }

    /// The header that has a browser forget the cookie.
    pub fn forgotten() -> HeaderValue {
        HeaderValue::from_static("__Host-procurator=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict")
    }
}

impl Secret {
    fn random() -> Result<Self, Unspecified> {
        let mut bytes = [0; SECRET_BYTES];
        SystemRandom::new().fill(&mut bytes)?;
        Ok(Self(BASE64URL_NOPAD.encode(&bytes)))
    }

    fn in_cookie(headers: &HeaderMap) -> Option<Self> {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs =
            cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.into_iter().find(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| Self(value.to_owned()))
    }

    fn of_page(headers: &HeaderMap) -> Option<Self> {
        if let Some(shown) = headers.get(PAGE_HEADER) {
            return shown.to_str().ok().map(|shown| Self(shown.to_owned()));
        }
        let lists = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
        let mut protocols = lists.flat_map(|list| list.split(',')).map(str::trim);
        protocols
            .find_map(|protocol| protocol.strip_prefix(PAGE_PROTOCOL))
            .map(|shown| Self(shown.to_owned()))
    }

    fn digest(&self) -> [u8; 32] {
        digest(&SHA256, self.0.as_bytes()).as_ref().try_into().expect("SHA-256 gives 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a browser sends that has `cookie`, with the page's part as `name` is `value`.
    fn sent(cookie: &str, name: &HeaderName, value: &str) -> HeaderMap {
        let pairs = [(COOKIE, cookie), (name.clone(), value)];
        pairs
            .map(|(name, value)| (name, HeaderValue::from_str(value).expect("a value")))
            .into_iter()
            .collect()
    }

    fn pair(key: &SessionKey) -> String {
        let cookie = key.cookie().expect("a header");
        let cookie = cookie.to_str().expect("text");
        assert!(cookie.ends_with("; Path=/; Max-Age=43200; Secure; HttpOnly; SameSite=Strict"), "{cookie}");
        cookie.split(';').next().expect("a pair").to_owned()
    }

    #[test]
    fn a_browser_is_known_until_it_leaves_or_half_a_day_is_over() {
        let (mut sessions, start) = (Sessions::default(), Instant::now());
        let key = sessions.begin(&HeaderMap::new(), start).expect("random");
        let cookies = format!("a=b; x=y; {}; z", pair(&key));
        let protocols = format!("procurator-console, {PAGE_PROTOCOL}{}", key.page());
        for headers in
            [sent(&cookies, &PAGE_HEADER, key.page()), sent(&cookies, &SEC_WEBSOCKET_PROTOCOL, &protocols)]
        {
            let again = SessionKey::of(&headers).expect("it is there");
            assert_eq!(sessions.end_of(&again, start + LIFETIME / 2), Some(start + LIFETIME));
            assert_eq!(sessions.end_of(&again, start + LIFETIME), None);
        }
        sessions.end(&key, start);
        assert_eq!(sessions.end_of(&key, start), None);
        assert!(SessionKey::of(&sent("procurator=c", &PAGE_HEADER, key.page())).is_none());
    }

    #[test]
    fn a_cookie_alone_is_nobodys() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let key = sessions.begin(&HeaderMap::new(), now).expect("random");
        let cookie = pair(&key);
        assert!(SessionKey::of(&sent(&cookie, &HeaderName::from_static("x-other"), key.page())).is_none());
        for wrong in ["", "x", &key.page()[1..], &key.cookie.0] {
            let shown = SessionKey::of(&sent(&cookie, &PAGE_HEADER, wrong)).expect("both parts");
            assert_eq!(sessions.end_of(&shown, now), None, "{wrong}");
            sessions.end(&shown, now);
        }
        assert!(sessions.end_of(&key, now).is_some(), "nor does it end the session");
        let other = sessions.begin(&HeaderMap::new(), now).expect("random");
        let mixed = SessionKey { cookie: key.cookie, page: other.page };
        assert_eq!(sessions.end_of(&mixed, now), None);
    }

    #[test]
    fn another_tab_goes_on_with_the_session_of_its_browser() {
        let (mut sessions, start) = (Sessions::default(), Instant::now());
        let first = sessions.begin(&HeaderMap::new(), start).expect("random");
        let later = start + LIFETIME / 2;
        let headers = sent(&pair(&first), &HeaderName::from_static("x-other"), "x");
        let second = sessions.begin(&headers, later).expect("random");
        assert!(first == second, "the tab that was there is not logged out");
        assert_eq!(sessions.end_of(&first, later), Some(later + LIFETIME));
        let after = sessions.begin(&headers, later + LIFETIME).expect("random");
        assert!(after != first, "what has ended is not begun again");
        let planted = sent("__Host-procurator=chosen", &PAGE_HEADER, "x");
        let own = sessions.begin(&planted, later).expect("random");
        assert_ne!(own.cookie.0, "chosen", "nobody chooses for another");
    }

    #[test]
    fn the_oldest_makes_room() {
        let (mut sessions, start) = (Sessions::default(), Instant::now());
        let none = HeaderMap::new();
        let first = sessions.begin(&none, start).expect("random");
        let second = sessions.begin(&none, start + Duration::from_secs(1)).expect("random");
        for _ in 0..MOST - 1 {
            sessions.begin(&none, start + Duration::from_secs(2)).expect("random");
        }
        assert!(sessions.end_of(&first, start).is_none() && sessions.end_of(&second, start).is_some());
        assert_eq!(sessions.begun.len(), MOST);
        let forgotten = SessionKey::forgotten();
        assert!(forgotten.to_str().expect("text").starts_with(COOKIE_NAME));
    }
}
