//! Connections without TLS: between ends on one host, or where somebody asked for it in so many words.

use std::net::IpAddr;
use std::str::FromStr;

use thiserror::Error;

/// What a configuration says to use plain TCP to other hosts.
pub const PLAIN_TCP_WORDS: &str = "unencrypted-and-unauthenticated";

/// Where plain TCP may go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PlainTcp {
    /// To addresses of this host's loopback interface.
    #[default]
    Loopback,
    /// Anywhere: whoever is on the way can read all, and can say what runs on the host.
    Anywhere,
}

/// Other words than [`PLAIN_TCP_WORDS`].
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("invalid value {text:?} for plain TCP: accepted is {PLAIN_TCP_WORDS:?}")]
pub struct UnknownPlainTcp {
    text: String,
}

impl PlainTcp {
    /// Whether a connection with `peer` may do without TLS.
    pub fn permits(self, peer: IpAddr) -> bool {
        match self {
            Self::Loopback => peer.to_canonical().is_loopback(),
            Self::Anywhere => true,
        }
    }
}

impl FromStr for PlainTcp {
    type Err = UnknownPlainTcp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == PLAIN_TCP_WORDS {
            Ok(Self::Anywhere)
        } else {
            Err(UnknownPlainTcp { text: text.chars().take(100).collect() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_words_lead_beyond_loopback() {
        let away: IpAddr = "192.0.2.1".parse().expect("an address");
        for near in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert!(PlainTcp::Loopback.permits(near.parse().expect("an address")), "{near}");
        }
        assert!(!PlainTcp::Loopback.permits(away));
        assert!(PLAIN_TCP_WORDS.parse::<PlainTcp>().expect("the words").permits(away));
        assert!("true".parse::<PlainTcp>().is_err());
    }
}
