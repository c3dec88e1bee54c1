//! What the assignments file may say, and what is told of it: in the log, by `ls`, by `status`.

use std::fs;

use rustix::process::Signal;
use serde_json::{Value, json};
use tiny_guest::TinyGuest;

use crate::bench::{Bench, isolated};

fn listed(bench: &Bench) -> String {
    String::from_utf8(bench.client(&["ls"]).stdout).expect("text")
}

/// Waits until a line of the log has all of `words`.
fn told(bench: &Bench, words: &[&str]) {
    bench.until(&format!("{words:?} is told"), || {
        bench.log().lines().any(|line| words.iter().all(|word| line.contains(word)))
    });
}

#[test]
fn a_file_that_makes_no_sense_is_told_with_its_place_and_changes_nothing() {
    isolated(|bench| {
        let vm = bench.vm("a", &TinyGuest::power_button());
        bench.assign(std::slice::from_ref(&vm));
        let _daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let long = "x".repeat(64);
        let with_id = |id: &str| {
            let mut vm = vm.clone();
            vm["id"] = id.into();
            format!("{{\"vms\": [\n{vm}]}}")
        };
        for (text, words) in [
            (with_id(&long), &["longer than 63 bytes", "line 2", "vms[0].id"][..]),
            (with_id("../x"), &["../x", "DNS label"]),
            (format!("{{\"vms\": [{vm}, {vm}]}}"), &["VM a is listed more than once"]),
            ("[99, []]".to_owned(), &["a list; accepted is an object like"]),
            (String::new(), &["the text is empty"]),
            (format!("[50, [[\"b\", \"{}\", \"/nix/store/x\"]]]", "sha256-x="), &["a list; accepted"]),
        ] {
            bench.assign_text(&text);
            told(&bench, words);
            bench.until("the status tells", || {
                let problem = bench.status()["assignments"]["problem"].clone();
                problem.as_str().is_some_and(|problem| words.iter().all(|word| problem.contains(word)))
            });
            assert_eq!(bench.status()["assignments"]["state"], "refused");
            let notes = listed(&bench);
            assert!(
                notes.contains("note: the assignments") && notes.contains("VMs stay as they were"),
                "{notes}"
            );
        }
        assert!(bench.log().contains("vms.json"));
        assert_eq!(bench.phases(), ["a running"]);
        bench.assign(&[vm]);
        bench.until("it is in force again", || bench.status()["assignments"]["state"] == "in_force");
        assert!(!listed(&bench).contains("note:"), "{}", listed(&bench));
    });
}

#[test]
fn one_bad_entry_is_refused_by_its_id_while_the_others_apply() {
    isolated(|bench| {
        let (a, b) = (bench.vm("a", &TinyGuest::power_button()), bench.vm("b", &TinyGuest::power_button()));
        bench.assign(&[a.clone(), b.clone()]);
        let _daemon = bench.start();
        bench.until("both run", || bench.phases() == ["a running", "b running"]);
        let before = bench.vms();
        let broken = |key: &str, value: Value| {
            let mut a = a.clone();
            a[key] = value;
            a
        };
        let mut paused = b.clone();
        for (entry, words) in [
            (broken("desired", "on".into()), "\"on\""),
            (broken("sotre", 1.into()), "store_path"),
            (broken("hash", "sha256-x=".into()), "no hash of a store path"),
            (broken("overrides", json!({ "memory_bytes": "512M" })), "536870912"),
        ] {
            let is_paused = paused["desired"] == "paused";
            paused["desired"] = if is_paused { "running" } else { "paused" }.into();
            bench.assign(&[entry, paused.clone()]);
            let phase = if is_paused { "b running" } else { "b paused" };
            bench.until("the other applies", || bench.phases() == ["a running", phase]);
            told(&bench, &["vm_id=a", "stays as it is", "vms[0]"]);
            bench.until("the status tells", || {
                bench.status()["refused_entries"][0]["problem"]
                    .as_str()
                    .is_some_and(|said| said.contains(words))
            });
            assert!(
                listed(&bench).contains("note: the entry of VM a (from the assignments file) was refused"),
                "{}",
                listed(&bench)
            );
            let details = String::from_utf8(bench.client(&["inspect", "a"]).stdout).expect("text");
            assert!(details.contains("note: its entry") && details.contains("vms[0]"), "{details}");
        }
        assert_eq!(bench.vms()[0]["started_at"], before[0]["started_at"]);
        assert_eq!(bench.vms()[0]["restarts"], 0);
    });
}

