//! Project tasks: `cargo xtask <task>`. This file reads the command line; each task is a module.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a task's output is its purpose")]

mod bench;
mod counts;
mod demo;
mod lab;
mod man;
mod package;
mod packages;
mod pictures;
mod process;
mod prometheus;
mod syscalls;
mod terminal;
mod test;
mod tidy;
mod vm_test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Project tasks.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Measures speed and memory, beside other virtual machine monitors where they are on `PATH`.
    Bench(bench::Bench),
    /// Shows the main job on real input: two VMs of a Nix image, reached, measured, removed.
    Demo,
    /// Writes the manual pages to `target/man`.
    Man,
    /// Makes a Debian package of the worker, in `target/package`.
    Package(package::Package),
    /// Draws what an operator sees of guests into `docs/pictures`.
    Pictures(pictures::Pictures),
    /// Runs everything that has to hold before a change lands.
    Test(test::Test),
    /// Holds what the threads of host processes do against the tables of system calls, under strace.
    Syscalls(syscalls::Syscalls),
    /// Checks the rules of the project that no compiler checks.
    Tidy,
    /// Runs the end-to-end tests in a host with working KVM, nested where this machine has none.
    VmTest(vm_test::VmTest),
    /// Boots the outer host of `vm-test` with a shell script instead of the tests.
    Lab(lab::task::LabTask),
}

fn main() -> ExitCode {
    match run(&Arguments::parse().task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Whether all went well. An error is for a task that could not be carried through.
fn run(task: &Task) -> Result<bool> {
    let workspace = Workspace::locate();
    match task {
        Task::Bench(task) => task.run(&workspace),
        Task::Demo => demo::run(&workspace),
        Task::Man => man::run(&workspace),
        Task::Package(task) => task.run(&workspace),
        Task::Pictures(task) => task.run(&workspace),
        Task::Test(task) => task.run(&workspace),
        Task::Syscalls(task) => task.run(&workspace),
        Task::Tidy => tidy::run(&workspace),
        Task::VmTest(task) => Ok(task.run(&workspace)?.failed == 0),
        Task::Lab(task) => task.run(&workspace),
    }
}
