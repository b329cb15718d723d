//! The memory bus keeps what every bus promises; and the suite convicts buses that do not.
#![cfg(feature = "testing")]

use keylane::memory::MemoryBus;
use keylane::testing::conformance::{
    Conformance, Failed, Fixture, Opened, Progress, Restart, Shape, names,
};
use keylane::{Bus, BusSubscription, Runtime};

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

    fn unsubscribe(&self, subscription: &BusSubscription) -> Result<(), Failed> {
        self.0.unsubscribe(subscription)?;
        Ok(())
    }
}

/// A test of its own for each case, and one that none is missing.
macro_rules! conforms {
    ($($case:ident),+ $(,)?) => {
        $(
            #[test]
            fn $case() {
                let result = Conformance::new(Memory).run_case(stringify!($case));
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
    order_is_kept_by_sync_handlers,
    order_is_kept_by_async_handlers,
    order_is_kept_by_blocking_handlers,
    a_slow_key_delays_no_other,
    keyless_records_are_all_handled,
    keyless_records_may_be_serial,
    keyless_records_may_be_rejected,
    a_full_topic_gives_the_record_back,
    a_full_topic_holds_its_publisher_until_there_is_room,
    a_wait_for_room_can_be_given_up,
    inside_a_handler_nothing_blocks,
    publishing_inside_a_handler_works,
    errors_and_panics_stop_nobody_else,
    a_stop_stops_its_partition_alone,
    retries_are_in_place,
    fatal_errors_are_not_tried_again,
    a_handler_can_be_swapped_for_one_that_works,
    an_unsubscribed_name_is_free_and_handles_nothing,
    dead_letters_hold_the_record_as_it_was,
    dead_letters_say_why,
    the_original_waits_for_its_dead_letter,
    a_parked_key_follows_in_order_until_resumed,
    a_key_can_be_parked_and_skipped_by_hand,
    envelopes_reach_sync_async_and_blocking_handlers,
    envelopes_reach_raw_handlers_too,
    broken_envelopes_are_not_tried,
    keyless_envelopes_are_ordered_by_their_aggregate,
    a_crash_loses_nothing_and_repeats_little,
    a_crash_repeats_what_was_not_committed,
    a_graceful_restart_repeats_nothing,
    late_completions_change_nothing,
    deliveries_that_were_held_come_in_order,
    after_the_close_everything_is_refused,
    close_handles_what_was_read,
    close_gives_up_at_its_deadline,
    everybody_who_closes_hears_the_same,
    dead_letters_are_taken_while_it_closes,
    a_publisher_that_waits_hears_of_the_close,
];
