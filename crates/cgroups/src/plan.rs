//! From limits to files and their values. Pure.

use vm_model::ResourceLimits;

use crate::{BlockDevice, Controller, Controllers};

/// The time over which processor time is limited, in microseconds: the kernel's own default.
const CPU_PERIOD: u64 = 100_000;
/// The weight of a group of which nothing is said.
const WEIGHT: u16 = 100;

/// One value of one file of a control group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The controller that has the file.
    pub controller: Controller,
    /// The file's name.
    pub file: &'static str,
    /// What is written to it.
    pub value: String,
}

/// The controllers that `limits` need.
pub fn needed(limits: &ResourceLimits) -> Controllers {
    let rates =
        [limits.io_read_bytes, limits.io_write_bytes, limits.io_read_operations, limits.io_write_operations];
    let wanted = [
        (Controller::Cpu, limits.cpu.is_some() || limits.cpu_weight.is_some()),
        (Controller::Io, limits.io_weight.is_some() || rates.iter().any(Option::is_some)),
        (Controller::Memory, limits.memory_max.is_some()),
        (Controller::Pids, limits.processes.is_some()),
    ];
    wanted.into_iter().filter_map(|(controller, is_wanted)| is_wanted.then_some(controller)).collect()
}

/// What the files of a group are to say, of those `controllers` that it has: each limit, and of what is not limited that it
/// is not, so that a limit which was there before is lifted. I/O is limited by device.
pub fn plan(limits: &ResourceLimits, devices: &[BlockDevice], controllers: &Controllers) -> Vec<Setting> {
    let mut settings = Vec::new();
    let mut set = |controller, file, value| {
        if controllers.has(controller) {
            settings.push(Setting { controller, file, value });
        }
    };
    let quota = limits.cpu.map(|cpu| u64::from(cpu.thousandths()) * CPU_PERIOD / 1000);
    set(Controller::Cpu, "cpu.max", format!("{} {CPU_PERIOD}", or_max(quota)));
    set(Controller::Cpu, "cpu.weight", limits.cpu_weight.unwrap_or(WEIGHT).to_string());
    set(Controller::Memory, "memory.max", or_max(limits.memory_max.map(vm_model::Bytes::get)));
    // A VM is one process; whatever it may have started goes with it.
    set(Controller::Memory, "memory.oom.group", "1".to_owned());
    set(Controller::Pids, "pids.max", or_max(limits.processes.map(u64::from)));
    if let Some(weight) = limits.io_weight {
        set(Controller::Io, "io.weight", format!("default {weight}"));
    }
    for device in devices {
        set(Controller::Io, "io.max", format!("{device} {}", rates(limits)));
    }
    settings
}

fn rates(limits: &ResourceLimits) -> String {
    let keys = [
        ("rbps", limits.io_read_bytes),
        ("wbps", limits.io_write_bytes),
        ("riops", limits.io_read_operations),
        ("wiops", limits.io_write_operations),
    ];
    keys.map(|(key, rate)| format!("{key}={}", or_max(rate))).join(" ")
}

fn or_max(value: Option<u64>) -> String {
    value.map_or_else(|| "max".to_owned(), |value| value.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::option;
    use proptest::prelude::*;
    use vm_model::{Bytes, Cores};

    use super::*;

    fn all() -> Controllers {
        Controller::ALL.into_iter().collect()
    }

    fn lines(settings: &[Setting]) -> Vec<String> {
        settings.iter().map(|setting| format!("{} = {}", setting.file, setting.value)).collect()
    }

    #[test]
    fn every_limit_has_its_file() {
        let limits = ResourceLimits {
            cpu: Cores::from_thousandths(1500),
            cpu_weight: Some(200),
            memory_max: Some(Bytes::from_mib(1)),
            io_weight: Some(50),
            io_read_bytes: Some(1000),
            io_write_operations: Some(7),
            processes: Some(64),
            ..ResourceLimits::default()
        };
        let devices = [BlockDevice { major: 8, minor: 0 }, BlockDevice { major: 259, minor: 1 }];
        assert_eq!(
            lines(&plan(&limits, &devices, &all())),
            [
                "cpu.max = 150000 100000",
                "cpu.weight = 200",
                "memory.max = 1048576",
                "memory.oom.group = 1",
                "pids.max = 64",
                "io.weight = default 50",
                "io.max = 8:0 rbps=1000 wbps=max riops=max wiops=7",
                "io.max = 259:1 rbps=1000 wbps=max riops=max wiops=7",
            ]
        );
    }

    #[test]
    fn what_is_not_limited_is_said_to_be_free() {
        let none = ResourceLimits::default();
        let expected = [
            "cpu.max = max 100000",
            "cpu.weight = 100",
            "memory.max = max",
            "memory.oom.group = 1",
            "pids.max = max",
        ];
        assert_eq!(lines(&plan(&none, &[], &all())), expected);
        assert!(needed(&none).is_empty());
    }

    fn limits() -> impl Strategy<Value = ResourceLimits> {
        let cpu =
            option::of((10_u32..=1_024_000).prop_map(|value| Cores::from_thousandths(value).expect("valid")));
        let weights = (option::of(1_u16..=10_000), option::of(1_u16..=10_000));
        let counts = (option::of(any::<u64>()), option::of(any::<u64>()), option::of(any::<u32>()));
        (cpu, weights, counts).prop_map(|(cpu, (cpu_weight, io_weight), (memory, rate, processes))| {
            ResourceLimits {
                cpu,
                cpu_weight,
                memory_max: memory.map(Bytes::new),
                io_weight,
                io_write_bytes: rate,
                processes,
                ..ResourceLimits::default()
            }
        })
    }

    proptest! {
        #[test]
        fn only_controllers_that_are_there_are_written(limits in limits(), there in proptest::bits::u8::between(0, 4)) {
            let numbered = Controller::ALL.into_iter().enumerate();
            let there: Controllers =
                numbered.filter(|(index, _)| there & (1 << index) != 0).map(|(_, controller)| controller).collect();
            let settings = plan(&limits, &[BlockDevice { major: 1, minor: 2 }], &there);
            for setting in &settings {
                prop_assert!(there.has(setting.controller), "{setting:?}");
                prop_assert!(setting.file.starts_with(setting.controller.name()));
                prop_assert!(!setting.value.contains('\n'));
            }
            for controller in needed(&limits).iter().filter(|controller| there.has(*controller)) {
                prop_assert!(settings.iter().any(|setting| setting.controller == controller));
            }
        }

        #[test]
        fn a_quota_is_never_less_than_the_kernel_takes(limits in limits()) {
            let settings = plan(&limits, &[], &all());
            let quota = settings[0].value.split(' ').next().expect("a quota").to_owned();
            prop_assert!(quota == "max" || quota.parse::<u64>().expect("a number") >= 1000, "{quota}");
        }
    }
}
