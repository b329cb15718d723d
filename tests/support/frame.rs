//! The frames of the NATS protocol: enough to cut a stream of bytes into them and to know what each is.
#![allow(dead_code, reason = "each test file uses its part")]

/// Who sends a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    ToServer,
    ToClient,
}

/// One frame with its payload, as it is on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub way: Way,
    bytes: Vec<u8>,
    /// Ends of the first line, without its CR LF, and of the headers.
    line: usize,
    headers: usize,
    verb: String,
    /// Of a message: its subject; of a subscription: what it is to.
    subject: String,
    /// Where an answer or an acknowledgement goes.
    reply: String,
    /// The subscription's number.
    sid: String,
}

impl Frame {
    /// The first whole frame of `buffer`, which is then without it.
    pub fn take(way: Way, buffer: &mut Vec<u8>) -> Option<Self> {
        let line = buffer.windows(2).position(|pair| pair == b"\r\n")?;
        let text = String::from_utf8_lossy(&buffer[..line]).into_owned();
        let mut words = text.split_ascii_whitespace();
        let verb = words.next().unwrap_or_default().to_ascii_uppercase();
        let words: Vec<&str> = if verb == "INFO" { Vec::new() } else { words.collect() };
        let word = |n: usize| words.get(n).copied().unwrap_or_default().to_owned();
        let number = |back: usize| -> usize {
            words.len().checked_sub(back).and_then(|n| words[n].parse().ok()).unwrap_or(0)
        };
        // Between the names and the sizes there may be a reply.
        let (named, sizes) = match verb.as_str() {
            "PUB" => (1, 1),
            "HPUB" => (1, 2),
            "MSG" => (2, 1),
            "HMSG" => (2, 2),
            _ => (words.len(), 0),
        };
        let (headers, payload) = match sizes {
            0 => (0, None),
            1 => (0, Some(number(1))),
            _ => (number(2), Some(number(1))),
        };
        let end = line + 2 + payload.map_or(0, |size| size + 2);
        if buffer.len() < end {
            return None;
        }
        let sid = match verb.as_str() {
            "MSG" | "HMSG" => word(1),
            "SUB" => words.last().copied().unwrap_or_default().to_owned(),
            _ => String::new(),
        };
        let reply = if words.len() > named + sizes { word(named) } else { String::new() };
        let subject = word(0);
        let bytes = buffer.drain(..end).collect();
        Some(Self { way, bytes, line, headers: line + 2 + headers, verb, subject, reply, sid })
    }

    /// A message to a subscription, as the server would send it.
    pub fn message(subject: &str, sid: &str, payload: &[u8]) -> Self {
        let mut bytes = format!("MSG {subject} {sid} {}\r\n", payload.len()).into_bytes();
        bytes.extend_from_slice(payload);
        bytes.extend_from_slice(b"\r\n");
        Self::take(Way::ToClient, &mut bytes).expect("it is whole")
    }

    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub fn verb(&self) -> &str {
        &self.verb
    }

    pub fn subject(&self) -> &str {
        &self.subject
    }

    pub fn reply(&self) -> &str {
        &self.reply
    }

    pub fn sid(&self) -> &str {
        &self.sid
    }

    pub fn headers(&self) -> &[u8] {
        self.bytes.get(self.line + 2..self.headers).unwrap_or_default()
    }

    pub fn payload(&self) -> &[u8] {
        let end = self.bytes.len().saturating_sub(2);
        self.bytes.get(self.headers..end).unwrap_or_default()
    }

    /// An acknowledgement: done, in whichever form.
    pub fn is_ack(&self) -> bool {
        self.is_publish()
            && self.subject.starts_with("$JS.ACK.")
            && (self.payload().is_empty() || self.payload().starts_with(b"+ACK"))
    }

    /// An acknowledgement, or the position that the bus keeps instead.
    pub fn says_done(&self) -> bool {
        self.is_ack() || (self.is_publish() && self.subject.starts_with("$KV."))
    }

    /// A handler is still at it.
    pub fn is_progress(&self) -> bool {
        self.is_publish() && self.payload().starts_with(b"+WPI")
    }

    /// A request for messages of a consumer.
    pub fn is_pull(&self) -> bool {
        self.is_publish() && self.subject.contains(".CONSUMER.MSG.NEXT.")
    }

    /// A message without payload by which the server says how a request stands.
    pub fn is_status(&self) -> bool {
        let headers = self.headers();
        self.way == Way::ToClient
            && headers.starts_with(b"NATS/1.0 ")
            && headers.get(9).is_some_and(u8::is_ascii_digit)
    }

    /// A message of a consumer.
    pub fn is_delivery(&self) -> bool {
        self.is_message() && self.reply.starts_with("$JS.ACK.")
    }

    /// Its numbers in the stream and in the consumer.
    pub fn sequences(&self) -> Option<(u64, u64)> {
        let tokens: Vec<&str> = self.reply.split('.').collect();
        // The longer form has a domain and a hash of the account before the stream, and one more at its end.
        let first = if tokens.len() >= 11 { 7 } else { 5 };
        let number = |n: usize| tokens.get(n).and_then(|token| token.parse().ok());
        self.is_delivery().then(|| Some((number(first)?, number(first + 1)?))).flatten()
    }

    pub fn is_publish(&self) -> bool {
        self.verb == "PUB" || self.verb == "HPUB"
    }

    pub fn is_message(&self) -> bool {
        self.verb == "MSG" || self.verb == "HMSG"
    }

    /// The server's greeting without the addresses by which a client would go around a proxy.
    pub fn without_addresses(mut self) -> Self {
        if self.verb == "INFO"
            && let Some(json) = self.bytes.get(5..self.line)
            && let Ok(serde_json::Value::Object(mut info)) = serde_json::from_slice(json)
        {
            info.remove("connect_urls");
            info.remove("ws_connect_urls");
            let mut bytes = format!("INFO {}\r\n", serde_json::Value::Object(info)).into_bytes();
            self = Self::take(self.way, &mut bytes).expect("it is whole");
        }
        self
    }
}

/// Whether a subscription to `pattern` gets what is sent to `subject`.
pub fn subscribes(pattern: &str, subject: &str) -> bool {
    let mut tokens = subject.split('.');
    for part in pattern.split('.') {
        match (part, tokens.next()) {
            (">", Some(_)) => return true,
            ("*", Some(_)) => {}
            (part, Some(token)) if part == token => {}
            _ => return false,
        }
    }
    tokens.next().is_none()
}
