//! The note of changed settings: a small JSON file, replaced whole.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tracing::warn;

use super::{AdoptedBridge, Change, GivenUplink, Switch};

/// The version that is written, and the only one that is read.
const VERSION: u64 = 1;
/// More than this is no note of ours: it has some hundred bytes a link.
const LARGEST_NOTE: u64 = 1 << 20;

/// What a note says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Noted {
    pub(super) changes: Vec<Change>,
    pub(super) bridges: Vec<AdoptedBridge>,
    pub(super) uplinks: Vec<GivenUplink>,
}

impl Noted {
    fn is_empty(&self) -> bool {
        self.changes.is_empty() && self.bridges.is_empty() && self.uplinks.is_empty()
    }
}

/// What is noted at `path`; nothing of another boot or network namespace. What a write that was cut short has left is
/// deleted: nobody may write the note meanwhile.
pub(super) fn read(path: &Path) -> Noted {
    // Where that fails, the next write replaces it.
    let _ = fs::remove_file(unfinished(path));
    let problem = match read_text(path).map(|text| parse(&text)) {
        Ok(Ok((place, noted))) if place == here() => return noted,
        Ok(Ok(_)) => return Noted::default(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Noted::default(),
        Ok(Err(problem)) => problem,
        Err(error) => error.to_string(),
    };
    set_aside(path, &problem);
    Noted::default()
}

/// Replaces the note; removes it where nothing is changed.
pub(super) fn write(path: &Path, noted: &Noted) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    if noted.is_empty() {
        return match fs::remove_file(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
    }
    let temporary = unfinished(path);
    let mut file = File::create(&temporary)?;
    file.write_all(render(&here(), noted).as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(directory)?.sync_all()
}

/// Where the note is written before it takes its place.
fn unfinished(path: &Path) -> PathBuf {
    path.with_extension("new")
}

/// The boot and the network namespace of the calling thread: indices of links mean something there only.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Place {
    boot: String,
    namespace: u64,
}

fn here() -> Place {
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let namespace = fs::metadata("/proc/thread-self/ns/net").map_or(0, |file| file.ino());
    Place { boot: boot.trim().to_owned(), namespace }
}

fn render(place: &Place, noted: &Noted) -> String {
    let changes: Vec<Value> = noted
        .changes
        .iter()
        .map(|change| {
            json!({
                "link": change.name,
                "index": change.link,
                "switch": change.switch.key(),
                "before": change.before,
                "set": change.set,
            })
        })
        .collect();
    let note = json!({
        "version": VERSION,
        "boot": place.boot,
        "namespace": place.namespace,
        "changes": changes,
        "bridges": noted.bridges.iter().map(AdoptedBridge::to_json).collect::<Vec<_>>(),
        "uplinks": noted.uplinks.iter().map(GivenUplink::to_json).collect::<Vec<_>>(),
    });
    format!("{note:#}\n")
}

fn parse(text: &str) -> Result<(Place, Noted), String> {
    let note: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if note["version"] != VERSION {
        return Err(format!("it has version {}; version {VERSION} is read", note["version"]));
    }
    let (Some(boot), Some(namespace)) = (note["boot"].as_str(), note["namespace"].as_u64()) else {
        return Err("it does not say of which boot and namespace it is".to_owned());
    };
    let entries = note["changes"].as_array().ok_or("it has no list of changes")?;
    let changes = entries.iter().map(|entry| change(entry).ok_or_else(|| format!("{entry} is no change")));
    // Earlier versions note neither bridges nor uplinks.
    let list = |key: &str| note[key].as_array().map_or(&[][..], Vec::as_slice).iter();
    let bridges = list("bridges").map(|entry| {
        AdoptedBridge::from_json(entry).ok_or_else(|| format!("{entry} says not what was done to a bridge"))
    });
    let uplinks = list("uplinks").map(|entry| {
        GivenUplink::from_json(entry).ok_or_else(|| format!("{entry} says not what an uplink was"))
    });
    let noted = Noted {
        changes: changes.collect::<Result<_, _>>()?,
        bridges: bridges.collect::<Result<_, _>>()?,
        uplinks: uplinks.collect::<Result<_, _>>()?,
    };
    Ok((Place { boot: boot.to_owned(), namespace }, noted))
}

/// The values end up in files of the kernel, so each is checked for what it may be.
fn change(entry: &Value) -> Option<Change> {
    let number = |key: &str| {
        let text = entry[key].as_str()?;
        text.parse::<i32>().is_ok().then(|| text.to_owned())
    };
    // Another's link may have a name that we would not give; a path it must not be.
    let name =
        entry["link"].as_str().filter(|name| !name.contains('/') && !matches!(*name, "" | "." | ".."))?;
    Some(Change {
        link: u32::try_from(entry["index"].as_u64()?).ok()?,
        name: name.to_owned(),
        switch: Switch::from_key(entry["switch"].as_str()?)?,
        before: number("before")?,
        set: number("set")?,
    })
}

fn read_text(path: &Path) -> io::Result<String> {
    let size = fs::metadata(path)?.len();
    if size > LARGEST_NOTE {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("it has {size} bytes, at most {LARGEST_NOTE} are read"),
        ));
    }
    fs::read_to_string(path)
}

