//! Reading what a group uses and waits for. Files that are missing, as those of controllers that are not there, count nothing.

use std::time::Duration;

use vm_model::{Bytes, HostUse, Pressure, Pressures};

/// What `read` says of a group, file by file.
pub(crate) fn usage(read: impl Fn(&str) -> Option<String>) -> HostUse {
    let cpu = read("cpu.stat").unwrap_or_default();
    let pressure = |file| read(file).map(|text| pressure(&text)).unwrap_or_default();
    HostUse {
        memory: read("memory.current")
            .and_then(|text| text.trim().parse().ok())
            .map(Bytes::new)
            .unwrap_or_default(),
        cpu_time: Duration::from_micros(field(&cpu, "usage_usec")),
        throttled_periods: field(&cpu, "nr_throttled"),
        throttled_time: Duration::from_micros(field(&cpu, "throttled_usec")),
        pressure: Pressures {
            cpu: pressure("cpu.pressure"),
            memory: pressure("memory.pressure"),
            io: pressure("io.pressure"),
        },
    }
}

/// The number behind `name` in a file of lines `name number`; 0 where there is none.
pub(crate) fn field(text: &str, name: &str) -> u64 {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or(0)
}

/// Reads `some avg10=0.00 avg60=0.00 avg300=0.00 total=123`, and the same of `full`.
fn pressure(text: &str) -> Pressure {
    let total = |kind: &str| {
        let line = text.lines().find(|line| line.split(' ').next() == Some(kind))?;
        let total = line.split(' ').find_map(|word| word.strip_prefix("total="))?;
        Some(Duration::from_micros(total.parse().ok()?))
    };
    Pressure { some: total("some").unwrap_or_default(), full: total("full").unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_figure_has_its_file() {
        let read = |file: &str| {
            let text = match file {
                "memory.current" => "4096\n",
                "cpu.stat" => {
                    "usage_usec 1500000\nuser_usec 7\nnr_periods 9\nnr_throttled 3\nthrottled_usec 250000\n"
                }
                "cpu.pressure" => "some avg10=1.00 avg60=0.00 avg300=0.00 total=42\n",
                "io.pressure" => "some avg10=0.00 total=5\nfull avg10=0.00 total=4\n",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let expected = HostUse {
            memory: Bytes::new(4096),
            cpu_time: Duration::from_millis(1500),
            throttled_periods: 3,
            throttled_time: Duration::from_millis(250),
            pressure: Pressures {
                cpu: Pressure { some: Duration::from_micros(42), full: Duration::ZERO },
                memory: Pressure::default(),
                io: Pressure { some: Duration::from_micros(5), full: Duration::from_micros(4) },
            },
        };
        assert_eq!(usage(read), expected);
        assert_eq!(usage(|_| None), HostUse::default());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text: String) {
            usage(|_| Some(text.clone()));
        }
    }
}
