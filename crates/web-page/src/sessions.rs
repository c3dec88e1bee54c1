//! Browsers that have shown the token: each is known by a random number in a cookie, for half a day.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use axum::http::header::COOKIE;
use axum::http::{HeaderMap, HeaderValue};
use data_encoding::BASE64URL_NOPAD;
use ring::digest::{SHA256, digest};
use ring::error::Unspecified;
use ring::rand::{SecureRandom, SystemRandom};

/// How long a browser is known.
pub const LIFETIME: Duration = Duration::from_secs(12 * 3600);
/// Sessions at a time; the oldest makes room for one more.
const MOST: usize = 64;
/// Random bytes of a session's key.
const KEY_BYTES: usize = 32;
/// The prefix has browsers keep it to this host, to TLS and to the whole path (RFC 6265bis § 4.1.3).
const NAME: &str = "__Host-procurator";

/// What a browser shows: random, and known to nobody else. Not kept: what is kept is its digest.
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey(String);

/// Those that have not ended.
#[derive(Debug, Default)]
pub struct Sessions {
    /// When each began, by the digest of its key: finding one tells nothing about keys by the time it takes.
    begun: BTreeMap<[u8; 32], Instant>,
}

impl Sessions {
    /// Begins a session.
    ///
    /// # Errors
    /// The host has no random numbers.
    pub fn begin(&mut self, now: Instant) -> Result<SessionKey, Unspecified> {
        let mut bytes = [0; KEY_BYTES];
        SystemRandom::new().fill(&mut bytes)?;
        let key = SessionKey(BASE64URL_NOPAD.encode(&bytes));
        self.begun.retain(|_, begun| is_current(*begun, now));
        if self.begun.len() >= MOST {
            let oldest = self.begun.iter().min_by_key(|(_, begun)| **begun).map(|(key, _)| *key);
            oldest.and_then(|oldest| self.begun.remove(&oldest));
        }
        self.begun.insert(key.digest(), now);
        Ok(key)
    }

    /// Whether `key` is one of a session that goes on.
    pub fn knows(&self, key: &SessionKey, now: Instant) -> bool {
        self.begun.get(&key.digest()).is_some_and(|begun| is_current(*begun, now))
    }

    /// Ends the session of `key`.
    pub fn end(&mut self, key: &SessionKey) {
        self.begun.remove(&key.digest());
    }
}

fn is_current(begun: Instant, now: Instant) -> bool {
    now.saturating_duration_since(begun) < LIFETIME
}

impl SessionKey {
    /// The one that a request shows.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let pairs =
            cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.trim().split_once('='));
        pairs.into_iter().find(|(name, _)| *name == NAME).map(|(_, value)| Self(value.to_owned()))
    }

    /// The header that has a browser show it from now on.
    ///
    /// # Errors
    /// Never: its characters are those of base 64.
    pub fn cookie(&self) -> Result<HeaderValue, axum::http::header::InvalidHeaderValue> {
        let Self(key) = self;
        let seconds = LIFETIME.as_secs();
        HeaderValue::try_from(format!(
            "{NAME}={key}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Strict"
        ))
    }

    /// The header that has a browser forget what it shows.
    pub fn forgotten() -> HeaderValue {
        HeaderValue::from_static("__Host-procurator=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict")
    }

    fn digest(&self) -> [u8; 32] {
        digest(&SHA256, self.0.as_bytes()).as_ref().try_into().expect("SHA-256 gives 32 bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(cookies: &[&str]) -> Option<SessionKey> {
        let pairs = cookies.iter().map(|cookie| (COOKIE, HeaderValue::from_str(cookie).expect("a value")));
        SessionKey::of(&pairs.collect())
    }

    #[test]
    fn a_browser_is_known_until_it_leaves_or_half_a_day_is_over() {
        let (mut sessions, start) = (Sessions::default(), Instant::now());
        let key = sessions.begin(start).expect("random");
        let cookie = key.cookie().expect("a header");
        let cookie = cookie.to_str().expect("text");
        assert!(cookie.ends_with("; Path=/; Max-Age=43200; Secure; HttpOnly; SameSite=Strict"), "{cookie}");
        let pair = cookie.split(';').next().expect("a pair");
        let again = shown(&["a=b", &format!("x=y; {pair}; z")]).expect("it is there");
        assert!(sessions.knows(&again, start + LIFETIME / 2));
        assert!(!sessions.knows(&again, start + LIFETIME));
        sessions.end(&again);
        assert!(!sessions.knows(&key, start));
        assert!(shown(&["a=b", "procurator=c"]).is_none());
    }

    #[test]
    fn nobody_is_known_by_a_key_that_was_never_given() {
        let (mut sessions, now) = (Sessions::default(), Instant::now());
        let key = sessions.begin(now).expect("random");
        for wrong in ["", "x", &key.0[1..]] {
            assert!(!sessions.knows(&SessionKey(wrong.to_owned()), now), "{wrong}");
        }
        assert!(
            NAME.len() + 1 < SessionKey::forgotten().len()
                && SessionKey::forgotten().to_str().expect("text").starts_with(NAME)
        );
    }

    #[test]
    fn the_oldest_makes_room() {
        let (mut sessions, start) = (Sessions::default(), Instant::now());
        let first = sessions.begin(start).expect("random");
        let second = sessions.begin(start + Duration::from_secs(1)).expect("random");
        for _ in 0..MOST - 1 {
            sessions.begin(start + Duration::from_secs(2)).expect("random");
        }
        assert!(!sessions.knows(&first, start) && sessions.knows(&second, start));
        assert_eq!(sessions.begun.len(), MOST);
    }
}
