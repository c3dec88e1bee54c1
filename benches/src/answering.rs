//! The admin interface over very many VMs, as programs use it: over its socket, and how long it takes to answer.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use admin::{AdminClient, AdminServer, SOCKET_NAME, Served, SocketSettings, StatusView};
use anyhow::{Context, Result};
use serde_json::json;
use tokio::sync::{mpsc, watch};
use vm_model::{Timestamp, VmId};
use worker::vms::VmManager;

use crate::machines::nanoseconds;

/// How often each question is asked; the median counts.
const TIMES: usize = 9;
/// Points of the past that `top` asks for.
const POINTS: usize = 13;

/// How long the median answers took, in nanoseconds: to `ls`, to `inspect` of one VM, to what `top` asks when it starts, and
/// to a scraper.
pub(crate) async fn measure(manager: &Arc<VmManager>, folder: &Path) -> Result<[u64; 4]> {
    let directory = folder.join("run");
    std::fs::create_dir(&directory).context("cannot make a folder")?;
    let server = AdminServer::bind(&SocketSettings::in_directory(&directory))?;
    let (end, mut ended) = watch::channel(());
    let (node, _nobody) = mpsc::channel(1);
    let status: StatusView =
        serde_json::from_value(json!({ "version": "bench", "since": Timestamp::now() }))?;
    let served = Served { vm_manager: Arc::clone(manager), node, status: Arc::new(move || status.clone()) };
    let serving = tokio::spawn(server.serve(served, 4, async move {
        // Nothing is ever sent: it returns when the sender is gone.
        let _ = ended.changed().await;
    }));
    let client = AdminClient::new(directory.join(SOCKET_NAME));
    let one = VmId::new("vm-0");
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..TIMES {
        let begun = Instant::now();
        client.list_vms().await?;
        times[0].push(nanoseconds(begun.elapsed()));
        let begun = Instant::now();
        client.get_vm(&one).await?;
        times[1].push(nanoseconds(begun.elapsed()));
        let begun = Instant::now();
        client.list_vms().await?;
        client.list_history(POINTS).await?;
        times[2].push(nanoseconds(begun.elapsed()));
        let begun = Instant::now();
        client.get_metrics().await?;
        times[3].push(nanoseconds(begun.elapsed()));
    }
    drop(end);
    serving.await.context("the server was lost")?;
    Ok(times.map(|mut times| {
        times.sort_unstable();
        times.get(times.len() / 2).copied().unwrap_or_default()
    }))
}
