//! A person at a terminal: a pseudo-terminal with the program on it.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::bench::DEADLINE;

/// A terminal whose screen can be read.
pub(crate) struct Terminal {
    keys: File,
    /// The program's side, kept open so that its settings can be looked at afterwards.
    line: File,
    screen: Arc<Mutex<Vec<u8>>>,
    child: Mutex<Child>,
}

impl Terminal {
    /// Runs `command` on a new terminal.
    pub(crate) fn open(mut command: Command) -> Self {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let master: OwnedFd = openpt(flags).expect("a pseudo-terminal");
        grantpt(&master).expect("granted");
        unlockpt(&master).expect("unlocked");
        let name = ptsname(&master, Vec::new()).expect("a name");
        let name = std::ffi::OsStr::from_bytes(name.to_bytes()).to_owned();
        let line = OpenOptions::new().read(true).write(true).open(name).expect("opened");
        let side = || line.try_clone().expect("cloned");
        command.stdin(side()).stdout(side()).stderr(side());
        let child = command.spawn().expect("started");
        let mut shown = File::from(master.try_clone().expect("cloned"));
        let screen = Arc::new(Mutex::new(Vec::new()));
        let written = Arc::clone(&screen);
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Ends with the terminal.
            while let Ok(count @ 1..) = shown.read(&mut bytes) {
                written.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&bytes[..count]);
            }
        });
        Self { keys: master.into(), line, screen, child: Mutex::new(child) }
    }

    pub(crate) fn type_in(&self, text: &str) {
        (&self.keys).write_all(text.as_bytes()).expect("typed");
    }

    /// Everything that was ever on the screen.
    pub(crate) fn shown(&self) -> String {
        let screen = self.screen.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&screen).into_owned()
    }

    pub(crate) fn until_shows(&self, text: &str) {
        let begun = Instant::now();
        while !self.shown().contains(text) {
            assert!(begun.elapsed() < DEADLINE, "no {text:?} on the screen: {}", self.shown());
            sleep(Duration::from_millis(1));
        }
    }

    /// Whether keys are passed on as they are typed.
    pub(crate) fn is_raw(&self) -> bool {
        let settings = tcgetattr(&self.line).expect("settings");
        !settings.local_modes.intersects(LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG)
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        kill_process(Pid::from_child(&child), signal).expect("it is there");
    }

    /// How the program ended.
    pub(crate) fn ended(&self) -> Option<i32> {
        let begun = Instant::now();
        loop {
            let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(status) = child.try_wait().expect("it is ours") {
                return status.code();
            }
            drop(child);
            assert!(begun.elapsed() < DEADLINE, "it did not end: {}", self.shown());
            sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // It may have ended long since.
        let _ = child.kill();
        let _ = child.wait();
    }
}
