//! The keys that make up most of what a worker handles: estimated from samples, in bounded memory.
//!
//! A worker's `Status` holds the key of its last attempt anyway. Now and then (every 256th visit, and before it
//! sleeps) the worker adds that key here, with the attempts since the last time as its weight: nothing is done
//! for a record, and a few instructions a visit.

use crate::metrics::Counter;
use crate::status::{Last, Seen};
use crate::sync::Mutex;

/// Keys that are kept.
const KEPT: usize = 64;
/// After so many samples all weights are halved: what was long ago counts little.
const HALVED: u32 = 4_096;

/// A worker's busiest keys.
#[derive(Debug)]
pub struct Busiest {
    /// The attempts that were counted when a key was added last. For the worker.
    counted: Counter,
    sketch: Mutex<Sketch>,
}

/// A sketch of the kind "space saving": a key that is not in it takes the place of the lightest one, with its weight,
/// so that every weight is too high by at most `over`.
#[derive(Debug)]
struct Sketch {
    keys: Vec<Kept>,
    samples: u32,
    total: u64,
}

#[derive(Debug)]
struct Kept {
    key: Last,
    /// Of the key: most others differ in it.
    mark: u64,
    weight: u64,
    over: u64,
}

impl Default for Busiest {
    fn default() -> Self {
        // All at once: later, it would be an allocation on the steady path.
        let keys = Vec::with_capacity(KEPT);
        let sketch = Mutex::new(Sketch { keys, samples: 0, total: 0 });
        Self { counted: Counter::default(), sketch }
    }
}

impl Busiest {
    /// Adds the key of the last attempt, if there was one since the last time. For the worker, which has made so
    /// many attempts.
    #[cold]
    pub fn sample(&self, attempts: u64, last: impl FnOnce() -> Last) {
        let weight = attempts.wrapping_sub(self.counted.get());
        if weight > 0 {
            self.counted.set(attempts);
            self.sketch.lock().add(last(), weight);
        }
    }

    /// The keys with their weights, at least, and the weight of everything.
    pub fn read(&self) -> (Vec<(Seen, u64)>, u64) {
        let sketch = self.sketch.lock();
        let keys = sketch.keys.iter().map(|kept| (kept.key.seen(), kept.weight - kept.over));
        (keys.collect(), sketch.total)
    }
}

/// What several workers have seen, the heaviest first, and the weight of everything.
pub fn together<'a>(workers: impl Iterator<Item = &'a Busiest>) -> (Vec<(Seen, u64)>, u64) {
    let (mut keys, mut total) = (Vec::new(), 0);
    for (own, of) in workers.map(Busiest::read) {
        keys.extend(own);
        total += of;
    }
    // The same key of the same subscription is in the same lane.
    keys.sort_by(|(a, _), (b, _)| (a.subscription, &a.key).cmp(&(b.subscription, &b.key)));
    keys.dedup_by(|(later, more), (first, weight)| {
        let same = (first.subscription, &first.key) == (later.subscription, &later.key);
        *weight += if same { *more } else { 0 };
        same
    });
    keys.retain(|(_, weight)| *weight > 0);
    keys.sort_by_key(|(_, weight)| std::cmp::Reverse(*weight));
    (keys, total)
}

impl Sketch {
    fn add(&mut self, key: Last, weight: u64) {
        self.total += weight;
        self.samples += 1;
        let mark = key.mark();
        if let Some(kept) = self.keys.iter_mut().find(|kept| kept.mark == mark && kept.key == key) {
            kept.weight += weight;
        } else if self.keys.len() < KEPT {
            self.keys.push(Kept { key, mark, weight, over: 0 });
        } else if let Some(lightest) = self.keys.iter_mut().min_by_key(|kept| kept.weight) {
            let over = lightest.weight;
            *lightest = Kept { key, mark, weight: over + weight, over };
        }
        if self.samples >= HALVED {
            self.halve();
        }
    }

    fn halve(&mut self) {
        (self.samples, self.total) = (self.samples / 2, self.total / 2);
        for kept in &mut self.keys {
            let own = (kept.weight - kept.over) / 2;
            kept.over /= 2;
            kept.weight = kept.over + own;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Status;

    fn key(status: &Status, key: &str) -> Last {
        status.enter(1, &crate::Record::new(key, ""));
        status.leave();
        status.last()
    }

    #[test]
    fn heavy_keys_are_found_among_many_and_forgotten_once_they_are_quiet() {
        let (status, busiest) = (Status::default(), Busiest::default());
        let mut attempts = 0;
        let mut feed = |heavy: &str, rounds: u32| {
            for round in 0..rounds {
                attempts += 7;
                busiest.sample(attempts, || match round % 4 {
                    0 => key(&status, heavy),
                    _ => key(&status, &format!("light-{round}")),
                });
            }
            let (keys, total) = busiest.read();
            assert!(keys.len() <= KEPT);
            let mut shares: Vec<_> = keys
                .into_iter()
                .map(|(seen, weight)| (String::from_utf8(seen.key.unwrap()).unwrap(), weight))
                .map(|(name, weight)| (name, weight as f64 / total as f64))
                .collect();
            shares.sort_by(|a, b| b.1.total_cmp(&a.1));
            shares
        };
        let first = feed("first", 4_000);
        assert_eq!(first[0].0, "first");
        assert!((0.2..=0.26).contains(&first[0].1), "{:?}", first[0]);
        assert!(first[1].1 < 0.01, "{:?}", first[1]);
        let second = feed("second", 20_000);
        assert_eq!(second[0].0, "second");
        assert!(second[0].1 > 0.2);
        assert!(second.iter().all(|(name, share)| name != "first" || *share < 0.02));
    }

    #[test]
    fn what_several_workers_saw_is_put_together() {
        let (status, one, two) = (Status::default(), Busiest::default(), Busiest::default());
        one.sample(10, || key(&status, "a"));
        one.sample(13, || key(&status, "b"));
        two.sample(5, || key(&status, "b"));
        two.sample(6, || key(&status, "c"));
        let (keys, total) = together([&one, &two].into_iter());
        let keys: Vec<_> = keys.into_iter().map(|(seen, w)| (seen.key.unwrap(), w)).collect();
        assert_eq!(keys, [(b"a".to_vec(), 10), (b"b".to_vec(), 8), (b"c".to_vec(), 1)]);
        assert_eq!(total, 19);
    }

    #[test]
    fn nothing_is_added_while_nothing_happens_and_weights_are_attempts() {
        let (status, busiest) = (Status::default(), Busiest::default());
        busiest.sample(0, || unreachable!("no attempt"));
        busiest.sample(10, || key(&status, "a"));
        busiest.sample(10, || unreachable!("no attempt since"));
        busiest.sample(15, || key(&status, "a"));
        let (keys, total) = busiest.read();
        assert_eq!((keys.len(), keys[0].1, total), (1, 15, 15));
    }
}
