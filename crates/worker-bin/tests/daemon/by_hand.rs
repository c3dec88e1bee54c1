//! VMs that an administrator creates and removes by hand.

use serde_json::Value;
use tiny_guest::TinyGuest;

use crate::bench::isolated;

#[test]
fn a_vm_is_created_by_one_command_stays_over_restarts_and_comes_back_after_its_removal() {
    isolated(|bench| {
        let other = bench.vm("listed", &TinyGuest::idle());
        bench.assign(&[other]);
        let image = bench.vm("web-1", &TinyGuest::power_button());
        let image = image["store_path"].as_str().expect("a path").to_owned();
        let mut daemon = bench.start();

        let created = bench.client(&["create", "web-1", &image, "--memory", "64M"]);
        assert!(created.status.success(), "{}", bench.log());
        let said = String::from_utf8(created.stdout).expect("text");
        assert!(said.starts_with("create web-1\nweb-1 is running, address 10.78.0."), "{said}");
        let again = bench.client(&["create", "web-1", &image]);
        assert!(String::from_utf8_lossy(&again.stderr).contains("there is a VM web-1 already"));

        let refused = bench.client(&["rm", "listed"]);
        assert_eq!(refused.status.code(), Some(1));
        let told = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(told.contains("VM listed is assigned by the assignments file: change it there"), "{told}");
        let unknown = bench.client(&["rm", "web-2"]);
        assert!(
            String::from_utf8_lossy(&unknown.stderr).contains("there is no VM web-2; the nearest is web-1")
        );

        daemon.signal(rustix::process::Signal::TERM);
        daemon.ended();
        let _daemon = bench.start();
        bench.until("both run", || bench.phases() == ["listed running", "web-1 running"]);
        let shown = bench.client(&["inspect", "web-1", "--json"]);
        let shown: Value = serde_json::from_slice(&shown.stdout).expect("JSON");
        assert_eq!(shown["overrides"]["memory_bytes"], 64 << 20);

        assert!(bench.client(&["rm", "web-1"]).status.success());
        bench.until("it is gone", || bench.phases() == ["listed running"]);
    });
}

#[test]
fn vms_stay_when_what_was_assigned_is_lost() {
    isolated(|bench| {
        let listed = bench.vm("listed", &TinyGuest::power_button());
        bench.assign(std::slice::from_ref(&listed));
        let image = bench.vm("a", &TinyGuest::power_button());
        let image = image["store_path"].as_str().expect("a path").to_owned();
        let mut daemon = bench.start();
        for id in ["a", "b"] {
            assert!(bench.client(&["create", id, &image]).status.success(), "{}", bench.log());
        }
        bench.until("all run", || bench.phases() == ["a running", "b running", "listed running"]);
        for (round, text) in
            [r#"{"version": 2, "sources": {"local": {"desired": 1}}}"#, "", "garbage"].iter().enumerate()
        {
            daemon.signal(rustix::process::Signal::TERM);
            daemon.ended();
            std::fs::write(bench.path("state/worker.json"), text).expect("written");
            daemon = bench.start();
            bench.until("all are there", || bench.phases() == ["a running", "b running", "listed running"]);
            let created = bench.client(&["create", &format!("new-{round}"), &image]);
            let said = String::from_utf8(created.stdout).expect("text");
            assert!(said.starts_with(&format!("create new-{round}\n")), "{said}");
            let noted = String::from_utf8(bench.client(&["ls"]).stdout).expect("text");
            assert!(noted.contains("VM a is assigned by nobody"), "{noted}");
            assert!(!noted.contains("VM listed is"), "{noted}");
            assert!(bench.client(&["rm", &format!("new-{round}")]).status.success());
            bench.until("it is gone", || bench.phases().len() == 3);
        }
        assert!(bench.client(&["rm", "a"]).status.success());
        bench.until("it is gone", || bench.phases() == ["b running", "listed running"]);
        // What the note names works: it is taken up as it is.
        let taken = bench.client(&["create", "b", &image]);
        assert!(taken.status.success(), "{}", String::from_utf8_lossy(&taken.stderr));
        assert_eq!(bench.status()["owners"]["b"], "local");
        let noted = String::from_utf8(bench.client(&["ls"]).stdout).expect("text");
        assert!(!noted.contains("is assigned by nobody"), "{noted}");
    });
}

#[test]
fn a_store_path_that_cannot_be_used_is_refused_before_anything_is_assigned() {
    isolated(|bench| {
        bench.assign(&[]);
        let _daemon = bench.start();
        for path in ["/etc", "/nonexistent/x-image", "relative"] {
            let refused = bench.client(&["create", "web-1", path]);
            assert_eq!(refused.status.code(), Some(1), "{path}");
            let told = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert!(told.contains("the store path cannot be used") && told.contains(path), "{told}");
        }
        assert_eq!(bench.phases(), [""; 0]);
    });
}

#[test]
fn a_vm_that_is_never_restarted_and_failed_stays_so_when_the_program_is_started_again() {
    isolated(|bench| {
        let image = bench.vm("web-1", &TinyGuest::panic("for good\n"));
        let image = image["store_path"].as_str().expect("a path").to_owned();
        bench.assign_text(r#"{ "vms": [] }"#);
        let mut daemon = bench.start();
        bench.client(&["create", "web-1", &image, "--restart", "never"]);
        bench.until("it has failed", || bench.phases() == ["web-1 failed"]);
        let told = bench.vms()[0]["reason"].clone();
        let runs = || bench.vms()[0]["ends"].as_array().map_or(0, Vec::len);
        for kill in [false, true] {
            if kill {
                daemon.kill();
            } else {
                daemon.signal(rustix::process::Signal::TERM);
                daemon.ended();
            }
            daemon = bench.start();
            bench.until("it is taken up", || !bench.phases().is_empty());
            let vm = bench.vms().remove(0);
            assert_eq!((&vm["phase"], &vm["reason"], runs()), (&"failed".into(), &told, 1), "{vm}");
        }
        bench.client(&["start", "web-1"]);
        bench.until("it was started again", || runs() == 2 && bench.phases() == ["web-1 failed"]);
    });
}
