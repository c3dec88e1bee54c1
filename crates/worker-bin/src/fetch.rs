//! `fetch`: puts a store path with all that it needs into the store of this host, from binary caches.

use std::io::{IsTerminal, Write, stderr, stdout};
use std::path::{Path, absolute};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use binary_cache::{Fetcher, Progress, Store};
use tokio::runtime::Builder;
use tokio::sync::watch;
use tokio::time::interval;
use vm_model::{Bytes, StoreName};

use crate::cli::FetchFlags;
use crate::settings::{FetchOverrides, fetch_settings};

/// How often a person is told how it goes.
const SHOWN_EVERY: Duration = Duration::from_millis(250);

/// Fetches, and prints what came.
pub(crate) fn run(flags: FetchFlags) -> Result<()> {
    let path = absolute(&flags.store_path)
        .with_context(|| format!("invalid path {}", flags.store_path.display()))?;
    let (store, name) = parts(&path)?;
    let over = FetchOverrides { caches: flags.caches, trusted_keys: flags.trusted_keys };
    let settings = fetch_settings(flags.config.as_deref(), over)?;
    let begun = Instant::now();
    let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.context("cannot start the runtime")?;
    let fetched = runtime.block_on(async {
        let store = Arc::new(Store::open(store)?);
        let progress = watch::Sender::new(Progress::default());
        // It has no end of its own, and ends with the runtime.
        tokio::spawn(show(progress.subscribe()));
        Ok::<_, anyhow::Error>(Fetcher::new(settings).fetch(&name, &store, &progress).await?)
    });
    drop(runtime);
    clear_line();
    let fetched = fetched?;
    let text = match fetched.paths {
        0 => format!("{} is there already", path.display()),
        1 => format!("{}: 1 path, {}, in {:.1?}", path.display(), fetched.bytes, begun.elapsed()),
        paths => format!("{}: {paths} paths, {}, in {:.1?}", path.display(), fetched.bytes, begun.elapsed()),
    };
    writeln!(stdout(), "{text}").context("cannot write to standard output")
}

/// The store of a path, and its name there.
fn parts(path: &Path) -> Result<(&Path, StoreName)> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.parse().with_context(|| format!("{} is no store path", path.display()))?;
    let store = path.parent().with_context(|| format!("{} is no store path", path.display()))?;
    Ok((store, name))
}

/// Shows a person how far it is, as long as this is polled.
async fn show(progress: watch::Receiver<Progress>) {
    let mut ticks = interval(SHOWN_EVERY);
    let (begun, mut first) = (Instant::now(), None);
    loop {
        ticks.tick().await;
        let Progress { paths, paths_done, bytes, bytes_done } = *progress.borrow();
        if bytes > 0 && stderr().is_terminal() {
            let (done, all) = (Bytes::new(bytes_done), Bytes::new(bytes));
            // What an earlier fetch left is unpacked at once, and is no measure of what comes.
            let first = *first.get_or_insert((begun.elapsed(), bytes_done));
            let rate = rate(bytes_done.saturating_sub(first.1), begun.elapsed().saturating_sub(first.0));
            let _ = write!(stderr(), "\r\x1b[K{paths_done} of {paths} paths, {done} of {all}, {rate}");
        }
    }
}

fn rate(bytes: u64, elapsed: Duration) -> String {
    let milliseconds = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    format!("{}/s", Bytes::new(bytes.saturating_mul(1000) / milliseconds))
}

fn clear_line() {
    if stderr().is_terminal() {
        let _ = write!(stderr(), "\r\x1b[K");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_path_is_told_from_others() {
        let path = Path::new("/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-vm-image");
        let (store, name) = parts(path).expect("a store path");
        assert_eq!((store, name.hash_part()), (Path::new("/nix/store"), "3n58xw4373jp0ljirf06d8077j15pc4j"));
        for other in
            ["/", "/nix/store/image", "/nix/store/3n58xw4373jp0ljirf06d8077j15pc4j-vm-image/disk.img"]
        {
            let refused = format!("{:#}", parts(Path::new(other)).expect_err(other));
            assert!(refused.contains("is no store path"), "{refused}");
        }
    }
}
