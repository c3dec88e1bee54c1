//! Where a Prometheus is answered over TCP.

use std::net::SocketAddr;

use anyhow::{Result, bail};
use serde::Deserialize;

/// What must be said so that figures are given to other hosts. The same words as for a master.
const WORDS: &str = "unencrypted-and-unauthenticated";

/// The table `metrics` of the configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Metrics {
    listen: Option<String>,
    plain_tcp: Option<String>,
}

impl Metrics {
    /// The address to listen on; `None` where there is none.
    pub(super) fn address(&self) -> Result<Option<SocketAddr>> {
        if let Some(words) = self.plain_tcp.as_deref().filter(|words| *words != WORDS) {
            bail!("invalid metrics.plain_tcp = {words:?}: {WORDS:?} is accepted");
        }
        let Some(listen) = &self.listen else { return Ok(None) };
        let Ok(address) = listen.parse::<SocketAddr>() else {
            bail!(
                "invalid metrics.listen = {listen:?}: an address and a port like \"127.0.0.1:9090\" are accepted"
            );
        };
        if !address.ip().is_loopback() && self.plain_tcp.is_none() {
            bail!(
                "invalid metrics.listen = {listen:?}: other hosts could read it; where that is wanted, \
                 metrics.plain_tcp = {WORDS:?} says so"
            );
        }
        Ok(Some(address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Result<Option<SocketAddr>> {
        toml::from_str::<Metrics>(text).expect("TOML").address()
    }

    #[test]
    fn other_hosts_are_answered_only_where_that_is_said_in_words() {
        assert_eq!(address("").expect("valid"), None);
        for local in ["127.0.0.1:9090", "[::1]:0", "127.8.8.8:1"] {
            assert_eq!(address(&format!("listen = {local:?}")).expect(local), local.parse().ok());
        }
        for public in ["0.0.0.0:9090", "[::]:9090", "192.0.2.1:80", "[::ffff:127.0.0.1]:1"] {
            let listen = format!("listen = {public:?}");
            let problem = address(&listen).expect_err(public).to_string();
            assert!(problem.contains("metrics.plain_tcp"), "{problem}");
            let said = format!("{listen}\nplain_tcp = {WORDS:?}");
            assert_eq!(address(&said).expect(public), public.parse().ok());
        }
        for wrong in ["listen = 'localhost:9090'", "listen = '9090'", "plain_tcp = 'yes'"] {
            address(wrong).expect_err(wrong);
        }
    }
}
