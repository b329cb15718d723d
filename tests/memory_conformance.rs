//! The memory bus keeps what every bus promises; and the suite convicts buses that do not.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use keylane::memory::MemoryBus;
use keylane::testing::conformance::{
    Conformance, Failed, Fixture, Loss, Opened, Progress, Restart, Shape, names,
};
use keylane::{
    Bus, BusClosing, BusSubscription, Handler, Publishing, Record, Runtime, Start, Subscribing,
    Subscription, Topics, Transport,
};
use std::sync::Mutex;
use std::time::Duration;

struct Memory;

struct Open(MemoryBus);

impl Fixture for Memory {
    fn has_virtual_time(&self) -> bool {
        true
    }

    fn open(&self, runtime: &Runtime, shape: &Shape) -> Result<Box<dyn Opened>, Failed> {
        let builder = MemoryBus::builder(runtime).partitions(shape.partitions);
        let builder = match shape.capacity {
            Some(capacity) => builder.capacity(capacity),
            None => builder,
        };
        Ok(Box::new(Open(builder.build()?)))
    }
}

impl Opened for Open {
    fn bus(&self) -> Bus {
        self.0.bus()
    }

    fn restart(&self, subscription: &BusSubscription, how: Restart) -> Result<(), Failed> {
        let name = subscription.subscriber().name();
        match how {
            Restart::Graceful => self.0.restart_consumer(name)?,
            _ => self.0.crash_consumer(name)?,
        }
        Ok(())
    }

    fn progress(&self, subscription: &BusSubscription) -> Result<Vec<Progress>, Failed> {
        let progress = self.0.progress(subscription.subscriber().name());
        let progress = progress.iter().map(|own| Progress {
            partition: own.partition,
            committed: own.frontier,
            end: own.end,
        });
        Ok(progress.collect())
    }

    fn break_topic(&self, topic: &str, broken: bool) -> Result<(), Failed> {
        self.0.faults().fail_publishes(topic, if broken { u64::MAX } else { 0 });
        Ok(())
    }

    fn hold_topic(&self, topic: &str, held: bool) -> Result<(), Failed> {
        if held {
            self.0.faults().hold(topic);
        } else {
            self.0.faults().release(topic);
        }
        Ok(())
    }

    fn publish_foreign(&self, topic: &str, record: Record) -> Result<(), Failed> {
        self.0.publish_foreign(topic, record).wait()?;
        Ok(())
    }

    fn lose(&self, topic: &str, loss: Loss) -> Result<(), Failed> {
        match loss {
            Loss::Purged => self.0.purge(topic),
            _ => self.0.recreate(topic),
        }
        Ok(())
    }

    fn keeps_parked(&self) -> bool {
        true
    }

    fn unsubscribe(&self, subscription: &BusSubscription) -> Result<(), Failed> {
        self.0.unsubscribe(subscription)?;
        Ok(())
    }
}

/// How long a case waits for what must happen; where lanes are made to wait, it never does.
const PATIENCE: Duration =
    Duration::from_secs(if cfg!(keylane_weak = "whole_lane_waits") { 2 } else { 60 });

/// A test of its own for each case, and one that none is missing.
macro_rules! conforms {
    ($($case:ident),+ $(,)?) => {
        $(
            #[test]
            fn $case() {
                let result = Conformance::new(Memory).patience(PATIENCE).run_case(stringify!($case));
                println!("{result}");
                result.assert_passed();
                // The memory bus can do all that a case may need.
                assert!(!result.to_string().contains("not run"), "{result}");
            }
        )+

        #[test]
        fn no_case_is_left_out() {
            assert_eq!(names().collect::<Vec<_>>(), [$(stringify!($case)),+]);
        }
    };
}

