//! A source at work on real files.

use std::fs;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::timeout;
use vm_model::Generation;

use super::*;

const DEADLINE: Duration = Duration::from_secs(20);

/// A source at work on `file`, its requests, its messages and its state.
struct Running {
    requests: watch::Sender<Option<AssignmentsFile>>,
    messages: mpsc::Receiver<NodeMessage>,
    state: watch::Receiver<SourceState>,
    task: JoinHandle<()>,
}

impl Running {
    fn start(file: &Path) -> Self {
        let (requests, requested) = watch::channel(Some(AssignmentsFile::at(file).expect("a file's name")));
        // What is not received keeps nobody waiting here.
        let (sender, messages) = mpsc::channel(64);
        let (states, state) = watch::channel(SourceState::default());
        let task = tokio::spawn(Source::new(requested, states).run(sender));
        Self { requests, messages, state, task }
    }

    /// The next desired state's number; it is taken.
    async fn next(&mut self) -> Option<Generation> {
        let (desired, answer) = loop {
            let message = timeout(DEADLINE, self.messages.recv()).await.expect("in time").expect("open");
            match message {
                NodeMessage::Assignment { desired, answer, .. } => break (desired, answer),
                // What came before could not be used.
                NodeMessage::SourceLost(_) => {}
                other => panic!("{other:?}"),
            }
        };
        let admitted = worker::node::Verdict {
            generation: Generation::new(1),
            held: None,
            outcomes: Vec::new(),
            notes: Vec::new(),
        };
        answer.expect("asked").send(Ok(admitted)).expect("awaited");
        desired.generation
    }

    async fn until(&mut self, wanted: impl FnMut(&SourceState) -> bool) -> SourceState {
        timeout(DEADLINE, self.state.wait_for(wanted)).await.expect("in time").expect("open").clone()
    }

    async fn end(self) {
        drop(self.messages);
        timeout(DEADLINE, self.task).await.expect("ends").expect("whole");
    }
}

fn content(number: u32) -> String {
    format!(r#"{{"generation": {number}, "vms": []}}"#)
}

#[tokio::test]
async fn changes_are_seen_however_the_file_is_written() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("vms.json");
    let mut source = Running::start(&file);

    fs::write(&file, content(1)).expect("created");
    assert_eq!(source.next().await, Some(Generation::new(1)));
    fs::write(&file, "{ half").expect("damaged");
    fs::write(directory.path().join("other"), "x").expect("written");
    fs::write(directory.path().join("new"), content(2)).expect("written");
    fs::rename(directory.path().join("new"), &file).expect("replaced");
    assert_eq!(source.next().await, Some(Generation::new(2)));
    source.end().await;
}

#[tokio::test]
async fn a_change_behind_a_link_and_in_a_new_directory_is_seen() {
    let directory = tempfile::tempdir().expect("a directory");
    let (inner, outer) = (directory.path().join("inner"), directory.path().join("outer"));
    fs::create_dir(&outer).expect("created");
    fs::write(&inner, content(1)).expect("written");
    std::os::unix::fs::symlink(&inner, outer.join("vms.json")).expect("linked");
    let mut source = Running::start(&outer.join("vms.json"));
    assert_eq!(source.next().await, Some(Generation::new(1)));
    fs::write(&inner, content(2)).expect("written");
    assert_eq!(source.next().await, Some(Generation::new(2)));
    fs::remove_dir_all(&outer).expect("removed");
    fs::create_dir(&outer).expect("created again");
    fs::write(outer.join("vms.json"), content(3)).expect("written");
    assert_eq!(source.next().await, Some(Generation::new(3)));
    source.end().await;
}

#[tokio::test]
async fn a_request_has_the_same_file_read_again_and_another_one_followed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.json"), content(1)).expect("written");
    fs::write(path("b.json"), content(2)).expect("written");
    let mut source = Running::start(&path("a.json"));
    assert_eq!(source.next().await, Some(Generation::new(1)));
    source.requests.send_modify(|_| {});
    assert_eq!(source.next().await, Some(Generation::new(1)), "although nothing has changed");
    let other = AssignmentsFile::at(&path("b.json")).expect("a file's name");
    source.requests.send_replace(Some(other));
    assert_eq!(source.next().await, Some(Generation::new(2)));
    assert_eq!(source.until(|state| state.verdict == Verdict::Taken).await.path, Some(path("b.json")));
    source.requests.send_replace(None);
    source.until(|state| state.path.is_none()).await;
    source.end().await;
}

#[tokio::test]
async fn what_is_wrong_with_the_file_is_in_its_state() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("sub/vms.json");
    let mut source = Running::start(&file);
    let missing =
        |state: &SourceState| matches!(&state.verdict, Verdict::Missing(what) if what.contains("/sub"));
    assert_eq!(source.until(missing).await.read_at, None);
    fs::create_dir_all(&file).expect("a directory in its place");
    source.requests.send_modify(|_| {});
    let no_file = |state: &SourceState| matches!(&state.verdict, Verdict::Refused(problem) if problem.contains("regular"));
    source.until(no_file).await;
    fs::remove_dir(&file).expect("removed");
    fs::write(&file, "{ half").expect("written");
    source.requests.send_modify(|_| {});
    let damaged =
        |state: &SourceState| matches!(state.verdict, Verdict::Refused(_)) && state.read_at.is_some();
    source.until(damaged).await;
    fs::write(&file, content(1)).expect("written");
    source.next().await;
    source.until(|state| state.verdict == Verdict::Taken).await;
    source.end().await;
}

#[test]
fn what_can_name_no_file_is_refused() {
    let problem = AssignmentsFile::at(Path::new("..")).expect_err("refused").to_string();
    assert!(problem.contains("a file's name"), "{problem}");
}
