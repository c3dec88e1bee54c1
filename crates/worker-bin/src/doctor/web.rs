//! The page's own address: its certificate and its token.

use admin::WebSettings;
use anyhow::Context;
use master_protocol::tls::Identity;
use vm_model::Timestamp;

use super::certificates::{self, Files};
use super::finding::{Finding, advice};

const PAGE: &str = "page";

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    place: String,
    now: Timestamp,
    files: Files,
    /// What of the files keeps the page from being shown.
    refused: Option<String>,
}

pub(super) fn look(web: &WebSettings) -> Facts {
    let read = Identity::load(&web.certificate, &web.key).map(|identity| identity.facts().clone());
    let checked = web.check().context("the page cannot be shown");
    Facts {
        place: web.listen.to_string(),
        now: Timestamp::now(),
        files: certificates::look(&web.certificate, &web.key, read),
        refused: checked.err().map(|problem| format!("{problem:#}")),
    }
}

pub(super) fn judge(facts: &Facts) -> Vec<Finding> {
    const MADE: &str = "see docs/page.md on making a certificate";
    let mut findings =
        certificates::judge(&facts.files, facts.now, "the worker shows it at the next connection", MADE);
    findings.push(match &facts.refused {
        Some(why) => Finding::fail(PAGE, why.clone(), advice("mend what it names: see docs/page.md")),
        None => Finding::ok(
            PAGE,
            format!("its files can be used; it is for who knows the token, at {}", facts.place),
        ),
    });
    findings
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use admin::Access;
    use rcgen::generate_simple_self_signed;

    use super::super::finding::Verdict;
    use super::*;

    #[test]
    fn files_of_the_page_are_judged() {
        let folder = tempfile::tempdir().expect("a directory");
        let path = |name: &str| folder.path().join(name);
        let made = generate_simple_self_signed(["w1.example".to_owned()]).expect("made");
        fs::write(path("certificate"), made.cert.pem()).expect("written");
        fs::write(path("key"), made.signing_key.serialize_pem()).expect("written");
        fs::write(path("token"), "0123456789abcdef0123456789abcdef\n").expect("written");
        for name in ["key", "token"] {
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o600)).expect("set");
        }
        let web = WebSettings {
            listen: "127.0.0.1:7444".parse().expect("an address"),
            certificate: path("certificate"),
            key: path("key"),
            token: path("token"),
            access: Access::Full,
        };
        let verdicts = || judge(&look(&web)).iter().map(|finding| finding.verdict).collect::<Vec<_>>();
        assert_eq!(verdicts(), [Verdict::Ok, Verdict::Ok, Verdict::Ok]);
        for name in ["key", "token"] {
            fs::set_permissions(path(name), fs::Permissions::from_mode(0o644)).expect("set");
        }
        assert_eq!(verdicts(), [Verdict::Ok, Verdict::Fail, Verdict::Fail]);
        fs::write(path("key"), "no key").expect("written");
        assert_eq!(verdicts()[0], Verdict::Fail);
    }
}
