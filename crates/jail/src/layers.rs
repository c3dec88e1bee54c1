//! The layers in their order.

mod landlocked;
mod limits;
mod namespaces;
mod privileges;
mod root;

use std::error::Error;
use std::path::PathBuf;

use crate::order::JailOrder;
use crate::pid_namespace::HostPid;
use crate::report::{Extent, Gap, JailReport, Layer};
use landlocked::Coverage;

/// What of the host a jailed process is handed descriptors of later, and works with by them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outside {
    /// Directories below which it is given others, to make files and sockets in.
    pub trees: Vec<PathBuf>,
}

/// Gives up what `order` says, for good. To be called while this process has one thread, and after it has opened what it
/// needs by a path. `pid` is what [`enter_pid_namespace`](crate::enter_pid_namespace) made of it.
///
/// Every layer is tried, whatever became of those before.
pub fn enter(order: &JailOrder, outside: &Outside, pid: &HostPid) -> JailReport {
    let mut report = JailReport { user: None, gaps: pid.gap.iter().cloned().collect() };
    let mut note = |layer, outcome: Result<(), Box<dyn Error>>| {
        if let Err(problem) = &outcome {
            report.gaps.push(Gap::of(layer, problem.as_ref()));
        }
        outcome.is_ok()
    };
    note(Layer::OomScore, limits::be_killed_early());
    note(Layer::Limits, limits::set(order));
    // Opened while paths still lead somewhere.
    let rules = landlocked::open_rules(outside);
    for (layer, namespace) in namespaces::ALL {
        note(layer, namespaces::leave(namespace));
    }
    note(Layer::Root, root::empty());
    note(Layer::Capabilities, privileges::forget_bounding_set());
    let user = order.user.filter(|user| note(Layer::User, privileges::become_user(*user)));
    if order.user.is_none() {
        note(Layer::User, Err("none is given to it".into()));
    }
    note(Layer::Capabilities, privileges::drop_capabilities());
    note(Layer::Dumpable, privileges::forbid_tracing());
    note(Layer::NoNewPrivileges, privileges::gain_nothing());
    match landlocked::restrict(rules) {
        Ok(Coverage::Full) => {}
        Ok(Coverage::FilesAlone) => report.gaps.push(Gap {
            layer: Layer::Landlock,
            problem: "this kernel enforces a part of it: Linux 6.12 knows all".to_owned(),
            extent: Extent::Additions,
        }),
        Err(problem) => report.gaps.push(Gap::of(Layer::Landlock, problem.as_ref())),
    }
    JailReport { user, gaps: report.gaps }
}
