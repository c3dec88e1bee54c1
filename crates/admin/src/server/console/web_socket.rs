//! A console in a browser: the frames of an attached console as the content of binary WebSocket messages, which begin and end
//! where they happen to.

use std::io;

use axum::body::Bytes;
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};

use super::session::Session;
use crate::console::CONSOLE_PROTOCOL;

/// Bytes on their way in either direction; also the longest message to a client.
const BUFFER: usize = 16 << 10;
/// The longest message from a client: some frames of input. Also the longest of the frames that make one, each of which is
/// in memory before it is looked at.
const MAX_MESSAGE: usize = 64 << 10;

/// `upgrade` to what is served here, of which a client cannot have more kept than a message. What is not masked no browser
/// has sent (RFC 6455 § 5.1).
pub(super) fn bounded(upgrade: WebSocketUpgrade) -> WebSocketUpgrade {
    upgrade
        .protocols([CONSOLE_PROTOCOL])
        .max_frame_size(MAX_MESSAGE)
        .max_message_size(MAX_MESSAGE)
        .accept_unmasked_frames(false)
}

/// Serves the client behind `socket` until either has had enough.
pub(super) async fn serve(session: Session, socket: WebSocket) -> io::Result<()> {
    let (here, there) = duplex(BUFFER);
    let (mut from_session, mut to_session) = split(here);
    let (mut to_client, mut from_client) = socket.split();
    let output = async {
        loop {
            let mut bytes = Vec::with_capacity(BUFFER);
            if from_session.read_buf(&mut bytes).await? == 0 {
                return to_client.close().await.map_err(io::Error::other);
            }
            to_client.send(Message::Binary(Bytes::from(bytes))).await.map_err(io::Error::other)?;
        }
    };
    let input = async {
        while let Some(Ok(message)) = from_client.next().await {
            match message {
                Message::Binary(bytes) => to_session.write_all(&bytes).await?,
                Message::Close(_) => break,
                // Pings are answered where they arrive; there is no text.
                Message::Ping(_) | Message::Pong(_) | Message::Text(_) => {}
            }
        }
        io::Result::Ok(())
    };
    tokio::select! {
        // What the session said at last is sent before the end.
        (run, sent) = async { tokio::join!(session.run(there), output) } => run.and(sent),
        left = input => left,
    }
}
