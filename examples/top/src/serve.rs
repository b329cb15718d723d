//! The service's side: answers views, on threads of its own.

use std::fmt;
use std::io::{self, ErrorKind, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keylane::{Runtime, Snapshot, Subscriber};
use serde::Serialize;

use crate::protocol::{Lines, MAX_REQUEST, PROTOCOL, Request, Target};

/// Views at the same time.
const VIEWS: usize = 8;
/// A view that asks for nothing for so long is let go.
const IDLE: Duration = Duration::from_secs(60);
/// How often a thread looks whether the server ends.
const LOOK: Duration = Duration::from_millis(200);
/// A view that takes nothing for so long is let go.
const WRITE: Duration = Duration::from_secs(5);

/// Shows a runtime to views on this machine, until it is dropped.
///
/// It listens on loopback only, and asks nobody who he is: whoever has an account on the machine may look, and may park,
/// skip and resume keys of the subscriptions that the service has named. Without any he may only look.
///
/// ```
/// use keylane::{Record, Runtime, Subscription};
/// use keylane_top::Server;
///
/// let runtime = Runtime::builder().workers(1).build()?;
/// let orders = runtime.subscribe(Subscription::new("orders"), |_: &Record| Ok(()))?;
/// let server = Server::start("127.0.0.1:0", &runtime, vec![orders])?;
/// println!("keylane-top {}", server.address());
/// # drop(server);
/// # runtime.close(std::time::Duration::from_secs(5))?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

/// Why a server did not start.
#[derive(Debug)]
#[non_exhaustive]
pub enum ServeError {
    /// The address is not one of loopback.
    NotLoopback(SocketAddr),
    /// The address is none, is in use, or the system gives no thread.
    Io(io::Error),
}

impl fmt::Display for ServeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLoopback(address) => {
                write!(
                    f,
                    "{address} is not on loopback: use 127.0.0.1 or [::1], and a tunnel from elsewhere"
                )
            }
            Self::Io(error) => write!(f, "a view cannot be served: {error}"),
        }
    }
}

impl std::error::Error for ServeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotLoopback(_) => None,
            Self::Io(error) => Some(error),
        }
    }
}

struct Shared {
    runtime: Runtime,
    subscribers: Vec<Subscriber>,
    stopped: Arc<AtomicBool>,
    views: AtomicUsize,
}

