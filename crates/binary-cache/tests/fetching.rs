//! Store paths fetched from binary caches that the real Nix wrote, over loopback, with every kind of damage.

mod support;

use std::fs;
use std::time::{Duration, Instant};

use binary_cache::FetchError;
use support::{Behaviour, Place, Server};

/// The fault of a fetch that must fail and leave nothing behind but whole paths.
async fn fault(place: &Place, caches: &[&str]) -> String {
    let store = place.store();
    let error = place.fetch(place.settings(caches), &store).await.expect_err("it cannot be had");
    assert!(!place.there().contains(&place.name.to_string()), "{:?}", place.there());
    assert!(!place.there().iter().any(|name| name.starts_with('.')), "{:?}", place.there());
    vm_model::error_chain(&error)
}

#[tokio::test]
async fn every_compression_is_unpacked_as_it_was_built() {
    for compression in ["none", "xz", "zstd", "bzip2"] {
        let place = Place::new(compression);
        let server = Server::start(&place.path("cache"), Behaviour::Good);
        let store = place.store();
        let fetched = place.fetch(place.settings(&[&server.url()]), &store).await.expect(compression);
        assert_eq!(fetched.paths, 2);
        place.check();
        // What is there is not asked for again.
        let before = server.requests("/");
        let again = place.fetch(place.settings(&[&server.url()]), &store).await.expect("nothing to do");
        assert_eq!((again.paths, server.requests("/")), (0, before));
    }
}

