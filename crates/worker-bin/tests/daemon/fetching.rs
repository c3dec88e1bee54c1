//! Images that are not on the host: fetched, also by a program whose predecessor was killed meanwhile, and deleted again when
//! nothing needs them.

use std::fs;
use std::path::Path;

use rustix::process::Signal;
use serde_json::{Value, json};
use test_host::{Behaviour, CacheServer, NixCache};
use tiny_guest::TinyGuest;

use crate::bench::{Artifact, Bench, Daemon, entries, isolated, raise_loopback};

/// How much of the archive comes before the cache falls silent.
const FIRST_PART: usize = 5 << 20;

/// The program, fetching from `server` what is signed as in `cache`.
fn start<'bench>(bench: &'bench Bench, cache: &NixCache, server: &CacheServer) -> Daemon<'bench> {
    bench.configure(&format!(
        "stop_guests = true\nstop_timeout_seconds = 1\n[network]\nsubnet = '10.78.0.0/24'\n\
         [fetch]\ncaches = ['{}']\ntrusted_keys = ['{}']\n",
        server.url(),
        cache.key
    ));
    let mut command = bench.command();
    command.arg("--store-root").arg(cache.store());
    bench.start_with(command)
}

fn vm(id: &str, artifact: &Artifact) -> Value {
    json!({ "id": id, "hash": artifact.hash, "store_path": artifact.path })
}

/// The names of what happened that has to do with fetching, oldest first.
fn happened(bench: &Bench) -> Vec<String> {
    let output = bench.client(&["events", "--json"]);
    let lines = String::from_utf8(output.stdout).expect("text");
    let events = lines.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let names = events.filter_map(|event| event["event"].as_str().map(str::to_owned));
    names.filter(|name| name.starts_with("fetch_") || name == "images_collected").collect()
}

/// How many bytes lie in the files of `directory`.
fn bytes_in(directory: &Path) -> u64 {
    let files = fs::read_dir(directory).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

#[test]
fn a_fetch_goes_on_after_the_program_was_killed_in_its_middle() {
    isolated(|bench| {
        raise_loopback();
        let guest = TinyGuest::hello("fetched in two parts\n");
        let artifact = bench.artifact("image", &guest, &json!({}), &"x".repeat(32 << 10));
        let cache = NixCache::of(bench.path("nix-host"), &[artifact], "none");
        let server = CacheServer::start(&cache.directory(), Behaviour::Holds(FIRST_PART));
        bench.assign(&[vm("a", &cache.artifacts[0])]);
        let mut daemon = start(&bench, &cache, &server);
        let partial = cache.store().join(".procurator-fetch/partial");
        bench.until("a part has come", || bytes_in(&partial) > 4 << 20);
        assert_eq!(bench.phases(), ["a creating"]);
        bench.until("its size is told", || {
            bench.vms()[0]["fetching"]["size"].as_u64().is_some_and(|size| size > 16 << 20)
        });
        let path = cache.artifacts[0].path.display().to_string();
        let told = String::from_utf8_lossy(&bench.client(&["create", "b", &path]).stderr).into_owned();
        assert!(
            told.contains("`--hash`") && told.contains(&format!("procurator-worker fetch {path}")),
            "{told}"
        );
        daemon.kill();
        assert!(!cache.artifacts[0].path.exists());

        server.behave(Behaviour::Good);
        let mut next = start(&bench, &cache, &server);
        bench.until("it runs", || {
            String::from_utf8_lossy(&bench.client(&["logs", "a"]).stdout).contains("in two parts")
        });
        assert_eq!(happened(&bench), ["fetch_begun", "fetch_finished"]);
        let archive = entries(&cache.directory().join("nar")).remove(0);
        let from = server.least_offset(&format!("nar/{archive}"));
        assert!(from > 4 << 20, "it began anew, at {from}");
        assert!(!cache.store().join(".procurator-fetch").exists(), "nothing is left of what was under way");
        next.signal(Signal::TERM);
        next.ended();
    });
}

#[test]
fn images_that_nothing_needs_are_deleted_by_word_and_come_again() {
    isolated(|bench| {
        raise_loopback();
        let images = ["a", "b"].map(|name| bench.artifact(name, &TinyGuest::idle(), &json!({}), name));
        let cache = NixCache::of(bench.path("nix-host"), &images, "zstd");
        let server = CacheServer::start(&cache.directory(), Behaviour::Good);
        let [a, b] = cache.artifacts.as_slice() else { panic!("two") };
        bench.assign(&[vm("a", a), vm("b", b)]);
        let _daemon = start(&bench, &cache, &server);
        let gc = |arguments: &[&str]| {
            let output = bench.client(&[&["gc", "--images", "--json"], arguments].concat());
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let view: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            let paths = view["collected"].as_array().expect("a list").iter();
            paths.map(|path| path["store_path"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
        };
        bench.until("both run", || bench.phases() == ["a running", "b running"]);
        assert_eq!(gc(&[]), [""; 0], "both are needed");
        bench.assign(&[vm("a", a)]);
        bench.until("b is gone", || bench.phases() == ["a running"]);
        assert_eq!(gc(&[]), [""; 0], "b may come back with its disk");
        for refused in [["--all", "--older-than", "1h"], ["b", "--keep", "1K"], ["b", "--free", "1K"]] {
            assert_eq!(bench.client(&[&["gc"][..], &refused].concat()).status.code(), Some(2), "{refused:?}");
        }
        for kept in ["--all", "b"] {
            let shown = bench.client(&["gc", kept, "--dry-run"]);
            assert_eq!(
                String::from_utf8_lossy(&shown.stdout),
                "would be deleted: volumes of b, which was removed\n"
            );
        }
        assert!(bench.client(&["gc", "b"]).status.success());
        let path_of_b = [b.path.display().to_string()];
        assert_eq!(gc(&["--older-than", "1h"]), [""; 0]);
        assert_eq!(gc(&["--dry-run"]), path_of_b);
        assert!(b.path.exists());
        assert_eq!(gc(&["--keep", "1K"]), path_of_b);
        assert!(a.path.exists() && !b.path.exists());
        assert_eq!(happened(&bench).last().map(String::as_str), Some("images_collected"));
        bench.assign(&[vm("a", a), vm("b", b)]);
        bench.until("both run again", || bench.phases() == ["a running", "b running"]);
        assert!(b.path.exists());
    });
}
