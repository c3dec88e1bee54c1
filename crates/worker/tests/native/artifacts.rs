//! What is booted is what was verified, whoever touches the store meanwhile; and a store that does not answer is the matter
//! of its own VMs alone.

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use test_host::DeadStore;
use tiny_guest::TinyGuest;
use vm_model::{DesiredState, FailureKind};
use worker::vms::{HashVerification, VmId, VmManager, VmManagerConfig, VmStatus};

use crate::told::{Told, assigned};
use crate::workbench::{Artifact, Workbench, await_console, await_vm, console, create, isolated, until};

/// How long an attack lasts where it is not answered both ways before.
const ATTACK: Duration = Duration::from_secs(10);

fn manager(bench: &Workbench, settings: VmManagerConfig) -> VmManager {
    VmManager::new(VmManagerConfig { auto_restart: false, ..settings })
        .unwrap_or_else(|problem| panic!("the host at {} cannot run VMs: {problem}", bench.path().display()))
}

/// The kernel that says `good` in an artifact, and one of the same size that says `evil`.
fn kernels() -> [Vec<u8>; 2] {
    ["good", "evil"].map(|message| TinyGuest::hello(format!("{message}\n")).elf())
}

/// Changes `path` in place to `content`, which has the same size, and puts its modification time back.
fn edit_in_place(path: &Path, content: &[u8]) {
    let found = fs::metadata(path).expect("stat");
    assert_eq!(found.len(), content.len() as u64);
    let mut file = fs::OpenOptions::new().write(true).open(path).expect("opened");
    file.write_all(content).expect("written");
    file.set_modified(found.modified().expect("a time")).expect("set");
}

#[test]
fn an_edit_in_place_of_a_verified_path_is_found_at_the_next_start() {
    isolated(|bench| {
        let [_, evil] = kernels();
        let (artifact, id) = (bench.plain("image", &TinyGuest::hello("good\n")), VmId::new("vm"));
        let manager = manager(&bench, bench.config());
        create(&manager, &id, &artifact).expect("verified");
        await_vm(&manager, &id, "off", |info| matches!(info.status, VmStatus::Stopped | VmStatus::Failed(_)));
        await_console(&manager, &id, "good");
        edit_in_place(&artifact.path.join("vmlinux"), &evil);
        let error = manager.start_vm(&id).expect_err("not what was verified").to_string();
        assert!(error.contains("NAR hash"), "{error}");
        let reason = manager.get_vm(&id).expect("there").last_failure.expect("a reason");
        assert_eq!(reason.kind, FailureKind::HashMismatch);
        assert!(!console(&manager, &id).contains("evil"));
        manager.shutdown().expect("ends");
    });
}

/// Starts the VM of `artifact` again and again while `attack` is carried out as quickly as can be; no start may boot what
/// was not verified, and some have to succeed.
fn attacked(bench: &Workbench, artifact: &Artifact, attack: impl Fn() + Send + 'static) {
    let manager =
        manager(bench, VmManagerConfig { hash_verification: HashVerification::Always, ..bench.config() });
    let is_over = Arc::new(AtomicBool::new(false));
    let attacker = std::thread::spawn({
        let is_over = Arc::clone(&is_over);
        move || {
            while !is_over.load(Ordering::Relaxed) {
                attack();
                // A pause of another length each time, so that starts are met at each of their steps.
                std::thread::sleep(Duration::from_micros(rand_below(30_000)));
            }
        }
    });
    let mut outcomes = (0, 0);
    let begun = Instant::now();
    for number in 0.. {
        let id = VmId::new(&format!("vm-{number}"));
        match create(&manager, &id, artifact) {
            Ok(()) => {
                await_vm(&manager, &id, "off", |info| !matches!(info.status, VmStatus::Running));
                let said = console(&manager, &id);
                assert!(!said.contains("evil"), "{id} booted what was not verified: {said}");
                outcomes.0 += usize::from(said.contains("good"));
            }
            Err(_) => outcomes.1 += 1,
        }
        let is_enough = outcomes.0 >= 5 && outcomes.1 >= 20;
        if (is_enough || begun.elapsed() > ATTACK) && number >= 10 {
            break;
        }
    }
    is_over.store(true, Ordering::Relaxed);
    attacker.join().expect("no panic");
    manager.shutdown().expect("ends");
    assert!(outcomes.1 > 0, "the attack was never noticed: {outcomes:?}");
}

