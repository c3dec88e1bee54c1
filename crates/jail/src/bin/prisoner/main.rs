//! A prisoner: enters a jail as a process that runs guests does, and then behaves as code under an attacker's control would.
//!
//! `prisoner ORDER|free GROUND VICTIM` prints the number of the process that goes on, where that is another, and a line an attempt: its name, and `done` or the number of the error.
//! ORDER is what [`jail::JailOrder`] reads; `free` tries the same outside of any jail. GROUND is a directory that the test laid
//! out, VICTIM the number of a process.

mod attempts;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use jail::{JailOrder, Outside, enter, enter_pid_namespace};

use attempts::{ALL, Ground};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [order, ground, victim] = arguments.as_slice() else { return Err("ORDER|free GROUND VICTIM".into()) };
    let order: Option<JailOrder> = if order == "free" { None } else { Some(order.parse()?) };
    let pid = enter_pid_namespace(order.as_ref())?;
    let own = PathBuf::from(ground).join("tree/own");
    let ground = Ground::open(&PathBuf::from(ground), victim.parse()?)?;
    let mut lines = std::io::stdout();
    if let Some(order) = order {
        if let Some(user) = order.user {
            std::os::unix::fs::chown(&own, Some(user), Some(user))?;
        }
        let report = enter(&order, &Outside { trees: vec![ground.tree.clone()] }, &pid);
        for gap in report.gaps {
            writeln!(lines, "gap {gap}")?;
        }
    }
    for (name, attempt) in ALL {
        match attempt(&ground) {
            Ok(()) => writeln!(lines, "{name} done")?,
            Err(errno) => writeln!(lines, "{name} {}", errno.raw_os_error())?,
        }
    }
    Ok(())
}
