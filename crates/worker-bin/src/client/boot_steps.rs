//! How long the steps of a run took, in a line.

use std::time::Duration;

use vm_model::VmTimings;

/// The steps that are known, in the order in which they are taken: first those before the machine, each with what it took,
/// and then what happened after building the machine had begun. `None` where nothing is known.
pub(super) fn boot_steps(timings: &VmTimings) -> Option<String> {
    let VmTimings { artifact, disks, network, first_entry, first_console_byte, ended } = *timings;
    let took = [("artifact", artifact), ("disks", disks), ("network", network)];
    let after = [("first entry", first_entry), ("first console byte", first_console_byte), ("end", ended)];
    let took = took.into_iter().filter_map(|(name, step)| Some(format!("{name} took {}", short(step?))));
    let after = after.into_iter().filter_map(|(name, step)| Some(format!("{name} after {}", short(step?))));
    let steps: Vec<String> = took.chain(after).collect();
    (!steps.is_empty()).then(|| steps.join(", "))
}

/// In seconds where it is more than one, else in milliseconds.
fn short(duration: Duration) -> String {
    if duration >= Duration::from_secs(1) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{:.1} ms", duration.as_secs_f64() * 1e3)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_is_told() {
        assert_eq!(boot_steps(&VmTimings::default()), None);
        let timings = VmTimings {
            artifact: Some(Duration::from_micros(1_540)),
            first_entry: Some(Duration::from_millis(20)),
            ended: Some(Duration::from_millis(2_150)),
            ..VmTimings::default()
        };
        let steps = "artifact took 1.5 ms, first entry after 20.0 ms, end after 2.1 s";
        assert_eq!(boot_steps(&timings).as_deref(), Some(steps));
    }
}
