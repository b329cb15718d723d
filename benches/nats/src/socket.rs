//! The limit: a plain blocking socket, with what it reads parsed by hand and nothing kept.

use std::io::{BufReader, Read, Write};
use std::net::TcpStream;

use crate::Failed;
use crate::load::{Load, Tally};
use crate::raw::Acks;

const BATCH: usize = 2_000;

/// The host and port of a URL.
pub fn address(url: &str) -> &str {
    url.split(',').next().unwrap_or(url).trim_start_matches("nats://")
}

/// Pulls from a consumer that is there, until the tally is full.
pub fn pull(url: &str, load: &Load, name: &str, acks: Acks, tally: &Tally) -> Result<(), Failed> {
    let mut out = TcpStream::connect(address(url))?;
    out.set_nodelay(true)?;
    let mut from = BufReader::with_capacity(256 << 10, out.try_clone()?);
    let mut line = Vec::new();
    read_line(&mut from, &mut line)?;
    write!(out, "CONNECT {{\"verbose\":false,\"headers\":true}}\r\nSUB _B.{name} 1\r\n")?;
    let next = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{name}", load.stream);
    let (mut expected, mut unacked) = (0, 0);
    let (mut body, mut acked) = (Vec::new(), Vec::with_capacity(64 << 10));
    while !tally.is_over() {
        if expected <= BATCH / 2 {
            let request = format!(r#"{{"batch":{},"expires":4000000000}}"#, BATCH - expected);
            write!(acked, "PUB {next} _B.{name} {}\r\n{request}\r\n", request.len())?;
            expected = BATCH;
        }
        // What was said is sent when there is nothing more to read, or much to say.
        if !acked.is_empty() && (from.buffer().is_empty() || acked.len() > 32 << 10) {
            out.write_all(&acked)?;
            acked.clear();
        }
        read_line(&mut from, &mut line)?;
        let text = std::str::from_utf8(&line)?;
        if text.starts_with("PING") {
            acked.extend_from_slice(b"PONG\r\n");
            continue;
        }
        let mut tokens = text.split(' ');
        let verb = tokens.next();
        if verb == Some("HMSG") {
            let all = text.rsplit(' ').next().and_then(|size| size.parse().ok()).unwrap_or(0);
            read(&mut from, &mut body, all + 2)?;
            expected = 0; // the pull has ended
            continue;
        }
        if verb != Some("MSG") {
            continue;
        }
        // MSG subject sid reply size
        let (reply, size) = (tokens.nth(2).unwrap_or(""), tokens.next().unwrap_or("0"));
        read(&mut from, &mut body, size.parse::<usize>()? + 2)?;
        tally.note(&body[..body.len() - 2]);
        expected = expected.saturating_sub(1);
        unacked += 1;
        if acks == Acks::Each || acks == Acks::All && unacked == 500 {
            unacked = 0;
            acked.extend_from_slice(b"PUB ");
            acked.extend_from_slice(reply.as_bytes());
            acked.extend_from_slice(b" 4\r\n+ACK\r\n");
        }
    }
    Ok(())
}

fn read_line(from: &mut BufReader<TcpStream>, line: &mut Vec<u8>) -> Result<(), Failed> {
    use std::io::BufRead;
    line.clear();
    if from.read_until(b'\n', line)? == 0 {
        return Err("the server closed the connection".into());
    }
    line.truncate(line.trim_ascii_end().len());
    Ok(())
}

fn read(from: &mut BufReader<TcpStream>, body: &mut Vec<u8>, size: usize) -> Result<(), Failed> {
    body.resize(size, 0);
    Ok(from.read_exact(body)?)
}
