//! Bounded channels: one for each lane, scanned by the lanes' worker thread; or one for each worker thread, which
//! then owns its share of the lanes: what is in one channel stays in order, and behind whatever else is in it.

use std::marker::PhantomData;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::arm::{About, Arm, Feed, Pool, Shape};
use crate::load::{Item, Message};
use crate::sink::Sink;

/// Threads of the blocking job, where the arm may choose.
const BLOCKING: usize = 64;
/// Messages of all channels together: more than are in flight, so that none is ever full unless it is flooded, and
/// few enough to stay in the processor's caches.
const SLOTS: usize = 16_384;

/// Messages of each of `count` channels.
pub fn slots(count: usize) -> usize {
    (SLOTS / count).max(1_000)
}

pub fn threads(shape: &Shape) -> usize {
    if shape.own_best { BLOCKING } else { shape.workers }
}

/// A kind of channel.
pub trait Channel: Sync + 'static {
    const FORM: &'static str;
    type Sender: Send + 'static;
    type Receiver: Send + 'static;

    /// A sender for each producer.
    fn open(slots: usize, producers: usize) -> (Vec<Self::Sender>, Self::Receiver);
    fn send(sender: &Self::Sender, message: Message);
    /// What is there, up to a quantum: how many; `None` once the senders are gone.
    fn take(receiver: &mut Self::Receiver, each: impl FnMut(&Message)) -> Option<usize>;
    /// Until the senders are gone.
    fn receive(receiver: Self::Receiver, each: impl FnMut(&Message));
}

/// Slots of a lane, as keylane's.
const LANE: usize = 1_000;
/// Messages of a lane before the next has its turn.
const QUANTUM: usize = 64;

macro_rules! channels {
    ($($kind:ident, $lanes:ident, $name:literal);+) => {$(
        pub struct $kind;
        pub struct $lanes;

        impl Arm for $kind {
            fn name(&self) -> &'static str {
                $name
            }

            fn about(&self, shape: &Shape) -> Result<About, String> {
                let threads = threads(shape);
                let slots = slots(threads);
                let form = format!("a thread and a channel of {slots} each: {}", Self::FORM);
                Ok(About { threads, form })
            }

            fn start(&self, shape: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool> {
                let count = threads(shape);
                Box::new(Threads::<Self>::new(shape, sink, count, count, slots(count)))
            }
        }

        impl Arm for $lanes {
            fn name(&self) -> &'static str {
                concat!($name, "-lanes")
            }

            fn about(&self, shape: &Shape) -> Result<About, String> {
                if shape.own_best {
                    return Err("it polls: more threads than cores do not help".into());
                }
                let lanes = shape.lanes;
                let form = format!("{lanes} channels of {LANE}, each thread scans its share by try_recv");
                Ok(About { threads: shape.workers, form })
            }

            fn start(&self, shape: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool> {
                Box::new(Threads::<$kind>::new(shape, sink, shape.lanes, shape.workers, LANE))
            }
        }
    )+};
}

channels!(
    Crossbeam, CrossbeamLanes, "crossbeam-channel";
    Flume, FlumeLanes, "flume";
    Kanal, KanalLanes, "kanal";
    Crossfire, CrossfireLanes, "crossfire";
    Std, StdLanes, "sync_channel"
);

struct Threads<C: Channel> {
    /// For each producer, its senders to all threads, until it takes them.
    senders: Mutex<Vec<Option<Vec<C::Sender>>>>,
    threads: Vec<JoinHandle<()>>,
    lanes: usize,
}

impl<C: Channel> Threads<C> {
    /// So many channels, dealt to so many threads.
    fn new(shape: &Shape, sink: &Arc<Sink>, channels: usize, threads: usize, slots: usize) -> Self {
        let mut senders: Vec<Vec<C::Sender>> = (0..shape.producers).map(|_| Vec::new()).collect();
        let mut dealt: Vec<Vec<C::Receiver>> = (0..threads).map(|_| Vec::new()).collect();
        for channel in 0..channels {
            let (opened, receiver) = C::open(slots, shape.producers);
            senders.iter_mut().zip(opened).for_each(|(senders, sender)| senders.push(sender));
            dealt[channel % threads].push(receiver);
        }
        let alone = channels == threads;
        let threads = dealt.into_iter().map(|mut receivers| {
            let sink = sink.clone();
            std::thread::spawn(move || match receivers.pop() {
                Some(only) if alone => C::receive(only, |message| sink.handle(&message.payload)),
                last => {
                    receivers.extend(last);
                    scan::<C>(&mut receivers, &sink);
                }
            })
        });
        let threads = threads.collect();
        let senders = Mutex::new(senders.into_iter().map(Some).collect());
        Self { senders, threads, lanes: shape.lanes }
    }
}