/// A number that is hard to foresee, for pauses.
fn rand_below(limit: u64) -> u64 {
    use std::hash::{BuildHasher, Hasher};
    std::collections::hash_map::RandomState::new().build_hasher().finish() % limit
}

#[test]
fn a_directory_that_is_swapped_back_and_forth_never_boots_the_other_one() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::hello("good\n"));
        let evil = bench.plain("evil", &TinyGuest::hello("evil\n"));
        let (one, other) = (artifact.path.clone(), evil.path);
        attacked(&bench, &artifact, move || {
            renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).expect("exchanged");
        });
    });
}

#[test]
fn a_kernel_that_is_swapped_back_and_forth_is_never_booted() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::hello("good\n"));
        let [_, evil] = kernels();
        let (one, other) = (artifact.path.join("vmlinux"), bench.path().join("evil"));
        fs::write(&other, evil).expect("written");
        attacked(&bench, &artifact, move || {
            renameat_with(CWD, &one, CWD, &other, RenameFlags::EXCHANGE).expect("exchanged");
        });
    });
}

/// Starts the VM of `artifact` so often while its kernel becomes another one for a moment at the last steps of a start,
/// after all that is looked at before the launch; none may run the other one.
#[test]
fn a_kernel_that_is_edited_between_the_last_look_and_its_loading_is_never_booted() {
    const STARTS: u64 = 40;
    isolated(|bench| {
        let [good, evil] = kernels();
        let (artifact, state) = (bench.plain("image", &TinyGuest::hello("good\n")), bench.config());
        let (kernel, records) = (artifact.path.join("vmlinux"), state.vm_artifacts_dir.clone());
        let manager = manager(&bench, state);
        let mut refused = 0;
        for number in 0..STARTS {
            let id = VmId::new(&format!("vm-{number}"));
            let (is_over, console_dir) =
                (Arc::new(AtomicBool::new(false)), records.join(id.as_str()).join("console"));
            let attacker = std::thread::spawn({
                let (is_over, kernel, good, evil) =
                    (Arc::clone(&is_over), kernel.clone(), good.clone(), evil.clone());
                move || {
                    let file = fs::OpenOptions::new().write(true).open(&kernel).expect("opened");
                    while !console_dir.exists() && !is_over.load(Ordering::Relaxed) {
                        std::hint::spin_loop();
                    }
                    std::thread::sleep(Duration::from_micros(number * 100));
                    file.write_all_at(&evil, 0).expect("written");
                    while !is_over.load(Ordering::Relaxed) {
                        std::thread::yield_now();
                    }
                    file.write_all_at(&good, 0).expect("written");
                }
            });
            let started = create(&manager, &id, &artifact);
            if started.is_ok() {
                await_vm(&manager, &id, "off", |info| !matches!(info.status, VmStatus::Running));
            }
            is_over.store(true, Ordering::Relaxed);
            attacker.join().expect("no panic");
            let said = console(&manager, &id);
            assert!(!said.contains("evil"), "{id} booted what was not verified: {said}");
            refused += u64::from(started.is_err());
        }
        assert!(refused > 0, "no edit met a start");
        manager.shutdown().expect("ends");
    });
}

