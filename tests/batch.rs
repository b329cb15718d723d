//! Batches: what a refused one may accept, against a model; and their order among single submits.
#![allow(clippy::unwrap_used, clippy::expect_used)]
#![cfg(all(feature = "testing", feature = "internals"))]

#[path = "support/dispatch.rs"]
mod dispatch;
#[path = "support/lifecycle.rs"]
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;

use keylane::internals::Router;
use keylane::{
    BatchError, Config, Keyless, LaneHash, Record, Refusal, Runtime, Subscriber, Subscription,
};
use parking_lot::Mutex;
use proptest::prelude::*;
use support::*;

const LANES: u32 = 4;
const SLOTS: usize = 6;
const KEYS: u64 = 9;
const SEED: u64 = 7;

/// A record of a batch: of a key, or one that no lane takes.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Key(u64),
    Empty,
    Oversized,
    Keyless,
}

#[derive(Debug, Clone)]
enum Op {
    Batch(Vec<Kind>),
    WaitingBatch(Vec<Kind>),
    Single(Kind),
    Close,
    Remove,
}

fn kinds() -> impl Strategy<Value = Kind> {
    prop_oneof![
        12 => (0..KEYS).prop_map(Kind::Key),
        1 => Just(Kind::Empty),
        1 => Just(Kind::Oversized),
        1 => Just(Kind::Keyless),
    ]
}

fn ops() -> impl Strategy<Value = Op> {
    let batch = || prop::collection::vec(kinds(), 0..24);
    prop_oneof![
        4 => batch().prop_map(Op::Batch),
        4 => batch().prop_map(Op::WaitingBatch),
        6 => kinds().prop_map(Op::Single),
        1 => Just(Op::Close),
        1 => Just(Op::Remove),
    ]
}

fn record(kind: Kind, number: u64) -> Record {
    match kind {
        Kind::Key(key) => Record::new(format!("key-{key}"), number.to_le_bytes()),
        Kind::Empty => Record::new("", number.to_le_bytes()),
        Kind::Oversized => Record::new(vec![b'x'; 4_097], number.to_le_bytes()),
        Kind::Keyless => Record::keyless(number.to_le_bytes()),
    }
}

/// What a lane must do: it has so many free slots, and a subscription that takes records or not.
struct Model {
    router: Router,
    free: [usize; LANES as usize],
    closed: bool,
    removed: bool,
    /// The numbers taken of each key.
    taken: BTreeMap<u64, Vec<u64>>,
}

impl Model {
    fn submit(&mut self, kind: Kind, number: u64, full: &mut [bool; 4]) -> Result<(), Refusal> {
        let key = match kind {
            Kind::Empty | Kind::Oversized => return Err(Refusal::InvalidKey),
            Kind::Keyless => return Err(Refusal::NoKey),
            Kind::Key(key) => key,
        };
        // The held-up subscription is the first of the runtime, this one the second.
        let lane = self.router.route(1, format!("key-{key}").as_bytes()).lane as usize;
        if self.removed {
            return Err(Refusal::Stopped);
        }
        if self.closed {
            return Err(Refusal::Closed);
        }
        if self.free[lane] == 0 || full[lane] {
            full[lane] = true;
            return Err(Refusal::Full);
        }
        self.free[lane] -= 1;
        self.taken.entry(key).or_default().push(number);
        Ok(())
    }

    fn batch(&mut self, batch: &[(Kind, u64)]) -> (Vec<u64>, Result<usize, BatchError>) {
        let (mut full, mut first, mut refused) = ([false; 4], None, Vec::new());
        for &(kind, number) in batch {
            if let Err(why) = self.submit(kind, number, &mut full) {
                first = first.or(Some(why));
                refused.push(number);
            }
        }
        let taken = batch.len() - refused.len();
        let result = match first {
            None => Ok(taken),
            Some(first) => Err(error(taken, first)),
        };
        (refused, result)
    }
}

