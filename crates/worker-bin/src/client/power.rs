//! `start`, `stop`, `restart`, `pause`, `resume`, `reset`, `nmi`: several VMs at once, each for itself.

use std::io::{IsTerminal, stderr};
use std::time::Duration;

use admin::{AdminClient, ClientError, OperationView, PowerRequest, PowerVerb};
use anyhow::{Result, bail};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use vm_model::VmId;

use super::{print, print_json, say, vms_named};
use crate::cli::{ForcibleFlags, PowerAction, PowerFlags};

/// VMs that are told at the same time: the worker takes no more clients than it can spare descriptors for.
const AT_ONCE: usize = 16;
/// How long nothing is said of what is under way.
const QUIET: Duration = Duration::from_secs(1);

/// Has VMs told what `action` says. Fails if one of them did not.
pub(super) async fn power(client: &AdminClient, action: &PowerAction) -> Result<()> {
    let (verb, flags, force) = match action {
        PowerAction::Start(flags) => (PowerVerb::Start, flags, false),
        PowerAction::Stop(ForcibleFlags { power, force }) => (PowerVerb::Stop, power, *force),
        PowerAction::Restart(ForcibleFlags { power, force }) => (PowerVerb::Restart, power, *force),
        PowerAction::Pause(flags) => (PowerVerb::Pause, flags, false),
        PowerAction::Resume(flags) => (PowerVerb::Resume, flags, false),
        PowerAction::Reset(flags) => (PowerVerb::Reset, flags, false),
        PowerAction::Nmi(flags) => (PowerVerb::Nmi, flags, false),
    };
    tell_all(client, verb, flags, force).await
}

async fn tell_all(client: &AdminClient, verb: PowerVerb, flags: &PowerFlags, force: bool) -> Result<()> {
    let vms = vms_named(client, &flags.vms, flags.all).await?;
    let request = PowerRequest { timeout_seconds: flags.timeout, wait: !flags.no_wait, force };
    let mut under_way = JoinSet::new();
    let mut waiting = vms.iter().cloned();
    let begin = |under_way: &mut JoinSet<_>, vm: VmId| {
        let client = client.clone();
        under_way.spawn(async move {
            let told = client.power(&vm, verb, &request).await;
            (vm, told)
        });
    };
    for vm in waiting.by_ref().take(AT_ONCE) {
        begin(&mut under_way, vm);
    }
    let mut progress = Progress::new(verb, vms.len());
    let (mut done, mut problems) = (Vec::new(), Vec::new());
    while let Some(ended) = progress.while_waiting(under_way.join_next()).await {
        if let Some(vm) = waiting.next() {
            begin(&mut under_way, vm);
        }
        let (vm, told) = ended?;
        progress.one_more();
        match told {
            Ok(operation) => {
                if !flags.json {
                    progress.clear();
                    print(&outcome(&operation))?;
                }
                done.push(operation);
            }
            Err(problem) => problems.push((vm, problem)),
        }
    }
    progress.clear();
    if flags.json {
        done.sort_by_key(|operation| operation.id);
        print_json(&done)?;
    }
    conclude(problems, vms.len())
}

/// What became of an operation, in a line.
fn outcome(operation: &OperationView) -> String {
    let OperationView { what, vm, .. } = operation;
    let Some(ended) = operation.ended_at else {
        return format!("{vm}: {what} is under way\n");
    };
    let took = ended.since(operation.started_at).as_secs_f64();
    let how = operation.outcome.as_ref().map(|outcome| format!(" ({outcome})")).unwrap_or_default();
    format!("{vm}: {}{how} in {took:.1} s\n", past_tense(*what))
}

fn past_tense(verb: PowerVerb) -> &'static str {
    match verb {
        PowerVerb::Start => "started",
        PowerVerb::Stop => "stopped",
        PowerVerb::Restart => "restarted",
        PowerVerb::Pause => "paused",
        PowerVerb::Resume => "resumed",
        PowerVerb::Reset => "reset",
        PowerVerb::Nmi => "interrupted",
    }
}

/// Tells what went wrong. Of a single VM as it is, because its kind tells the exit code.
fn conclude(mut problems: Vec<(VmId, ClientError)>, count: usize) -> Result<()> {
    match problems.len() {
        0 => Ok(()),
        1 => Err(problems.remove(0).1.into()),
        failed => {
            problems.sort_by(|(one, _), (other, _)| one.cmp(other));
            let lines: Vec<String> =
                problems.iter().map(|(vm, problem)| format!("{vm}: {problem}")).collect();
            bail!("{failed} of {count} VMs did not:\n{}", lines.join("\n"))
        }
    }
}

/// A line on a terminal that says how far things are, once they have taken a while.
struct Progress {
    verb: PowerVerb,
    count: usize,
    done: usize,
    begun: Instant,
    next: Instant,
    is_wanted: bool,
    is_shown: bool,
}

impl Progress {
    fn new(verb: PowerVerb, count: usize) -> Self {
        let begun = Instant::now();
        let is_wanted = stderr().is_terminal();
        Self { verb, count, done: 0, begun, next: begun + QUIET, is_wanted, is_shown: false }
    }

    /// What `waited` comes to, saying meanwhile how far things are.
    async fn while_waiting<T>(&mut self, waited: impl Future<Output = T>) -> T {
        tokio::pin!(waited);
        loop {
            tokio::select! {
                come = &mut waited => return come,
                () = sleep_until(self.next), if self.is_wanted => self.show(),
            }
        }
    }

    fn one_more(&mut self) {
        self.done += 1;
    }

    fn show(&mut self) {
        self.next += QUIET;
        self.is_shown = true;
        let seconds = self.begun.elapsed().as_secs();
        say(&format!("\r{}: {} of {} done after {seconds} s\x1b[K", self.verb, self.done, self.count));
    }

    /// Takes the line away, so that another can stand there.
    fn clear(&mut self) {
        if std::mem::take(&mut self.is_shown) {
            say("\r\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use vm_model::{Caller, Timestamp};

    use super::*;

    #[test]
    fn an_outcome_is_a_line_that_says_how_and_how_long() {
        let operation = OperationView {
            id: 1,
            what: PowerVerb::Stop,
            vm: VmId::new("web-1"),
            state: admin::OperationState::Done,
            started_at: Timestamp::from_millis(1000),
            ended_at: Some(Timestamp::from_millis(2250)),
            by: Caller::process(0, 0, None),
            outcome: Some("by its power button".to_owned()),
            error: None,
        };
        assert_eq!(outcome(&operation), "web-1: stopped (by its power button) in 1.2 s\n");
        let begun = OperationView { ended_at: None, ..operation };
        assert_eq!(outcome(&begun), "web-1: stop is under way\n");
    }

    #[test]
    fn what_failed_is_told_of_each_vm() {
        let problem = |status| ClientError::Refused {
            status,
            error: admin::ApiError::new(admin::ErrorCode::WrongPhase, "it is stopped"),
        };
        conclude(Vec::new(), 3).expect("all did");
        let one = conclude(vec![(VmId::new("a"), problem(409))], 1).expect_err("it did not");
        assert!(one.downcast_ref::<ClientError>().is_some());
        let two = vec![(VmId::new("b"), problem(409)), (VmId::new("a"), problem(409))];
        let told = conclude(two, 3).expect_err("they did not").to_string();
        assert_eq!(told, "2 of 3 VMs did not:\na: it is stopped\nb: it is stopped");
    }
}
