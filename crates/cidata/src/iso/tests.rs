//! The file system against a reader of its own, and against the host's tools where they are there.

use std::fs;
use std::process::{Command, Output};

use proptest::prelude::*;

use super::*;

/// What a reader finds: label and files, by one of the two sets of names.
fn read(image: &[u8], names: Names) -> (String, Vec<(String, Vec<u8>)>) {
    let sector = |number: usize| &image[number * SECTOR..(number + 1) * SECTOR];
    let descriptor = sector(if names == Names::Primary { 16 } else { 17 });
    assert_eq!(&descriptor[1..6], b"CD001");
    assert_eq!(number(&descriptor[80..88]) as usize * SECTOR, image.len(), "the volume's size");
    let root = &descriptor[156..190];
    let mut directory = sector(number(&root[2..10]) as usize);
    assert_eq!(number(&root[10..18]) as usize, SECTOR);
    // Little and big path table name the same directory.
    let little = u32::from_le_bytes(descriptor[140..144].try_into().expect("4 bytes"));
    let big = u32::from_be_bytes(descriptor[148..152].try_into().expect("4 bytes"));
    let little = u32::from_le_bytes(sector(little as usize)[2..6].try_into().expect("4 bytes"));
    let big = u32::from_be_bytes(sector(big as usize)[2..6].try_into().expect("4 bytes"));
    assert_eq!((little, big), (number(&root[2..10]), number(&root[2..10])));
    let mut files = Vec::new();
    while directory[0] != 0 {
        let (record, rest) = directory.split_at(directory[0].into());
        let name = &record[33..33 + usize::from(record[32])];
        let (start, bytes) = (number(&record[2..10]) as usize * SECTOR, number(&record[10..18]) as usize);
        if record[25] == 0 {
            files.push((text(name, names), image[start..start + bytes].to_vec()));
        }
        directory = rest;
    }
    (text(&descriptor[40..72], names).trim_end().to_owned(), files)
}

/// A number in both byte orders, which must agree.
fn number(field: &[u8]) -> u32 {
    let little = u32::from_le_bytes(field[..4].try_into().expect("4 bytes"));
    assert_eq!(little.to_be_bytes(), field[4..8]);
    little
}

fn text(bytes: &[u8], names: Names) -> String {
    match names {
        Names::Primary => String::from_utf8(bytes.to_vec()).expect("ASCII"),
        Names::Joliet => {
            let units = bytes.chunks(2).map(|unit| u16::from_be_bytes(unit.try_into().expect("2 bytes")));
            char::decode_utf16(units).collect::<Result<_, _>>().expect("UCS-2")
        }
    }
}

#[test]
fn records_lie_where_the_standard_has_them() {
    let content = b"#cloud-config\n";
    let image = image("CIDATA", &[File { name: "user-data", content }]);
    let hex = |range: std::ops::Range<usize>| -> String {
        image[range].iter().map(|byte| format!("{byte:02x}")).collect()
    };
    // The volume's size, sets, the block size, and the root's record.
    insta::assert_snapshot!(hex(0x8050..0x8058), @"1a0000000000001a");
    insta::assert_snapshot!(hex(0x8078..0x8084), @"010000010100000100080800");
    insta::assert_snapshot!(hex(0x809c..0x80be), @"22001700000000000017000800000000080046010100000000020000010000010100");
    insta::assert_snapshot!(hex(0x8858..0x885b), @"252f45");
    insta::assert_snapshot!(hex(0x9800..0x980a), @"01001700000001000000");
    assert_eq!(image[0x8000 + 881], 1, "the version of the file structure");
    assert_eq!(image.len(), 26 * SECTOR);
}

/// Runs a tool of the host; nothing where it is not there.
fn tool(name: &str, arguments: &[&str]) -> Option<Output> {
    let found = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].iter().map(|folder| format!("{folder}/{name}"));
    let path = found.into_iter().find(|path| fs::exists(path).unwrap_or(false));
    match path {
        Some(path) => Some(Command::new(path).args(arguments).output().expect("it runs")),
        None => {
            eprintln!("SKIPPED: {name} is not there to read the disk");
            None
        }
    }
}

#[test]
fn tools_of_the_host_read_it() {
    let files =
        [File { name: "meta-data", content: b"{}" }, File { name: "user-data", content: &[b'x'; 5000] }];
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(file.path(), image("CIDATA", &files)).expect("written");
    let path = file.path().to_str().expect("UTF-8");
    if let Some(found) = tool("blkid", &["-p", "-o", "export", path]) {
        let found = String::from_utf8_lossy(&found.stdout).into_owned();
        assert!(found.contains("LABEL=CIDATA\n") && found.contains("TYPE=iso9660\n"), "{found}");
    }
    if let Some(listed) = tool("bsdtar", &["-xOf", path, "user-data"]) {
        assert_eq!(listed.stdout, [b'x'; 5000], "{}", String::from_utf8_lossy(&listed.stderr));
    }
    if let Some(listed) = tool("isoinfo", &["-J", "-i", path, "-x", "/meta-data"]) {
        assert_eq!(listed.stdout, b"{}", "{}", String::from_utf8_lossy(&listed.stderr));
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read_back_by_either_set_of_names(
        contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..5000), 0..4),
    ) {
        let names = ["meta-data", "network-config", "user-data", "vendor-data"];
        let files: Vec<_> =
            contents.iter().zip(names).map(|(content, name)| File { name, content }).collect();
        let image = image("CIDATA", &files);
        prop_assert_eq!(image.len() % SECTOR, 0);
        let (label, found) = read(&image, Names::Joliet);
        prop_assert_eq!(label, "CIDATA");
        let expected = files.iter().map(|file| (format!("{};1", file.name), file.content.to_vec()));
        prop_assert_eq!(found, expected.collect::<Vec<_>>());
        let (label, found) = read(&image, Names::Primary);
        prop_assert_eq!(label, "CIDATA");
        let expected = files.iter().map(|file| {
            (format!("{}.;1", file.name.to_ascii_uppercase()), file.content.to_vec())
        });
        prop_assert_eq!(found, expected.collect::<Vec<_>>());
    }
}
