//! Rules on documents: every link to a file of the project leads somewhere.

use std::path::Path;

/// Findings on one Markdown document, whose path in the workspace is `name`.
pub(super) fn check(root: &Path, name: &Path, text: &str) -> Vec<String> {
    let folder = root.join(name.parent().unwrap_or(Path::new("")));
    relative_links(text)
        .into_iter()
        .filter(|target| !folder.join(target).exists())
        .map(|target| format!("{}: the link to {target} leads nowhere", name.display()))
        .collect()
}

/// The targets of inline links that are no addresses, without their anchors. Code is no text.
fn relative_links(text: &str) -> Vec<&str> {
    let mut in_code = false;
    let mut links = Vec::new();
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            in_code = !in_code;
        }
        if in_code {
            continue;
        }
        for (start, _) in line.match_indices("](") {
            let rest = &line[start + 2..];
            let target = rest.split([')', ' ']).next().unwrap_or(rest);
            let path = target.split('#').next().unwrap_or(target);
            if !path.is_empty() && !path.contains("://") && !path.starts_with("mailto:") {
                links.push(path);
            }
        }
    }
    links
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_to_files_count() {
        let text = "See [a](a.md#part), [b](../b.rs \"title\") and [c](#here), [d](https://example.org/x).\n\
                    ```\n[e](e.md)\n```\n";
        assert_eq!(relative_links(text), ["a.md", "../b.rs"]);
    }

    #[test]
    fn a_dead_link_is_named_with_its_document() {
        let scratch = tempfile::tempdir().expect("a scratch folder");
        std::fs::create_dir(scratch.path().join("docs")).expect("a folder");
        std::fs::write(scratch.path().join("README.md"), "").expect("a file");
        let findings = check(scratch.path(), Path::new("docs/page.md"), "[up](../README.md) [gone](gone.md)");
        assert_eq!(findings, ["docs/page.md: the link to gone.md leads nowhere"]);
    }
}
