//! Whether this host lets shared memory, and so a guest's by default, have huge pages (Linux
//! `Documentation/admin-guide/mm/transhuge.rst`). Looks and tells; the setting is the administrator's.

use std::fs;
use std::path::Path;

use tracing::info;

/// The kernel's settings.
const SETTINGS: &str = "/sys/kernel/mm/transparent_hugepage";

/// Says in one line of the log how it is.
pub(crate) fn log() {
    let read = |file: &str| fs::read_to_string(Path::new(SETTINGS).join(file)).ok();
    let of_size = read("hugepages-2048kB/shmem_enabled");
    match read("shmem_enabled") {
        Some(all) if are_on(&all, of_size.as_deref()) => {
            info!(shmem_enabled = all.trim(), "guests' shared memory has huge pages");
        }
        Some(all) => {
            info!(
                shmem_enabled = all.trim(),
                "guests' shared memory has no huge pages, so that they boot slower; \"advise\" lets it have them"
            );
        }
        None => info!("guests' shared memory has no huge pages: this kernel knows none"),
    }
}

/// Whether memory that asks for pages of 2 MiB gets them. `of_size` overrules `all` on kernels that have it, unless it
/// inherits; `deny` is an emergency brake for both.
fn are_on(all: &str, of_size: Option<&str>) -> bool {
    const ON: [&str; 3] = ["always", "within_size", "advise"];
    let all = chosen(all);
    match of_size.and_then(chosen) {
        Some(own) if own != "inherit" => all != Some("deny") && ON.contains(&own),
        Some(_) | None => all.is_some_and(|all| all == "force" || ON.contains(&all)),
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
        let on: Vec<bool> = settings.iter().map(|word| are_on(&format!("x [{word}] y\n"), None)).collect();
        assert_eq!(on, [true, true, true, false, false, true]);
        assert!(!are_on("advise\n", None), "nothing is chosen");
    }

    #[test]
    fn that_for_huge_pages_overrules_it_on_newer_ones() {
        assert!(are_on("always [advise] never", Some("always [inherit] never")));
        assert!(!are_on("always advise [never]", Some("always [inherit] never")));
        assert!(are_on("always advise [never]", Some("inherit [advise] never")));
        assert!(!are_on("always [advise] never", Some("inherit advise [never]")));
        assert!(!are_on("never [deny]", Some("inherit [advise] never")));
    }
}
