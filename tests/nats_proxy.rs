//! The proxy that fault tests go through, tried with peers that are a socket each.
#![cfg(feature = "nats")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/frame.rs"]
mod frame;
#[path = "support/proxy.rs"]
mod proxy;

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use frame::{Frame, Way, subscribes};
use proxy::{Act, Proxy};

/// Longer than any of these may take.
const HANG: Duration = Duration::from_secs(20);

/// One end of a connection through the proxy.
struct Peer(BufReader<TcpStream>);

impl Peer {
    fn new(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(HANG)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, wire: &str) {
        self.0.get_mut().write_all(wire.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line
    }

    /// What still comes until the end.
    fn rest(&mut self) -> String {
        let mut rest = Vec::new();
        match self.0.read_to_end(&mut rest) {
            Err(error) if error.kind() != ErrorKind::ConnectionReset => panic!("{error}"),
            _ => String::from_utf8(rest).unwrap(),
        }
    }

    /// Whether nothing comes for as long as this.
    fn is_silent(&mut self, time: Duration) -> bool {
        self.0.get_ref().set_read_timeout(Some(time)).unwrap();
        let silent = matches!(self.0.fill_buf(), Err(e) if e.kind() == ErrorKind::WouldBlock);
        self.0.get_ref().set_read_timeout(Some(HANG)).unwrap();
        silent
    }
}

struct Wire {
    listener: TcpListener,
    proxy: Proxy,
    client: Peer,
    server: Peer,
}

fn wire() -> Wire {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let proxy = Proxy::to(listener.local_addr().unwrap());
    let (client, server) = join(&listener, &proxy);
    Wire { listener, proxy, client, server }
}

fn join(listener: &TcpListener, proxy: &Proxy) -> (Peer, Peer) {
    let before = proxy.accepted();
    let client = TcpStream::connect(proxy.url().trim_start_matches("nats://")).unwrap();
    let server = listener.accept().unwrap().0;
    let begun = Instant::now();
    while proxy.accepted() == before {
        assert!(begun.elapsed() < HANG);
        std::thread::yield_now();
    }
    (Peer::new(client), Peer::new(server))
}

#[test]
fn frames_pass_both_ways_and_the_greeting_names_no_other_server() {
    let mut wire = wire();
    wire.server.send("INFO {\"connect_urls\":[\"10.0.0.1:4222\"],\"max_payload\":7}\r\nPING\r\n");
    assert_eq!(wire.client.line(), "INFO {\"max_payload\":7}\r\n");
    assert_eq!(wire.client.line(), "PING\r\n");
    wire.client.send("PUB a 2\r\nh");
    wire.client.send("i\r\nPONG\r\n");
    assert_eq!(
        [wire.server.line(), wire.server.line(), wire.server.line()],
        ["PUB a 2\r\n", "hi\r\n", "PONG\r\n"]
    );
}

#[test]
fn chosen_frames_are_dropped_so_often_and_counted() {
    let mut wire = wire();
    let acks = wire.proxy.inject(2, Act::Drop, Frame::is_ack);
    let seen = wire.proxy.inject(usize::MAX, Act::Pass, Frame::is_ack);
    let ack = |n: u32| format!("PUB $JS.ACK.S.C.1.{n}.{n}.0.0 4\r\n+ACK\r\n");
    wire.client.send(&[ack(1), "PING\r\n".into(), ack(2), ack(3)].concat());
    assert_eq!(wire.server.line(), "PING\r\n");
    assert!(wire.server.line().contains(".3.3."));
    assert_eq!((acks.count(), seen.count()), (2, 1));

    let deliveries = wire.proxy.inject(usize::MAX, Act::Drop, Frame::is_delivery);
    wire.server.send("MSG s 1 $JS.ACK.S.C.1.1.1.0.0 1\r\nx\r\nMSG s 1 1\r\ny\r\n");
    assert_eq!((wire.client.line().as_str(), deliveries.count()), ("MSG s 1 1\r\n", 1));
    deliveries.end();
    wire.server.send("MSG s 1 $JS.ACK.S.C.1.2.2.0.0 1\r\nx\r\n");
    assert_eq!(wire.client.line(), "y\r\n");
    assert!(wire.client.line().contains("$JS.ACK"));
}

#[test]
fn a_cut_inside_a_message_leaves_half_of_it() {
    let mut wire = wire();
    let cut = wire.proxy.inject(1, Act::CutInside(14), Frame::is_message);
    wire.server.send("PING\r\nMSG s 1 5\r\nhello\r\nMSG s 1 5\r\nworld\r\n");
    assert_eq!(wire.client.rest(), "PING\r\nMSG s 1 5\r\nhel");
    assert_eq!(cut.count(), 1);
    assert_eq!(wire.server.rest(), "");
}

#[test]
fn half_of_a_slow_message_comes_at_once_and_the_rest_behind_it_later() {
    let mut wire = wire();
    let slowly = Act::Slowly(Duration::from_millis(300));
    let slow = wire.proxy.inject(1, slowly, Frame::is_message);
    let begun = Instant::now();
    wire.server.send("MSG s 1 5\r\nhello\r\nPING\r\n");
    let mut half = [0; 9];
    wire.client.0.read_exact(&mut half).unwrap();
    assert_eq!(&half, b"MSG s 1 5");
    assert!(wire.client.is_silent(Duration::from_millis(100)));
    assert_eq!([wire.client.line(), wire.client.line()], ["\r\n", "hello\r\n"]);
    assert!(begun.elapsed() >= Duration::from_millis(300));
    assert_eq!((wire.client.line().as_str(), slow.count()), ("PING\r\n", 1));
}

#[test]
fn a_cut_ends_both_sides_and_the_next_connection_works() {
    let mut wire = wire();
    assert_eq!(wire.proxy.cut(), 1);
    assert_eq!((wire.client.rest(), wire.server.rest()), (String::new(), String::new()));
    assert_eq!(wire.proxy.open(), 0);
    let (mut client, mut server) = join(&wire.listener, &wire.proxy);
    client.send("PING\r\n");
    assert_eq!((server.line().as_str(), wire.proxy.accepted()), ("PING\r\n", 2));
}

#[test]
fn a_black_hole_keeps_the_connection_and_lets_nothing_through() {
    let mut wire = wire();
    wire.proxy.black_hole(Way::ToClient);
    wire.server.send("PING\r\n");
    wire.client.send("PONG\r\n");
    assert_eq!(wire.server.line(), "PONG\r\n");
    assert!(wire.client.is_silent(Duration::from_millis(200)) && wire.proxy.open() == 1);
    wire.proxy.heal();
    assert_eq!(wire.client.line(), "PING\r\n");

    // A cut ends what waits in it.
    wire.proxy.black_hole(Way::ToServer);
    wire.client.send("PING\r\n");
    wire.proxy.cut();
    assert_eq!(wire.server.rest(), "");
}

#[test]
fn what_is_delayed_comes_whole_in_order_and_late() {
    let mut wire = wire();
    wire.proxy.delay(Way::ToServer, Duration::from_millis(150));
    let sent = Instant::now();
    for n in 0..10 {
        wire.client.send(&format!("PUB a 1\r\n{n}\r\n"));
    }
    for n in 0..10 {
        assert_eq!(
            [wire.server.line(), wire.server.line()],
            ["PUB a 1\r\n".into(), format!("{n}\r\n")]
        );
    }
    // Late, and not ten times late.
    assert!((150..1_000).contains(&sent.elapsed().as_millis()), "{:?}", sent.elapsed());
}

#[test]
fn a_request_is_answered_in_the_servers_place() {
    let mut wire = wire();
    wire.client.send("SUB _INBOX.x.* 9\r\n");
    wire.server.line();
    let full =
        wire.proxy.inject(1, Act::Answer(b"{\"error\":{}}".to_vec()), |f| f.subject() == "jobs");
    wire.client.send("PUB jobs _INBOX.x.7 2\r\nhi\r\nPING\r\n");
    assert_eq!(wire.server.line(), "PING\r\n");
    assert_eq!(
        [wire.client.line(), wire.client.line()],
        ["MSG _INBOX.x.7 9 12\r\n", "{\"error\":{}}\r\n"]
    );
    assert_eq!(full.count(), 1);
}

#[test]
fn an_end_comes_after_all_that_was_sent() {
    let mut wire = wire();
    wire.server.send("MSG s 1 5\r\nhello\r\nPIN");
    drop(wire.server);
    assert_eq!(wire.client.rest(), "MSG s 1 5\r\nhello\r\nPIN");
}

#[test]
fn connections_are_refused_for_as_long_as_it_is_asked() {
    let wire = wire();
    wire.proxy.refuse(true);
    let address = wire.proxy.url();
    let address = address.trim_start_matches("nats://");
    let mut refused = Vec::new();
    let _ = TcpStream::connect(address).unwrap().read_to_end(&mut refused);
    assert_eq!((refused.len(), wire.proxy.accepted()), (0, 1));
    wire.proxy.refuse(false);
    join(&wire.listener, &wire.proxy);
}

fn frames(way: Way, wire: &str) -> Vec<Frame> {
    let mut buffer = wire.as_bytes().to_vec();
    let frames: Vec<Frame> = std::iter::from_fn(|| Frame::take(way, &mut buffer)).collect();
    assert!(buffer.is_empty(), "left over: {buffer:?}");
    assert_eq!(
        frames.iter().flat_map(|f| f.bytes().to_vec()).collect::<Vec<u8>>(),
        wire.as_bytes()
    );
    frames
}

#[test]
fn a_stream_of_bytes_is_cut_into_frames() {
    let wire = concat!(
        "PING\r\nSUB _INBOX.a.* 3\r\nSUB jobs workers 4\r\n",
        "PUB $JS.ACK.S.C.1.7.9.0.0 4\r\n+ACK\r\n",
        "PUB $JS.API.CONSUMER.MSG.NEXT.S.C _INBOX.a.1 2\r\n{}\r\n",
        "HPUB x _INBOX.a.2 18 20\r\nNATS/1.0\r\nA: 1\r\n\r\nhi\r\nPUB y 0\r\n\r\n",
    );
    let all = frames(Way::ToServer, wire);
    let verbs: Vec<&str> = all.iter().map(Frame::verb).collect();
    assert_eq!(verbs, ["PING", "SUB", "SUB", "PUB", "PUB", "HPUB", "PUB"]);
    assert_eq!((all[1].subject(), all[1].sid(), all[2].sid()), ("_INBOX.a.*", "3", "4"));
    assert!(all[3].is_ack() && !all[3].is_pull() && all[3].reply().is_empty());
    assert!(all[4].is_pull() && all[4].reply() == "_INBOX.a.1" && all[4].payload() == b"{}");
    assert_eq!(
        (all[5].headers(), all[5].payload()),
        (&b"NATS/1.0\r\nA: 1\r\n\r\n"[..], &b"hi"[..])
    );
    assert!(all[6].payload().is_empty() && !all[6].is_ack());
}

#[test]
fn messages_and_statuses_are_told_apart() {
    let wire = "INFO {\"a\": 1}\r\n+OK\r\nMSG s 3 $JS.ACK.S.C.1.7.9.0.0 5\r\nhe\r\no\r\n\
                HMSG _INBOX.a.1 3 28 28\r\nNATS/1.0 404 No Messages\r\n\r\n\r\n\
                HMSG s 3 $JS.ACK._.H.S.C.1.8.10.0.0.x 18 19\r\nNATS/1.0\r\nA: 1\r\n\r\n!\r\n";
    let all = frames(Way::ToClient, wire);
    assert_eq!(all.len(), 5);
    assert_eq!((all[2].sequences(), all[2].payload()), (Some((7, 9)), &b"he\r\no"[..]));
    assert!(all[3].is_status() && !all[3].is_delivery());
    assert_eq!(all[4].sequences(), Some((8, 10)));
    assert!(!all[4].is_status());
}

#[test]
fn half_a_frame_waits_for_the_rest() {
    let wire = b"MSG a 1 5\r\nhello\r\n";
    for end in 0..wire.len() {
        let mut buffer = wire[..end].to_vec();
        assert_eq!(Frame::take(Way::ToClient, &mut buffer), None);
        assert_eq!(buffer.len(), end);
    }
}

#[test]
fn a_greeting_loses_its_addresses() {
    let wire = "INFO {\"connect_urls\":[\"127.0.0.1:1\"],\"version\":\"2\"}\r\n";
    let info = frames(Way::ToClient, wire).remove(0).without_addresses();
    assert_eq!(info.bytes(), b"INFO {\"version\":\"2\"}\r\n");
}

#[test]
fn subscriptions_match_as_the_server_says() {
    assert!(subscribes("a.*.c", "a.b.c") && subscribes("a.>", "a.b.c") && subscribes("a", "a"));
    assert!(!subscribes("a.*", "a.b.c") && !subscribes("a.>", "a") && !subscribes("a.b", "a"));
}
