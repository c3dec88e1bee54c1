//! Records that a guest writes like a database: what it has acknowledged must be there at its next boot.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};

use crate::http_get;

/// How it stands with the records on one disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Records {
    /// How many were there and whole when the guest booted.
    pub intact: u64,
    /// How many have been acknowledged since.
    pub acknowledged: u64,
    /// How often all that were acknowledged have been read since, by a guest whose command line has `readers`.
    pub reads: u64,
}

/// What a guest whose command line has `records` says of them, by the disk they are on: `root` and, where there is a second
/// disk, `data`.
///
/// # Errors
/// It does not answer, or something is wrong with its records.
pub fn records(address: Ipv4Addr) -> Result<BTreeMap<String, Records>> {
    let page = http_get(address, "/cgi-bin/records")?;
    let page = String::from_utf8_lossy(&page);
    page.lines().map(|line| read(line).with_context(|| format!("the guest says {page:?}"))).collect()
}

/// As [`records`], for one disk.
///
/// # Errors
/// As for [`records`], or no record of that disk is acknowledged yet.
pub fn records_on(address: Ipv4Addr, disk: &str) -> Result<Records> {
    let found = records(address)?;
    found.get(disk).copied().with_context(|| format!("nothing is acknowledged on {disk} yet"))
}

/// Reads `data 41 57 3`, which is followed by what is wrong.
fn read(line: &str) -> Result<(String, Records)> {
    let mut words = line.splitn(5, ' ');
    let mut word = || words.next().context("a word is missing");
    let disk = word()?.to_owned();
    let records =
        Records { intact: word()?.parse()?, acknowledged: word()?.parse()?, reads: word()?.parse()? };
    let problem = words.next().unwrap_or_default().trim();
    ensure!(problem.is_empty(), "records of {disk}: {problem}");
    Ok((disk, records))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_and_a_problem_is_an_error() {
        let records = Records { intact: 41, acknowledged: 57, reads: 3 };
        assert_eq!(read("data 41 57 3 ").expect("a line"), ("data".to_owned(), records));
        let error = read("data 41 57 3 record 42 is lost;").expect_err("a problem");
        assert!(error.to_string().contains("record 42 is lost"), "{error}");
        assert!(read("data 41 57").is_err() && read("").is_err());
    }
}
