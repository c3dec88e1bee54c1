//! The page's own address: where it is shown over TLS, and to whom.

use std::net::SocketAddr;
use std::path::PathBuf;

use admin::{Access, WebSettings};
use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// The table `web` of the configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Web {
    listen: Option<String>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    token_file: Option<PathBuf>,
    read_only: Option<bool>,
}

impl Web {
    /// Where the page is shown; `None` where it has no address. The files are read when it is bound.
    pub(super) fn settings(self) -> Result<Option<WebSettings>> {
        let Self { listen, certificate, key, token_file, read_only } = self;
        let Some(listen) = listen else {
            let keys = [("certificate", certificate), ("key", key), ("token_file", token_file)];
            if let Some((key, _)) = keys.iter().find(|(_, value)| value.is_some()) {
                bail!(
                    "web.listen is missing, though there is a web.{key}: an address and a port like \"0.0.0.0:7444\" are accepted"
                );
            }
            return Ok(None);
        };
        let Ok(listen) = listen.parse::<SocketAddr>() else {
            bail!(
                "invalid web.listen = {listen:?}: an address and a port like \"0.0.0.0:7444\" are accepted"
            );
        };
        let needed = |name: &str, path: Option<PathBuf>| {
            path.with_context(|| {
                format!(
                    "web.listen needs web.{name} too: the path of a file is accepted; without an address the page is shown by the \
                     admin socket"
                )
            })
        };
        let certificate = needed("certificate", certificate)?;
        let key = needed("key", key)?;
        let token = needed("token_file", token_file)?;
        let access = if read_only.unwrap_or(false) { Access::ReadOnly } else { Access::Full };
        Ok(Some(WebSettings { listen, certificate, key, token, access }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web(text: &str) -> Result<Option<WebSettings>> {
        toml::from_str::<Web>(text).expect("TOML").settings()
    }

    #[test]
    fn an_address_comes_with_a_certificate_and_a_token() {
        assert_eq!(web("").expect("none"), None);
        let files = "certificate = '/c'\nkey = '/k'\ntoken_file = '/t'\n";
        let whole = web(&format!("listen = '[::]:7444'\n{files}")).expect("valid").expect("there");
        assert_eq!((whole.listen.port(), whole.access), (7444, Access::Full));
        let looking = web(&format!("listen = '127.0.0.1:1'\n{files}read_only = true\n")).expect("valid");
        assert_eq!(looking.expect("there").access, Access::ReadOnly);
        for (text, words) in [
            (files, "web.listen is missing, though there is a web.certificate"),
            ("listen = '7444'", "invalid web.listen = \"7444\""),
            ("listen = '127.0.0.1:1'\ncertificate = '/c'\nkey = '/k'", "web.listen needs web.token_file too"),
        ] {
            let problem = web(text).expect_err(words).to_string();
            assert!(problem.contains(words), "{problem}");
        }
    }
}
