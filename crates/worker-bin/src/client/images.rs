//! `gc --images`: fetched store paths that nothing needs.

use admin::{AdminClient, CollectionRequest, CollectionView};
use anyhow::Result;
use vm_model::{CollectedPath, Timestamp};

use super::amounts::{ago, size};
use super::table::Table;
use super::{print, print_json};
use crate::cli::GcFlags;

/// Has them deleted, or shown, and prints which.
pub(super) async fn collect(client: &AdminClient, flags: &GcFlags) -> Result<()> {
    let request = CollectionRequest {
        unused_seconds: flags.older_than.map(|span| span.0.as_secs()),
        keep_bytes: flags.keep,
        free_bytes: flags.free,
    };
    let collected = client.collect_images(&request, flags.dry_run).await?;
    if flags.json {
        return print_json(&collected);
    }
    print(&shown(&collected, flags.dry_run, Timestamp::now()))
}

fn shown(CollectionView { collected }: &CollectionView, dry_run: bool, now: Timestamp) -> String {
    if collected.is_empty() {
        return "no fetched store path is to be deleted\n".to_owned();
    }
    let mut table = Table::new(["STORE PATH", "SIZE", "NEEDED LAST", "WHY"]);
    for CollectedPath { store_path, size, needed_last, cause } in collected {
        let path = store_path.display().to_string();
        table.row([path, size.to_string(), ago(*needed_last, now), cause.to_string()]);
    }
    let all = collected.iter().map(|path| path.size.get()).fold(0, u64::saturating_add);
    let done = if dry_run { "would be deleted" } else { "deleted" };
    format!("{table}{done}: {} paths, {}\n", collected.len(), size(all))
}

#[cfg(test)]
mod tests {
    use vm_model::{Bytes, CollectionCause};

    use super::*;

    #[test]
    fn each_path_has_its_reason() {
        let path = |name: &str, cause| CollectedPath {
            store_path: format!("/nix/store/{name}").into(),
            size: Bytes::from_mib(512),
            needed_last: Timestamp::from_millis(0),
            cause,
        };
        let collected = vec![path("a", CollectionCause::Age), path("b", CollectionCause::Space)];
        let text = shown(&CollectionView { collected }, true, Timestamp::from_millis(864_000_000));
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[1].starts_with("/nix/store/a ") && lines[1].ends_with("not needed for long"), "{text}");
        assert!(lines[1].contains("512 MiB") && lines[1].contains("10d 0h ago"), "{text}");
        assert!(lines[2].ends_with("space is short"), "{text}");
        assert_eq!(lines[3], "would be deleted: 2 paths, 1 GiB");
        let nothing = shown(&CollectionView { collected: Vec::new() }, false, Timestamp::from_millis(0));
        assert_eq!(nothing, "no fetched store path is to be deleted\n");
    }
}
