//! The bus: one subscription over one durable, one worker.

use std::sync::Arc;
use std::time::Duration;

use keylane::nats::{AckMode, NatsBus};
use keylane::{Handler, Keyless, Runtime, Subscription};

use crate::Failed;
use crate::load::{Form, Load, Tally};

/// A bus with a runtime of its own.
pub struct Bus {
    pub runtime: Runtime,
    pub bus: NatsBus,
}

impl Bus {
    pub fn open(
        url: &str,
        load: &Load,
        set: impl FnOnce(keylane::nats::NatsBuilder) -> keylane::nats::NatsBuilder,
    ) -> Result<Self, Failed> {
        let runtime = Runtime::builder().workers(1).build()?;
        let builder = NatsBus::builder(&runtime, url).topic(load.topic, load.options());
        let bus = set(builder).connect().wait()?;
        Ok(Self { runtime, bus })
    }

    pub fn subscribe(&self, load: &Load, name: &str, handler: Handler) -> Result<(), Failed> {
        // One sequence where the stream names no keys, so that its order can be judged.
        let keyless = if load.form == Form::Plain { Keyless::Serial } else { Keyless::Reject };
        let subscription = Subscription::new(name).keyless(keyless);
        self.bus.subscribe_handler(load.topic, subscription, handler).wait()?;
        Ok(())
    }

    pub fn close(self) -> Result<(), Failed> {
        let report = self.bus.close(Duration::from_secs(20)).wait()?;
        self.runtime.close(Duration::from_secs(5))?;
        if report.drained { Ok(()) } else { Err("the bus did not drain".into()) }
    }
}

/// Handles until the tally is full.
pub fn tallied(
    url: &str,
    load: &Load,
    name: &str,
    mode: AckMode,
    tally: &Arc<Tally>,
) -> Result<(), Failed> {
    let bus = Bus::open(url, load, |builder| builder.ack_mode(mode))?;
    let counted = tally.clone();
    let handler = Handler::sync(move |record: &keylane::Record| {
        counted.note(record.payload());
        Ok(())
    });
    bus.subscribe(load, name, handler)?;
    while !tally.is_over() {
        std::thread::sleep(Duration::from_millis(2));
    }
    bus.close()
}
