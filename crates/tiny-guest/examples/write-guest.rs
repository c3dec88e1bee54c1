//! Writes a guest's kernel file, to be tried on any virtual machine monitor: `write-guest block /tmp/block.elf`.

use std::process::ExitCode;

use tiny_guest::TinyGuest;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(name), Some(path)) = (arguments.next(), arguments.next()) else {
        eprintln!("usage: write-guest <guest> <file>");
        return ExitCode::from(2);
    };
    let guest = match name.as_str() {
        "hello" => TinyGuest::hello("hello from the guest\n"),
        "spin" => TinyGuest::spin(),
        "idle" => TinyGuest::idle(),
        "echo" => TinyGuest::echo(),
        "power-button" => TinyGuest::power_button(),
        "boot-information" => TinyGuest::boot_information(),
        "block" => TinyGuest::block(),
        "entropy" => TinyGuest::entropy(),
        "net" => TinyGuest::net(),
        "network-host" => TinyGuest::network_host(None),
        "processors" => TinyGuest::processors(2),
        _ => {
            eprintln!(
                "{name} is none of hello, spin, idle, echo, power-button, boot-information, block, entropy, net, \
                 network-host, processors"
            );
            return ExitCode::from(2);
        }
    };
    if let Err(error) = std::fs::write(&path, guest.elf()) {
        eprintln!("writing {path}: {error}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
