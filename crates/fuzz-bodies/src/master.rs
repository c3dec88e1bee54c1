//! What the other end of the master protocol sends: frames, messages, a certificate.

use master_protocol::codec::{FrameDecoder, decode_master_message, decode_worker_message, encode_frame};
use master_protocol::tls::CertificateFacts;
use master_protocol::wire::v1::MasterMessage;

use crate::input::Input;

/// A stream that arrives in pieces; what is read is written in a form that is read as the same.
pub(crate) fn messages(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let piece = usize::from(input.byte()) + 1;
    let mut decoder = FrameDecoder::new();
    let mut arrived = 0;
    for piece in input.rest().chunks(piece) {
        arrived += piece.len();
        decoder.feed(piece);
        loop {
            match decoder.next_frame() {
                Ok(Some(frame)) => message(frame),
                Ok(None) => break,
                Err(_) => return,
            }
        }
        assert!(decoder.memory() <= 2 * arrived.max(64), "{} bytes for {arrived}", decoder.memory());
    }
    // As one frame, too: lengths are rarely right by accident.
    message(bytes);
}

fn message(frame: &[u8]) {
    match decode_worker_message(frame) {
        Ok(Some(message)) => {
            let written = encode_frame(&message).expect("bounded messages fit");
            assert_eq!(decode_worker_message(&written[4..]), Ok(Some(message)));
        }
        Ok(None) => {}
        Err(problem) => assert!(problem.to_string().len() < 400),
    }
    if let Ok(Some(message)) = decode_master_message(frame) {
        if let MasterMessage::Assignment(assignment) = &message {
            let _ = assignment.read();
        }
        let written = encode_frame(&message).expect("bounded messages fit");
        assert_eq!(decode_master_message(&written[4..]), Ok(Some(message)));
    }
}

/// The certificate of a peer; what is said of it is bounded.
pub(crate) fn certificate_names(bytes: &[u8]) {
    match CertificateFacts::of(bytes) {
        Ok(facts) => assert!(facts.to_string().len() < 64 << 10),
        Err(problem) => assert!(problem.to_string().len() < 1024),
    }
}
