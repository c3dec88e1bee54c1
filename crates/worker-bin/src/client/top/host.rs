//! What of the host itself is used. The client runs on the host that its worker runs on.

use std::fs;

/// The host's processors and memory.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Host {
    /// How busy the processors were since the last look, of all of them together.
    pub(super) busy_percent: f64,
    pub(super) processors: usize,
    /// In bytes.
    pub(super) memory_used: u64,
    /// In bytes.
    pub(super) memory_total: u64,
    /// Ticks of all processors at the last look, and those of them in which they were idle.
    ticks: (u64, u64),
}

impl Host {
    /// Looks again. What cannot be read stays as it was.
    pub(super) fn update(&mut self) {
        if let Ok(text) = fs::read_to_string("/proc/stat") {
            self.take_processors(&text);
        }
        if let Ok(text) = fs::read_to_string("/proc/meminfo") {
            self.take_memory(&text);
        }
    }

    fn take_processors(&mut self, stat: &str) {
        self.processors = stat.lines().filter(|line| is_processor(line)).count();
        let figures = stat.lines().next().unwrap_or_default().split_whitespace().skip(1);
        // proc_stat(5): user nice system idle iowait irq softirq steal; guest time is in user time already.
        let figures: Vec<u64> = figures.take(8).filter_map(|figure| figure.parse().ok()).collect();
        let [_, _, _, idle, waiting, ..] = figures[..] else { return };
        let ticks = (figures.iter().sum::<u64>(), idle + waiting);
        let (all, idle) = (ticks.0.saturating_sub(self.ticks.0), ticks.1.saturating_sub(self.ticks.1));
        #[expect(clippy::cast_precision_loss, reason = "a percentage that people look at")]
        let busy = all.saturating_sub(idle) as f64 / all.max(1) as f64;
        self.busy_percent = busy * 100.0;
        self.ticks = ticks;
    }

    fn take_memory(&mut self, meminfo: &str) {
        let kibibytes = |name: &str| {
            let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
            line.trim_end_matches("kB").trim().parse::<u64>().ok()
        };
        let (Some(total), Some(available)) = (kibibytes("MemTotal:"), kibibytes("MemAvailable:")) else {
            return;
        };
        self.memory_total = total << 10;
        self.memory_used = total.saturating_sub(available) << 10;
    }
}

/// Whether a line of `/proc/stat` is about one processor.
fn is_processor(line: &str) -> bool {
    line.strip_prefix("cpu").is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_of_the_time_since_the_last_look() {
        let mut host = Host::default();
        host.take_processors("cpu  100 0 0 100 0 0 0 0 50 0\ncpu0 1\ncpu1 1\nintr 1\n");
        host.take_processors("cpu  175 0 0 120 5 0 0 0 90 0\ncpu0 1\ncpu1 1\nintr 1\n");
        assert_eq!((host.busy_percent, host.processors), (75.0, 2));
        host.take_memory("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:    400 kB\n");
        assert_eq!((host.memory_used, host.memory_total), (600 << 10, 1000 << 10));
        let before = host;
        host.take_memory("nonsense");
        assert_eq!(host, before);
    }

    #[test]
    fn this_host_can_be_read() {
        let mut host = Host::default();
        host.update();
        assert!(host.processors > 0 && host.memory_total > host.memory_used && host.memory_used > 0);
    }
}
