//! A proxy on loopback between a client and a nats-server that does to their frames what a test asks for, and counts it.
#![allow(dead_code, reason = "each test file uses its part")]

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::frame::{Frame, Way, subscribes};

/// Listens for as long as it lives; its connections end with it.
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: SocketAddr,
    closed: AtomicBool,
    state: Mutex<State>,
    /// Holes were closed, or a connection was cut.
    changed: Condvar,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    connections: Vec<Weak<Connection>>,
    accepted: usize,
    refusing: bool,
    hole: [bool; 2],
    delay: [Duration; 2],
    /// How many frames a hole or a delay kept waiting.
    kept: [usize; 2],
}

/// What happens to a frame.
#[derive(Clone, Debug)]
pub enum Act {
    /// Nothing: it is only counted.
    Pass,
    /// It is gone.
    Drop,
    /// The connection ends after this many of its bytes, or the one before its last.
    CutInside(usize),
    /// It does not reach the server: its sender gets this as the reply.
    Answer(Vec<u8>),
    /// Its second half comes so long after the first, and everything else behind it.
    Slowly(Duration),
}

type Matches = Box<dyn Fn(&Frame) -> bool + Send>;

struct Rule {
    matches: Matches,
    act: Act,
    /// How often it still applies.
    left: usize,
    count: Arc<AtomicUsize>,
}

/// A rule that was given, and how often it applied.
#[derive(Clone)]
pub struct Injected {
    shared: Arc<Shared>,
    count: Arc<AtomicUsize>,
}

struct Connection {
    client: TcpStream,
    server: TcpStream,
    cut: AtomicBool,
    /// What the client is subscribed to, by number.
    subscriptions: Mutex<HashMap<String, String>>,
    /// The way to the client, for answers of our own.
    to_client: Sender<Parcel>,
}

/// What one thread reads and the other writes, once it is due.
struct Parcel {
    due: Instant,
    bytes: Vec<u8>,
    /// Between its halves.
    pause: Duration,
    /// The connection ends after it.
    last: bool,
}

impl Parcel {
    fn new(due: Instant, bytes: Vec<u8>) -> Self {
        Self { due, bytes, pause: Duration::ZERO, last: false }
    }
}

impl Proxy {
    /// In front of one server.
    pub fn to(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            upstream,
            closed: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
        });
        let serving = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming() {
                if serving.closed.load(SeqCst) {
                    return;
                }
                if let Ok(client) = client {
                    // No server behind us is a connection that ends at once.
                    let _ = serving.connect(client);
                }
            }
        });
        Self { address, shared }
    }

    pub fn url(&self) -> String {
        format!("nats://{}", self.address)
    }

    /// What matches is done this to, the first `times` times, until the rule is ended. Of several rules the first that
    /// matches and is not used up counts.
    pub fn inject(
        &self,
        times: usize,
        act: Act,
        matches: impl Fn(&Frame) -> bool + Send + 'static,
    ) -> Injected {
        let count = Arc::new(AtomicUsize::new(0));
        let rule = Rule { matches: Box::new(matches), act, left: times, count: count.clone() };
        self.shared.state.lock().rules.push(rule);
        Injected { shared: self.shared.clone(), count }
    }

    /// Ends every connection, and says how many there were.
    pub fn cut(&self) -> usize {
        let connections = std::mem::take(&mut self.shared.state.lock().connections);
        let alive: Vec<_> = connections.iter().filter_map(Weak::upgrade).collect();
        alive.iter().filter(|connection| connection.end(&self.shared)).count()
    }

    /// New connections end at once, or no longer do.
    pub fn refuse(&self, refusing: bool) {
        self.shared.state.lock().refusing = refusing;
    }

    /// Nothing goes this way any more, and nobody is told: what is sent waits for [`heal`](Self::heal).
    pub fn black_hole(&self, way: Way) {
        self.shared.state.lock().hole[way as usize] = true;
    }

    /// What goes this way takes so much longer.
    pub fn delay(&self, way: Way, delay: Duration) {
        self.shared.state.lock().delay[way as usize] = delay;
    }

    /// No black hole and no delay. Rules stay.
    pub fn heal(&self) {
        let mut state = self.shared.state.lock();
        state.hole = Default::default();
        state.delay = Default::default();
        self.shared.changed.notify_all();
    }

    /// How many frames that went this way a hole or a delay has kept waiting so far.
    pub fn kept_waiting(&self, way: Way) -> usize {
        self.shared.state.lock().kept[way as usize]
    }

    /// How many connections were accepted so far.
    pub fn accepted(&self) -> usize {
        self.shared.state.lock().accepted
    }

    /// How many are open.
    pub fn open(&self) -> usize {
        let state = self.shared.state.lock();
        let alive = state.connections.iter().filter_map(Weak::upgrade);
        alive.filter(|connection| !connection.cut.load(SeqCst)).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.closed.store(true, SeqCst);
        self.cut();
        let _ = TcpStream::connect(self.address); // wakes the listening thread
    }
}

impl Injected {
    /// How often it applied.
    pub fn count(&self) -> usize {
        self.count.load(SeqCst)
    }

    /// It applies no more.
    pub fn end(&self) {
        let mut state = self.shared.state.lock();
        state.rules.retain(|rule| !Arc::ptr_eq(&rule.count, &self.count));
    }
}