/// Scans until the senders of all are gone; gives way after a scan that found nothing.
fn scan<C: Channel>(receivers: &mut [C::Receiver], sink: &Sink) {
    let mut idle = 0_u32;
    loop {
        let (mut found, mut gone) = (0, 0);
        for receiver in &mut *receivers {
            match C::take(receiver, |message| sink.handle(&message.payload)) {
                Some(count) => found += count,
                None => gone += 1,
            }
        }
        if gone == receivers.len() {
            return;
        }
        idle = if found > 0 { 0 } else { idle + 1 };
        match idle {
            0..64 => std::hint::spin_loop(),
            _ => std::thread::yield_now(),
        }
    }
}

/// Takes by `one`, which says whether there was none or will be none.
fn several(
    mut one: impl FnMut() -> Result<Message, bool>,
    mut each: impl FnMut(&Message),
) -> Option<usize> {
    for count in 0..QUANTUM {
        match one() {
            Ok(message) => each(&message),
            Err(true) if count == 0 => return None,
            Err(_) => return Some(count),
        }
    }
    Some(QUANTUM)
}

impl<C: Channel> Pool for Threads<C> {
    fn feed(&self, producer: usize) -> Box<dyn Feed + '_> {
        let mut senders = self.senders.lock().expect("nobody panics");
        let senders = senders[producer].take().expect("one feed a producer");
        Box::new(Senders::<C> { senders, lanes: self.lanes, channel: PhantomData })
    }

    fn stop(self: Box<Self>) {
        drop(self.senders);
        self.threads.into_iter().for_each(|thread| thread.join().expect("it does not panic"));
    }
}

struct Senders<C: Channel> {
    senders: Vec<C::Sender>,
    lanes: usize,
    channel: PhantomData<C>,
}

impl<C: Channel> Feed for Senders<C> {
    #[inline]
    fn one(&mut self, item: Item, stamp: u64) {
        let message = Message::new(item, stamp);
        let lane = message.lane(self.lanes);
        C::send(&self.senders[lane % self.senders.len()], message);
    }
}

impl Channel for Crossbeam {
    const FORM: &'static str = "bounded, recv";
    type Sender = crossbeam_channel::Sender<Message>;
    type Receiver = crossbeam_channel::Receiver<Message>;

    fn open(slots: usize, producers: usize) -> (Vec<Self::Sender>, Self::Receiver) {
        let (sender, receiver) = crossbeam_channel::bounded(slots);
        (vec![sender; producers], receiver)
    }

    #[inline]
    fn send(sender: &Self::Sender, message: Message) {
        sender.send(message).expect("the thread lives");
    }

    #[inline]
    fn take(receiver: &mut Self::Receiver, each: impl FnMut(&Message)) -> Option<usize> {
        several(|| receiver.try_recv().map_err(|e| e.is_disconnected()), each)
    }

    fn receive(receiver: Self::Receiver, mut each: impl FnMut(&Message)) {
        while let Ok(message) = receiver.recv() {
            each(&message);
        }
    }
}

impl Channel for Flume {
    const FORM: &'static str = "bounded, recv then drain";
    type Sender = flume::Sender<Message>;
    type Receiver = flume::Receiver<Message>;

    fn open(slots: usize, producers: usize) -> (Vec<Self::Sender>, Self::Receiver) {
        let (sender, receiver) = flume::bounded(slots);
        (vec![sender; producers], receiver)
    }

    #[inline]
    fn send(sender: &Self::Sender, message: Message) {
        sender.send(message).expect("the thread lives");
    }

    #[inline]
    fn take(receiver: &mut Self::Receiver, each: impl FnMut(&Message)) -> Option<usize> {
        several(
            || receiver.try_recv().map_err(|e| matches!(e, flume::TryRecvError::Disconnected)),
            each,
        )
    }

    fn receive(receiver: Self::Receiver, mut each: impl FnMut(&Message)) {
        while let Ok(message) = receiver.recv() {
            each(&message);
            receiver.drain().for_each(|message| each(&message));
        }
    }
}

impl Channel for Kanal {
    const FORM: &'static str = "bounded, recv then drain_into";
    type Sender = kanal::Sender<Message>;
    type Receiver = kanal::Receiver<Message>;

