//! Whether the guest accepts a connection.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::num::NonZeroU16;

use tokio::net::TcpStream;

use crate::finding::ProbeFailure;

/// Connects to `port` of `address`.
pub(super) async fn connect(address: Ipv4Addr, port: NonZeroU16) -> Result<TcpStream, ProbeFailure> {
    let target = SocketAddrV4::new(address, port.get());
    TcpStream::connect(target)
        .await
        .map_err(|source| ProbeFailure::Connect { target: target.to_string(), source })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_port_that_is_listened_on_is_found_and_another_is_not() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let port = NonZeroU16::new(listener.local_addr().expect("its address").port()).expect("a port");
        assert!(connect(Ipv4Addr::LOCALHOST, port).await.is_ok());
        drop(listener);
        let failure = connect(Ipv4Addr::LOCALHOST, port).await.expect_err("nobody listens");
        assert_eq!(failure.to_string(), format!("cannot connect to 127.0.0.1:{port}"));
    }
}
