//! Which of guests' memory this host gives transparent huge pages (Linux `Documentation/admin-guide/mm/transhuge.rst`), and
//! so what a guest's memory lies on by default. Looks and tells; the settings are the administrator's.

use std::fs;
use std::path::Path;

use tracing::info;
use vm_model::{HugePageSupport, MemoryBacking};

/// The kernel's settings.
const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";

/// What this host gives now: which memory of guests has transparent huge pages by default.
pub fn observe_huge_pages() -> HugePageSupport {
    let read = |file: &str| fs::read_to_string(Path::new(SETTINGS).join(file)).ok();
    HugePageSupport {
        shared: read("shmem_enabled")
            .is_some_and(|all| shared_has_them(&all, read("hugepages-2048kB/shmem_enabled").as_deref())),
        private: read("enabled")
            .is_some_and(|all| private_has_them(&all, read("hugepages-2048kB/enabled").as_deref())),
    }
}

/// Says in one line of the log how it is.
pub(crate) fn log() {
    let support = observe_huge_pages();
    let default = MemoryBacking::Automatic.resolve(support);
    let HugePageSupport { shared, private } = support;
    let told = if shared || private {
        "guests' memory has huge pages by default"
    } else {
        "guests' memory has no huge pages, so that they boot slower"
    };
    info!(shared, private, ?default, "{told}");
}

/// Whether shared memory that asks for pages of 2 MiB gets them. `of_size` overrules `all` on kernels that have it, unless
/// it inherits; `deny` is an emergency brake for both.
fn shared_has_them(all: &str, of_size: Option<&str>) -> bool {
    const ON: [&str; 3] = ["always", "within_size", "advise"];
    let all = chosen(all);
    match of_size.and_then(chosen) {
        Some(own) if own != "inherit" => all != Some("deny") && ON.contains(&own),
        Some(_) | None => all.is_some_and(|all| all == "force" || ON.contains(&all)),
    }
}

/// Whether private memory that asks for them does.
fn private_has_them(all: &str, of_size: Option<&str>) -> bool {
    const ON: [&str; 2] = ["always", "madvise"];
    match of_size.and_then(chosen) {
        Some(own) if own != "inherit" => ON.contains(&own),
        Some(_) | None => chosen(all).is_some_and(|all| ON.contains(&all)),
    }
}

/// The word in brackets of a setting like `always [never]`.
fn chosen(setting: &str) -> Option<&str> {
    Some(setting.split_once('[')?.1.split_once(']')?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_setting_for_all_sizes_decides_on_older_kernels() {
        let settings = ["always", "within_size", "advise", "never", "deny", "force"];
        let on = settings.map(|word| shared_has_them(&format!("x [{word}] y\n"), None));
        assert_eq!(on, [true, true, true, false, false, true]);
        assert!(!shared_has_them("advise\n", None), "nothing is chosen");
        let on = ["always", "madvise", "never"].map(|word| private_has_them(&format!("[{word}] y\n"), None));
        assert_eq!(on, [true, true, false]);
    }

    #[test]
    fn that_for_huge_pages_overrules_it_on_newer_ones() {
        assert!(shared_has_them("always [advise] never", Some("always [inherit] never")));
        assert!(!shared_has_them("always advise [never]", Some("always [inherit] never")));
        assert!(shared_has_them("always advise [never]", Some("inherit [advise] never")));
        assert!(!shared_has_them("always [advise] never", Some("inherit advise [never]")));
        assert!(!shared_has_them("never [deny]", Some("inherit [advise] never")));
        assert!(private_has_them("always [madvise] never", Some("always [inherit] madvise never")));
        assert!(!private_has_them("[always] madvise never", Some("inherit [never]")));
        assert!(private_has_them("always madvise [never]", Some("inherit [madvise] never")));
    }
}