/// A `BatchError` cannot be made outside of the crate: one is had by failing.
fn error(taken: usize, first: Refusal) -> BatchError {
    let mut error = some_error();
    (error.taken, error.first) = (taken, first);
    error
}

fn some_error() -> BatchError {
    static ERROR: Mutex<Option<BatchError>> = Mutex::new(None);
    *ERROR.lock().get_or_insert_with(|| {
        let runtime = narrow(1).build().unwrap();
        let subscriber = runtime.subscribe(Subscription::new("s"), |_: &Record| Ok(())).unwrap();
        let error = subscriber.submit_batch(&mut vec![Record::new("", "")]).unwrap_err();
        runtime.close(HANG).unwrap();
        error
    })
}

/// What was handled of each key, in order.
type Handled = Arc<Mutex<BTreeMap<Vec<u8>, Vec<u64>>>>;

/// A runtime whose only worker is held up by another subscription, so that nothing leaves a lane.
fn held_up() -> (Runtime, Subscriber, Door, Handled) {
    let door = Door::new();
    let config = Config::default().spares(0).seed(SEED).wait(std::time::Duration::ZERO);
    let runtime = Runtime::builder()
        .config(config)
        .lanes(LANES as usize)
        .slots(SLOTS)
        .workers(1)
        .on_notice(|_| ())
        .build()
        .unwrap();
    let at_door = door.clone();
    let holder = runtime
        .subscribe(Subscription::new("holder"), move |_: &Record| {
            at_door.pass();
            Ok(())
        })
        .unwrap();
    holder.submit(Record::new("hold", "")).unwrap();
    door.wait_for(1);
    let handled = Arc::new(Mutex::new(BTreeMap::<Vec<u8>, Vec<u64>>::new()));
    let log = handled.clone();
    let subscriber = runtime
        .subscribe(Subscription::new("s").keyless(Keyless::Reject), move |record: &Record| {
            log.lock().entry(record.key().unwrap().to_vec()).or_default().push(number(record));
            Ok(())
        })
        .unwrap();
    (runtime, subscriber, door, handled)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..Default::default() })]

    /// What is taken and what comes back is what the model says, and what was taken is handled in its
    /// order or comes back at the end.
    #[test]
    fn a_batch_takes_what_the_model_takes(ops in prop::collection::vec(ops(), 1..12)) {
        let (runtime, subscriber, door, handled) = held_up();
        let router = Router::new(LaneHash::Rapid, Some(SEED), LANES);
        let mut model = Model {
            router,
            free: [SLOTS; LANES as usize],
            closed: false,
            removed: false,
            taken: BTreeMap::new(),
        };
        let (mut next, mut removal) = (0, None);
        for op in ops {
            match op {
                Op::Batch(ref kinds) | Op::WaitingBatch(ref kinds) => {
                    let batch: Vec<_> = kinds.iter().copied().zip(next..).collect();
                    next += batch.len() as u64;
                    let mut records: Vec<_> = batch.iter().map(|&(k, n)| record(k, n)).collect();
                    let result = match op {
                        Op::Batch(_) => subscriber.try_submit_batch(&mut records),
                        _ => subscriber.submit_batch(&mut records),
                    };
                    let (refused, expected) = model.batch(&batch);
                    prop_assert_eq!(numbers(&records), refused);
                    prop_assert_eq!(result, expected);
                }
                Op::Single(kind) => {
                    let result = subscriber.try_submit(record(kind, next));
                    let expected = model.submit(kind, next, &mut [false; 4]);
                    next += 1;
                    prop_assert_eq!(result.map_err(|error| error.refusal()), expected);
                }
                Op::Close => {
                    drop(runtime.close_async(LONG));
                    model.closed = true;
                }
                Op::Remove => {
                    removal.get_or_insert_with(|| subscriber.remove());
                    model.removed = true;
                }
            }
        }
        let depths: Vec<_> = runtime.snapshot().lanes.iter().map(|lane| lane.depth).collect();
        prop_assert_eq!(depths, model.free.map(|free| SLOTS - free).to_vec());
        door.open();
        // A removal's records come back from it, unless the runtime has closed before it was waited for.
        let mut returned = removal.map_or(Vec::new(), |removal| removal.wait().unwrap());
        let report = runtime.close(HANG).unwrap();
        returned.extend(report.records.into_iter().map(|(_, record)| record));
        let mut ended = handled.lock().clone();
        for back in &returned {
            ended.entry(back.key().unwrap().to_vec()).or_default().push(number(back));
        }
        let expected: BTreeMap<Vec<u8>, Vec<u64>> =
            model.taken.into_iter().map(|(key, n)| (format!("key-{key}").into(), n)).collect();
        prop_assert_eq!(ended, expected);
        prop_assert_eq!(returned.is_empty() || model.removed, true);
    }
}

