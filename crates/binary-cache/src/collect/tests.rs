//! The plan as a value, and collections of real files.

use std::fs;

use proptest::prelude::*;

use super::*;

fn name(number: usize) -> StoreName {
    format!("{:a>32}-path", "bcdfghijklmnpqrsvwxyz".chars().nth(number).expect("few"))
        .parse()
        .expect("a name")
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn path(size: u64, needed_last: u64, needs: &[usize]) -> FetchedPath {
    let needs = needs.iter().map(|number| name(*number)).collect();
    FetchedPath { size: Bytes::new(size), needs, needed_last: at(needed_last) }
}

/// 0 needs 1; 2 needs 1 and itself; 3 stands alone.
fn four() -> BTreeMap<StoreName, FetchedPath> {
    let paths = [path(10, 100, &[1]), path(20, 50, &[]), path(30, 300, &[1, 2]), path(40, 200, &[])];
    paths.into_iter().enumerate().map(|(number, path)| (name(number), path)).collect()
}

fn planned(live: &[usize], rule: CollectionRule, free: u64) -> Vec<(StoreName, CollectionCause)> {
    let live = with_needs(live.iter().map(|number| name(*number)), &four());
    let going = plan(&four(), &live, &rule, (at(400), Bytes::new(free)));
    going.into_iter().map(|going| (going.name, going.cause)).collect()
}

#[test]
fn what_was_needed_first_goes_first_and_nothing_before_what_needs_it() {
    let all = planned(&[], CollectionRule::default(), 0);
    let names: Vec<StoreName> = all.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, [0, 3, 2, 1].map(name));
    assert!(all.iter().all(|(_, cause)| *cause == CollectionCause::Unneeded));
    assert_eq!(planned(&[2], CollectionRule::default(), 0).len(), 2, "2 keeps itself and 1");
}

#[test]
fn each_limit_is_a_reason_and_without_one_a_path_stays() {
    let rule = CollectionRule { unused_for: Some(Duration::from_secs(250)), ..CollectionRule::default() };
    assert_eq!(planned(&[], rule, 0), [(name(0), CollectionCause::Age)]);
    let rule = CollectionRule { keep: Some(Bytes::new(50)), ..CollectionRule::default() };
    assert_eq!(planned(&[], rule, 0), [0, 3].map(|number| (name(number), CollectionCause::Amount)));
    let rule = CollectionRule { free: Some(Bytes::new(105)), ..CollectionRule::default() };
    assert_eq!(planned(&[], rule, 100), [(name(0), CollectionCause::Space)]);
    assert_eq!(planned(&[], rule, 105), []);
}

proptest! {
    #[test]
    fn what_is_left_is_closed_wherever_a_collection_ends(
        edges in prop::collection::vec((0..12_usize, 0..12_usize), 0..30),
        times in prop::collection::vec(0..50_u64, 12),
        live in prop::collection::btree_set(0..12_usize, 0..4),
        keep in prop::option::of(0..12_u32),
    ) {
        // Only what comes later is needed, or the path itself: there are no circles.
        let needs = |of: usize| -> Vec<usize> {
            edges.iter().filter(|(from, to)| *from == of && from <= to).map(|(_, to)| *to).collect()
        };
        let paths: BTreeMap<_, _> =
            (0..12).map(|number| (name(number), path(1, times[number], &needs(number)))).collect();
        let live = with_needs(live.into_iter().map(name), &paths);
        let rule = CollectionRule { keep: keep.map(|keep| Bytes::new(keep.into())), ..CollectionRule::default() };
        let going = plan(&paths, &live, &rule, (at(100), Bytes::new(0)));
        let unneeded = paths.len() - live.len();
        let expected = keep.map_or(unneeded, |keep| unneeded.saturating_sub(keep as usize));
        prop_assert_eq!(going.len(), expected);
        let mut left: BTreeSet<_> = paths.keys().cloned().collect();
        for gone in going {
            prop_assert!(!live.contains(&gone.name));
            left.remove(&gone.name);
            for name in &left {
                prop_assert!(paths[name].needs.iter().all(|need| left.contains(need)));
            }
        }
    }
}

/// A store with the four paths, made as a fetch makes them.
fn store(place: &Path) -> Store {
    let store = Store::open(&place.join("store")).expect("opened");
    let records = place.join("store/.procurator-fetched/paths");
    fs::create_dir_all(&records).expect("made");
    for (name, path) in four() {
        fs::create_dir(store.path().join(name.as_str())).expect("made");
        fs::write(store.path().join(name.as_str()).join("file"), "content").expect("written");
        let needs: Vec<String> = path.needs.iter().map(ToString::to_string).collect();
        let record = records.join(name.as_str());
        fs::write(&record, format!("size: {}\nneeds: {}\n", path.size.get(), needs.join(" ")))
            .expect("written");
        let file = fs::File::options().write(true).open(&record).expect("opened");
        file.set_modified(path.needed_last).expect("set");
    }
    store
}

