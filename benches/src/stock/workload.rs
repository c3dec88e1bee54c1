//! What a guest does while it is measured, and the host's end of it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use anyhow::{Context, Result, anyhow, ensure};

/// The host, as the guest sees it.
pub(crate) const HOST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
/// The guest, as the host sees it.
pub(crate) const GUEST: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
/// Where the host listens for the guest.
pub(crate) const PORT: u16 = 5001;

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    /// None: up to init, and off.
    Boot,
    /// Reads its disk, past the guest's page cache.
    Read,
    /// Writes its disk, past the guest's page cache.
    Write,
    /// Sends over TCP.
    Send,
    /// Receives over TCP.
    Receive,
}

impl Workload {
    pub(crate) const ALL: [Self; 5] = [Self::Boot, Self::Read, Self::Write, Self::Send, Self::Receive];

    /// For programs, and for the guest.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Boot => "boot",
            Self::Read => "read",
            Self::Write => "write",
            Self::Send => "send",
            Self::Receive => "receive",
        }
    }

    /// How much of it.
    pub(crate) fn mebibytes(self) -> u64 {
        match self {
            Self::Boot => 0,
            // What takes a good second of processor time: that is counted in hundredths.
            Self::Read | Self::Write => 96,
            Self::Receive => 48,
            Self::Send => 4,
        }
    }

    pub(crate) fn has_network(self) -> bool {
        matches!(self, Self::Send | Self::Receive)
    }

    /// The host's end, listening by the time this returns.
    pub(crate) fn start_peer(self) -> Result<Peer> {
        if !self.has_network() {
            return Ok(Peer(None));
        }
        let address = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let listener = TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
        Ok(Peer(Some(thread::spawn(move || self.serve(&listener)))))
    }

    fn serve(self, listener: &TcpListener) -> Result<()> {
        let (mut stream, _) = listener.accept().context("cannot accept the guest")?;
        let bytes = self.mebibytes() << 20;
        match self {
            Self::Receive => give(&mut stream, bytes),
            Self::Boot | Self::Read | Self::Write | Self::Send => {
                let taken = take(&mut stream)?;
                ensure!(taken == bytes, "the guest sent {taken} bytes instead of {bytes}");
                Ok(())
            }
        }
    }
}

/// The host's end of a workload.
pub(crate) struct Peer(Option<JoinHandle<Result<()>>>);

impl Peer {
    /// Waits until the host's end has seen everything.
    pub(crate) fn join(self) -> Result<()> {
        self.0.map_or(Ok(()), |thread| thread.join().map_err(|_| anyhow!("the host's end panicked"))?)
    }
}

fn give(stream: &mut TcpStream, bytes: u64) -> Result<()> {
    std::io::copy(&mut std::io::repeat(0x5a).take(bytes), stream).context("cannot send to the guest")?;
    stream.flush().context("cannot send to the guest")
}

fn take(stream: &mut TcpStream) -> Result<u64> {
    let mut buffer = vec![0; 1 << 20];
    let mut taken = 0;
    loop {
        match stream.read(&mut buffer).context("cannot receive from the guest")? {
            0 => return Ok(taken),
            length => taken += length as u64,
        }
    }
}
