//! What is logged about a VM, by the worker or by the process that runs it.

use std::collections::VecDeque;
use std::time::Duration;

use admin::{AdminClient, ClientError, ErrorCode, VmLogSource};
use anyhow::Result;
use tokio::time::sleep;
use vm_model::{Timestamp, VmId};

use super::super::print;
use crate::cli::LogsFlags;

/// How often it is looked for more.
const LOOK: Duration = Duration::from_millis(500);

/// Prints what `source` logged about VM `id`, as far as `flags` ask for it.
pub(super) async fn logs(
    client: &AdminClient,
    id: &VmId,
    source: VmLogSource,
    flags: &LogsFlags,
) -> Result<()> {
    let kept = client.get_vm_log(id, source, None).await?;
    let since = flags.since.map(|span| {
        let span = u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX);
        Timestamp::from_millis(Timestamp::now().as_millis().saturating_sub(span)).to_string()
    });
    print(&chosen(&kept.text, since.as_deref(), flags.tail))?;
    if flags.follow { follow(client, id, source, kept.next).await } else { Ok(()) }
}

/// Prints what is logged after `next`, until the VM is gone.
async fn follow(client: &AdminClient, id: &VmId, source: VmLogSource, mut next: String) -> Result<()> {
    loop {
        sleep(LOOK).await;
        match client.get_vm_log(id, source, Some(&next)).await {
            Ok(more) => {
                print(&more.text)?;
                next = more.next;
            }
            // It goes on when there is a worker again.
            Err(ClientError::Unreachable { .. } | ClientError::Broken { .. } | ClientError::Late { .. }) => {}
            Err(ClientError::Refused { error, .. }) if error.code == ErrorCode::Ending => {}
            Err(problem) => return Err(problem.into()),
        }
    }
}

/// The lines that are asked for. They begin with a moment, whose form sorts by time.
fn chosen(text: &str, since: Option<&str>, tail: Option<usize>) -> String {
    let mut lines: VecDeque<&str> =
        text.split_inclusive('\n').filter(|line| since.is_none_or(|since| *line >= since)).collect();
    let surplus = tail.map_or(0, |tail| lines.len().saturating_sub(tail));
    lines.drain(..surplus);
    lines.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_chosen_by_their_moments_and_from_the_end() {
        let text = "2024-02-29T13:00:00Z INFO a\n2024-02-29T13:00:05Z INFO b\n2024-02-29T14:00:00Z INFO c\n";
        assert_eq!(chosen(text, None, None), text);
        assert_eq!(chosen(text, None, Some(1)), "2024-02-29T14:00:00Z INFO c\n");
        let since = Some("2024-02-29T13:00:05Z");
        assert_eq!(chosen(text, since, None).lines().count(), 2);
        assert_eq!(chosen(text, since, Some(0)), "");
    }
}
