//! A service to look at: four subscriptions with a synthetic load, some of it troubled.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use keylane::{
    Config, HandlerError, Letter, Record, RecordRef, Retry, Runtime, Subscriber, Subscription,
};
use keylane_top::Server;

/// A runtime under load, shown to views.
pub struct Demo {
    server: Server,
    runtime: Runtime,
    stopped: Arc<AtomicBool>,
    producer: Option<JoinHandle<()>>,
}

/// Why there is none.
pub type DemoError = Box<dyn std::error::Error>;

impl Demo {
    /// One that is served at `address`.
    ///
    /// # Errors
    /// If the system gives no threads, or the address is not to be had.
    pub fn start(address: &str) -> Result<Self, DemoError> {
        let config = Config::default().key_waiting(200);
        // Notices would be written over the view.
        let runtime = Runtime::builder().config(config).workers(2).on_notice(|_| ()).build()?;
        let subscribers = subscribe(&runtime)?;
        let server = Server::start(address, &runtime, subscribers.clone())?;
        let stopped = Arc::new(AtomicBool::new(false));
        let own = stopped.clone();
        let producer = std::thread::Builder::new()
            .name("load".into())
            .spawn(move || produce(&subscribers, &own))?;
        Ok(Self { server, runtime, stopped, producer: Some(producer) })
    }

    /// Where it is served.
    pub fn address(&self) -> std::net::SocketAddr {
        self.server.address()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Release);
        self.runtime.stop_now();
        if let Some(producer) = self.producer.take() {
            let _ = producer.join();
        }
    }
}

/// Dead letters go nowhere here; without them no key could be parked.
fn policy(name: &str) -> Subscription {
    Subscription::new(name).dead_letter_to(|_: &Letter| Ok(())).park_key()
}

fn subscribe(runtime: &Runtime) -> Result<Vec<Subscriber>, DemoError> {
    let orders = runtime.subscribe(policy("orders"), |record: &Record| {
        // Some microseconds of work.
        let sum = (0..40)
            .flat_map(|_| record.payload())
            .fold(0_u64, |sum, byte| sum.rotate_left(5) ^ u64::from(*byte));
        std::hint::black_box(sum);
        Ok(())
    })?;
    let billing = runtime.subscribe_async(policy("billing"), |record: RecordRef| async move {
        if record.key() == Some(b"card-hangs") {
            std::future::pending::<()>().await;
        }
        Ok(())
    })?;
    let audit = policy("audit")
        .retry(Retry::exponential(Duration::from_millis(100), Duration::from_secs(2)).forever());
    let audit = runtime.subscribe(audit, |record: &Record| match record.key() {
        Some(b"ledger-down") => {
            Err(HandlerError::retryable(io::Error::other("the ledger is down")))
        }
        _ => Ok(()),
    })?;
    let shipping = runtime.subscribe_blocking(policy("shipping"), |_| {
        std::thread::sleep(Duration::from_millis(5));
        Ok(())
    })?;
    Ok(vec![orders, billing, audit, shipping])
}

/// A few thousand records a second, in bursts every 5 ms. What is refused is left out: it is a show.
fn produce(subscribers: &[Subscriber], stopped: &AtomicBool) {
    let [orders, billing, audit, shipping] = subscribers else { return };
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    let mut uniform = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random >> 11) as f64 / (1_u64 << 53) as f64
    };
    let mut due = Instant::now();
    for burst in 0_u64.. {
        if stopped.load(Ordering::Acquire) {
            return;
        }
        for _ in 0..10 {
            // The smaller a number, the more often it comes.
            let order = (400.0 * uniform().powi(3)) as u64;
            let _ = orders.try_submit(Record::new(format!("order-{order}"), [7; 64]));
        }
        let _ = billing.try_submit(Record::new(format!("card-{}", burst % 50), "charge"));
        let _ = audit.try_submit(Record::new(format!("ledger-{}", burst % 7), "entry"));
        if burst % 4 == 0 {
            let _ = shipping.try_submit(Record::new(format!("parcel-{}", burst % 30), "sent"));
        }
        if burst % 20 == 0 {
            let _ = billing.try_submit(Record::new("card-hangs", "charge"));
            let _ = audit.try_submit(Record::new("ledger-down", "entry"));
        }
        due += Duration::from_millis(5);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
}
