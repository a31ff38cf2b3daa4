//! Connections are counted, and one that says nothing is closed: strangers cannot use up the node.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::{net::SocketAddr, time::Duration};

use common::{Node, Setup, ask_digits, seven, start_with};
use hyperion_rpc::serve::ServeConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// Longer than any test.
const LONG: Duration = Duration::from_secs(600);

async fn node(connections_max: usize, greeting_wait: Duration) -> Node {
    let setup = Setup::default();
    let serve = ServeConfig { connections_max, greeting_wait, ..setup.serve };
    start_with(Setup { serve, ..Setup::default() }).await
}

async fn connect(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

const LIVE: &[u8] = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// What comes until the node closes the connection.
async fn all_of(mut socket: TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is a close, too.
    drop(socket.read_to_end(&mut answer).await);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_waits_until_another_closes() {
    let node = node(3, LONG).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        // One after the other, each with an answer: so the node has taken it.
        let mut socket = connect(node.http).await;
        socket.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        let mut start = [0; 12];
        socket.read_exact(&mut start).await.unwrap();
        assert_eq!(&start, b"HTTP/1.1 200");
        held.push(socket);
    }
    let mut fourth = connect(node.http).await;
    fourth.write_all(LIVE).await.unwrap();
    let mut answer = tokio::spawn(all_of(fourth));
    let early = tokio::time::timeout(Duration::from_millis(300), &mut answer).await;
    assert!(early.is_err(), "served beside three: {early:?}");

    // The other listener has places of its own, and the node goes on working.
    let mut client = node.client().await;
    client.inference.infer(ask_digits(seven())).await.unwrap();

    held.pop();
    assert!(answer.await.unwrap().starts_with("HTTP/1.1 200"));
    // Its place is free again, too.
    let mut fifth = connect(node.http).await;
    fifth.write_all(LIVE).await.unwrap();
    assert!(all_of(fifth).await.starts_with("HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_shows_no_protocol_is_closed_and_gives_up_its_place() {
    let node = node(2, Duration::from_millis(50)).await;
    // Nothing; half a preface; all of it but the last byte.
    let silences: [&[u8]; 3] = [b"", b"PRI * HT", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"];
    for address in [node.http, node.grpc] {
        let mut silent = Vec::new();
        for _ in 0..4 {
            for said in silences {
                let mut socket = connect(address).await;
                socket.write_all(said).await.unwrap();
                silent.push(tokio::spawn(all_of(socket)));
            }
        }
        // Twelve of them, two places: each is closed, with no answer to a request that it never made.
        for socket in silent {
            let answer = socket.await.unwrap();
            assert!(!answer.contains("200"), "{answer}");
        }
    }
    let mut socket = connect(node.http).await;
    socket.write_all(LIVE).await.unwrap();
    assert!(all_of(socket).await.starts_with("HTTP/1.1 200"));
    let mut client = node.client().await;
    client.inference.infer(ask_digits(seven())).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_shown_its_protocol_may_be_silent() {
    let node = node(2, Duration::from_millis(200)).await;
    let mut client = node.client().await;
    client.inference.infer(ask_digits(seven())).await.unwrap();
    let mut socket = connect(node.http).await;
    socket.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
    // Another connection of the same age is closed: the time is over.
    assert_eq!(all_of(connect(node.http).await).await, "");
    socket.write_all(&LIVE[21..]).await.unwrap();
    assert!(all_of(socket).await.starts_with("HTTP/1.1 200"));
    client.inference.infer(ask_digits(seven())).await.unwrap();
}