#[test]
fn a_kernel_that_is_edited_under_its_vm_is_not_booted_by_a_reset() {
    isolated(|bench| {
        let artifact = bench.plain("image", &TinyGuest::acpi_reset());
        let node = Told::start(bench.manager());
        node.tell(None, vec![assigned("vm", &artifact, DesiredState::Paused)]).expect("taken");
        node.await_phase("vm", "paused");
        fs::write(artifact.path.join("vmlinux"), TinyGuest::hello("evil\n").elf()).expect("written");
        // It resets itself with its first instructions.
        node.tell(None, vec![assigned("vm", &artifact, DesiredState::Running)]).expect("taken");
        let (manager, id) = (&node.manager, VmId::new("vm"));
        let failed = await_vm(manager, &id, "failed", |info| matches!(info.status, VmStatus::Failed(_)));
        let reason = failed.last_failure.expect("a reason");
        assert_eq!(reason.kind, FailureKind::HashMismatch, "{}", reason.message);
        let said = console(manager, &id);
        assert!(said.contains("ready") && !said.contains("evil"), "{said}");
        node.end().shutdown().expect("ends");
    });
}

#[test]
fn a_store_that_does_not_answer_keeps_no_other_vm_from_starting() {
    isolated(|bench| {
        let behind = bench.path().join("behind");
        fs::create_dir(&behind).expect("created");
        let (artifact, id) = (bench.plain("image", &TinyGuest::idle()), VmId::new("living"));
        let remote = bench.plain("remote", &TinyGuest::idle());
        let place: PathBuf = bench.path().join("remote-store");
        fs::create_dir(&place).expect("created");
        fs::rename(&remote.path, behind.join("remote")).expect("moved");
        let store = DeadStore::mount(&behind, &place);
        let roots = vec![bench.store(), place.clone()];
        let manager = manager(&bench, VmManagerConfig { store_roots: roots, ..bench.config() });
        let remote = Artifact { path: place.join("remote"), ..remote };

        // It is hashed as long as its content does not come, and says so.
        store.hold_reads();
        let slow = VmId::new("slow");
        std::thread::scope(|scope| {
            let starting = scope.spawn(|| create(&manager, &slow, &remote));
            // Its description is the first thing that does not come.
            await_vm(&manager, &slow, "created", |info| info.status == VmStatus::Creating);
            create(&manager, &id, &artifact).expect("nothing is wrong with its store");
            store.answer();
            starting.join().expect("no panic").expect("the store answers again");
        });
        manager.remove_vm(&slow).expect("goes");

        store.die();
        let stuck: Vec<VmId> = (0..40).map(|number| VmId::new(&format!("stuck-{number}"))).collect();
        std::thread::scope(|scope| {
            for id in &stuck {
                let (manager, remote) = (&manager, &remote);
                scope.spawn(move || create(manager, id, remote).expect_err("removed before it ran"));
            }
            until("all of them hang", || manager.list_vms().len() == 41);
            manager.stop_vm(&id).expect("stops");
            manager.start_vm(&id).expect("starts beside those that hang");
            // They can be had rid of all the same.
            for id in &stuck {
                let manager = &manager;
                scope.spawn(move || manager.remove_vm(id).expect("goes"));
            }
        });
        assert_eq!(manager.list_vms().len(), 1);
        manager.shutdown().expect("ends");
        drop(store);
    });
}

#[test]
fn a_store_path_is_kept_from_nixs_garbage_collector_while_its_vm_is_there() {
    isolated(|bench| {
        let nix = bench.path().join("nix");
        let gcroots = nix.join("var/nix/gcroots");
        fs::create_dir_all(&gcroots).expect("created");
        let image = bench.plain("image", &TinyGuest::idle());
        let store = nix.join("store");
        fs::rename(bench.store(), &store).expect("moved");
        let image = Artifact { path: store.join("image"), ..image };
        let settings =
            VmManagerConfig { store_roots: vec![store], removal_grace: Duration::ZERO, ..bench.config() };
        let manager = manager(&bench, settings);
        let id = VmId::new("web-1");
        create(&manager, &id, &image).expect("runs");
        let own = fs::read_dir(gcroots.join("procurator")).expect("there").flatten().next().expect("ours");
        let link = own.path().join("web-1/image");
        assert_eq!(fs::read_link(&link).expect("a link"), image.path);
        manager.stop_vm(&id).expect("stops");
        assert!(link.is_symlink(), "it is to start again");
        manager.remove_vm(&id).expect("goes");
        until("its root is gone", || !own.path().join("web-1").exists());
        manager.shutdown().expect("ends");
    });
}