impl Shared {
    fn connect(self: &Arc<Self>, client: TcpStream) -> io::Result<()> {
        if self.state.lock().refusing {
            return client.shutdown(Shutdown::Both);
        }
        let server = TcpStream::connect(self.upstream)?;
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (to_client, for_client) = mpsc::channel();
        let (to_server, for_server) = mpsc::channel();
        let connection = Arc::new(Connection {
            client,
            server,
            cut: AtomicBool::new(false),
            subscriptions: Mutex::default(),
            to_client: to_client.clone(),
        });
        {
            let mut state = self.state.lock();
            state.connections.retain(|known| known.strong_count() > 0);
            state.connections.push(Arc::downgrade(&connection));
            state.accepted += 1;
        }
        for (way, parcels) in [(Way::ToServer, for_server), (Way::ToClient, for_client)] {
            let (shared, connection) = (self.clone(), connection.clone());
            thread::spawn(move || {
                let _ = connection.write(&shared, way, &parcels);
                connection.end(&shared);
            });
        }
        for (way, parcels) in [(Way::ToServer, to_server), (Way::ToClient, to_client)] {
            let (shared, connection) = (self.clone(), connection.clone());
            thread::spawn(move || connection.read(&shared, way, &parcels));
        }
        Ok(())
    }

    /// The first rule for this frame, counted.
    fn judge(&self, frame: &Frame) -> Act {
        let mut state = self.state.lock();
        let rule = state.rules.iter_mut().find(|rule| rule.left > 0 && (rule.matches)(frame));
        rule.map_or(Act::Pass, |rule| {
            rule.left -= 1;
            rule.count.fetch_add(1, SeqCst);
            rule.act.clone()
        })
    }
}

impl Connection {
    fn read(&self, shared: &Shared, way: Way, parcels: &Sender<Parcel>) {
        let mut stream = if way == Way::ToServer { &self.client } else { &self.server };
        let mut buffer = Vec::new();
        let mut chunk = [0; 64 * 1_024];
        loop {
            let size = stream.read(&mut chunk).unwrap_or(0);
            buffer.extend_from_slice(&chunk[..size]);
            let delay = shared.state.lock().delay[way as usize];
            let due = Instant::now() + delay;
            while let Some(frame) = Frame::take(way, &mut buffer) {
                let Some(parcel) = self.treat(shared, frame.without_addresses(), due) else {
                    continue;
                };
                {
                    let mut state = shared.state.lock();
                    let waits = state.hole[way as usize] || !delay.is_zero();
                    state.kept[way as usize] += usize::from(waits);
                }
                let last = parcel.last;
                if parcels.send(parcel).is_err() || last {
                    return;
                }
            }
            if size == 0 {
                // The rest, and the end, behind all that is on its way.
                let _ = parcels.send(Parcel { last: true, ..Parcel::new(due, buffer) });
                return;
            }
        }
    }

    /// What is to be written instead of this frame.
    fn treat(&self, shared: &Shared, frame: Frame, due: Instant) -> Option<Parcel> {
        if frame.verb() == "SUB" {
            let (sid, subject) = (frame.sid().to_owned(), frame.subject().to_owned());
            self.subscriptions.lock().insert(sid, subject);
        }
        match shared.judge(&frame) {
            Act::Pass => Some(Parcel::new(due, frame.bytes().to_vec())),
            Act::Drop => None,
            Act::CutInside(after) => {
                let end = after.min(frame.bytes().len() - 1);
                Some(Parcel { last: true, ..Parcel::new(due, frame.bytes()[..end].to_vec()) })
            }
            Act::Slowly(pause) => {
                Some(Parcel { pause, ..Parcel::new(due, frame.bytes().to_vec()) })
            }
            Act::Answer(payload) => {
                self.answer(frame.reply(), &payload);
                None
            }
        }
    }

    fn answer(&self, reply: &str, payload: &[u8]) {
        let subscriptions = self.subscriptions.lock();
        let sid = subscriptions.iter().find(|(_, pattern)| subscribes(pattern, reply));
        if let Some((sid, _)) = sid {
            let bytes = Frame::message(reply, sid, payload).bytes().to_vec();
            // A connection that has ended needs no answer.
            let _ = self.to_client.send(Parcel::new(Instant::now(), bytes));
        }
    }

    fn write(&self, shared: &Shared, way: Way, parcels: &Receiver<Parcel>) -> io::Result<()> {
        let mut stream = if way == Way::ToServer { &self.server } else { &self.client };
        for parcel in parcels {
            let size = parcel.bytes.len();
            let half = if parcel.pause.is_zero() { size } else { size / 2 };
            let (first, second) = parcel.bytes.split_at(half);
            // What waited when the connection was cut is lost with it.
            if !self.wait(shared, way, parcel.due) {
                break;
            }
            stream.write_all(first)?;
            if !second.is_empty() {
                if !self.wait(shared, way, Instant::now() + parcel.pause) {
                    break;
                }
                stream.write_all(second)?;
            }
            if parcel.last {
                break;
            }
        }
        Ok(())
    }

    /// Waits until something may go this way, and not before then. False if the connection was cut.
    fn wait(&self, shared: &Shared, way: Way, due: Instant) -> bool {
        let mut state = shared.state.lock();
        while !self.cut.load(SeqCst) {
            if state.hole[way as usize] {
                shared.changed.wait(&mut state);
            } else if due > Instant::now() {
                shared.changed.wait_until(&mut state, due);
            } else {
                return true;
            }
        }
        false
    }

    /// Ends it on both sides; says whether it had not ended before.
    fn end(&self, shared: &Shared) -> bool {
        let first = {
            let _state = shared.state.lock(); // or a writer that goes to sleep would miss it
            !self.cut.swap(true, SeqCst)
        };
        let _ = self.client.shutdown(Shutdown::Both);
        let _ = self.server.shutdown(Shutdown::Both);
        shared.changed.notify_all();
        first
    }
}
