//! The codec over any bytes, in any pieces.

use proptest::prelude::*;

use super::*;
use crate::samples;
use crate::wire::v1::{FRAME_MOST_BYTES, MasterMessage, NESTING_MOST, Ping, Report, WorkerMessage};
use crate::wire::{List, Text};

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("lengths in tests are small")
}

fn frames_of(decoder: &mut FrameDecoder) -> Result<Vec<Vec<u8>>, FrameError> {
    let mut frames = Vec::new();
    while let Some(frame) = decoder.next_frame()? {
        frames.push(frame.to_vec());
    }
    Ok(frames)
}

#[test]
fn every_message_is_read_back_as_it_was_written() {
    for message in samples::worker_messages() {
        let frame = encode_frame(&message).expect("it fits");
        assert_eq!(decode_worker_message(&frame[4..]), Ok(Some(message)));
    }
    for message in samples::master_messages() {
        let frame = encode_frame(&message).expect("it fits");
        assert_eq!(decode_master_message(&frame[4..]), Ok(Some(message)));
    }
}

#[test]
fn unknown_types_keys_and_values_are_skipped() {
    assert_eq!(decode_worker_message(br#"{"type": "music", "x": [1, {}]}"#), Ok(None));
    assert_eq!(decode_master_message(br#"{"type": "hello"}"#), Ok(None), "it is the worker's");
    let read = decode_worker_message(br#"{"x": {"type": 7}, "type": "ping", "nonce": 3, "y": null}"#);
    assert_eq!(read, Ok(Some(WorkerMessage::Ping(Ping { nonce: 3 }))));
    let read = decode_worker_message(br#"{"type": "goodbye", "code": "new_in_version_9"}"#);
    let Ok(Some(WorkerMessage::Goodbye(goodbye))) = read else { panic!("{read:?}") };
    assert_eq!(goodbye.code, crate::wire::v1::GoodbyeCode::Unknown);
}

#[test]
fn what_is_no_message_is_refused_in_few_words() {
    let deep = format!("{{\"type\": \"ping\", \"x\": {}", "[".repeat(NESTING_MOST));
    let long = format!("{{\"type\": \"hello\", \"versions\": \"{}\"}}", "x".repeat(1 << 20));
    for (frame, words) in [
        ("", "does not begin with a brace"),
        ("[\"ping\", 1]", "does not begin with a brace"),
        ("{}", "missing field `type`"),
        ("{\"type\": 7}", "invalid type"),
        ("{\"type\": \"ping\", \"type\": \"pong\"}", "duplicate field `type`"),
        ("{\"type\": \"ping\"} x", "trailing characters"),
        (
            "{\"type\": \"ping\", \"nonce\": -1}",
            "invalid message \"ping\": nonce: invalid value: integer `-1`, expected a whole number from 0 to",
        ),
        ("{\"type\": \"hello\"}", "missing field `versions`"),
        (&deep, "nested more than 64 deep"),
        (&long, "invalid message \"hello\""),
    ] {
        let said = decode_worker_message(frame.as_bytes()).expect_err(words).to_string();
        assert!(said.contains(words) && said.len() < 400, "{said}");
    }
    assert!(decode_worker_message(b"{\"type\": \"\xff\"}").is_err());
}

#[test]
fn a_length_out_of_bounds_is_refused_before_anything_is_gathered() {
    let mut decoder = FrameDecoder::new();
    decoder.feed(&length(FRAME_MOST_BYTES).to_be_bytes());
    assert_eq!(decoder.next_frame(), Ok(None));
    assert!(decoder.memory() < 100, "{} bytes for a length alone", decoder.memory());
    for (announced, error) in [
        (0, FrameError::Empty),
        (length(FRAME_MOST_BYTES) + 1, FrameError::TooLong { length: length(FRAME_MOST_BYTES) + 1 }),
        (u32::MAX, FrameError::TooLong { length: u32::MAX }),
    ] {
        let mut decoder = FrameDecoder::new();
        decoder.feed(&announced.to_be_bytes());
        assert_eq!(decoder.next_frame(), Err(error));
        decoder.feed(b"more");
        assert_eq!(decoder.next_frame(), Err(error));
    }
}

#[test]
fn the_longest_frame_comes_through_byte_by_byte_and_is_given_back() {
    let mut bytes = length(FRAME_MOST_BYTES).to_be_bytes().to_vec();
    bytes.resize(bytes.len() + FRAME_MOST_BYTES, b' ');
    let mut decoder = FrameDecoder::new();
    for (at, byte) in bytes.iter().enumerate() {
        decoder.feed(&[*byte]);
        let is_whole = decoder.next_frame().expect("valid").is_some();
        assert_eq!(is_whole, at + 1 == bytes.len());
    }
    assert!(decoder.memory() <= 2 * bytes.len());
    assert_eq!(decoder.next_frame(), Ok(None));
    assert_eq!(decoder.memory(), 0);
}

#[test]
fn a_report_that_fits_no_frame_is_sent_in_parts() {
    let vm = samples::vm_report("web-1");
    let vms = (0..4000).map(|number| {
        let mut vm = vm.clone();
        vm.vm = vm_model::VmId::new(&format!("vm-{number}"));
        vm.image = Text::cut("/".repeat(4096));
        vm
    });
    let report = Report { sequence: 7, full: true, vms: List::cut(vms), ..Report::default() };
    let frames = encode_report(report.clone()).expect("it fits in several");
    let read: Vec<Report> = frames
        .iter()
        .map(|frame| match decode_worker_message(&frame[4..]) {
            Ok(Some(WorkerMessage::Report(report))) => *report,
            other => panic!("{other:?}"),
        })
        .collect();
    assert!(read.len() > 4);
    assert!(read.iter().all(|part| part.node == report.node));
    let marks: Vec<(u64, bool, bool)> =
        read.iter().map(|part| (part.sequence, part.full, part.more)).collect();
    let last = read.len() - 1;
    let expected: Vec<_> = (0..read.len()).map(|at| (7, at == 0, at != last)).collect();
    assert_eq!(marks, expected);
    let joined: Vec<_> = read.into_iter().flat_map(|part| part.vms.into_vec()).collect();
    assert_eq!(joined, report.vms.into_vec());
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_and_memory_follows_what_arrived(
        pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..40),
    ) {
        let mut decoder = FrameDecoder::new();
        let mut arrived = 0;
        for piece in pieces {
            arrived += piece.len();
            decoder.feed(&piece);
            match frames_of(&mut decoder) {
                Ok(frames) => for frame in frames {
                    let _ = (decode_worker_message(&frame), decode_master_message(&frame));
                },
                Err(_) => break,
            }
            prop_assert!(decoder.memory() <= 2 * arrived.max(64));
        }
    }

    #[test]
    fn any_division_of_the_bytes_gives_the_same_frames(
        frames in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
        cuts in prop::collection::vec(1_usize..50, 1..60),
    ) {
        let mut bytes = Vec::new();
        for frame in &frames {
            bytes.extend(length(frame.len()).to_be_bytes());
            bytes.extend(frame);
        }
        let mut decoder = FrameDecoder::new();
        let (mut read, mut rest) = (Vec::new(), bytes.as_slice());
        for cut in cuts.iter().cycle() {
            let (piece, after) = rest.split_at((*cut).min(rest.len()));
            decoder.feed(piece);
            read.extend(frames_of(&mut decoder).expect("valid lengths"));
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert!(decoder.is_between_frames());
        prop_assert_eq!(read, frames);
    }

    #[test]
    fn a_message_with_any_byte_changed_is_read_or_refused(which in 0_usize..20, at in any::<usize>(), byte: u8) {
        let messages = samples::worker_messages();
        let mut frame = serde_json::to_vec(&messages[which % messages.len()]).expect("JSON");
        let at = at % frame.len();
        frame[at] = byte;
        if let Ok(Some(message)) = decode_worker_message(&frame) {
            let again = serde_json::to_vec(&message).expect("JSON");
            prop_assert_eq!(decode_worker_message(&again), Ok(Some(message)));
        }
        let masters: Vec<MasterMessage> = samples::master_messages();
        let mut frame = serde_json::to_vec(&masters[which % masters.len()]).expect("JSON");
        let at = at % frame.len();
        frame[at] = byte;
        let _ = decode_master_message(&frame);
    }
}
