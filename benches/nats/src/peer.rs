//! The same keyed job in ruststream.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ruststream_nats::prelude::*;

use crate::Failed;
use crate::load::{Load, Tally};

/// What the handler, which is a function without an environment, counts into; and the durable's name.
static NOW: Mutex<Option<(Arc<Tally>, &'static str, String)>> = Mutex::new(None);

fn now() -> (Arc<Tally>, &'static str, String) {
    let now = NOW.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    now.clone().unwrap_or_else(|| unreachable!("set before the service starts"))
}

#[derive(Deserialized)]
struct Bytes<'a>(&'a [u8]);

thread_local! {
    static TALLY: std::cell::RefCell<Option<Arc<Tally>>> = const { std::cell::RefCell::new(None) };
}

fn note(payload: &[u8]) {
    TALLY.with_borrow_mut(|tally| tally.get_or_insert_with(|| now().0).note(payload));
}

#[subscriber(
    JetStreamSubject::new(now().1, now().1.to_uppercase())
        .durable(now().2)
        .max_ack_pending(crate::raw::WINDOW),
    workers(8, by_key)
)]
async fn keyed(bytes: &Bytes<'_>) -> HandlerOutcome {
    note(bytes.0);
    HandlerOutcome::ack()
}

/// Handles until the tally is full: eight workers by key, the service's own default of one thread.
pub async fn tallied(url: &str, load: &Load, name: &str, tally: &Arc<Tally>) -> Result<(), Failed> {
    let told = (tally.clone(), load.topic, name.to_owned());
    *NOW.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(told);
    TALLY.set(None);
    let service =
        RustStream::new(AppInfo::new("bench", "0.1.0")).with_broker(NatsBroker::new(url), |b| {
            b.include(keyed);
        });
    let until = tally.clone();
    let full = async move {
        while !until.is_over() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    service.run_until(full).await.map_err(|error| error.to_string())?;
    Ok(())
}
