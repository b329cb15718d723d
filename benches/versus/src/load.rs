//! The load: which key comes next, what a message says, and what every handler does with it.

use std::hint::black_box;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Different keys.
pub const KEYS: usize = 10_000;
/// Bytes of a payload.
pub const PAYLOAD: usize = 64;
/// Bytes of a key such as `order-004711`.
const KEY: usize = 12;
/// One record in so many blocks, where the job says so.
const BLOCKING_EVERY: usize = 1_000;
const BLOCKS: u32 = 1 << 31;

/// How keys are drawn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Draw {
    /// Each as likely as any other.
    Uniform,
    /// By Zipf's law with exponent 0.99: the likeliest key is drawn about once in ten.
    Zipf,
}

impl Draw {
    pub fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Zipf => "zipf",
        }
    }
}

/// What a handler does after it has read the payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handle {
    Nothing,
    /// A microsecond of arithmetic.
    Micro,
    /// One in 1,000 sleeps a millisecond.
    Block,
}

impl Handle {
    pub fn name(self) -> &'static str {
        match self {
            Self::Nothing => "noop",
            Self::Micro => "1us",
            Self::Block => "block",
        }
    }
}

/// One record to come: its key's number, and its place in the key's sequence, from 1.
#[derive(Debug, Clone, Copy)]
pub struct Item {
    key: u32,
    pub place: u32,
}

impl Item {
    /// The `place`-th record of key `number`.
    pub fn new(number: usize, place: u32) -> Self {
        Self { key: number as u32, place }
    }

    #[inline]
    pub fn number(self) -> u32 {
        self.key & !BLOCKS
    }

    /// The key's bytes.
    #[inline]
    pub fn key(self) -> &'static [u8] {
        &keys()[self.number() as usize]
    }

    /// The payload. `stamp` is the time it should be sent at; 0 where nobody asks.
    #[inline]
    pub fn payload(self, stamp: u64) -> [u8; PAYLOAD] {
        let mut payload = [7; PAYLOAD];
        let word = u64::from(self.key) << 32 | u64::from(self.place);
        payload[..8].copy_from_slice(&word.to_le_bytes());
        payload[8..16].copy_from_slice(&stamp.to_le_bytes());
        payload
    }

    /// As it is sent to the child: what the payload begins with.
    pub fn word(self) -> u64 {
        u64::from(self.key) << 32 | u64::from(self.place)
    }
}

/// A message as the peers carry it, by value: the key is borrowed, not copied (keylane copies it).
#[derive(Clone)]
pub struct Message {
    pub key: &'static [u8],
    pub payload: [u8; PAYLOAD],
}

impl Message {
    #[inline]
    pub fn new(item: Item, stamp: u64) -> Self {
        Self { key: item.key(), payload: item.payload(stamp) }
    }

    /// Which of `lanes` it belongs to: keylane's own hash, and the same reduction.
    #[inline]
    pub fn lane(&self, lanes: usize) -> usize {
        lane(self.key, lanes)
    }
}

#[inline]
pub fn lane(key: &[u8], lanes: usize) -> usize {
    ((u128::from(rapidhash::v3::rapidhash_v3(key)) * lanes as u128) >> 64) as usize
}

fn keys() -> &'static [[u8; KEY]] {
    static TABLE: OnceLock<Vec<[u8; KEY]>> = OnceLock::new();
    TABLE.get_or_init(|| (0..KEYS).map(key_of).collect())
}

fn key_of(number: usize) -> [u8; KEY] {
    let mut key = *b"order-000000";
    for (place, byte) in key.iter_mut().skip(6).enumerate() {
        *byte = b'0' + (number / 10usize.pow(5 - place as u32) % 10) as u8;
    }
    key
}

/// The streams of all producers: `count` records together, `burst` of one key in a row. Each producer has keys of
/// its own, since order is promised to one submitter after the other.
pub fn streams(draw: Draw, producers: usize, burst: usize, count: usize) -> Vec<Vec<Item>> {
    let mut random = Random::new(0x9e37_79b9_7f4a_7c15);
    let shuffled = shuffled(&mut random);
    let law = (draw == Draw::Zipf).then(|| zipf(0.99));
    (0..producers)
        .map(|producer| {
            let mut places = vec![0_u32; KEYS];
            let mut number = 0;
            (0..count / producers)
                .map(|sent| {
                    if sent % burst.max(1) == 0 {
                        let drawn = match &law {
                            Some(law) => shuffled[pick(law, random.unit())] as usize,
                            None => random.below(KEYS),
                        };
                        number = drawn - drawn % producers + producer;
                    }
                    places[number] += 1;
                    let blocks =
                        if sent % BLOCKING_EVERY == BLOCKING_EVERY / 2 { BLOCKS } else { 0 };
                    Item { key: number as u32 | blocks, place: places[number] }
                })
                .collect()
        })
        .collect()
}

/// Cumulative probabilities of Zipf's law over all keys.
fn zipf(exponent: f64) -> Vec<f64> {
    let mut sum = 0.0;
    let mut law: Vec<f64> = (1..=KEYS)
        .map(|rank| {
            sum += (rank as f64).powf(-exponent);
            sum
        })
        .collect();
    law.iter_mut().for_each(|part| *part /= sum);
    law
}

fn pick(law: &[f64], unit: f64) -> usize {
    law.partition_point(|&part| part < unit).min(KEYS - 1)
}

/// Which key has which rank.
fn shuffled(random: &mut Random) -> Vec<u32> {
    let mut keys: Vec<u32> = (0..KEYS as u32).collect();
    random.shuffle(&mut keys);
    keys
}

/// Xorshift: the same stream in every run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, end: usize) -> usize {
        ((u128::from(self.next()) * end as u128) >> 64) as usize
    }

    pub fn shuffle<T>(&mut self, values: &mut [T]) {
        for last in (1..values.len()).rev() {
            values.swap(last, self.below(last + 1));
        }
    }

    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A microsecond of dependent multiplications.
#[inline(never)]
pub fn work() {
    churn(*turns());
}

fn churn(turns: u64) {
    let mut value = black_box(1_u64);
    for turn in 0..turns {
        value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ turn;
    }
    black_box(value);
}

/// Turns of the loop that take a microsecond, by the fastest of many tries.
pub fn turns() -> &'static u64 {
    static TURNS: OnceLock<u64> = OnceLock::new();
    TURNS.get_or_init(|| {
        let sample = 20_000;
        let best = (0..200)
            .map(|_| {
                let begin = Instant::now();
                churn(sample);
                begin.elapsed()
            })
            .min()
            .unwrap_or(Duration::from_micros(20));
        (sample as f64 * 1_000.0 / best.as_nanos().max(1) as f64) as u64
    })
}

/// Nanoseconds since the program's first look at the clock; never 0.
#[inline]
pub fn now() -> u64 {
    static BEGIN: OnceLock<Instant> = OnceLock::new();
    BEGIN.get_or_init(Instant::now).elapsed().as_nanos() as u64 + 1
}
