//! What of a sound configuration will not work on this host as it is now.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use vm_model::error_chain;
use worker::vms::VhostNet;

use super::assignments;
use crate::settings::{MasterPlace, Settings};

/// Everything that `run` would complain of, though it is nothing of the configuration.
pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings: Vec<String> =
        settings.manager.store_roots.iter().filter_map(|root| store_root(root)).collect();
    if let Some(file) = &settings.assignments {
        warnings.extend(
            assignments::problems(file)
                .iter()
                .map(|fault| format!("assignments = {}: {}", file.display(), fault.problem)),
        );
    }
    if let Some(Err(problem)) = settings.master.as_ref().map(MasterPlace::settings) {
        warnings.push(error_chain(problem.as_ref()));
    }
    if settings.manager.vhost_net == VhostNet::WherePossible && !Path::new("/dev/vhost-net").exists() {
        warnings.push(
            "network.vhost_net = true: there is no /dev/vhost-net, so VMs' own threads move frames \
             (modprobe vhost_net)"
                .to_owned(),
        );
    }
    warnings
}

fn store_root(root: &Path) -> Option<String> {
    let problem = match fs::read_dir(root) {
        Ok(_) => return None,
        Err(error) if error.kind() == ErrorKind::NotFound => "there is no such directory".to_owned(),
        Err(error) => format!("it cannot be read: {error}"),
    };
    Some(format!("store_roots has {}: {problem}", root.display()))
}