#[test]
fn a_set_that_would_remove_every_vm_is_held_and_said() {
    isolated(|bench| {
        let vm = bench.vm("a", &TinyGuest::power_button());
        bench.assign(std::slice::from_ref(&vm));
        let _daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        bench.assign(&[]);
        bench.until("it is held", || bench.status()["assignments"]["state"] == "held");
        assert!(
            listed(&bench).contains("note: the newest that the assignments file says (generation 2) is held"),
            "{}",
            listed(&bench)
        );
        assert_eq!(bench.status()["held"]["removals"], 1);
        assert_eq!(
            (bench.status()["generation"].clone(), bench.phases()),
            (1.into(), vec!["a running".to_owned()])
        );
        bench.assign_text(r#"{"vms": [], "allow_removals": true}"#);
        bench.until("it is removed", || bench.vms().is_empty());
        bench.until("nothing is held", || bench.status()["assignments"]["state"] == "in_force");
    });
}

#[test]
fn nulls_and_the_object_of_newer_nix_mean_what_they_say() {
    isolated(|bench| {
        let mut vm = bench.vm("a", &TinyGuest::power_button());
        bench.assign(std::slice::from_ref(&vm));
        let _daemon = bench.start();
        bench.until("it runs", || bench.phases() == ["a running"]);
        let encoded = vm["hash"].as_str().expect("text").strip_prefix("sha256-").expect("SRI").to_owned();
        vm["hash"] = json!({ "algorithm": "sha256", "format": "base64", "hash": encoded });
        for key in ["desired", "overrides", "references", "procurator"] {
            vm[key] = Value::Null;
        }
        bench.assign_text(&json!({ "generation": null, "vms": [vm] }).to_string());
        bench.until("it is taken", || bench.log().matches("assignments taken").count() == 2);
        told(&bench, &["nothing to change"]);
        assert_eq!(bench.status()["generation"], 1, "it says the same");
    });
}

#[test]
fn a_mistake_in_the_path_is_said_at_once_and_mended_while_the_worker_runs() {
    isolated(|bench| {
        let vm = bench.vm("a", &TinyGuest::power_button());
        let path = bench.path("etc/vms.json");
        let start = |bench: &Bench| {
            let base = bench.command();
            let mut command = std::process::Command::new(&bench.program);
            let arguments = base.get_args().map(|argument| {
                if argument == bench.path("vms.json") {
                    path.clone().into_os_string()
                } else {
                    argument.to_owned()
                }
            });
            command.args(arguments).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
            command.stderr(fs::File::create(bench.path("log")).expect("created"));
            command
        };
        let mut daemon = bench.start_with(start(&bench));
        let problem = |words: &str| {
            bench.until(words, || {
                let said = bench.status()["assignments"]["problem"].clone();
                said.as_str().is_some_and(|said| said.contains(words))
            });
            told(&bench, &[words]);
            assert!(listed(&bench).contains(words), "{}", listed(&bench));
        };
        problem("there is no directory");
        assert_eq!(bench.status()["assignments"]["state"], "missing");
        fs::create_dir_all(&path).expect("a directory in its place");
        daemon.signal(Signal::HUP);
        problem("no regular file");
        fs::remove_dir(&path).expect("removed");
        daemon.signal(Signal::HUP);
        problem("there is no file");
        std::os::unix::fs::symlink("vms.json", &path).expect("linked");
        daemon.signal(Signal::HUP);
        problem("cannot open");
        fs::remove_file(&path).expect("removed");
        fs::write(&path, json!({ "vms": [vm] }).to_string()).expect("written");
        bench.until("it runs", || bench.phases() == ["a running"]);
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
    });
}

#[test]
fn a_vm_whose_record_is_damaged_is_not_forgotten() {
    isolated(|bench| {
        bench.assign(&[bench.vm("a", &TinyGuest::power_button()), bench.vm("b", &TinyGuest::power_button())]);
        let mut daemon = bench.start();
        let is_ready = |id| String::from_utf8_lossy(&bench.client(&["logs", id]).stdout).contains("ready");
        bench.until("both obey their power buttons", || is_ready("a") && is_ready("b"));
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.ended().code(), Some(0), "{}", bench.log());
        let record = fs::read_dir(bench.path("state/vms/b")).expect("listed").find_map(|entry| {
            let path = entry.expect("readable").path();
            path.extension().is_some_and(|extension| extension == "json").then_some(path)
        });
        fs::write(record.expect("a record"), "{ half").expect("damaged");
        let _daemon = bench.start();
        bench.until("the other runs", || bench.phases() == ["a running"]);
        assert_eq!(bench.status()["damaged"][0]["id"], "b");
        assert!(listed(&bench).contains("note: VM b is left alone"), "{}", listed(&bench));
        let asked = bench.client(&["inspect", "b"]);
        let said = String::from_utf8_lossy(&asked.stderr).into_owned();
        assert_eq!(asked.status.code(), Some(1));
        assert!(said.contains("VM b has remains on disk that are left alone"), "{said}");
    });
}
