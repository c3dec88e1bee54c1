//! The table `fetch` of the configuration file: binary caches, and whom to believe.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use binary_cache::{CacheUrl, FetchSettings, TrustedKey};
use serde::Deserialize;
use vm_model::{Bytes, CollectionRule};

use super::network::parsed;
use super::{DEFAULT_FILE, read};

/// Archives downloaded at the same time.
const PARALLEL: NonZeroUsize = NonZeroUsize::new(4).expect("four is not zero");
/// More do not make a network faster.
pub(super) const MOST_PARALLEL: usize = 64;
/// The most that one store path and what it needs may be, in GiB.
const LARGEST_GIB: u64 = 64;
pub(super) const MOST_GIB: u64 = 1 << 20;
/// How long what was fetched stays though nothing needs it, in days.
const UNUSED_DAYS: u64 = 30;
pub(super) const MOST_DAYS: u64 = 36_500;
/// Where distributions keep the certificates of public authorities.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// As it stands in the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Fetch {
    #[serde(deserialize_with = "parsed")]
    caches: Vec<CacheUrl>,
    #[serde(deserialize_with = "parsed")]
    trusted_keys: Vec<TrustedKey>,
    parallel: Option<usize>,
    max_size_gib: Option<u64>,
    authorities: Option<PathBuf>,
    unused_days: Option<u64>,
    min_free_gib: Option<u64>,
}

/// What a command line says in place of the file.
#[derive(Clone, Debug, Default)]
pub(crate) struct FetchOverrides {
    /// Caches; the file's where there are none.
    pub(crate) caches: Vec<CacheUrl>,
    /// Keys that are trusted besides the file's.
    pub(crate) trusted_keys: Vec<TrustedKey>,
}

impl Fetch {
    /// What of the fetched paths is deleted by itself.
    pub(super) fn collection(&self) -> Result<CollectionRule> {
        let days = self.unused_days.unwrap_or(UNUSED_DAYS);
        if days > MOST_DAYS {
            bail!("invalid fetch.unused_days = {days}: 0 to {MOST_DAYS} is accepted");
        }
        let free = self.min_free_gib.unwrap_or(0);
        if free > MOST_GIB {
            bail!("invalid fetch.min_free_gib = {free}: 0 to {MOST_GIB} is accepted");
        }
        Ok(CollectionRule {
            unused_for: (days > 0).then(|| Duration::from_secs(days * 86_400)),
            keep: None,
            free: (free > 0).then(|| Bytes::new(free << 30)),
        })
    }

    /// Checks it; `None` where it names no cache.
    pub(super) fn settings(self, over: FetchOverrides) -> Result<Option<FetchSettings>> {
        let is_of_command_line = !over.caches.is_empty();
        let caches = if is_of_command_line { over.caches } else { self.caches };
        let parallel = match self.parallel.map(NonZeroUsize::new) {
            None => PARALLEL,
            Some(Some(parallel)) if parallel.get() <= MOST_PARALLEL => parallel,
            Some(other) => {
                let value = other.map_or(0, NonZeroUsize::get);
                bail!("invalid fetch.parallel = {value}: 1 to {MOST_PARALLEL} is accepted")
            }
        };
        let largest = self.max_size_gib.unwrap_or(LARGEST_GIB);
        if !(1..=MOST_GIB).contains(&largest) {
            bail!("invalid fetch.max_size_gib = {largest}: 1 to {MOST_GIB} is accepted");
        }
        let trusted_keys = [self.trusted_keys, over.trusted_keys].concat();
        if caches.is_empty() {
            return Ok(None);
        }
        if trusted_keys.is_empty() && is_of_command_line {
            bail!(
                "--cache needs --trusted-key NAME:BASE64, or fetch.trusted_keys in the configuration file: what nobody \
                 trusted has signed is not fetched"
            );
        }
        if trusted_keys.is_empty() {
            bail!("fetch.caches needs fetch.trusted_keys: what nobody trusted has signed is not fetched");
        }
        let authorities = self.authorities.unwrap_or_else(|| AUTHORITIES.into());
        Ok(Some(FetchSettings {
            caches,
            trusted_keys,
            parallel,
            largest: Bytes::new(largest << 30),
            authorities,
        }))
    }
}

/// What the configuration file at `path`, or at its usual place, says of fetching, with what the command line says instead.
pub(crate) fn fetch_settings(path: Option<&Path>, over: FetchOverrides) -> Result<FetchSettings> {
    let file = match path {
        Some(path) => {
            read(path)?.with_context(|| format!("there is no configuration file {}", path.display()))?
        }
        None => read(Path::new(DEFAULT_FILE))?.unwrap_or_default(),
    };
    file.fetch.settings(over)?.context(
        "there is no binary cache to fetch from: name one with --cache, or in fetch.caches of the configuration file",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "trusted_keys = ['mine-1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=']";

    fn settings(text: &str) -> Result<Option<FetchSettings>> {
        toml::from_str::<Fetch>(text)?.settings(FetchOverrides::default())
    }

    #[test]
    fn caches_need_keys_and_the_rest_has_defaults() {
        assert!(settings("").expect("valid").is_none());
        let caches = "caches = ['https://cache.example', 'file:///srv/cache']";
        let both = settings(&format!("{caches}\n{KEY}")).expect("valid").expect("some");
        assert_eq!((both.caches.len(), both.parallel.get()), (2, 4));
        assert_eq!(both.largest, Bytes::new(64 << 30));
        let alone = settings(caches).expect_err("nobody is trusted").to_string();
        assert!(alone.contains("fetch.trusted_keys"), "{alone}");
    }

    #[test]
    fn what_nothing_needs_stays_a_month_unless_told_otherwise() {
        let rule = |text: &str| toml::from_str::<Fetch>(text).expect("parses").collection();
        let days = |days: u64| Some(Duration::from_secs(days * 86_400));
        assert_eq!(
            rule("").expect("valid"),
            CollectionRule { unused_for: days(30), ..CollectionRule::default() }
        );
        let both = rule("unused_days = 0\nmin_free_gib = 5").expect("valid");
        assert_eq!(both, CollectionRule { free: Some(Bytes::new(5 << 30)), ..CollectionRule::default() });
        for (text, said) in
            [("unused_days = 36501", "0 to 36500"), ("min_free_gib = 1048577", "0 to 1048576")]
        {
            let refused = rule(text).expect_err(text).to_string();
            assert!(refused.contains(said), "{refused}");
        }
    }

    #[test]
    fn a_cache_of_the_command_line_needs_a_key_of_it_or_of_the_file() {
        let over =
            || FetchOverrides { caches: vec!["file:///srv".parse().expect("a cache")], ..Default::default() };
        let refused = Fetch::default().settings(over()).expect_err("nobody is trusted").to_string();
        assert!(refused.starts_with("--cache needs --trusted-key"), "{refused}");
        let file: Fetch = toml::from_str(KEY).expect("valid");
        assert!(file.settings(over()).expect("valid").is_some());
    }

    #[test]
    fn mistakes_are_refused_by_name() {
        for (text, said) in [
            ("parallel = 0", "fetch.parallel = 0: 1 to 64"),
            ("parallel = 65", "1 to 64"),
            ("max_size_gib = 0", "fetch.max_size_gib"),
            ("caches = ['cache.example']", "no binary cache"),
            ("trusted_keys = ['mine']", "no public key"),
        ] {
            let refused = format!("{:#}", settings(text).expect_err(text));
            assert!(refused.contains(said), "{text}: {refused}");
        }
    }
}
