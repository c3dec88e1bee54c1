//! A host process: hosts machines for the worker at the other end of its standard input.

mod program;

fn main() -> anyhow::Result<()> {
    program::run(|_| std::future::pending())
}
