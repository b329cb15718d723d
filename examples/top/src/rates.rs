//! What happened lately: the difference between the newest snapshot and one of a few seconds ago.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use keylane_top::view::View;

/// Snapshots that are kept.
const KEPT: usize = 8;

/// What was counted when a snapshot was taken.
struct Counted {
    at_nanos: u64,
    done: u64,
    workers: Vec<u64>,
    lanes: Vec<u64>,
    subscriptions: HashMap<String, u64>,
    latency: BTreeMap<Duration, u64>,
}

/// The last few snapshots' counts.
#[derive(Default)]
pub struct Rates(VecDeque<Counted>);

impl Rates {
    /// Adds a snapshot. One that is older than the last is of a service that began anew.
    pub fn add(&mut self, at_nanos: u64, view: &View) {
        let done = view.outcomes.get("done").copied().unwrap_or(0);
        if self.0.back().is_some_and(|last| last.at_nanos >= at_nanos || last.done > done) {
            self.0.clear();
        }
        let mut latency = BTreeMap::new();
        for (most, count) in view
            .subscriptions
            .iter()
            .filter_map(|s| s.latency.as_ref())
            .flat_map(|latency| &latency.buckets)
        {
            *latency.entry(*most).or_default() += count;
        }
        self.0.push_back(Counted {
            at_nanos,
            done,
            workers: view.workers.iter().map(|worker| worker.attempts).collect(),
            lanes: view.lanes.iter().map(|lane| lane.handled).collect(),
            subscriptions: view
                .subscriptions
                .iter()
                .filter_map(|s| Some((s.name.clone(), s.counts.handled?)))
                .collect(),
            latency,
        });
        if self.0.len() > KEPT {
            self.0.pop_front();
        }
    }

    fn ends(&self) -> Option<(&Counted, &Counted, f64)> {
        let (first, last) = (self.0.front()?, self.0.back()?);
        let seconds = last.at_nanos.saturating_sub(first.at_nanos) as f64 / 1e9;
        (seconds > 0.0).then_some((first, last, seconds))
    }

    /// Records handled a second.
    pub fn done(&self) -> f64 {
        self.ends().map_or(0.0, |(first, last, s)| last.done.saturating_sub(first.done) as f64 / s)
    }

    /// A subscription's records handled a second, if they are counted.
    pub fn subscription(&self, name: &str) -> Option<f64> {
        let (first, last, seconds) = self.ends()?;
        let new = *last.subscriptions.get(name)?;
        let old = first.subscriptions.get(name).copied().unwrap_or(0);
        Some(new.saturating_sub(old) as f64 / seconds)
    }

    /// A worker's attempts a second.
    pub fn worker(&self, worker: usize) -> f64 {
        let Some((first, last, seconds)) = self.ends() else { return 0.0 };
        let at = |counted: &Counted| counted.workers.get(worker).copied().unwrap_or(0);
        at(last).saturating_sub(at(first)) as f64 / seconds
    }

    /// Whether a lane has had records lately.
    pub fn is_at_work(&self, lane: usize) -> bool {
        self.ends().is_some_and(|(first, last, _)| last.lanes.get(lane) > first.lanes.get(lane))
    }

    /// The latency that this part of the latest samples does not exceed.
    pub fn latency(&self, part: f64) -> Option<Duration> {
        let (first, last, _) = self.ends()?;
        let new = |(most, count): (&Duration, &u64)| {
            (*most, count.saturating_sub(first.latency.get(most).copied().unwrap_or(0)))
        };
        let samples: u64 = last.latency.iter().map(new).map(|(_, count)| count).sum();
        let rank = ((samples as f64 * part).ceil() as u64).max(1);
        let mut below = 0;
        last.latency.iter().map(new).find_map(|(most, count)| {
            below += count;
            (below >= rank).then_some(most)
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use keylane_top::view::{Latency, Subscription};

    fn view(done: u64, samples: u64) -> View {
        let mut view = View::default();
        view.outcomes.insert("done".into(), done);
        let buckets = vec![(Duration::from_micros(5), samples), (Duration::from_millis(1), 7)];
        let latency = Some(Latency { buckets });
        view.subscriptions.push(Subscription {
            name: "s".into(),
            latency,
            ..Subscription::default()
        });
        view
    }

    #[test]
    fn rates_are_of_the_last_few_seconds() {
        let mut rates = Rates::default();
        assert_eq!((rates.done(), rates.latency(0.5)), (0.0, None));
        for second in 0..20_u64 {
            rates.add(second * 1_000_000_000, &view(second * 100, second * 10));
        }
        assert_eq!(rates.0.len(), KEPT);
        assert_eq!(rates.done(), 100.0);
        // The slow ones were long ago.
        assert_eq!(rates.latency(1.0), Some(Duration::from_micros(5)));
        assert_eq!(rates.subscription("s"), None);
        rates.add(0, &view(0, 0));
        assert_eq!((rates.0.len(), rates.done()), (1, 0.0), "it began anew");
    }
}
