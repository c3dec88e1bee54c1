//! What is known of a host before its power is cut, kept as a careful client keeps it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

/// What must be true after the next boot.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Known {
    cuts: usize,
    addresses: BTreeMap<String, Ipv4Addr>,
    acknowledged: BTreeMap<String, u64>,
}

/// It, and where it is kept.
#[derive(Debug)]
pub(crate) struct Ledger {
    directory: PathBuf,
    known: Known,
}

impl Ledger {
    /// The one in `directory`, or an empty one.
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        let path = directory.join("ledger.json");
        let known = match path.exists() {
            true => serde_json::from_slice(&fs::read(&path)?).context("the ledger is damaged")?,
            false => Known::default(),
        };
        Ok(Self { directory: directory.to_path_buf(), known })
    }

    /// How often power was cut.
    pub(crate) fn cuts(&self) -> usize {
        self.known.cuts
    }

    /// Power is cut from here on.
    pub(crate) fn count_cut(&mut self) -> Result<()> {
        self.known.cuts += 1;
        self.keep()
    }

    /// A VM has the address that it had.
    pub(crate) fn expect_address(&mut self, id: &str, address: Ipv4Addr) -> Result<()> {
        let before = *self.known.addresses.entry(id.to_owned()).or_insert(address);
        ensure!(address == before, "{id} had the address {before}, and has {address}");
        Ok(())
    }

    /// On a disk so many records are whole, which must be all that were acknowledged.
    pub(crate) fn expect_records(&self, disk: &str, intact: u64) -> Result<()> {
        let acknowledged = self.known.acknowledged.get(disk).copied().unwrap_or_default();
        ensure!(
            intact >= acknowledged,
            "{acknowledged} records of {disk} were acknowledged, {intact} are there"
        );
        Ok(())
    }

    /// So many records of each disk are acknowledged.
    pub(crate) fn write_records(&mut self, acknowledged: BTreeMap<String, u64>) -> Result<()> {
        self.known.acknowledged.extend(acknowledged);
        self.keep()
    }

    fn keep(&self) -> Result<()> {
        let next = self.directory.join("ledger.next");
        let mut file = File::create(&next).context("cannot create the ledger")?;
        file.write_all(&serde_json::to_vec(&self.known)?).context("cannot write the ledger")?;
        file.sync_all().context("cannot sync the ledger")?;
        fs::rename(&next, self.directory.join("ledger.json")).context("cannot replace the ledger")?;
        File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .context("cannot sync its directory")
    }
}
