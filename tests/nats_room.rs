//! Where room ends: in the client's own buffer, and on the server's disk. Nothing that was confirmed is lost, order is kept,
//! what is there is handled meanwhile, and with room everything goes on. In every mode.
#![cfg(all(feature = "nats", feature = "testing", feature = "internals"))]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

#[path = "support/broker.rs"]
mod broker;
#[path = "support/frame.rs"]
mod frame;
#[path = "support/history.rs"]
mod history;
#[path = "support/proxy.rs"]
mod proxy;
#[path = "support/stage.rs"]
mod stage;
#[path = "support/subject.rs"]
mod subject;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use frame::Way;
use history::{Judgement, RECOVERY};
use keylane::nats::{AckMode, NatsBuilder, NatsBus};
use keylane::{
    BusEvent, BusSubscription, PublishError, PublishErrorKind, Record, Runtime, Subscription,
};
use stage::{HANG, KEYS, STREAM, Stage, TOPIC, quick};
use subject::{Handler, Work, executor};

macro_rules! faults {
    ($($fault:ident)*) => {
        mod each { $(#[test] fn $fault() { super::$fault(super::AckMode::Each); })* }
        mod floor { $(#[test] fn $fault() { super::$fault(super::AckMode::Floor); })* }
        mod checkpoint { $(#[test] fn $fault() { super::$fault(super::AckMode::Checkpoint); })* }
    };
}

faults! {
    client_drops_what_its_buffer_has_no_room_for
    server_takes_no_more
    disk_is_full
}

/// A consumer of ours, and the bus to publish with.
struct Consumer {
    bus: NatsBus,
    subscription: BusSubscription,
    runtime: Runtime,
}

impl Consumer {
    fn start(
        stage: &Stage,
        mode: AckMode,
        work: Work,
        set: impl FnOnce(NatsBuilder) -> NatsBuilder,
    ) -> Self {
        let handler = Handler { history: stage.history.clone(), work };
        let runtime = Runtime::builder().workers(2).build().unwrap();
        let builder = NatsBus::builder(&runtime, &stage.place.url)
            .ack_mode(mode)
            .ack_wait(stage.place.ack_wait)
            .window(stage.place.window);
        let bus = executor().block_on(set(builder).connect()).unwrap();
        let handle = move |record: &Record| {
            if handler.handle(record.payload()) { Ok(()) } else { Err("failed".into()) }
        };
        let subscription =
            bus.subscribe(TOPIC, Subscription::new("faults"), handle).wait().unwrap();
        Self { bus, subscription, runtime }
    }

    fn publish(&self, key: &str, seq: u64) -> Result<(), PublishError> {
        let record = Record::new(key, format!("{key} {seq}"));
        let record = record.with_header("Nats-Msg-Id", format!("{key}-{seq}"));
        self.bus.publish(TOPIC, record).wait().map(drop)
    }

    /// Waits until everything is handled, ends the consumer and judges.
    fn finish(self, stage: &Stage, duplicates: usize) {
        stage.drain();
        assert_eq!(self.subscription.stopped_by(), None);
        self.bus.close(Duration::from_secs(10)).wait().unwrap();
        self.runtime.close(Duration::from_secs(10)).unwrap();
        stage.history.judge().assert_sound(duplicates);
    }
}

/// Its buffer is made so small that it drops deliveries whenever many come at once. Those behind which nothing comes that
/// would show the gap are recovered as well; and however often that happens, nobody is accused of taking them.
fn client_drops_what_its_buffer_has_no_room_for(mode: AckMode) {
    const TIMES: usize = 5;
    let Some(stage) = Stage::new(&[]) else { return };
    let ours = Consumer::start(&stage, mode, quick(), |builder| builder.buffer(8));
    let mut events = ours.bus.events();
    stage.publish(2);
    stage.drain();
    let (mut times, mut dropped, deadline) = (0, 0, Instant::now() + HANG);
    while times < TIMES {
        assert!(Instant::now() < deadline, "the client has dropped something {times} times");
        // What is published meanwhile comes at once.
        stage.proxy.black_hole(Way::ToClient);
        stage.publish(15);
        stage.history.healed("a full buffer");
        stage.proxy.heal();
        let came =
            stage.history.wait(RECOVERY, |so_far| so_far.recovered() && so_far.is_complete());
        assert!(came, "not everything was handled\n{}", stage.history.judge());
        let told: Vec<BusEvent> = std::iter::from_fn(|| events.try_next()).collect();
        for event in &told {
            match event {
                BusEvent::SlowConsumer { dropped: so_far, .. } => dropped = *so_far,
                BusEvent::BarrierEnded { .. } => times += 1,
                _ => {}
            }
        }
    }
    // Said at the first, second, fourth … only.
    assert!(dropped >= 4, "{dropped} were dropped");
    ours.finish(&stage, 0);
}

/// What handlers wait for. Dropped, it is open: a test that fails is to end.
struct Gate(Arc<AtomicBool>);

impl Gate {
    fn open(&self) {
        self.0.store(true, SeqCst);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.open();
    }
}

/// A consumer that finishes nothing before the gate is open, and records for it.
fn gated(stage: &Stage, mode: AckMode) -> (Consumer, Gate) {
    let gate = Gate(Arc::default());
    let opened = gate.0.clone();
    let work: Work = Arc::new(move |_, _| {
        while !opened.load(SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        true
    });
    let patient = Duration::from_secs(2);
    let ours = Consumer::start(stage, mode, work, |builder| {
        builder.publish_patience(patient).publish_timeout(Duration::from_millis(500))
    });
    stage.publish(20);
    (ours, gate)
}

/// On a disk so small that the server soon takes no more by itself, and says so.
fn server_takes_no_more(mode: AckMode) {
    let Some(stage) = Stage::new(&["--nodes", "1", "--disk", "8m"]) else { return };
    let (ours, gate) = gated(&stage, mode);
    let full = fill(&stage);
    assert!(full.contains("insufficient"), "{full}");

    let error = ours.publish("order-1", 21).expect_err("there is no room");
    let told = error.to_string();
    assert!(matches!(error.kind(), PublishErrorKind::Failed(_)), "{error:?}");
    assert!(told.contains("no room") && told.contains("max_file_store"), "{told}");
    assert_eq!(error.into_record().payload(), b"order-1 21");
    // What is there is handled.
    gate.open();
    stage.drain();
    if mode != AckMode::Checkpoint {
        let all = |so_far: &Judgement| so_far.handled;
        let handled = all(&stage.history.judge()) as u64;
        stage
            .wait_consumer("all is acknowledged", |info| info.ack_floor.stream_sequence == handled);
    }
    assert!(ours.publish("order-1", 21).is_err(), "there is room again by itself");

    let answer = stage.request("STREAM.DELETE.FILL", "");
    assert_eq!(answer["success"].as_bool(), Some(true), "{answer}");
    stage.recover("a server that takes no more");
    assert_eq!(stored(&stage), 23 * KEYS, "nothing that was refused is there");
    if mode == AckMode::Checkpoint {
        // It is kept where it is, now that there is room for that.
        let deadline = Instant::now() + HANG;
        while stage.forgotten() > 0 {
            assert!(Instant::now() < deadline, "{} are not known", stage.forgotten());
        }
    }
    ours.finish(&stage, 0);
}

fn stored(stage: &Stage) -> u64 {
    stage.request(&format!("STREAM.INFO.{STREAM}"), "")["state"]["messages"].as_u64().unwrap()
}

/// Has a stream of its own take the server's room, until it says that there is no more.
fn fill(stage: &Stage) -> String {
    let answer = stage
        .request("STREAM.CREATE.FILL", r#"{"name":"FILL","subjects":["fill"],"storage":"file"}"#);
    assert!(answer.get("error").is_none(), "{answer}");
    let deadline = Instant::now() + HANG;
    loop {
        let answer = stage.insist("a record of ballast", |context| async move {
            let asked = context.client().request("fill", vec![b'.'; 200_000].into()).await;
            asked.map(|answer| String::from_utf8_lossy(&answer.payload).into_owned())
        });
        if answer.contains("error") {
            return answer;
        }
        assert!(Instant::now() < deadline, "it is never full");
    }
}

/// Something else has taken all of it. From 2.14 on, and before 2.10, a server says nothing at all to a publish then, nor
/// to one that comes once there is room, until it is started anew; between these it says why, and goes on by itself.
fn disk_is_full(mode: AckMode) {
    let Some(stage) = Stage::new(&["--nodes", "1", "--disk", "8m"]) else { return };
    if fs::read_to_string(stage.server.dir().join("disk")).unwrap().trim() != "tmpfs" {
        return broker::say_not_run(
            "no right to mount a small disk; `server_takes_no_more` ran with `max_file_store`",
        );
    }
    let (ours, gate) = gated(&stage, mode);
    let ballast = Ballast::fill(stage.server.dir().join("n1/store/ballast"));
    let speaks = ((2, 10, 0)..(2, 14, 0)).contains(&stage.server.version());

    let (mut unknown, mut refused, mut seq) = (0, 0, 20);
    let deadline = Instant::now() + HANG;
    // A block may have some room left.
    while unknown + refused == 0 {
        assert!(Instant::now() < deadline, "the disk is never full");
        seq += 1;
        match ours.publish("big", seq) {
            Ok(()) => stage.history.published("big", seq),
            Err(error) if error.outcome_unknown() => {
                unknown += 1;
                stage.history.perhaps_published("big", seq);
            }
            Err(error) => {
                let told = error.to_string();
                assert!(told.contains("no space left") && told.contains("free space"), "{told}");
                refused += 1;
            }
        }
    }
    assert_eq!((unknown, refused), if speaks { (0, 1) } else { (1, 0) });
    gate.open();
    stage.drain();

    drop(ballast);
    let mut forgotten = 0;
    if !speaks {
        stage.proxy.refuse(true);
        stage.server.kill(1); // some do not even end in order any more
        stage.server.restart(1);
        forgotten = stage.forgotten();
        stage.proxy.refuse(false);
    }
    stage.recover("a full disk");
    ours.finish(&stage, forgotten);
}

/// A file that takes all the room there is.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(path: PathBuf) -> Self {
        let mut file = fs::File::create(&path).unwrap();
        for size in [1 << 16, 1 << 10, 1] {
            while std::io::Write::write_all(&mut file, &vec![b'.'; size]).is_ok() {}
        }
        Self(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
