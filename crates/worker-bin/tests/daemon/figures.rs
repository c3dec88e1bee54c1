//! What is counted of VMs, from start to start of the worker.

use admin::AdminClient;
use rustix::process::Signal;
use tiny_guest::TinyGuest;
use tokio::runtime::Builder;
use tokio::time::timeout;
use vm_model::VmId;

use crate::bench::{Bench, DEADLINE, isolated};

/// The value of the series `name` in what the worker tells now.
fn figure(bench: &Bench, name: &str) -> Option<f64> {
    let text = String::from_utf8(bench.client(&["metrics"]).stdout).expect("text");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
    line.parse().ok()
}

const EXITS: &str = "procurator_vm_vcpu_exits_total{vm=\"web-1\",vcpu=\"0\"}";
const RESTARTS: &str = "procurator_vm_restarts_total{vm=\"web-1\"}";

#[test]
fn totals_go_on_over_ends_of_the_vm_and_of_the_worker_and_end_with_the_vm() {
    isolated(|bench| {
        bench.configure("metrics_poll_interval_seconds = 1\n[network]\nsubnet = '10.78.0.0/24'\n");
        bench.assign(&[bench.vm("web-1", &TinyGuest::power_button())]);
        let mut daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["web-1 running"]);
        bench.until("it was sampled", || figure(&bench, EXITS) > Some(0.0));
        for kernels in ["kvm_exits_total", "run_delay_seconds_total", "halted_seconds_total"] {
            let name = format!("procurator_vm_vcpu_{kernels}{{vm=\"web-1\",vcpu=\"0\"}}");
            assert!(figure(&bench, &name).is_some(), "this kernel tells {kernels}");
        }
        // Its machine runs on, and is counted once.
        daemon.kill();
        drop(daemon);
        let mut daemon = bench.start();
        bench.until("it is taken over", || bench.phases() == ["web-1 running"]);
        assert!(bench.client(&["restart", "web-1"]).status.success());
        bench.until("it runs again", || bench.phases() == ["web-1 running"]);
        assert!(bench.client(&["stop", "web-1"]).status.success());
        bench.until("it is off", || bench.phases() == ["web-1 stopped"]);
        let before = figure(&bench, EXITS).expect("totals stay");
        let restarts = figure(&bench, RESTARTS);
        daemon.kill();
        drop(daemon);
        // The totals of a VM that is off are told at once.
        let daemon = bench.start();
        bench.until("it is known", || bench.phases() == ["web-1 stopped"]);
        assert_eq!((figure(&bench, EXITS), figure(&bench, RESTARTS)), (Some(before), restarts));
        assert!(bench.client(&["start", "web-1"]).status.success());
        bench.until("totals go on", || figure(&bench, EXITS) > Some(before));
        bench.assign_text(r#"{ "vms": [], "allow_removals": true }"#);
        bench.until("nothing stale stays", || {
            let text = String::from_utf8(bench.client(&["metrics"]).stdout).expect("text");
            bench.vms().is_empty() && text.contains("procurator_build_info") && !text.contains("web-1")
        });
        daemon.signal(Signal::TERM);
    });
}

#[test]
fn the_last_minutes_are_told_of_one_vm_and_of_all() {
    isolated(|bench| {
        bench.configure(
            "stop_guests = true\nmetrics_poll_interval_seconds = 1\n[network]\nsubnet = '10.78.0.0/24'\n",
        );
        bench.assign(&[bench.vm("web-1", &TinyGuest::power_button())]);
        let _daemon = bench.start();
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let client = AdminClient::new(bench.path("run/worker.sock"));
        let web = VmId::new("web-1");
        let of_one = || {
            let asked = runtime.block_on(async { timeout(DEADLINE, client.get_history(&web)).await });
            asked.expect("in time").map(|history| history.points).unwrap_or_default()
        };
        bench.until("it was sampled three times", || of_one().len() >= 3);
        let points = of_one();
        assert!(
            points.is_sorted_by_key(|point| point.at) && points[2].memory_resident_bytes > 0,
            "{points:?}"
        );
        let all = runtime.block_on(async { timeout(DEADLINE, client.list_history(2)).await });
        let all = all.expect("in time").expect("answered");
        assert_eq!(all.vms.get(&web).map(Vec::len), Some(2));
    });
}