fn set_aside(path: &Path, problem: &str) {
    let kept = (1..100).map(|number| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".kept-{number}"));
        PathBuf::from(name)
    });
    let free = kept.into_iter().find(|kept| !kept.exists());
    let moved = free.filter(|kept| fs::rename(path, kept).is_ok());
    let path = path.display();
    warn!(%path, problem, kept = ?moved, "settings that an earlier run changed are not known and stay as they are");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::LinkName;

    fn example() -> Noted {
        let change = Change {
            link: 3,
            name: "wan".to_owned(),
            switch: Switch::Forwarding,
            before: "0".to_owned(),
            set: "1".to_owned(),
        };
        let bridge = AdoptedBridge {
            index: 7,
            name: LinkName::parse("br-lan").unwrap(),
            addresses: vec!["10.100.0.1/16".parse().unwrap(), "fd12::1/64".parse().unwrap()],
            ageing_time: Some(0),
        };
        let uplink = GivenUplink { index: 4, name: "eth1".to_owned(), was_up: false };
        Noted { changes: vec![change], bridges: vec![bridge], uplinks: vec![uplink] }
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_goes_with_the_last_change() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("note.json");
        assert_eq!(read(&path), Noted::default());
        write(&path, &example()).unwrap();
        assert_eq!(read(&path), example());
        write(&path, &Noted::default()).unwrap();
        assert!(!path.exists());
        write(&path, &Noted::default()).expect("no note is no error");
    }

    #[test]
    fn a_note_from_before_bridges_and_uplinks_were_noted_is_read() {
        let mut note: Value = serde_json::from_str(&render(&here(), &example())).unwrap();
        note.as_object_mut().unwrap().remove("bridges");
        note.as_object_mut().unwrap().remove("uplinks");
        let (_, noted) = parse(&note.to_string()).unwrap();
        assert_eq!(noted, Noted { bridges: vec![], uplinks: vec![], ..example() });
    }

    #[test]
    fn a_note_of_another_boot_says_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("note.json");
        let elsewhere = Place { boot: "another".to_owned(), ..here() };
        fs::write(&path, render(&elsewhere, &example())).unwrap();
        assert_eq!(read(&path), Noted::default());
    }

    #[test]
    fn a_damaged_note_is_kept_aside() {
        let good = render(&here(), &example());
        let damaged = [
            good.replace("\"version\": 1", "\"version\": 2"),
            good.replace("\"wan\"", "\"../../kernel\""),
            good.replace("\"wan\"", "\"..\""),
            good.replace("\"before\": \"0\"", "\"before\": \"x\""),
            good.replace("ipv4/forwarding", "ipv4/other"),
            good.replace("\"br-lan\"", "\"br/lan\""),
            good.replace("10.100.0.1/16", "10.100.0.1/64"),
            good.replace("\"ageing_time\": 0", "\"ageing_time\": -1"),
            good.replace("\"was_up\": false", "\"was_up\": 0"),
            "{".to_owned(),
        ];
        for text in damaged {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("note.json");
            fs::write(&path, &text).unwrap();
            assert_eq!(read(&path), Noted::default(), "{text}");
            assert!(!path.exists(), "{text}");
            assert_eq!(fs::read_to_string(directory.path().join("note.json.kept-1")).unwrap(), text);
        }
    }
}
