//! What of a sound configuration will not work on this host as it is now, though `run` starts with it.

use std::path::Path;

use tokio::runtime::Builder;
use worker::vms::VhostNet;

use super::assignments;
use crate::doctor::addresses::{self, Complaints};
use crate::settings::Settings;

/// Everything that `run` would complain of, though it is nothing of the configuration.
pub(super) fn warnings(settings: &Settings) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(file) = &settings.assignments {
        warnings.extend(
            assignments::problems(file, (&settings.manager, &settings.listening()))
                .into_iter()
                .map(|fault| fault.problem)
                .map(|problem| format!("assignments = {}: {problem}", file.display())),
        );
    }
    warnings.extend(settings.manager.foresee_limits());
    if settings.manager.vhost_net == VhostNet::WherePossible && !Path::new("/dev/vhost-net").exists() {
        warnings.push(
            "network.vhost_net = true: there is no /dev/vhost-net, so VMs' own threads move frames \
             (modprobe vhost_net)"
                .to_owned(),
        );
    }
    warnings
}

/// What keeps the worker from having the networks as they are described. Nothing where the host cannot be looked at. Not from
/// within a runtime.
pub(super) fn network(settings: &Settings) -> Complaints {
    let Ok(runtime) = Builder::new_current_thread().enable_all().build() else {
        return Complaints::default();
    };
    let facts = runtime.block_on(addresses::look(settings));
    let mut all = Complaints::default();
    for Complaints { refusals, warnings } in facts.iter().map(addresses::complaints) {
        all.refusals.extend(refusals);
        all.warnings.extend(warnings);
    }
    all
}
