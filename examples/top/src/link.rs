//! The connection to a service: a thread that asks for snapshots and passes requests on, and connects again when the
//! service has gone away.

use std::collections::VecDeque;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use keylane_top::protocol::{Lines, MAX_ANSWER, PROTOCOL, Request};
use keylane_top::view::Answer;

/// A service that says nothing for so long is gone: a snapshot may take a moment.
const PATIENCE: Duration = Duration::from_secs(5);
/// Between two tries to connect.
const AGAIN: Duration = Duration::from_millis(500);
/// Requests that may wait, and messages.
const MOST: usize = 16;

/// A connection that keeps itself up.
pub struct Link {
    shared: Arc<Mutex<Shared>>,
    requests: SyncSender<Request>,
}

#[derive(Default)]
struct Shared {
    news: VecDeque<Answer>,
    messages: VecDeque<Result<String, String>>,
    trouble: Option<String>,
    connected: bool,
}

impl Link {
    /// To a service at `address`, asked every `every`.
    pub fn new(address: SocketAddr, every: Duration) -> io::Result<Self> {
        let shared = Arc::new(Mutex::new(Shared::default()));
        let (requests, received) = sync_channel(MOST);
        let own = shared.clone();
        std::thread::Builder::new().name("link".into()).spawn(move || {
            let mut link = Thread { address, every, shared: own, requests: received };
            while link.run() {}
        })?;
        Ok(Self { shared, requests })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Passes a request on; false if too many wait.
    pub fn request(&self, request: Request) -> bool {
        self.requests.try_send(request).is_ok()
    }

    /// The next snapshot, if there is a new one.
    pub fn news(&self) -> Option<Answer> {
        self.shared().news.pop_front()
    }

    /// What became of a request.
    pub fn message(&self) -> Option<Result<String, String>> {
        self.shared().messages.pop_front()
    }

    /// Why there is no connection, if there is none.
    pub fn trouble(&self) -> Option<String> {
        self.shared().trouble.clone()
    }
}

struct Thread {
    address: SocketAddr,
    every: Duration,
    shared: Arc<Mutex<Shared>>,
    requests: Receiver<Request>,
}

/// The view has gone.
struct Gone;

impl Thread {
    /// Connects and talks for as long as the service is there. False once the view has gone.
    fn run(&mut self) -> bool {
        let trouble = match self.talk() {
            Ok(Gone) => return false,
            Err(error) => error,
        };
        let trouble = match trouble.kind() {
            ErrorKind::UnexpectedEof => "the service has gone away".to_owned(),
            ErrorKind::WouldBlock | ErrorKind::TimedOut => "the service does not answer".to_owned(),
            _ => trouble.to_string(),
        };
        self.tell(|shared| {
            shared.connected = false;
            shared.trouble = Some(trouble);
        });
        let until = Instant::now() + AGAIN;
        loop {
            match self.requests.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(_) => self.say(Err("not done: there is no connection".into())),
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    fn talk(&mut self) -> io::Result<Gone> {
        let stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut lines = Lines::new(&stream, MAX_ANSWER);
        let mut next = Instant::now();
        loop {
            let request =
                match self.requests.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok(request) => request,
                    Err(RecvTimeoutError::Timeout) => Request::Snapshot,
                    Err(RecvTimeoutError::Disconnected) => return Ok(Gone),
                };
            // After a request its effect is of interest, soon.
            next = Instant::now()
                + if request == Request::Snapshot { self.every } else { Duration::from_millis(50) };
            let mut line = serde_json::to_vec(&request)?;
            line.push(b'\n');
            (&stream).write_all(&line)?;
            let line = lines.next_line()?.ok_or(ErrorKind::UnexpectedEof)?;
            self.take(&line)?;
        }
    }

    fn take(&self, line: &[u8]) -> io::Result<()> {
        let foreign = |why: String| io::Error::new(ErrorKind::InvalidData, why);
        let answer: Answer = serde_json::from_slice(line)
            .map_err(|error| foreign(format!("this is no keylane service: {error}")))?;
        if answer.snapshot.is_some() {
            if answer.protocol != PROTOCOL {
                let theirs = answer.protocol;
                return Err(foreign(format!(
                    "the service speaks protocol {theirs}, this view {PROTOCOL}"
                )));
            }
            self.tell(|shared| {
                (shared.connected, shared.trouble) = (true, None);
                shared.news.push_back(answer);
                if shared.news.len() > MOST {
                    shared.news.pop_front();
                }
            });
            return Ok(());
        }
        match (answer.done, answer.error) {
            (Some(done), _) => self.say(Ok(done)),
            (None, Some(error)) if self.is_connected() => self.say(Err(error)),
            (None, Some(error)) => return Err(foreign(error)),
            (None, None) => return Err(foreign("this is no keylane service".into())),
        }
        Ok(())
    }

    fn is_connected(&self) -> bool {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).connected
    }

    fn say(&self, message: Result<String, String>) {
        self.tell(|shared| {
            shared.messages.push_back(message);
            if shared.messages.len() > MOST {
                shared.messages.pop_front();
            }
        });
    }

    fn tell(&self, change: impl FnOnce(&mut Shared)) {
        change(&mut self.shared.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