    fn open(slots: usize, producers: usize) -> (Vec<Self::Sender>, Self::Receiver) {
        let (sender, receiver) = kanal::bounded(slots);
        (vec![sender; producers], receiver)
    }

    #[inline]
    fn send(sender: &Self::Sender, message: Message) {
        sender.send(message).expect("the thread lives");
    }

    #[inline]
    fn take(receiver: &mut Self::Receiver, each: impl FnMut(&Message)) -> Option<usize> {
        several(|| receiver.try_recv().map_err(|_| true)?.ok_or(false), each)
    }

    fn receive(receiver: Self::Receiver, mut each: impl FnMut(&Message)) {
        let mut many = Vec::with_capacity(1_024);
        while let Ok(message) = receiver.recv() {
            each(&message);
            while receiver.drain_into(&mut many).is_ok_and(|count| count > 0) {
                many.drain(..).for_each(|message| each(&message));
            }
        }
    }
}

impl Channel for Crossfire {
    const FORM: &'static str =
        "bounded_blocking (spsc with one producer, else mpsc), detect_backoff_cfg, recv";
    type Sender = OneOrMore<
        crossfire::Tx<crossfire::spsc::Array<Message>>,
        crossfire::MTx<crossfire::mpsc::Array<Message>>,
    >;
    type Receiver = OneOrMore<
        crossfire::Rx<crossfire::spsc::Array<Message>>,
        crossfire::Rx<crossfire::mpsc::Array<Message>>,
    >;

    fn open(slots: usize, producers: usize) -> (Vec<Self::Sender>, Self::Receiver) {
        crossfire::detect_backoff_cfg();
        if producers == 1 {
            let (sender, receiver) = crossfire::spsc::bounded_blocking(slots);
            return (vec![OneOrMore::One(sender)], OneOrMore::One(receiver));
        }
        let (sender, receiver) = crossfire::mpsc::bounded_blocking(slots);
        let senders = (0..producers).map(|_| OneOrMore::More(sender.clone())).collect();
        (senders, OneOrMore::More(receiver))
    }

    #[inline]
    fn send(sender: &Self::Sender, message: Message) {
        let sent = match sender {
            OneOrMore::One(sender) => sender.send(message).is_ok(),
            OneOrMore::More(sender) => sender.send(message).is_ok(),
        };
        assert!(sent, "the thread lives");
    }

    #[inline]
    fn take(receiver: &mut Self::Receiver, each: impl FnMut(&Message)) -> Option<usize> {
        match receiver {
            OneOrMore::One(receiver) => several(
                || receiver.try_recv().map_err(|e| e == crossfire::TryRecvError::Disconnected),
                each,
            ),
            OneOrMore::More(receiver) => several(
                || receiver.try_recv().map_err(|e| e == crossfire::TryRecvError::Disconnected),
                each,
            ),
        }
    }

    fn receive(receiver: Self::Receiver, mut each: impl FnMut(&Message)) {
        match receiver {
            OneOrMore::One(receiver) => {
                while let Ok(message) = receiver.recv() {
                    each(&message);
                }
            }
            OneOrMore::More(receiver) => {
                while let Ok(message) = receiver.recv() {
                    each(&message);
                }
            }
        }
    }
}

/// One producer's kind, or the kind for more.
pub enum OneOrMore<A, B> {
    One(A),
    More(B),
}

impl Channel for Std {
    const FORM: &'static str = "std, recv";
    type Sender = std::sync::mpsc::SyncSender<Message>;
    type Receiver = std::sync::mpsc::Receiver<Message>;

    fn open(slots: usize, producers: usize) -> (Vec<Self::Sender>, Self::Receiver) {
        let (sender, receiver) = std::sync::mpsc::sync_channel(slots);
        (vec![sender; producers], receiver)
    }

    #[inline]
    fn send(sender: &Self::Sender, message: Message) {
        sender.send(message).expect("the thread lives");
    }

    #[inline]
    fn take(receiver: &mut Self::Receiver, each: impl FnMut(&Message)) -> Option<usize> {
        several(
            || receiver.try_recv().map_err(|e| e == std::sync::mpsc::TryRecvError::Disconnected),
            each,
        )
    }

    fn receive(receiver: Self::Receiver, mut each: impl FnMut(&Message)) {
        while let Ok(message) = receiver.recv() {
            each(&message);
        }
    }
}
