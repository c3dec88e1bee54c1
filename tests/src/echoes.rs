//! Asking a guest for echoes without a break, to see whether it noticed something.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::ping;

/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks one guest for one echo after the other, until it is told to stop.
#[derive(Debug)]
pub struct Echoes {
    stop: Arc<AtomicBool>,
    asking: JoinHandle<Heard>,
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// Questions that were answered.
    pub answered: u32,
    /// Questions that were not.
    pub lost: u32,
    /// The longest time from one answer to the next.
    pub longest_gap: Duration,
}

impl Echoes {
    /// Begins to ask the guest at `address`.
    pub fn of(address: Ipv4Addr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let asking = thread::spawn(move || {
            let mut heard = Heard { answered: 0, lost: 0, longest_gap: Duration::ZERO };
            let mut last = Instant::now();
            while !told.load(Ordering::Relaxed) {
                match ping(address) {
                    Ok(_) => {
                        heard.answered += 1;
                        heard.longest_gap = heard.longest_gap.max(last.elapsed());
                        last = Instant::now();
                    }
                    Err(_) => heard.lost += 1,
                }
                thread::sleep(PAUSE);
            }
            heard
        });
        Self { stop, asking }
    }

    /// Stops asking.
    ///
    /// # Errors
    /// The thread that asked panicked.
    pub fn stop(self) -> Result<Heard> {
        self.stop.store(true, Ordering::Relaxed);
        self.asking.join().ok().context("the thread that asks for echoes panicked")
    }
}
