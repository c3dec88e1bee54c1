//! Takes the terminal's files into the program where they are there: `cargo xtask` fetches them (`terminal.json`).

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The variable that names their directory where they are not in `target/npm`.
const VARIABLE: &str = "PROCURATOR_XTERM";
/// Which files there are, and from where.
const PINNED: &str = "terminal.json";

fn main() {
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    // A fetch changes this file's time: a directory that is not there yet cannot be watched without building each time.
    println!("cargo:rerun-if-changed={PINNED}");
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"));
    let folder = match env::var_os(VARIABLE) {
        Some(folder) => PathBuf::from(folder),
        None => here.join("../../target/npm/terminal"),
    };
    let names = served(&here.join(PINNED));
    let is_whole = names.iter().all(|name| folder.join(name).is_file());
    if !is_whole {
        println!(
            "cargo:warning=the page is built without a terminal: {} does not have {}; `cargo xtask test` or `package` fetches them",
            folder.display(),
            names.join(", ")
        );
    }
    let listed: String = names.iter().filter(|_| is_whole).map(|name| line(&folder, name)).collect();
    let generated = format!("/// The terminal's files.\nconst TERMINAL: &[(&str, &[u8])] = &[\n{listed}];\n");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it")).join("terminal.rs");
    fs::write(out, generated).expect("cargo's own directory can be written");
}

/// The files that a browser asks for.
fn served(pinned: &Path) -> Vec<String> {
    let text = fs::read_to_string(pinned).expect("it is part of the sources");
    let pinned: Value = serde_json::from_str(&text).expect("it is JSON");
    let packages = pinned["packages"].as_array().expect("a list");
    let files = packages.iter().flat_map(|package| package["files"].as_object().expect("an object").values());
    let names = files.map(|name| name.as_str().expect("a name").to_owned());
    names.filter(|name| !name.starts_with("LICENSE")).collect()
}

/// The entry of the file `name`, which is looked at again when it changes.
fn line(folder: &Path, name: &str) -> String {
    let path = fs::canonicalize(folder.join(name)).expect("it was there");
    println!("cargo:rerun-if-changed={}", path.display());
    format!("    ({name:?}, include_bytes!({path:?})),\n")
}