// convict: whole_lane_waits
#[test]
fn batches_and_single_submits_keep_a_producers_order() {
    dispatch::each_shape(|shape| {
        let handled: Arc<Mutex<BTreeMap<Vec<u8>, Vec<u64>>>> = Arc::default();
        let log = handled.clone();
        let config = shape.config().slots(8).wait(dispatch::LIMIT);
        let runtime = Runtime::builder().config(config).build().unwrap();
        let stone = shape.stone(&runtime, 0);
        let subscriber = runtime
            .subscribe(Subscription::new("s"), move |record: &Record| {
                log.lock().entry(record.key().unwrap().to_vec()).or_default().push(number(record));
                Ok(())
            })
            .unwrap();
        let mut random = Random::new();
        // Half of them beside the stone, the others anywhere.
        let mut keys = shape.keys_of(1, 10);
        keys.extend((0..10).map(|n| format!("anywhere-{n}")));
        let mut sent: BTreeMap<Vec<u8>, Vec<u64>> = BTreeMap::new();
        let mut next = 0..;
        let mut make = |random: &mut Random| {
            let key = &keys[random.below(keys.len())];
            let number = next.next().unwrap();
            sent.entry(key.clone().into_bytes()).or_default().push(number);
            numbered(key, number)
        };
        for _ in 0..500 {
            match random.below(4) {
                0 => subscriber.submit(make(&mut random)).unwrap(),
                1 => {
                    // Until all of it is taken, in its order.
                    let mut batch: Vec<_> =
                        (0..random.below(40)).map(|_| make(&mut random)).collect();
                    let mut left = batch.len();
                    dispatch::until("all of it is taken", || {
                        let Err(error) = subscriber.try_submit_batch(&mut batch) else {
                            return true;
                        };
                        assert_eq!((error.first, batch.len()), (Refusal::Full, left - error.taken));
                        left = batch.len();
                        false
                    });
                    assert!(batch.is_empty());
                }
                _ => {
                    let mut batch: Vec<_> =
                        (0..random.below(40)).map(|_| make(&mut random)).collect();
                    let count = batch.len();
                    assert_eq!(subscriber.submit_batch(&mut batch), Ok(count));
                    assert!(batch.is_empty());
                }
            }
        }
        stone.lift();
        assert!(runtime.close(HANG).unwrap().drained);
        assert_eq!(*handled.lock(), sent);
    });
}

#[test]
fn a_batch_error_says_how_many_and_why() {
    let error = some_error();
    assert_eq!((error.taken, error.first), (0, Refusal::InvalidKey));
    let text = "0 records were taken, the others were not: \
                a key has 1 to 4096 bytes; use `Record::keyless` for none";
    assert_eq!(error.to_string(), text);
}

#[test]
fn an_empty_batch_is_taken_whole() {
    let runtime = narrow(1).build().unwrap();
    let subscriber = runtime.subscribe(Subscription::new("s"), |_: &Record| Ok(())).unwrap();
    assert_eq!(subscriber.submit_batch(&mut Vec::new()), Ok(0));
    assert!(runtime.close(HANG).unwrap().drained);
    assert_eq!(subscriber.submit_batch(&mut Vec::new()), Ok(0), "nothing was refused");
}