conforms![
    a_confirmed_publish_reaches_every_subscription,
    publishing_without_a_subscriber_succeeds,
    subscriptions_start_at_the_earliest_or_the_latest,
    a_name_is_subscribed_once,
    content_arrives_as_it_was,
    null_and_empty_are_told_apart,
    large_payloads_and_unicode_arrive,
    publishing_and_subscribing_at_once_lose_nothing,
    topics_that_cannot_be_are_refused,
    keys_that_cannot_be_are_refused,
    envelopes_that_cannot_be_are_refused,
    subscriptions_that_cannot_be_are_refused,
    // convict: whole_lane_waits
    order_is_kept_by_sync_handlers,
    // convict: whole_lane_waits
    order_is_kept_by_async_handlers,
    // convict: whole_lane_waits
    order_is_kept_by_blocking_handlers,
    // convict: whole_lane_waits
    a_slow_key_delays_no_other,
    keyless_records_are_all_handled,
    // convict: whole_lane_waits
    keyless_records_may_be_serial,
    keyless_records_may_be_rejected,
    a_full_topic_gives_the_record_back,
    a_full_topic_holds_its_publisher_until_there_is_room,
    a_wait_for_room_can_be_given_up,
    inside_a_handler_nothing_blocks,
    // convict: whole_lane_waits
    publishing_inside_a_handler_works,
    // convict: whole_lane_waits
    errors_and_panics_stop_nobody_else,
    // convict: whole_lane_waits
    a_stop_stops_its_partition_alone,
    // convict: whole_lane_waits
    retries_are_in_place,
    fatal_errors_are_not_tried_again,
    // convict: whole_lane_waits
    a_handler_can_be_swapped_for_one_that_works,
    an_unsubscribed_name_is_free_and_handles_nothing,
    dead_letters_hold_the_record_as_it_was,
    dead_letters_say_why,
    // convict: whole_lane_waits
    the_original_waits_for_its_dead_letter,
    // convict: whole_lane_waits
    a_parked_key_follows_in_order_until_resumed,
    // convict: whole_lane_waits
    a_key_can_be_parked_and_skipped_by_hand,
    envelopes_reach_sync_async_and_blocking_handlers,
    envelopes_reach_raw_handlers_too,
    broken_envelopes_are_not_tried,
    // convict: whole_lane_waits
    keyless_envelopes_are_ordered_by_their_aggregate,
    a_header_is_the_key_where_the_record_has_none,
    another_key_than_the_envelopes_fails_for_good,
    a_key_that_is_too_long_fails_in_its_order,
    a_swapped_handler_is_not_called_for_it_either,
    an_empty_key_is_none,
    subscriptions_start_at_a_time_or_a_position,
    each_group_has_every_record,
    a_group_reads_a_topic_once,
    a_group_goes_on_where_it_was,
    parked_keys_are_parked_where_the_group_goes_on,
    a_lost_position_stops_the_source,
    a_lost_position_may_be_passed_over,
    a_position_that_is_lost_while_nothing_is_read_is_noticed,
    a_topic_made_anew_is_a_lost_position,
    several_topics_feed_one_subscription,
    several_topics_are_restarted_together,
    several_topics_are_refused_as_a_whole,
    another_set_of_topics_loses_and_repeats_nothing,
    dead_letters_of_several_topics_say_which,
    bytes_under_way_are_bounded,
    a_paused_subscription_reads_nothing,
    lag_and_ages_are_seen,
    a_stopped_source_is_said,
    letters_that_are_not_taken_are_said_and_hold_the_frontier,
    a_letter_refused_for_good_stops_the_source_and_names_the_record,
    // convict: whole_lane_waits
    a_crash_loses_nothing_and_repeats_little,
    // convict: whole_lane_waits
    a_crash_repeats_what_was_not_committed,
    a_graceful_restart_repeats_nothing,
    late_completions_change_nothing,
    // convict: whole_lane_waits
    deliveries_that_were_held_come_in_order,
    after_the_close_everything_is_refused,
    // convict: whole_lane_waits
    close_handles_what_was_read,
    close_gives_up_at_its_deadline,
    everybody_who_closes_hears_the_same,
    dead_letters_are_taken_while_it_closes,
    a_publisher_that_waits_hears_of_the_close,
];