impl Server {
    /// Listens on `address`, port 0 for any that is free. Keys of `subscribers` may be parked, skipped and resumed.
    ///
    /// # Errors
    /// See [`ServeError`].
    pub fn start(
        address: impl ToSocketAddrs,
        runtime: &Runtime,
        subscribers: Vec<Subscriber>,
    ) -> Result<Self, ServeError> {
        let mut addresses = address.to_socket_addrs().map_err(ServeError::Io)?;
        let none = || ServeError::Io(io::Error::new(ErrorKind::InvalidInput, "no such address"));
        let address = addresses.next().ok_or_else(none)?;
        if !address.ip().is_loopback() {
            return Err(ServeError::NotLoopback(address));
        }
        let listener = TcpListener::bind(address).map_err(ServeError::Io)?;
        let address = listener.local_addr().map_err(ServeError::Io)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let shared = Arc::new(Shared {
            runtime: runtime.clone(),
            subscribers,
            stopped: stopped.clone(),
            views: AtomicUsize::new(0),
        });
        let listener = std::thread::Builder::new()
            .name("keylane-top".into())
            .spawn(move || listen(&listener, &shared))
            .map_err(ServeError::Io)?;
        Ok(Self { address, stopped, listener: Some(listener) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Its threads look at this now and then. The listener is called: it sleeps until somebody comes.
        self.stopped.store(true, Ordering::Release);
        let called = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        if let (Some(listener), Ok(_)) = (self.listener.take(), called) {
            let _ = listener.join();
        }
    }
}

fn listen(listener: &TcpListener, shared: &Arc<Shared>) {
    for stream in listener.incoming() {
        if shared.stopped.load(Ordering::Acquire) {
            break;
        }
        let Ok(stream) = stream else {
            // Out of files, for one: others may be closed meanwhile.
            std::thread::sleep(LOOK);
            continue;
        };
        if shared.views.fetch_add(1, Ordering::AcqRel) >= VIEWS {
            shared.views.fetch_sub(1, Ordering::AcqRel);
            let _ = refuse(stream);
            continue;
        }
        let own = shared.clone();
        let spawned =
            std::thread::Builder::new().name("keylane-top-view".into()).spawn(move || {
                // A view that breaks off is no news.
                let _ = serve(&stream, &own);
                own.views.fetch_sub(1, Ordering::AcqRel);
            });
        if spawned.is_err() {
            shared.views.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

fn refuse(mut stream: TcpStream) -> io::Result<()> {
    stream.set_write_timeout(Some(LOOK))?;
    send(&mut stream, &Answer::error(format!("{VIEWS} views are attached already")))
}

fn serve(mut stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(LOOK))?;
    stream.set_write_timeout(Some(WRITE))?;
    let mut lines = Lines::new(stream, MAX_REQUEST);
    let mut heard = Instant::now();
    while !shared.stopped.load(Ordering::Acquire) {
        let line = match lines.next_line() {
            Ok(Some(line)) => line,
            Ok(None) => break,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if heard.elapsed() >= IDLE {
                    break;
                }
                continue;
            }
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                return send(&mut stream, &Answer::error(error));
            }
            Err(error) => return Err(error),
        };
        heard = Instant::now();
        let answer = match serde_json::from_slice(&line) {
            Ok(request) => shared.answer(request),
            Err(error) => Answer::error(format!("not a request: {error}")),
        };
        send(&mut stream, &answer)?;
    }
    Ok(())
}

fn send(stream: &mut impl Write, answer: &Answer) -> io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    stream.write_all(&line)
}

/// What is sent back.
#[derive(Serialize)]
#[serde(untagged)]
enum Answer {
    Snapshot { protocol: u32, at_nanos: u64, operable: Vec<String>, snapshot: Box<Snapshot> },
    Done { done: String },
    Error { error: String },
}

impl Answer {
    fn error(error: impl fmt::Display) -> Self {
        Self::Error { error: error.to_string() }
    }
}

impl Shared {
    fn answer(&self, request: Request) -> Answer {
        match request {
            Request::Snapshot => Answer::Snapshot {
                protocol: PROTOCOL,
                at_nanos: self.runtime.clock().now().as_nanos(),
                operable: self.subscribers.iter().map(|s| s.name().to_owned()).collect(),
                snapshot: Box::new(self.runtime.snapshot()),
            },
            Request::Park(target) => self.on(&target, |subscriber, key| {
                subscriber
                    .park(key)
                    .then_some("is parked")
                    .ok_or("has no dead letters to park into")
            }),
            Request::Resume(target) => self.on(&target, |subscriber, key| {
                subscriber.resume(key);
                Ok("is resumed")
            }),
            Request::Skip(target) => self.on(&target, |subscriber, key| {
                subscriber.skip(key);
                Ok("passes over what it waits for, unless an attempt at that is under way")
            }),
        }
    }

    fn on(
        &self,
        target: &Target,
        act: impl FnOnce(&Subscriber, &[u8]) -> Result<&'static str, &'static str>,
    ) -> Answer {
        let Target { subscription, key } = target;
        let Some(subscriber) = self.subscribers.iter().find(|s| s.name() == subscription) else {
            return Answer::error(format!("the service lets nobody touch {subscription:?}"));
        };
        if !(1..=keylane::MAX_KEY).contains(&key.len()) {
            return Answer::error("a key has 1 to 4096 bytes");
        }
        match act(subscriber, key) {
            Ok(done) => {
                Answer::Done { done: format!("{} of {subscription} {done}", key.escape_ascii()) }
            }
            Err(why) => Answer::error(format!("{subscription} {why}")),
        }
    }
}
