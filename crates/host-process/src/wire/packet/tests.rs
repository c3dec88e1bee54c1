//! Packets over real sockets, and what a peer may send that is none.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};

use proptest::prelude::*;
use rustix::io::{FdFlags, fcntl_getfd};

use super::*;

fn pair() -> (OwnedFd, OwnedFd) {
    packet_pair().expect("a pair of sockets")
}

fn file_with(content: &str) -> OwnedFd {
    let mut file = tempfile::tempfile().expect("a temporary file");
    file.write_all(content.as_bytes()).expect("it can be written");
    file.into()
}

fn content(file: OwnedFd) -> String {
    let mut file = File::from(file);
    let mut text = String::new();
    file.seek(SeekFrom::Start(0)).expect("it is a file");
    file.read_to_string(&mut text).expect("it can be read");
    text
}

/// Two ends of a pipe: the reading end tells when the last copy of the writing end is closed.
fn tracer() -> (File, OwnedFd) {
    let (reading, writing) = std::io::pipe().expect("a pipe");
    rustix::io::ioctl_fionbio(&reading, true).expect("it can be made non-blocking");
    (OwnedFd::from(reading).into(), writing.into())
}

fn is_closed(reading: &mut File) -> bool {
    matches!(reading.read(&mut [0]), Ok(0))
}

proptest! {
    #[test]
    fn packets_arrive_whole_in_order_and_with_their_descriptors(
        packets in proptest::collection::vec((1_usize..5000, 0_usize..6), 1..6),
    ) {
        let (ours, theirs) = pair();
        for (number, (length, files)) in packets.iter().enumerate() {
            let files: Vec<_> = (0..*files).map(|file| file_with(&format!("{number}.{file}"))).collect();
            let borrowed: Vec<_> = files.iter().map(AsFd::as_fd).collect();
            send_packet(&ours, &vec![b'a' + u8::try_from(number)?; *length], &borrowed)?;
        }
        for (number, (length, files)) in packets.iter().enumerate() {
            let packet = receive_packet(&theirs)?;
            prop_assert_eq!(packet.bytes, vec![b'a' + u8::try_from(number)?; *length]);
            prop_assert_eq!(packet.descriptors.len(), *files);
            for (file, descriptor) in packet.descriptors.into_iter().enumerate() {
                prop_assert!(fcntl_getfd(&descriptor)?.contains(FdFlags::CLOEXEC));
                prop_assert_eq!(content(descriptor), format!("{number}.{file}"));
            }
        }
        prop_assert!(matches!(receive_packet(&theirs), Err(PacketError::NotReady)));
    }
}

#[test]
fn the_largest_packet_arrives_and_a_larger_one_is_not_sent() {
    let (ours, theirs) = pair();
    let (mut traced, descriptor) = tracer();
    let many = vec![descriptor.as_fd(); PACKET_DESCRIPTORS_MAX];
    send_packet(&ours, &vec![b'x'; PACKET_BYTES_MAX], &many).expect("it fits");
    let packet = receive_packet(&theirs).expect("it arrives");
    assert_eq!((packet.bytes.len(), packet.descriptors.len()), (PACKET_BYTES_MAX, PACKET_DESCRIPTORS_MAX));
    drop(packet);
    let more = vec![descriptor.as_fd(); PACKET_DESCRIPTORS_MAX + 1];
    assert!(matches!(send_packet(&ours, b"x", &more), Err(PacketError::TooManyDescriptors)));
    let longer = vec![b'x'; PACKET_BYTES_MAX + 1];
    assert!(matches!(send_packet(&ours, &longer, &[]), Err(PacketError::TooLong)));
    drop((many, more));
    drop(descriptor);
    assert!(is_closed(&mut traced), "no copy is left");
}

#[test]
fn a_packet_that_is_too_long_is_refused_and_its_descriptors_are_closed() {
    let (ours, theirs) = pair();
    let (mut traced, descriptor) = tracer();
    // What a peer does that does not keep to the limits.
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let borrowed = [descriptor.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&borrowed)));
    let bytes = vec![b'x'; PACKET_BYTES_MAX + 1];
    sendmsg(&ours, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).expect("the kernel takes it");
    assert!(matches!(receive_packet(&theirs), Err(PacketError::TooLong)));
    drop(descriptor);
    assert!(is_closed(&mut traced), "no copy is left");
    // The next one is as good as any.
    send_packet(&ours, b"next", &[]).expect("it fits");
    assert_eq!(receive_packet(&theirs).expect("it arrives").bytes, b"next");
}

#[test]
fn a_full_socket_and_a_closed_one_are_told_apart() {
    let (ours, theirs) = pair();
    let mut sent = 0;
    let full = loop {
        match send_packet(&ours, &[b'x'; 4096], &[]) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        assert!(sent < 10_000, "the kernel bounds what is under way");
    };
    assert!(matches!(full, PacketError::NotReady), "{full:?}");
    drop(ours);
    for _ in 0..sent {
        assert_eq!(receive_packet(&theirs).expect("what was sent is not lost").bytes.len(), 4096);
    }
    assert!(matches!(receive_packet(&theirs), Err(PacketError::Closed)));
    assert!(matches!(send_packet(&theirs, b"x", &[]), Err(PacketError::Closed)));
}
