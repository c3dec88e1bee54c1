//! Fetches one store path from one cache and says how long it took: `fetch STORE_PATH CACHE NAME:KEY`, for a comparison with
//! `nix copy` from the same cache.

use std::error::Error;
use std::io::{Write, stdout};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use binary_cache::{FetchSettings, Fetcher, Progress, Store};
use tokio::sync::watch;
use vm_model::{Bytes, StoreName};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, cache, key] = arguments.as_slice() else { return Err("STORE_PATH CACHE NAME:KEY".into()) };
    let path = PathBuf::from(path);
    let (store, name) = path.parent().zip(path.file_name()).ok_or("no store path")?;
    let name: StoreName = name.to_str().ok_or("no text")?.parse()?;
    let settings = FetchSettings {
        caches: vec![cache.parse()?],
        trusted_keys: vec![key.parse()?],
        parallel: NonZeroUsize::new(4).ok_or("four is not zero")?,
        largest: Bytes::new(64 << 30),
        authorities: "/etc/ssl/certs/ca-certificates.crt".into(),
    };
    let store = Arc::new(Store::open(store)?);
    let begun = Instant::now();
    let fetched =
        Fetcher::new(settings).fetch(&name, &store, &watch::Sender::new(Progress::default())).await?;
    writeln!(stdout(), "{} paths, {} in {:.2?}", fetched.paths, fetched.bytes, begun.elapsed())?;
    Ok(())
}
