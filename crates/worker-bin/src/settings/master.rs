//! The master: where it is, and by which certificates it and this host know each other.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use master_protocol::drivers::PlainTcp;
use master_protocol::tls::TlsFiles;
use serde::Deserialize;
use worker::master::{MasterSettings, host_name};
use worker::node::RemovalLimit;

/// The table `master` of the configuration file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Master {
    address: Option<String>,
    name: Option<String>,
    certificate: Option<PathBuf>,
    key: Option<PathBuf>,
    authorities: Option<PathBuf>,
    plain_tcp: Option<String>,
    worker: Option<String>,
    max_removals_per_hour: Option<u32>,
}

/// A master, as it is configured. Its files are read when the link to it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MasterPlace {
    address: String,
    way: Way,
}

/// How a master is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Tls { name: String, files: TlsFiles },
    Plain { worker: String, where_to: PlainTcp },
}

impl Master {
    /// Where the master is; `flag` goes before the file's address. `None` where there is none.
    pub(super) fn place(&self, flag: Option<String>) -> Result<Option<MasterPlace>> {
        let Some(address) = flag.or_else(|| self.address.clone()) else {
            if self.speaks_of_one() {
                bail!(
                    "master.address is missing: a host and a port like \"master.example:7443\" are accepted"
                );
            }
            return Ok(None);
        };
        let Some((host, _)) = address.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()) else {
            bail!(
                "invalid master.address = {address:?}: a host and a port like \"master.example:7443\" are accepted"
            );
        };
        let files = (self.certificate.clone(), self.key.clone(), self.authorities.clone());
        let way = match (files, &self.plain_tcp) {
            ((Some(certificate), Some(key), Some(authorities)), None) => {
                if let Some(worker) = &self.worker {
                    bail!(
                        "master.worker = {worker:?} has no place beside a certificate, which names this host"
                    );
                }
                let name = self.name.clone().unwrap_or_else(|| host.trim_matches(['[', ']']).to_owned());
                Way::Tls { name, files: TlsFiles { certificate, key, authorities } }
            }
            ((None, None, None), words) => {
                if let Some(name) = &self.name {
                    bail!("master.name = {name:?} is the name in a certificate: certificates are missing");
                }
                if words.is_none() && !is_this_host(host) {
                    bail!(
                        "master.address = {address:?} is another host: master.certificate, master.key and \
                         master.authorities are missing, or master.plain_tcp"
                    );
                }
                let where_to =
                    words.as_deref().map(str::parse).transpose().context("invalid master.plain_tcp")?;
                let worker = self.worker.clone().unwrap_or_else(host_name);
                Way::Plain { worker, where_to: where_to.unwrap_or(PlainTcp::Loopback) }
            }
            ((_, _, _), Some(_)) => {
                bail!("master.plain_tcp has no place beside certificates: leave out the one or the others")
            }
            ((_, _, _), None) => bail!(
                "master.certificate, master.key and master.authorities belong together: one of them is missing"
            ),
        };
        Ok(Some(MasterPlace { address, way }))
    }

    fn speaks_of_one(&self) -> bool {
        self.name.is_some()
            || self.certificate.is_some()
            || self.key.is_some()
            || self.authorities.is_some()
            || self.plain_tcp.is_some()
            || self.worker.is_some()
    }

    /// How much a master may take away.
    pub(super) fn removal_limit(&self, default: RemovalLimit) -> RemovalLimit {
        match self.max_removals_per_hour.map(NonZeroU32::new) {
            None => default,
            Some(None) => RemovalLimit::Off,
            Some(Some(most)) => RemovalLimit::AnHour(most),
        }
    }
}

/// Whether `host` can only be this one.
fn is_this_host(host: &str) -> bool {
    let address = host.trim_matches(['[', ']']).parse::<IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

impl MasterPlace {
    /// Its host and port.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// The certificates for it; `None` where it is reached without any.
    pub(crate) fn tls_files(&self) -> Option<&TlsFiles> {
        match &self.way {
            Way::Tls { files, .. } => Some(files),
            Way::Plain { .. } => None,
        }
    }

    /// Reads the files and makes of it what a link needs.
    pub(crate) fn settings(&self) -> Result<MasterSettings> {
        let address = self.address.clone();
        let settings = match &self.way {
            Way::Tls { name, files } => MasterSettings::tls(address, name.clone(), files),
            Way::Plain { worker, where_to } => MasterSettings::plain(address, worker, *where_to),
        };
        settings.with_context(|| format!("the master {} cannot be spoken with", self.address))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Result<Option<MasterPlace>> {
        toml::from_str::<Master>(text)?.place(None)
    }

    #[test]
    fn a_master_is_reached_by_certificates_or_by_plain_tcp() {
        assert_eq!(place("").expect("none"), None);
        let files = "certificate = '/c'\nkey = '/k'\nauthorities = '/a'";
        let tls = place(&format!("address = 'm1.example:7443'\n{files}")).expect("valid").expect("there");
        assert!(matches!(&tls.way, Way::Tls { name, .. } if name == "m1.example"), "{tls:?}");
        let named = place(&format!("address = '192.0.2.1:7443'\nname = 'm1'\n{files}")).expect("valid");
        assert!(matches!(named.expect("there").way, Way::Tls { name, .. } if name == "m1"));
        let plain = place("address = '127.0.0.1:7443'\nworker = 'w1'").expect("valid").expect("there");
        assert_eq!(plain.way, Way::Plain { worker: "w1".to_owned(), where_to: PlainTcp::Loopback });
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_name() {
        for (text, words) in [
            ("name = 'm1'", "master.address is missing"),
            ("address = 'm1'", "a host and a port"),
            ("address = 'm1:7443'\ncertificate = '/c'", "belong together"),
            ("address = 'm1:7443'\nname = 'm1'", "certificates are missing"),
            ("address = 'm1:7443'", "is another host: master.certificate"),
            ("address = 'm1:7443'\nplain_tcp = 'yes'", "invalid master.plain_tcp"),
            (
                "address = 'm1:1'\ncertificate = '/c'\nkey = '/k'\nauthorities = '/a'\nworker = 'w'",
                "which names this host",
            ),
        ] {
            let error = format!("{:#}", place(text).expect_err(text));
            assert!(error.contains(words), "{error}");
        }
    }
}