#[tokio::test]
async fn nix_takes_what_was_fetched_and_knows_it() {
    let place = Place::new("zstd");
    let store = place.nix_store();
    assert!(store.is_kept_by_nix());
    place.fetch(place.settings(&[&place.as_files()]), &store).await.expect("fetched");
    place.check();
    let path = place.path("nix/store").join(place.name.as_str());
    let path = path.to_str().expect("text");
    let references = place.nix("nix-store", &["--query", "--references", path]);
    assert_eq!(references.lines().count(), 2, "the kernel and itself: {references}");
    place.nix("nix-store", &["--verify", "--check-contents"]);
    let collected = place.nix("nix-store", &["--gc", "--print-live"]);
    assert_eq!(collected, "", "nothing keeps it");
    let again = place.fetch(place.settings(&[&place.as_files()]), &store).await.expect("fetched");
    assert_eq!(again.paths, 0, "nothing was collected by being looked at");
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke() {
    let place = Place::new("xz");
    for behaviour in [Behaviour::Cuts(300_000), Behaviour::CutsWithoutRanges(300_000)] {
        let server = Server::start(&place.path("cache"), behaviour);
        let store = place.store();
        place.fetch(place.settings(&[&server.url()]), &store).await.expect("fetched");
        place.check();
        assert!(server.requests("/nar/") > 4, "{} requests", server.requests("/nar/"));
        fs::remove_dir_all(place.path("nix")).expect("removed");
    }
}

#[tokio::test]
async fn a_cache_may_send_elsewhere_a_few_times() {
    let place = Place::new("xz");
    let good = Server::start(&place.path("cache"), Behaviour::Good);
    let sends = Server::start(&place.path("cache"), Behaviour::Redirects(good.port));
    place.fetch(place.settings(&[&sends.url()]), &place.store()).await.expect("fetched");
    place.check();
    fs::remove_dir_all(place.path("nix")).expect("removed");
    // To one that is not there: nobody is sent in circles.
    let lost = Server::start(&place.path("cache"), Behaviour::Redirects(sends.port));
    let back = Server::start(&place.path("cache"), Behaviour::Redirects(lost.port));
    place.fetch(place.settings(&[&back.url()]), &place.store()).await.expect("three redirections");
}

#[tokio::test]
async fn what_a_cache_does_not_have_another_may() {
    let place = Place::new("xz");
    let empty = tempfile::tempdir().expect("a directory");
    let nothing = Server::start(empty.path(), Behaviour::Good);
    let broken = Server::start(&place.path("cache"), Behaviour::Status(500));
    let said = fault(&place, &[&nothing.url()]).await;
    assert!(said.starts_with(&format!("no binary cache has {}", place.name)), "{said}");
    assert!(said.contains(&nothing.url()), "{said}");
    let said = fault(&place, &[&broken.url()]).await;
    assert!(said.contains("status 500"), "{said}");
    let caches = [nothing.url(), broken.url(), place.as_files()];
    let caches: Vec<&str> = caches.iter().map(String::as_str).collect();
    place.fetch(place.settings(&caches), &place.store()).await.expect("the last has it");
    place.check();
}

#[tokio::test]
async fn nobody_is_believed_who_is_not_trusted() {
    let mut place = Place::new("none");
    let right = place.key.clone();
    place.key = format!("test-1:{}=", "A".repeat(43)).parse().expect("a key");
    let said = fault(&place, &[&place.as_files()]).await;
    assert!(said.contains("signed by \"test-1\"; trusted are test-1"), "{said}");
    place.key = right;
    let narinfo = fs::read_to_string(place.narinfo()).expect("read");
    for (from, to) in
        [("NarSize: ", "NarSize: 1"), ("Sig: test-1:", "Sig: test-2:"), ("Sig: ", "Signature: ")]
    {
        fs::write(place.narinfo(), narinfo.replace(from, to)).expect("written");
        let said = fault(&place, &[&place.as_files()]).await;
        assert!(said.contains("is signed by"), "{to}: {said}");
    }
    let kernel = narinfo.lines().find_map(|line| line.strip_prefix("References: ")).expect("references");
    fs::write(place.narinfo(), narinfo.replace(kernel, "")).expect("written");
    let said = fault(&place, &[&place.as_files()]).await;
    assert!(said.contains("is signed by"), "a path without what it needs: {said}");
    // The description of another path, rightly signed.
    let other = kernel.split(' ').find(|name| !name.ends_with("-image")).expect("the kernel");
    let other = place.path("cache").join(format!("{}.narinfo", other.split('-').next().expect("a hash")));
    fs::copy(other, place.narinfo()).expect("copied");
    let said = fault(&place, &[&place.as_files()]).await;
    assert!(said.contains("answers for"), "{said}");
}

#[tokio::test]
async fn an_archive_that_is_not_what_was_signed_is_not_kept() {
    let place = Place::new("none");
    let archive = place.path("cache").join(place.archive());
    let whole = fs::read(&archive).expect("read");
    let middle = whole.len() / 2;
    let mut flipped = whole.clone();
    // In the midst of the disk's content: the format is right, and only the hash tells.
    flipped[middle] ^= 1;
    for (bytes, said) in [
        (flipped, "expected sha256-"),
        (whole[..middle].to_vec(), "cannot be read"),
        ([&whole[..], b"more"].concat(), "longer than what was signed"),
        (Vec::new(), "cannot be read"),
        (b"<html>no archive</html>".repeat(1000), "at byte"),
    ] {
        fs::write(&archive, bytes).expect("written");
        let found = fault(&place, &[&place.as_files()]).await;
        let whose = format!("the archive of {} from {} is damaged: ", place.name, place.as_files());
        assert!(found.starts_with(&whose) && found.contains(said), "{said}: {found}");
    }
    // The kernel is there already, and another cache has the image whole.
    let copy = place.path("copy");
    let status = std::process::Command::new("cp").arg("-r").arg(place.path("cache")).arg(&copy).status();
    assert!(status.expect("run").success());
    fs::write(copy.join(place.archive()), whole).expect("written");
    let caches = [place.as_files(), format!("file://{}", copy.display())];
    let fetched =
        place.fetch(place.settings(&[&caches[0], &caches[1]]), &place.store()).await.expect("fetched");
    assert_eq!(fetched.paths, 1);
    place.check();
}

#[tokio::test]
async fn what_is_too_large_is_refused_before_anything_comes() {
    let place = Place::new("xz");
    let server = Server::start(&place.path("cache"), Behaviour::Good);
    let mut settings = place.settings(&[&server.url()]);
    settings.largest = vm_model::Bytes::new(1 << 20);
    let refused = place.fetch(settings, &place.store()).await.expect_err("too large");
    assert!(matches!(refused, FetchError::TooMuch { .. }), "{refused}");
    assert_eq!(server.requests("/nar/"), 0);
}

#[tokio::test]
async fn a_fetch_that_is_given_up_leaves_only_what_the_next_one_goes_on_from() {
    let place = Place::new("xz");
    let slow = Server::start(&place.path("cache"), Behaviour::Good);
    let store = place.store();
    place.cut_short(&slow, &store).await;
    // The threads that unpack notice when the connection is gone.
    let deadline = Instant::now() + Duration::from_secs(30);
    while place.there() != [".procurator-fetch"] || place.staged() != ["partial"] {
        assert!(Instant::now() < deadline, "{:?}: {:?}", place.there(), place.staged());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    drop(store);
    // The same cache, and a worker that begins anew.
    slow.behave(Behaviour::Good);
    place.fetch(place.settings(&[&slow.url()]), &place.store()).await.expect("fetched");
    place.check();
    assert!(slow.least_offset(&place.archive()) > 0, "it went on where the first one ended");
}

#[tokio::test]
async fn a_beginning_that_is_wrong_is_forgotten() {
    let place = Place::new("xz");
    let archive = place.path("cache").join(place.archive());
    let whole = fs::read(&archive).expect("read");
    let server = Server::start(&place.path("cache"), Behaviour::Good);
    for wrong in [vec![7; 400_000], [&whole[..], &whole[..]].concat(), whole.clone()] {
        place.leave_partial(&server, &wrong).await;
        server.behave(Behaviour::Good);
        place.fetch(place.settings(&[&server.url()]), &place.store()).await.expect("fetched");
        place.check();
        fs::remove_dir_all(place.path("nix")).expect("removed");
    }
}

/// Nothing of what does not fit is left, and what fits later is had.
#[tokio::test]
async fn a_disk_that_fills_up_meanwhile_ends_the_fetch_and_nothing_else() {
    let place = Place::new("xz");
    let disk = place.small_store(128 << 20);
    let server = Server::start(&place.path("cache"), Behaviour::Cuts(300_000));
    let store = place.store();
    let error = {
        let fetch = place.fetch(place.settings(&[&server.url()]), &store);
        tokio::pin!(fetch);
        let mut is_full = false;
        loop {
            tokio::select! {
                outcome = &mut fetch => break outcome.expect_err("there is no room"),
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
            }
            if !is_full && server.requests("/nar/") > 1 {
                disk.fill();
                is_full = true;
            }
        }
    };
    let said = vm_model::error_chain(&error);
    assert!(said.contains("cannot be unpacked beside the store") && said.contains("No space left"), "{said}");
    disk.empty();
    let left = place.there();
    assert!(left.iter().all(|name| name.ends_with("-kernel")), "{left:?}");
    place.fetch(place.settings(&[&server.url()]), &store).await.expect("there is room now");
    place.check();
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_no_cache_without_the_path() {
    let place = Place::new("none");
    let said = fault(&place, &["file:///srv/no-such-cache"]).await;
    assert!(said.contains("there is no directory \"/srv/no-such-cache\""), "{said}");
}
