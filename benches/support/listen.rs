//! Who listens to a runtime, with the features `metrics` and `tracing`: they keep what they are told as cheaply as it
//! can be kept, so that what is counted is what the runtime does for them.

#[cfg(feature = "metrics")]
pub use with_metrics::Exported;
#[cfg(feature = "tracing")]
pub use with_tracing::hear_spans;

#[cfg(feature = "metrics")]
mod with_metrics {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use keylane::{Exporter, Runtime};
    use metrics::{
        Counter, Gauge, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder, SharedString,
        Unit, with_local_recorder,
    };

    /// Samples, counted.
    #[derive(Debug, Default)]
    struct Samples(AtomicU64);

    impl HistogramFn for Samples {
        fn record(&self, _: f64) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A number for each series, which whoever tells it keeps.
    #[derive(Debug)]
    struct Numbers;

    impl Recorder for Numbers {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            Counter::from_arc(Arc::new(AtomicU64::new(0)))
        }
        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            Gauge::from_arc(Arc::new(AtomicU64::new(0)))
        }
        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::from_arc(Arc::new(Samples::default()))
        }
    }

    /// An exporter and its recorder.
    #[derive(Debug)]
    pub struct Exported(Exporter);

    impl Exported {
        /// Of this runtime.
        pub fn new(runtime: &Runtime) -> Self {
            Self(Exporter::new(runtime))
        }

        /// Tells the recorder what is new.
        pub fn publish(&mut self) {
            with_local_recorder(&Numbers, || self.0.publish());
        }
    }
}

#[cfg(feature = "tracing")]
mod with_tracing {
    use std::sync::atomic::{AtomicU64, Ordering};

    use tracing::span::{Attributes, Id, Record};
    use tracing::{Dispatch, Event, Metadata, Subscriber};

    /// Gives every span a number, and looks at none of its fields.
    #[derive(Debug, Default)]
    struct Spans(AtomicU64);

    impl Subscriber for Spans {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(self.0.fetch_add(1, Ordering::Relaxed) + 1)
        }
        fn record(&self, _: &Id, _: &Record<'_>) {}
        fn record_follows_from(&self, _: &Id, _: &Id) {}
        fn event(&self, _: &Event<'_>) {}
        fn enter(&self, _: &Id) {}
        fn exit(&self, _: &Id) {}
    }

    /// All threads' spans are wanted from here on. Once a process.
    pub fn hear_spans() {
        let heard = tracing::dispatcher::set_global_default(Dispatch::new(Spans::default()));
        assert!(heard.is_ok(), "somebody else listens");
    }
}
