//! A dynamically linked program of the host, to be taken elsewhere with its libraries.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::{packages, process};

/// A file of the host and where it has to be for the program to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct TakenFile {
    /// The file itself, not a link to it.
    pub(crate) source: PathBuf,
    /// An absolute path.
    pub(crate) destination: String,
}

/// The program `name` at `destination`, and its libraries where they are here.
pub(crate) fn with_libraries(name: &str, destination: &str) -> Result<Vec<TakenFile>> {
    let program = packages::find_program(name).with_context(|| format!("{name} is not there"))?;
    let mut files = vec![taken(&program, destination)?];
    for library in shared_libraries(&process::output_of(Command::new("ldd").arg(&program))?) {
        files.push(taken(Path::new(&library), &library)?);
    }
    Ok(files)
}

fn taken(file: &Path, destination: &str) -> Result<TakenFile> {
    let source = fs::canonicalize(file).with_context(|| format!("cannot find {}", file.display()))?;
    Ok(TakenFile { source, destination: destination.to_owned() })
}

/// The files that `ldd` names.
fn shared_libraries(ldd: &str) -> Vec<String> {
    ldd.lines()
        .flat_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_off_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
                    \tlibmnl.so.0 => /lib/x86_64-linux-gnu/libmnl.so.0 (0x00007f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            shared_libraries(text),
            ["/lib/x86_64-linux-gnu/libmnl.so.0", "/lib64/ld-linux-x86-64.so.2"]
        );
    }

    #[test]
    fn a_program_comes_with_its_loader() {
        let files = with_libraries("sh", "/bin/shell").expect("a shell");
        assert_eq!(files[0].destination, "/bin/shell");
        assert!(files.iter().any(|file| file.destination.contains("/ld-")), "{files:?}");
        assert!(files.iter().all(|file| file.source.is_file()), "{files:?}");
    }
}
