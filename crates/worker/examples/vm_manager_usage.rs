//! Runs one VM from a Nix store path, shows what it does for a while, and removes it.
//!
//! ```text
//! cargo run --example vm_manager_usage -- /nix/store/<hash>-vm-image [sha256-…=] [seconds]
//! ```
//!
//! It needs `/dev/kvm` and `CAP_NET_ADMIN`. State goes to a directory of its own, which is removed at the end.

use std::error::Error;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::thread::sleep;
use std::time::Duration;

use worker::vms::{VmId, VmManager, VmManagerConfig};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let Some(store_path) = arguments.next() else {
        eprintln!("usage: vm_manager_usage <store path> [<NAR hash>] [<seconds>]");
        return ExitCode::from(2);
    };
    let seconds = arguments.nth(1).and_then(|text| text.parse().ok()).unwrap_or(10);
    let hash = std::env::args().nth(2);
    match run(&store_path, hash, seconds) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(store_path: &str, hash: Option<String>, seconds: u32) -> Result<(), Box<dyn Error>> {
    let hash = match hash {
        Some(hash) => hash,
        None => nix_hash(store_path)?,
    };
    let state = std::env::temp_dir().join(format!("vm-manager-usage-{}", std::process::id()));
    let config = VmManagerConfig {
        metrics_poll_interval: Duration::from_secs(1),
        vm_artifacts_dir: state.join("vms"),
        ..VmManagerConfig::default()
    };
    let vm_manager = VmManager::new(config)?;
    let _metrics_thread = vm_manager.start_metrics_polling();

    let vm_id = VmId::new("my-vm");
    vm_manager.create_vm(vm_id.clone(), &hash, &PathBuf::from(store_path))?;
    let vm = vm_manager.get_vm(&vm_id)?;
    for nic in &vm.nics {
        eprintln!("{} has address {} ({})", nic.id, nic.address, nic.mac);
    }
    for _ in 0..seconds {
        sleep(Duration::from_secs(1));
        let metrics = vm_manager.get_vm_metrics(&vm_id)?;
        eprintln!(
            "{}: {:.0} % CPU, {} MiB, {} B received, {} B read from disk",
            vm_manager.get_vm_status(&vm_id)?,
            metrics.cpu_percent,
            metrics.memory_mb,
            metrics.network_rx_bytes,
            metrics.disk_read_bytes
        );
    }
    vm_manager.remove_vm(&vm_id)?;
    vm_manager.shutdown()?;
    std::fs::remove_dir_all(state)?;
    Ok(())
}

/// Asks Nix for the hash of a path that it knows.
fn nix_hash(store_path: &str) -> Result<String, Box<dyn Error>> {
    let output = Command::new("nix")
        .args(["--extra-experimental-features", "nix-command", "path-info", "--json", store_path])
        .output()?;
    let paths: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    // Older versions print a list, newer ones a map from path to facts.
    let facts = paths.get(0).or_else(|| paths.get(store_path));
    match facts.and_then(|facts| facts["narHash"].as_str()) {
        Some(hash) => Ok(hash.to_owned()),
        None => Err(format!("nix knows no hash of {store_path}").into()),
    }
}
