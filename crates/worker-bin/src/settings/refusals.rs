//! What of settings that can be read is refused on this host: `check-config` says so, and `run` does not start with most of
//! it.

use admin::WebSettings;
use anyhow::{Error, anyhow};
use worker::vms::VmManagerError;

use super::{MasterPlace, Settings, key};
use crate::assignments::AssignmentsFile;
use crate::logging;

/// Settings of the library that have another name in the file, and that refusals of other settings speak of.
const OF_THE_DEFAULT_NETWORK: [&str; 3] = ["network_bridge", "vm_subnet_base", "ipv6_subnet"];

impl Settings {
    /// Everything that `check-config` refuses, each with its key or variable. Nothing is changed.
    pub(crate) fn refusals(&self) -> Vec<Error> {
        let web = self.web.as_ref().map(WebSettings::check).and_then(Result::err);
        let web = web.map(|problem| {
            Error::from(problem).context("invalid web.token_file, web.certificate or web.key")
        });
        let group = self.sockets().check().err();
        let group =
            group.map(|problem| Error::from(problem).context("invalid admin.group or admin.read_group"));
        self.hindrances().into_iter().chain(group).chain(web).collect()
    }

    /// What of that keeps `run` from starting. Files of the page and groups of sockets are not among it: VMs need neither.
    fn hindrances(&self) -> Vec<Error> {
        let manager = self.manager.check().err().into_iter().flatten().map(by_key);
        let file = self.assignments.as_deref().map(AssignmentsFile::at).and_then(Result::err);
        let master = self.master.as_ref().map(MasterPlace::settings).and_then(Result::err);
        let filter = logging::wanted().err();
        filter.into_iter().chain(file).chain(master).chain(manager).collect()
    }

    /// Itself, where nothing keeps `run` from starting with it.
    ///
    /// # Errors
    /// The first thing that does.
    pub(crate) fn accepted(self) -> Result<Self, Error> {
        match self.hindrances().into_iter().next() {
            None => Ok(self),
            Some(problem) => Err(problem),
        }
    }
}

/// Names a refused setting as the configuration file does.
pub(crate) fn by_key(problem: VmManagerError) -> Error {
    match problem {
        VmManagerError::Setting { setting, value, expected } => {
            // What is expected may speak of settings of the other network too.
            let of_the_file = |word| if OF_THE_DEFAULT_NETWORK.contains(&word) { key(word) } else { word };
            let expected = expected.split(' ').map(of_the_file).collect::<Vec<_>>().join(" ");
            anyhow!("invalid setting {} = {value:?}: {expected}", key(&setting))
        }
        problem => problem.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::settings;

    #[test]
    fn everything_that_is_refused_is_told_and_the_page_keeps_no_worker_from_starting() {
        let text = "store_roots = ['store']\nassignments = '/'\n[admin]\ngroup = 'no-such-group'\n[master]\n\
                    address = 'm:1'\ncertificate = '/nonexistent/c'\nkey = '/nonexistent/k'\nauthorities = '/nonexistent/a'\n[web]\n\
                    listen = '127.0.0.1:1'\ncertificate = '/c'\nkey = '/k'\ntoken_file = '/nonexistent/t'\n";
        let told: Vec<String> =
            settings(text).refusals().iter().map(|problem| format!("{problem:#}")).collect();
        for words in [
            "invalid assignments file /",
            "no-such-group",
            "/nonexistent/c",
            "/nonexistent/t",
            "store_roots = \"store\"",
        ] {
            assert!(told.iter().any(|one| one.contains(words)), "{words} is not in {told:?}");
        }
        assert_eq!(told.len(), 5, "{told:?}");
        let page =
            "[web]\nlisten = '127.0.0.1:1'\ncertificate = '/c'\nkey = '/k'\ntoken_file = '/nonexistent/t'\n";
        settings(page).accepted().expect("VMs need no page");
        settings("[admin]\ngroup = 'no-such-group'\n").accepted().expect("nor anybody but root to look");
    }

    #[test]
    fn whole_jails_are_not_required_of_vms_in_the_worker() {
        let told = |text: &str| {
            let told = settings(&format!("store_roots = ['/']\n{text}")).refusals();
            told.iter().map(ToString::to_string).collect::<String>()
        };
        let refused = told("jail = 'required'\nvms_per_host_process = 0");
        assert!(
            refused.starts_with("invalid setting jail = \"required\": vms_per_host_process = 0"),
            "{refused}"
        );
        settings("store_roots = ['/']\njail = 'required'\nvms_per_host_process = 0")
            .accepted()
            .expect_err("run does not start");
        for sound in
            ["jail = 'auto'\nvms_per_host_process = 0", "jail = 'required'\nvms_per_host_process = 1"]
        {
            assert_eq!(told(sound), "", "{sound}");
        }
    }

    #[test]
    fn networks_in_each_others_way_are_told_by_both_keys() {
        let told = |text: &str| settings(text).refusals().iter().map(ToString::to_string).collect::<String>();
        let storage = "[networks.storage]\nbridge = 'br-storage'\n";
        assert_eq!(told(&format!("store_roots = ['/']\n{storage}subnet = '10.101.0.0/16'\n")), "");
        assert_eq!(
            told(&format!("store_roots = ['/']\n{storage}subnet = '10.100.7.0/24'\n")),
            "invalid setting networks.storage.subnet = \"10.100.7.0/24\": it overlaps with network.subnet = \
             \"10.100.0.0/16\"; each network needs addresses of its own"
        );
        let same_ipv6 = format!(
            "store_roots = ['/']\n[network]\nipv6_subnet = 'fd12::/64'\n{storage}subnet = '10.101.0.0/16'\n\
             ipv6_subnet = 'fd12::/64'\n"
        );
        assert_eq!(
            told(&same_ipv6),
            "invalid setting networks.storage.ipv6_subnet = \"fd12::/64\": it is that of network.ipv6_subnet too; each \
             network needs addresses of its own"
        );
        let same_bridge =
            "store_roots = ['/']\n[networks.storage]\nbridge = 'br-procurator'\nsubnet = '10.101.0.0/16'\n";
        assert!(
            told(same_bridge).contains("it is the bridge of network.bridge too"),
            "{}",
            told(same_bridge)
        );
    }
}
