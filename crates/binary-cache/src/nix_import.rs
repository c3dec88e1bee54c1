//! Putting a path into a store that Nix keeps, by Nix: its database knows it then, and its garbage collector does not take it
//! for rubbish.
//!
//! `nix-store --import` reads an archive and, after it, what it is the archive of (the "export format" of Nix).

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::{ChildStdin, Stdio};
use std::thread;

use vm_model::StoreName;

use crate::narinfo::Narinfo;
use crate::store::{StoreError, nix_store, shortened};

/// What precedes each archive.
const ONE_MORE: u64 = 1;
/// What precedes the description of an archive: "NIXE", read from its end.
const DESCRIPTION: u64 = 0x4558_494e;

/// Has Nix take the verified archive at `archive` into the store at `store`, as the path that `narinfo` describes. All that
/// it refers to is there already.
pub(crate) fn import(store: &Path, archive: &Path, narinfo: &Narinfo) -> Result<(), StoreError> {
    let mut child = nix_store(store)
        .arg("--import")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(StoreError::NixProgram)?;
    let (input, description) = (child.stdin.take(), description(store, narinfo));
    let archive = File::open(archive).map_err(StoreError::NixProgram)?;
    // Beside the reading of what Nix says, or both would wait for each other.
    let sending = thread::spawn(move || input.map_or(Ok(()), |input| send(input, archive, &description)));
    let output = child.wait_with_output().map_err(StoreError::NixProgram)?;
    let sent = sending.join().unwrap_or_else(|_| Err(io::Error::other("the sender ended by a panic")));
    if !output.status.success() {
        return Err(StoreError::NixRefuses { said: shortened(&output.stderr) });
    }
    sent.map_err(StoreError::NixProgram)
}

fn send(mut input: ChildStdin, mut archive: File, description: &[u8]) -> io::Result<()> {
    input.write_all(&ONE_MORE.to_le_bytes())?;
    io::copy(&mut archive, &mut input)?;
    input.write_all(description)
}

/// What follows an archive: its path, what it needs, nothing of who built it, no signature, and the end of all.
fn description(store: &Path, narinfo: &Narinfo) -> Vec<u8> {
    let whole = |name: &StoreName| store.join(name.as_str()).to_string_lossy().into_owned();
    let mut bytes = DESCRIPTION.to_le_bytes().to_vec();
    string(&mut bytes, &whole(&narinfo.name));
    bytes.extend((narinfo.references.len() as u64).to_le_bytes());
    for reference in &narinfo.references {
        string(&mut bytes, &whole(reference));
    }
    string(&mut bytes, "");
    bytes.extend([0; 16]);
    bytes
}

fn string(bytes: &mut Vec<u8>, text: &str) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
}
