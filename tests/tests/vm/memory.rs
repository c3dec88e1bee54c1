//! What guest memory is made of: huge pages set aside, and transparent ones of shared memory, used by a stock kernel and
//! mapped for it as such; and what of the host's own memory a disk takes that many guests read.

use anyhow::{Result, ensure};
use end_to_end::{Assignment, HostSetting, SHORT_DEADLINE, Worker, figure, host_process_of, http_get, until};

use crate::environment;

const SET_ASIDE: &str = "/proc/sys/vm/nr_hugepages";
const SHARED: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
/// Pages of 2 MiB that KVM maps for all guests now.
const MAPPED_BY_KVM: &str = "/sys/kernel/debug/kvm/pages_2m";
/// Of the images' 128 MiB.
const PAGES: u64 = 64;
/// A kernel touches far more until its page is served: 30 MiB for itself alone.
const TOUCHED: u64 = 15;

#[test]
#[ignore = "full: a second boot on huge pages"]
fn a_guest_runs_on_huge_pages_that_were_set_aside() -> Result<()> {
    let environment = environment();
    let image = environment.image("huge-pages")?;
    let aside = HostSetting::change(SET_ASIDE, &(PAGES + 2).to_string())?;
    let free = || figure("/proc/meminfo", "HugePages_Free");
    let promised = || figure("/proc/meminfo", "HugePages_Rsvd");
    let before = free()?;
    ensure!(before == PAGES + 2 && promised()? == 0, "{before} pages were set aside");

    let worker = Worker::start(&environment)?;
    worker.assign(&[Assignment::of(&image, "huge")])?;
    worker.wait_until_answering("huge")?;
    // What is touched is taken, the rest of the guest's memory stays promised to it.
    let taken = before - free()?;
    ensure!((TOUCHED..=PAGES).contains(&taken), "{taken} pages are taken");
    ensure!(promised()? == PAGES - taken, "{} pages are promised beside {taken}", promised()?);
    ensure!(mapped_by_kvm()? >= TOUCHED, "KVM maps {} pages of 2 MiB", mapped_by_kvm()?);
    until("taken pages are resident", SHORT_DEADLINE, || {
        let resident = worker.vm("huge")?.metrics()?.memory_mb;
        ensure!((2 * TOUCHED..=2 * PAGES).contains(&resident), "{resident} MiB");
        Ok(())
    })?;

    worker.assign(&[])?;
    worker.wait_until_gone("huge")?;
    until("all pages are back", SHORT_DEADLINE, || {
        ensure!(free()? == before && promised()? == 0, "{} of {before}", free()?);
        Ok(())
    })?;
    assert!(worker.terminate()?.status.success());
    drop(aside);
    Ok(())
}

#[test]
fn shared_memory_has_huge_pages_where_the_host_lets_it() -> Result<()> {
    let environment = environment();
    let image = environment.image("guest")?;
    let _setting = HostSetting::change(SHARED, "advise")?;
    let worker = Worker::start(&environment)?;
    let mapped = || match host_process_of("huge")? {
        Some(process) => figure(&format!("/proc/{process}/smaps_rollup"), "ShmemPmdMapped"),
        None => Ok(0),
    };
    ensure!(mapped()? == 0, "there is no guest yet");

    worker.assign(&[Assignment::of(&image, "huge")])?;
    worker.wait_until_answering("huge")?;
    // In the page table of its process, and in the guest's second one.
    ensure!(mapped()? >= TOUCHED * 2048, "{} kB are mapped by huge pages", mapped()?);
    ensure!(mapped_by_kvm()? >= TOUCHED, "KVM maps {} pages of 2 MiB", mapped_by_kvm()?);

    worker.assign(&[])?;
    worker.wait_until_gone("huge")?;
    until("they are unmapped", SHORT_DEADLINE, || {
        ensure!(mapped()? == 0, "{} kB are left", mapped()?);
        Ok(())
    })?;
    assert!(worker.terminate()?.status.success());
    Ok(())
}

#[test]
#[ignore = "full: boots sixteen times"]
fn sixteen_guests_of_one_image_cost_the_host_its_pages_once() -> Result<()> {
    let environment = environment();
    let image = environment.image("shared")?;
    let size = std::fs::metadata(image.store_path.join("disk.img"))?.len() >> 10;
    std::fs::write("/proc/sys/vm/drop_caches", "1")?;
    let worker = Worker::start(&environment)?;
    let names: Vec<String> = (1..=16).map(|number| format!("shared-{number}")).collect();
    let guests: Vec<Assignment> = names.iter().map(|name| Assignment::of(&image, name)).collect();
    let none = cached()?;
    let mut with_one = 0;
    for (running, name) in (1..).zip(&names) {
        // One after the other: the host emulates its processor.
        worker.assign(&guests[..running])?;
        let address = worker.wait_until_answering(name)?.address()?;
        let read = String::from_utf8(http_get(address, "/cgi-bin/read")?)?;
        ensure!(read.trim() == (size << 10).to_string(), "{name} has read {read:?} of {size} KiB");
        if running == 1 {
            with_one = cached()?;
        }
    }
    let with_all = cached()?;
    println!(
        "image {size} KiB; host's cache of files {none} KiB, {with_one} KiB with one guest, {with_all} KiB with sixteen"
    );
    ensure!(with_one >= none + size, "the host has what one guest has read");
    ensure!(with_all < with_one + size, "fifteen more cost less than one more image");
    assert!(worker.terminate()?.status.success());
    Ok(())
}

/// KiB of files in the host's page cache, without memory that is only counted there.
fn cached() -> Result<u64> {
    Ok(figure("/proc/meminfo", "Cached")? - figure("/proc/meminfo", "Shmem")?)
}

fn mapped_by_kvm() -> Result<u64> {
    Ok(std::fs::read_to_string(MAPPED_BY_KVM)?.trim().parse()?)
}
