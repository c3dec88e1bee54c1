//! Servers on loopback that answer well, badly, endlessly or not at all.

use std::num::NonZeroU16;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use vm_model::{ProbeCheck, error_chain};

use super::super::ask;
use super::*;
use crate::targets::ProbeTargets;

/// What a server answers.
enum Answer {
    /// These bytes, and then the end.
    Bytes(Vec<u8>),
    /// Nothing, and no end.
    Silence,
    /// A head, and a body without an end.
    Endless,
    /// One interim answer after the other.
    Interim,
}

/// Serves one request on loopback; answers the port, and what was asked.
async fn serve(answer: Answer) -> (NonZeroU16, tokio::task::JoinHandle<String>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let port = NonZeroU16::new(listener.local_addr().expect("its address").port()).expect("a port");
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.expect("a whole request"));
        }
        match answer {
            Answer::Bytes(bytes) => {
                let _ = stream.write_all(&bytes).await;
                let _ = stream.shutdown().await;
            }
            Answer::Silence => {
                let _ = stream.read_u8().await;
            }
            Answer::Endless => {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
                while stream.write_all(&[b'x'; 4096]).await.is_ok() {}
            }
            Answer::Interim => while stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_ok() {},
        }
        String::from_utf8(request).expect("text")
    });
    (port, serving)
}

fn check(port: NonZeroU16, phrase: Option<&str>) -> HttpCheck {
    HttpCheck {
        port,
        path: "/up?x=1".to_owned(),
        host: None,
        least_status: 200,
        greatest_status: 399,
        body_contains: phrase.map(str::to_owned),
    }
}

async fn asked(answer: Answer, phrase: Option<&str>) -> Result<(), String> {
    let (port, _serving) = serve(answer).await;
    get(Ipv4Addr::LOCALHOST, &check(port, phrase)).await.map_err(|failure| error_chain(&failure))
}

fn answer(text: &str) -> Answer {
    Answer::Bytes(text.as_bytes().to_vec())
}

#[tokio::test]
async fn statuses_within_the_bounds_are_successes() {
    assert_eq!(asked(answer("HTTP/1.1 204 No Content\r\n\r\n"), None).await, Ok(()));
    assert_eq!(asked(answer("HTTP/1.1 302 Found\r\nLocation: http://x/\r\n\r\n"), None).await, Ok(()));
    let refused = asked(answer("HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n"), None).await;
    assert_eq!(refused, Err("status 503, expected was 200 to 399".to_owned()));
}

#[tokio::test]
async fn the_request_says_what_is_wanted_of_whom() {
    let (port, serving) = serve(answer("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")).await;
    let named = HttpCheck { host: Some("web.example".to_owned()), ..check(port, None) };
    assert!(get(Ipv4Addr::LOCALHOST, &named).await.is_ok());
    let request = serving.await.expect("served").to_lowercase();
    assert!(request.starts_with("get /up?x=1 http/1.1\r\n"), "{request}");
    assert!(
        request.contains("\r\nhost: web.example\r\n") && request.contains("\r\nconnection: close\r\n"),
        "{request}"
    );
}

#[tokio::test]
async fn a_phrase_is_found_in_bodies_of_every_form() {
    let length = "HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\nall is well!";
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nall is\r\n6\r\n well!\r\n0\r\n\r\n";
    let to_the_end = "HTTP/1.1 200 OK\r\n\r\nall is well!";
    for text in [length, chunked, to_the_end] {
        assert_eq!(asked(answer(text), Some("is well")).await, Ok(()), "{text}");
        let missed = asked(answer(text), Some("is bad")).await;
        assert_eq!(missed, Err("\"is bad\" is not in the first 12 bytes of the answer".to_owned()), "{text}");
    }
}

#[tokio::test]
async fn no_more_is_read_than_is_looked_through() {
    let missed = asked(Answer::Endless, Some("never")).await;
    assert_eq!(missed, Err("\"never\" is not in the first 65536 bytes of the answer".to_owned()));
}

#[tokio::test]
async fn interim_answers_without_an_end_are_a_failure() {
    let within = Duration::from_secs(60);
    let failure = tokio::time::timeout(within, asked(Answer::Interim, None)).await.expect("no endless wait");
    assert!(failure.expect_err("no answer").starts_with("no HTTP answer from 127.0.0.1:"));
    // One is what a server may send.
    let one = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n";
    assert_eq!(asked(answer(one), None).await, Ok(()));
}

#[tokio::test]
async fn what_is_no_http_is_a_failure() {
    let endless_head = Answer::Bytes([b"HTTP/1.1 200 OK\r\nX: ".as_slice(), &[b'x'; 64 << 10]].concat());
    for bad in [answer("220 mail.example ESMTP\r\n"), answer(""), endless_head] {
        let failure = asked(bad, None).await.expect_err("no HTTP");
        assert!(failure.starts_with("no HTTP answer from 127.0.0.1:"), "{failure}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_costs_no_more_than_the_timeout() {
    let (port, serving) = serve(Answer::Silence).await;
    let targets = ProbeTargets { address: Some(Ipv4Addr::LOCALHOST), ..ProbeTargets::default() };
    let within = Duration::from_millis(50);
    let failure = ask(&ProbeCheck::Http(check(port, None)), &targets, within).await.expect_err("silence");
    assert!(matches!(failure, ProbeFailure::Timeout(_)), "{failure}");
    let request = tokio::time::timeout(Duration::from_secs(10), serving).await;
    assert!(request.expect("the connection was closed").is_ok());
    let failure = ask(&ProbeCheck::Http(check(port, None)), &ProbeTargets::default(), within).await;
    assert_eq!(failure.expect_err("no address").to_string(), "the VM has no address");
}
