//! What frames come to over the wire, whole and damaged.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

fn server_frames() -> impl Strategy<Value = ServerFrame> {
    prop_oneof![
        vec(any::<u8>(), 0..300).prop_map(ServerFrame::Output),
        any::<(u32, u64)>().prop_map(|(boot, offset)| ServerFrame::Place(ConsolePosition { boot, offset })),
        any::<u64>().prop_map(ServerFrame::Missed),
        any::<u64>().prop_map(ServerFrame::InputDropped),
        ".{0,20}".prop_map(|who| ServerFrame::Pen(PenState::Held(who))),
        ".{0,20}".prop_map(|who| ServerFrame::Pen(PenState::Stolen(who))),
        Just(ServerFrame::Pen(PenState::Yours)),
        Just(ServerFrame::Pen(PenState::ReadOnly)),
        Just(ServerFrame::End(ConsoleEnd::Complete)),
        Just(ServerFrame::End(ConsoleEnd::VmGone)),
        Just(ServerFrame::End(ConsoleEnd::WorkerEnding)),
        ".{0,20}".prop_map(|why| ServerFrame::End(ConsoleEnd::Failed(why))),
    ]
}

fn client_frames() -> impl Strategy<Value = ClientFrame> {
    prop_oneof![
        vec(any::<u8>(), 0..MAX_INPUT).prop_map(ClientFrame::Input),
        any::<(u16, u16)>().prop_map(|(columns, rows)| ClientFrame::Resize { columns, rows }),
        Just(ClientFrame::AskPen),
    ]
}

fn read_all<F: WireFrame>(bytes: &[u8]) -> io::Result<Vec<F>> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut reader = FrameReader::new(bytes);
        let mut frames = Vec::new();
        while let Some(frame) = reader.next().await? {
            frames.push(frame);
        }
        Ok(frames)
    })
}

proptest! {
    #[test]
    fn what_is_sent_is_read(from_server in vec(server_frames(), 0..8), from_client in vec(client_frames(), 0..8)) {
        let bytes: Vec<u8> = from_server.iter().flat_map(WireFrame::encoded).collect();
        prop_assert_eq!(read_all::<ServerFrame>(&bytes).expect("frames"), from_server);
        let bytes: Vec<u8> = from_client.iter().flat_map(WireFrame::encoded).collect();
        prop_assert_eq!(read_all::<ClientFrame>(&bytes).expect("frames"), from_client);
    }

    #[test]
    fn any_bytes_are_borne(bytes in vec(any::<u8>(), 0..200)) {
        let _ = read_all::<ServerFrame>(&bytes);
        let _ = read_all::<ClientFrame>(&bytes);
    }
}

#[test]
fn frames_of_later_versions_are_skipped_and_wrong_ones_are_not() {
    let later = [&[77, 0, 2, 1, 2][..], &ClientFrame::Input(b"x".to_vec()).encoded()].concat();
    assert_eq!(read_all::<ClientFrame>(&later).expect("frames"), [ClientFrame::Input(b"x".to_vec())]);
    read_all::<ClientFrame>(&[2, 0, 1, 0]).expect_err("a size of one byte");
    read_all::<ClientFrame>(&[1, 0, 9, 0]).expect_err("it ends within a frame");
    let long = [&[1, 0xff, 0xff][..], &[0; 0xffff]].concat();
    read_all::<ClientFrame>(&long).expect_err("more input than is taken");
}
