//! Attaching to a VM's console.

use std::io;

use hyper::body::Bytes;
use hyper::upgrade::Upgraded;
use hyper::{Request, StatusCode, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncWriteExt, ReadHalf, WriteHalf, split};
use vm_model::VmId;

use super::exchange::{broken, refused, send, whole};
use super::{AdminClient, ClientError, DEADLINE};
use crate::console::{
    BootList, CONSOLE_PROTOCOL, ClientFrame, ConsoleRequest, FrameReader, MAX_INPUT, ServerFrame, WireFrame,
};

/// What comes from an attached console.
#[derive(Debug)]
pub struct ConsoleOutput(FrameReader<ReadHalf<TokioIo<Upgraded>>>);

/// What goes to an attached console. Dropping it together with the output detaches.
#[derive(Debug)]
pub struct ConsoleInput(WriteHalf<TokioIo<Upgraded>>);

impl ConsoleOutput {
    /// The next frame; `None` when the worker has closed the connection. Cancel-safe.
    ///
    /// # Errors
    /// The connection broke off.
    pub async fn next(&mut self) -> io::Result<Option<ServerFrame>> {
        self.0.next().await
    }
}

impl ConsoleInput {
    /// Types `bytes`. Waits while the guest does not read; output should be taken meanwhile. Not cancel-safe.
    ///
    /// # Errors
    /// The connection broke off.
    pub async fn type_in(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(MAX_INPUT) {
            self.0.write_all(&ClientFrame::Input(piece.to_vec()).encoded()).await?;
        }
        Ok(())
    }

    /// Asks for the pen, where nobody has it. The answer comes among what is read. Not cancel-safe.
    ///
    /// # Errors
    /// The connection broke off.
    pub async fn ask_pen(&mut self) -> io::Result<()> {
        self.0.write_all(&ClientFrame::AskPen.encoded()).await
    }

    /// Tells the size of the terminal. Not cancel-safe.
    ///
    /// # Errors
    /// The connection broke off.
    pub async fn resize(&mut self, columns: u16, rows: u16) -> io::Result<()> {
        self.0.write_all(&ClientFrame::Resize { columns, rows }.encoded()).await
    }
}

impl AdminClient {
    /// The boots of VM `id` whose console is kept, oldest first.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn list_boots(&self, id: &VmId) -> Result<BootList, ClientError> {
        self.get_json(&format!("/v1/vms/{id}/console/boots")).await
    }

    /// Attaches to the console of VM `id`.
    ///
    /// # Errors
    /// See [`ClientError`].
    pub async fn attach_console(
        &self,
        id: &VmId,
        request: &ConsoleRequest,
    ) -> Result<(ConsoleOutput, ConsoleInput), ClientError> {
        let path = format!("/v1/vms/{id}/console/attach?{}", query(request));
        let name = format!("GET {path}");
        let attaching = self.upgrade(&name, &path);
        let upgraded = self.within(DEADLINE, &name, attaching).await?;
        let (output, input) = split(TokioIo::new(upgraded));
        Ok((ConsoleOutput(FrameReader::new(output)), ConsoleInput(input)))
    }

    async fn upgrade(&self, name: &str, path: &str) -> Result<Upgraded, ClientError> {
        let (mut sender, connection) = self.connect(name).await?;
        // It ends when the connection is handed over, or with it.
        tokio::spawn(connection.with_upgrades());
        let request = Request::get(path)
            .header(header::CONNECTION, "upgrade")
            .header(header::UPGRADE, CONSOLE_PROTOCOL);
        let mut response = send(&mut sender, name, request, Bytes::new()).await?;
        let status = response.status();
        if status != StatusCode::SWITCHING_PROTOCOLS {
            return Err(refused(name, status, &whole(name, response).await?));
        }
        hyper::upgrade::on(&mut response).await.map_err(|source| broken(name, source))
    }
}

/// `request` as the query of a URL. Its values are words and numbers, which need no escaping.
fn query(request: &ConsoleRequest) -> String {
    let keys = match serde_json::to_value(request) {
        Ok(serde_json::Value::Object(keys)) => keys,
        // A structure of plain values is an object.
        Ok(_) | Err(_) => serde_json::Map::new(),
    };
    let pairs = keys.iter().map(|(key, value)| match value.as_str() {
        Some(text) => format!("{key}={text}"),
        None => format!("{key}={value}"),
    });
    pairs.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::console::PenRequest;

    #[test]
    fn what_is_asked_for_stands_in_the_query() {
        assert_eq!(query(&ConsoleRequest::default()), "follow=false&one_boot=false");
        let request = ConsoleRequest {
            pen: PenRequest::Steal,
            follow: true,
            one_boot: false,
            boot: Some(-1),
            offset: Some(7),
            tail: Some(9),
        };
        let mut pairs: Vec<String> = query(&request).split('&').map(str::to_owned).collect();
        pairs.sort();
        assert_eq!(pairs, ["boot=-1", "follow=true", "offset=7", "one_boot=false", "pen=steal", "tail=9"]);
    }
}
