//! What is written is kept, told and followed.

use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

#[test]
fn the_alarm_rings_once_a_boot() {
    let rings = Arc::new(AtomicU32::new(0));
    let counted = rings.clone();
    let alarm = Box::new(move |news| {
        assert_eq!(news, ConsoleNews::StandsStill);
        counted.fetch_add(1, Ordering::Relaxed);
    });
    let (_, mut writer) = ConsoleRecorder::with_alarm(ConsoleLimits::default(), alarm);
    let words = b"---[ end Kernel panic - not syncing: x ]---\n";
    let rings_after = |written: &[u8], writer: &mut ConsoleWriter| {
        writer.write(written);
        rings.load(Ordering::Relaxed)
    };
    assert_eq!(rings_after(&words[..20], &mut writer), 0);
    assert_eq!(rings_after(&words[20..], &mut writer), 1);
    assert_eq!(rings_after(words, &mut writer), 1);
    assert_eq!(rings_after(&words[..20], &mut writer), 1);
    assert_eq!(writer.begin_boot(), writer.total());
    assert_eq!(rings_after(&words[20..], &mut writer), 1, "these words were begun by another boot");
    assert_eq!(rings_after(words, &mut writer), 2);
}

#[tokio::test]
async fn a_follower_gets_everything_and_then_the_end() {
    let (recorder, mut writer) = ConsoleRecorder::new(ConsoleLimits::default());
    let mut follower = recorder.follow(0);
    let reading = tokio::spawn(async move {
        let mut all = Vec::new();
        while let Some(chunk) = follower.next().await {
            assert_eq!(chunk.missed, 0);
            all.extend(chunk.bytes);
        }
        all
    });
    for piece in [&b"first "[..], b"", b"second"] {
        // Each from a writer of its own: the end is that of the last.
        writer.clone().write(piece);
        tokio::task::yield_now().await;
    }
    writer.write(b"");
    drop(writer);
    assert_eq!(reading.await.expect("the task ends"), b"first second");
    assert_eq!(recorder.total(), 12);
}

#[test]
fn lines_are_those_since_an_offset() {
    let (recorder, mut writer) = ConsoleRecorder::new(ConsoleLimits::default());
    writer.write(b"an earlier life\n");
    let offset = writer.total();
    assert_eq!(recorder.tail_lines_since(offset, 9), [""; 0]);
    writer.write(b"one\ntwo\n");
    assert_eq!(writer.tail_lines_since(offset, 9), ["one", "two"]);
    assert_eq!(recorder.tail_lines_since(u64::MAX, 9), [""; 0]);
    assert_eq!(recorder.tail_lines_since(0, 9), ["an earlier life", "one", "two"]);
}

#[tokio::test]
async fn a_slow_follower_is_told_what_it_missed() {
    let (recorder, mut writer) = ConsoleRecorder::new(ConsoleLimits { head: 4, tail: 4 });
    let mut follower = recorder.follow(0);
    writer.write(b"0123456789");
    drop(writer);
    let head = follower.next().await.expect("the head");
    assert_eq!((head.missed, &head.bytes[..]), (0, &b"0123"[..]));
    let tail = follower.next().await.expect("the tail");
    assert_eq!((tail.missed, &tail.bytes[..]), (2, &b"6789"[..]));
    assert_eq!(follower.next().await, None);
}

#[test]
fn a_boot_that_waits_for_a_person_is_told_once_with_its_cause() {
    let told = Arc::new(Mutex::new(Vec::new()));
    let heard = told.clone();
    let alarm = Box::new(move |news| heard.lock().expect("whole").push(news));
    let (_, mut writer) = ConsoleRecorder::with_alarm(ConsoleLimits::default(), alarm);
    writer.write(b"mount: /sysroot: unknown filesystem type 'erofs'.\n");
    writer.begin_boot();
    for byte in b"[ 9.0] ALERT!  /dev/vda9 does not exist.  Dropping to a shell!\r\n" {
        writer.write(&[*byte]);
    }
    writer.write(b"You are in emergency mode\n");
    let told = told.lock().expect("whole").clone();
    let [ConsoleNews::BootTrouble(trouble)] = &told[..] else { panic!("{told:?}") };
    assert_eq!(trouble.class, vm_model::FailureClass::NoRootDevice, "the other line was another boot's");
    assert_eq!(trouble.line, "ALERT!  /dev/vda9 does not exist.  Dropping to a shell!");
}