/// How a bus breaks its promises.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lie {
    /// It does not.
    Nothing,
    /// It confirms every seventh publish and stores it elsewhere.
    Drops,
    /// It stores every seventh record twice.
    Doubles,
    /// Every seventh record is overtaken by the next of its key.
    Reorders,
    /// It acknowledges what failed.
    AcksFailures,
    /// It says that everything is committed once it is published.
    CommitsEarly,
    /// It strips records of their keys.
    LosesKeys,
    /// It subscribes to what comes next only.
    SkipsTheOld,
    /// It takes publishes after its close.
    NeverCloses,
    /// Restarted, it goes on where the topic ends.
    ForgetsAtCrash,
    /// A restart restarts nothing.
    IgnoresRestarts,
    /// It gives up at once what it has read.
    ClosesInHaste,
    /// Its topics have no bound.
    NeverFull,
    /// It drops headers.
    LosesHeaders,
}

struct Liar(Lie);

/// A memory bus behind a transport that lies.
struct Twisted {
    inner: MemoryBus,
    lie: Lie,
    /// How many, and one that is stored after the next of its key.
    published: Mutex<(u64, Option<(String, Record)>)>,
}

struct OpenLiar {
    open: Open,
    bus: Bus,
    lie: Lie,
}

impl Fixture for Liar {
    fn has_virtual_time(&self) -> bool {
        true
    }

    fn open(&self, runtime: &Runtime, shape: &Shape) -> Result<Box<dyn Opened>, Failed> {
        let lie = self.0;
        let builder = MemoryBus::builder(runtime).partitions(shape.partitions);
        let builder = match shape.capacity {
            Some(capacity) if lie != Lie::NeverFull => builder.capacity(capacity),
            _ => builder,
        };
        let inner = builder.build()?;
        let twisted = Twisted { inner: inner.clone(), lie, published: Mutex::default() };
        Ok(Box::new(OpenLiar { open: Open(inner), bus: Bus::new(twisted), lie }))
    }
}

impl Opened for OpenLiar {
    fn bus(&self) -> Bus {
        self.bus.clone()
    }

    fn restart(&self, subscription: &BusSubscription, how: Restart) -> Result<(), Failed> {
        match self.lie {
            Lie::IgnoresRestarts => Ok(()),
            // What is unfinished is passed over, as if it had been acknowledged when it was read.
            Lie::ForgetsAtCrash => self.open.restart(subscription, Restart::Graceful),
            _ => self.open.restart(subscription, how),
        }
    }

    fn progress(&self, subscription: &BusSubscription) -> Result<Vec<Progress>, Failed> {
        let mut progress = self.open.progress(subscription)?;
        if self.lie == Lie::CommitsEarly {
            progress.iter_mut().for_each(|own| own.committed = own.end);
        }
        Ok(progress)
    }

    fn break_topic(&self, topic: &str, broken: bool) -> Result<(), Failed> {
        self.open.break_topic(topic, broken)
    }

    fn hold_topic(&self, topic: &str, held: bool) -> Result<(), Failed> {
        self.open.hold_topic(topic, held)
    }

    fn unsubscribe(&self, subscription: &BusSubscription) -> Result<(), Failed> {
        self.open.unsubscribe(subscription)
    }
}

impl Transport for Twisted {
    fn runtime(&self) -> &Runtime {
        self.inner.runtime()
    }

    fn publish(&self, topic: &str, record: Record) -> Publishing {
        let (seventh, late) = {
            let mut published = self.published.lock().unwrap();
            published.0 += 1;
            let seventh = published.0.is_multiple_of(7) && published.1.is_none();
            (seventh, published.1.take_if(|(_, late)| late.key() == record.key()))
        };
        if let Some((topic_of_late, late)) = late {
            let publishing = self.inner.publish(topic, record);
            drop(self.inner.publish(&topic_of_late, late));
            return publishing;
        }
        match self.lie {
            Lie::Drops if seventh => self.inner.publish("elsewhere", record),
            Lie::Doubles if seventh => {
                drop(self.inner.publish(topic, record.copy()));
                self.inner.publish(topic, record)
            }
            Lie::Reorders if seventh => {
                let late = (topic.to_owned(), record.copy());
                self.published.lock().unwrap().1 = Some(late);
                self.inner.publish("elsewhere", record)
            }
            Lie::LosesKeys => {
                let keyless = Record::from_bytes(None, record.payload_bytes());
                self.inner.publish(topic, keyless)
            }
            Lie::LosesHeaders if !record.is_null() => {
                let bare = Record::from_bytes(record.key(), record.payload_bytes());
                self.inner.publish(topic, bare)
            }
            _ => self.inner.publish(topic, record),
        }
    }

