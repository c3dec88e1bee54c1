//! A configuration file in which every key stands as a comment with its default, made from the table of keys.
//!
//! Read as it is, it sets nothing: packages install it, and people take comment signs away.

use crate::settings::keys::{KEYS, Key};

const HEAD: &str = "\
# Configuration of the Procurator worker. Every key stands here as a comment, with its default where it has one. Change one by
# taking its comment sign away, then
#
#   procurator-worker check-config
#   systemctl restart procurator-worker      # VMs run on
#
# All of it is explained in docs/configuration.md, and by `man procurator-worker-run`.
";

/// The file's text.
pub(super) fn text() -> String {
    let mut text = HEAD.to_owned();
    let mut open = "";
    for key in KEYS {
        let (table, name) = key.parts();
        // A table of tables with names of the author's choice would need them: its header is a comment, too.
        let comment = if key.named_in().is_some() { "#" } else { "" };
        if table != open {
            open = table;
            text.push_str(&format!("\n{comment}[{table}]\n"));
        }
        text.push_str(&entry(key, name));
    }
    text
}

/// A key with what it means and takes.
fn entry(key: &Key, name: &str) -> String {
    let mut entry = format!("\n# {}\n# Takes {}.", key.meaning, key.kind.accepted());
    if let Some((variable, _)) = key.environment {
        entry.push_str(&format!(" {variable} in the environment goes before it."));
    }
    let value = key.default.map_or_else(String::new, |default| format!(" {default}"));
    entry.push_str(&format!("\n#{name} ={value}\n"));
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::testing::settings;

    /// The file with the comment signs of all keys taken away that have a default.
    fn with_defaults() -> String {
        let lines = text();
        let lines = lines.lines().map(|line| {
            let is_default = line.split_once(" =").is_some_and(|(name, value)| {
                !value.is_empty() && name.starts_with('#') && !name.starts_with("# ")
            });
            if is_default { line.trim_start_matches('#') } else { line }
        });
        // Keys of tables that have no name yet cannot be set.
        lines.take_while(|line| *line != "#[networks.NAME]").map(|line| format!("{line}\n")).collect()
    }

    #[test]
    fn as_it_is_it_sets_nothing() {
        assert_eq!(settings(&text()), settings(""));
    }

    #[test]
    fn its_defaults_are_the_defaults() {
        let text = with_defaults();
        assert!(text.contains("\nbridge = \"br-procurator\"\n"), "{text}");
        assert_eq!(settings(&text), settings(""));
    }

    #[test]
    fn every_key_stands_in_it_below_its_table() {
        let text = text();
        for key in KEYS {
            let (table, name) = key.parts();
            let start = if table.is_empty() { HEAD.to_owned() } else { format!("[{table}]\n") };
            let (_, below) = text.split_once(&start).unwrap_or_else(|| panic!("there is no [{table}]"));
            let end = below.find("\n[").into_iter().chain(below.find("\n#[")).min();
            let below = end.map_or(below, |end| &below[..end]);
            assert!(below.contains(&format!("\n#{name} =")), "{} is not below [{table}]:\n{below}", key.name);
        }
    }
}