fn there(store: &Store) -> Vec<String> {
    let entries = fs::read_dir(store.path()).expect("read").flatten();
    let mut names: Vec<String> =
        entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
    names.sort();
    names.retain(|name| name != ".procurator-fetched");
    names
}

#[test]
fn what_is_collected_is_gone_and_what_is_needed_or_nobodys_stays() {
    let place = tempfile::tempdir().expect("a directory");
    let store = store(place.path());
    fs::create_dir(store.path().join(name(9).as_str())).expect("made");
    let needed = || Ok(BTreeSet::from([name(0)]));
    let rule = CollectionRule::default();
    let shown = store.collect(&rule, CollectionMode::Show, &needed).expect("shown");
    assert_eq!(there(&store).len(), 5, "nothing was done");
    let done = store.collect(&rule, CollectionMode::Delete, &needed).expect("collected");
    assert_eq!(done, shown);
    assert_eq!(there(&store), [0, 1, 9].map(|number| name(number).to_string()));
    // That they are needed is noted: it is not years ago any more.
    let rule = CollectionRule { unused_for: Some(Duration::from_secs(3600)), ..rule };
    assert_eq!(store.collect(&rule, CollectionMode::Delete, &|| Ok(BTreeSet::new())).expect("collected"), []);
}

#[test]
fn nothing_is_collected_where_it_is_not_known_what_is_needed() {
    let place = tempfile::tempdir().expect("a directory");
    let store = store(place.path());
    let collect = |needed: &dyn Fn() -> Result<BTreeSet<StoreName>, Box<dyn Error + Send + Sync>>| {
        store.collect(&CollectionRule::default(), CollectionMode::Delete, needed)
    };
    collect(&|| Err("a record is damaged".into())).expect_err("refused");
    fs::write(store.path().join(".procurator-fetched/paths").join(name(3).as_str()), "size")
        .expect("written");
    collect(&|| Ok(BTreeSet::new())).expect_err("refused");
    assert_eq!(there(&store).len(), 4);
}

#[test]
fn what_a_fetch_relies_on_stays_until_the_fetch_is_over() {
    let place = tempfile::tempdir().expect("a directory");
    let store = store(place.path());
    let staging = store.stage().expect("staged");
    assert_eq!(store.missing(vec![name(2), name(7)], &staging).expect("looked"), [name(7)]);
    let collect = || {
        let done = store.collect(&CollectionRule::default(), CollectionMode::Delete, &|| Ok(BTreeSet::new()));
        done.expect("collected").len()
    };
    assert_eq!(collect(), 2, "2 stays, and 1 that it needs");
    drop(staging);
    assert_eq!((collect(), there(&store)), (2, Vec::new()));
}

#[test]
fn what_a_killed_collection_left_is_removed_by_the_next() {
    let place = tempfile::tempdir().expect("a directory");
    let store = store(place.path());
    let half = store.path().join(".procurator-fetch/killed");
    fs::create_dir_all(&half).expect("made");
    // Renamed away, and its record still there.
    fs::rename(store.path().join(name(0).as_str()), half.join("path")).expect("moved");
    let store = Store::open(store.path()).expect("opened");
    assert!(!half.exists());
    let shown = store.collect(&CollectionRule::default(), CollectionMode::Delete, &|| Ok(BTreeSet::new()));
    assert_eq!(shown.expect("collected").len(), 3);
    let records = store.path().join(".procurator-fetched/paths");
    assert_eq!((there(&store), fs::read_dir(records).expect("read").count()), (Vec::new(), 0));
}

#[test]
fn paths_of_nix_are_nixs() {
    let place = tempfile::tempdir().expect("a directory");
    store(place.path());
    fs::create_dir_all(place.path().join("var/nix/db")).expect("made");
    fs::write(place.path().join("var/nix/db/db.sqlite"), "").expect("written");
    let store = Store::open(&place.path().join("store")).expect("opened");
    let refused = store.collect(&CollectionRule::default(), CollectionMode::Delete, &|| Ok(BTreeSet::new()));
    assert!(matches!(refused, Err(CollectionError::KeptByNix)));
    assert_eq!(there(&store).len(), 4);
}