    fn subscribe(
        &self,
        topics: Topics,
        subscription: Subscription,
        handler: Handler,
        _envelope: bool,
    ) -> Subscribing {
        let subscription = match self.lie {
            Lie::AcksFailures => subscription.skip(),
            Lie::SkipsTheOld => subscription.start(Start::Latest),
            _ => subscription,
        };
        self.inner.subscribe_handler(topics, subscription, handler)
    }

    fn close(&self, timeout: Duration) -> BusClosing {
        match self.lie {
            Lie::ClosesInHaste => self.inner.close(Duration::ZERO),
            Lie::NeverCloses => MemoryBus::new(self.runtime()).unwrap().close(timeout),
            _ => self.inner.close(timeout),
        }
    }
}

/// Cases that only prove themselves by a bus that breaks them: each lie, and who must convict it.
#[test]
fn a_bus_that_lies_is_convicted() {
    let convictions: &[(Lie, &[&str])] = &[
        (
            Lie::Drops,
            &[
                "a_confirmed_publish_reaches_every_subscription",
                "order_is_kept_by_async_handlers",
                "a_crash_loses_nothing_and_repeats_little",
            ],
        ),
        (Lie::Doubles, &["a_confirmed_publish_reaches_every_subscription", "retries_are_in_place"]),
        (
            Lie::Reorders,
            &["order_is_kept_by_sync_handlers", "deliveries_that_were_held_come_in_order"],
        ),
        (
            Lie::AcksFailures,
            &[
                "a_stop_stops_its_partition_alone",
                "dead_letters_hold_the_record_as_it_was",
                "the_original_waits_for_its_dead_letter",
                "a_parked_key_follows_in_order_until_resumed",
                "broken_envelopes_are_not_tried",
            ],
        ),
        (
            Lie::CommitsEarly,
            &[
                "a_crash_loses_nothing_and_repeats_little",
                "late_completions_change_nothing",
                "the_original_waits_for_its_dead_letter",
            ],
        ),
        (Lie::LosesKeys, &["content_arrives_as_it_was", "order_is_kept_by_async_handlers"]),
        (Lie::SkipsTheOld, &["subscriptions_start_at_the_earliest_or_the_latest"]),
        (
            Lie::NeverCloses,
            &["after_the_close_everything_is_refused", "a_publisher_that_waits_hears_of_the_close"],
        ),
        (Lie::ForgetsAtCrash, &["a_crash_repeats_what_was_not_committed"]),
        (
            Lie::IgnoresRestarts,
            &["a_crash_repeats_what_was_not_committed", "late_completions_change_nothing"],
        ),
        (Lie::ClosesInHaste, &["close_handles_what_was_read"]),
        (
            Lie::NeverFull,
            &["a_full_topic_gives_the_record_back", "inside_a_handler_nothing_blocks"],
        ),
        (Lie::LosesHeaders, &["content_arrives_as_it_was", "null_and_empty_are_told_apart"]),
    ];
    for (lie, cases) in convictions {
        for case in *cases {
            // What convicts is the lie, not how it is told.
            Conformance::new(Liar(Lie::Nothing)).run_case(case).assert_passed();
            // Time is virtual, so that what has not come after a second never comes.
            let suite = Conformance::new(Liar(*lie)).patience(Duration::from_secs(1));
            let result = suite.run_case(case);
            assert!(result.has_failed(), "{lie:?} was not convicted: {result}");
            println!("{lie:?}: {result}");
        }
    }
    let unknown = Conformance::new(Memory).run_case("no such case");
    assert!(unknown.has_failed());
}
