//! The host kernel's back end for an interface (vhost-net), where the settings want it and the host has it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vm_model::{RateLimitSpec, VhostSpec};

use crate::failure::chain;

const DEVICE: &str = "/dev/vhost-net";
const INTERFACES: &str = "/sys/class/net";

/// Opens the back end of interface `nic`, whose TAP is `tap` and has so many `queues`, or says in a line why it goes
/// without.
pub(super) async fn back_end(
    nic: &str,
    tap: String,
    queues: usize,
    rate_limits: RateLimitSpec,
) -> Result<VhostSpec<OwnedFd>, String> {
    // The first to open it may have to wait for the kernel to load a module.
    let opened = tokio::task::spawn_blocking(move || open(&tap, queues, &rate_limits)).await;
    let problem = match opened {
        Ok(Ok(vhost)) => return Ok(vhost),
        Ok(Err(problem)) => chain(&problem),
        Err(lost) => chain(&lost),
    };
    Err(format!("net {nic}: the worker moves its frames, not the kernel: {problem}"))
}

/// Why an interface's frames go through the worker although they need not.
#[derive(Debug, Error)]
enum NoVhost {
    /// The kernel moves frames as fast as it can.
    #[error("the interface has a rate limit, which the kernel's back end does not know")]
    RateLimit,
    /// The host has no back end, or nothing to see what it does.
    #[error("cannot open {}", path.display())]
    Unopened {
        /// What.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Opens a back end for each of the `queues` of TAP `tap`.
///
/// # Errors
/// See [`NoVhost`]; the interface works without.
fn open(tap: &str, queues: usize, rate_limits: &RateLimitSpec) -> Result<VhostSpec<OwnedFd>, NoVhost> {
    if *rate_limits != RateLimitSpec::default() {
        return Err(NoVhost::RateLimit);
    }
    let opened = |path: &Path, result: io::Result<File>| {
        result.map(OwnedFd::from).map_err(|source| NoVhost::Unopened { path: path.to_owned(), source })
    };
    let device = Path::new(DEVICE);
    let devices = (0..queues).map(|_| opened(device, File::options().read(true).write(true).open(device)));
    let devices = devices.collect::<Result<_, _>>()?;
    let counters = Path::new(INTERFACES).join(tap).join("statistics");
    Ok(VhostSpec { devices, statistics: opened(&counters, File::open(&counters))? })
}

#[cfg(test)]
mod tests {
    use vm_model::TokenBucketSpec;

    use super::*;

    #[test]
    fn a_limited_interface_stays_with_the_worker() {
        let bucket = TokenBucketSpec { size: 1, one_time_burst: 0, refill_time_ms: 1000 };
        let limits = RateLimitSpec { operations: Some(bucket), ..RateLimitSpec::default() };
        assert!(matches!(open("lo", 1, &limits), Err(NoVhost::RateLimit)));
    }

    #[test]
    fn what_the_host_lacks_is_named() {
        // A host that has the device lacks the interface.
        let missing =
            open("no-such-tap", 1, &RateLimitSpec::default()).expect_err("there is no such interface");
        let text = missing.to_string();
        assert!(text == "cannot open /dev/vhost-net" || text.contains("/no-such-tap/statistics"), "{text}");
    }
}
