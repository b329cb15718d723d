//! The servers that other tests run on: started, faulted, stopped, and gone with the test.
#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/broker.rs"]
mod broker;

use std::net::TcpStream;

use broker::Server;

#[test]
fn a_server_can_be_killed_and_started_again() {
    let Some(server) = Server::start(&["--nodes", "1"]) else { return };
    assert!(server.version() >= (2, 9, 0));
    let before = server.pid(1);
    server.kill(1);
    // Its port may be somebody else's by now.
    assert!(!runs(before, &server));
    server.restart(1);
    assert_ne!(server.pid(1), before);
    TcpStream::connect(server.address(1)).unwrap();

    let (dir, last) = (server.dir().to_owned(), server.pid(1));
    assert!(runs(last, &server));
    drop(server);
    assert!(!dir.exists() && !command(last).contains(&*dir.to_string_lossy()));
}

/// Whether this process is one of the server's.
fn runs(pid: u32, server: &Server) -> bool {
    command(pid).contains(&*server.dir().to_string_lossy())
}

fn command(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default()
}

#[test]
fn a_paused_server_is_a_black_hole() {
    let Some(server) = Server::start(&["--nodes", "1"]) else { return };
    let status = || std::fs::read_to_string(format!("/proc/{}/status", server.pid(1))).unwrap();
    server.pause(1);
    assert!(status().contains("State:\tT"));
    TcpStream::connect(server.address(1)).expect("the kernel still answers for it");
    server.resume(1);
    assert!(!status().contains("State:\tT"));
}

#[test]
fn credentials_are_made() {
    let Some(server) = Server::start(&["--nodes", "1", "--security=creds"]) else { return };
    assert!(server.security("ca.pem").exists());
    assert!(server.secret("user.creds").contains("BEGIN USER NKEY SEED"));
}

#[test]
fn one_server_is_shared() {
    let Some(server) = Server::shared() else { return };
    assert!(std::ptr::eq(server, Server::shared().unwrap()));
    assert_eq!(server.nodes(), server.url().split(',').count());
}
