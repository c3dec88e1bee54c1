//! What the caller may do.

use super::finding::{Finding, commands};
use super::host::Host;

const CHECK: &str = "capabilities";
/// `CAP_NET_ADMIN` of capabilities(7).
const NET_ADMIN: u32 = 12;

/// The caller's effective capabilities, a bit each; `None` where the kernel does not say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    effective: Option<u64>,
}

pub(super) fn look(host: &Host) -> Facts {
    let text = host.read("/proc/self/status").unwrap_or_default();
    let field = text.lines().find_map(|line| line.strip_prefix("CapEff:"));
    Facts { effective: field.and_then(|field| u64::from_str_radix(field.trim(), 16).ok()) }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    let has = facts.effective.is_some_and(|all| all & (1 << NET_ADMIN) != 0);
    if has {
        return vec![Finding::ok(CHECK, "the caller has CAP_NET_ADMIN")];
    }
    vec![Finding::fail(
        CHECK,
        "the caller lacks CAP_NET_ADMIN: a worker run like this cannot make bridges and TAPs; as root, doctor sees \
         what the service sees",
        commands(["sudo procurator-worker doctor".to_owned()]),
    )]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Verdict;
    use super::super::host::testing::host;
    use super::*;

    #[test]
    fn the_one_capability_decides() {
        for (mask, verdict) in
            [("0000000000001000", Verdict::Ok), ("0000000000000fff", Verdict::Fail), ("x", Verdict::Fail)]
        {
            let (_folder, host) = host(&[("proc/self/status", &format!("Name:\tx\nCapEff:\t{mask}\n"))]);
            assert_eq!(judge(&look(&host))[0].verdict, verdict, "{mask}");
        }
    }
}
