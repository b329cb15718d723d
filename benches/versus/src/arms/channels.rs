//! A bounded channel for each worker thread, which owns its share of the lanes: what is in one channel stays in order.

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
    const NAME: &'static str;
    const FORM: &'static str;
    type Sender: Send + 'static;
    type Receiver: Send + 'static;

    /// A sender for each producer.
    fn open(slots: usize, producers: usize) -> (Vec<Self::Sender>, Self::Receiver);
    fn send(sender: &Self::Sender, message: Message);
    /// Until the senders are gone.
    fn receive(receiver: Self::Receiver, each: impl FnMut(&Message));
}

macro_rules! channels {
    ($($kind:ident),+) => {$(
        pub struct $kind;
        impl Arm for $kind {
            fn name(&self) -> &'static str {
                Self::NAME
            }

            fn about(&self, shape: &Shape) -> Result<About, String> {
                let threads = threads(shape);
                let form = format!("a thread and a channel of {} each: {}", slots(threads), Self::FORM);
                Ok(About { threads, form })
            }

            fn start(&self, shape: &Shape, sink: &Arc<Sink>) -> Box<dyn Pool> {
                Box::new(Threads::<Self>::new(shape, sink))
            }
        }
    )+};
}

channels!(Crossbeam, Flume, Kanal, Crossfire, Std);

struct Threads<C: Channel> {
    /// For each producer, its senders to all threads, until it takes them.
    senders: Mutex<Vec<Option<Vec<C::Sender>>>>,
    threads: Vec<JoinHandle<()>>,
    lanes: usize,
}

impl<C: Channel> Threads<C> {
    fn new(shape: &Shape, sink: &Arc<Sink>) -> Self {
        let count = threads(shape);
        let mut senders: Vec<Vec<C::Sender>> = (0..shape.producers).map(|_| Vec::new()).collect();
        let threads = (0..count).map(|_| {
            let (opened, receiver) = C::open(slots(count), shape.producers);
            senders.iter_mut().zip(opened).for_each(|(senders, sender)| senders.push(sender));
            let sink = sink.clone();
            std::thread::spawn(move || {
                C::receive(receiver, |message| sink.handle(&message.payload));
            })
        });
        let threads = threads.collect();
        let senders = Mutex::new(senders.into_iter().map(Some).collect());
        Self { senders, threads, lanes: shape.lanes }
    }
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
    const NAME: &'static str = "crossbeam-channel";
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

    fn receive(receiver: Self::Receiver, mut each: impl FnMut(&Message)) {
        while let Ok(message) = receiver.recv() {
            each(&message);
        }
    }
}

impl Channel for Flume {
    const NAME: &'static str = "flume";
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

    fn receive(receiver: Self::Receiver, mut each: impl FnMut(&Message)) {
        while let Ok(message) = receiver.recv() {
            each(&message);
            receiver.drain().for_each(|message| each(&message));
        }
    }
}

impl Channel for Kanal {
    const NAME: &'static str = "kanal";
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
    const NAME: &'static str = "crossfire";
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
    const NAME: &'static str = "sync_channel";
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

    fn receive(receiver: Self::Receiver, mut each: impl FnMut(&Message)) {
        while let Ok(message) = receiver.recv() {
            each(&message);
        }
    }
}
