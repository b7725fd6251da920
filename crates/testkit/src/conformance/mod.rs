//! The conformance suite of streaming systems: one set of behaviours of [`Streamer`], [`Consumer`] and [`Producer`], run for
//! every backend by what it says of itself.
//!
//! [`conformance!`](crate::conformance!) makes one test of each behaviour. What a backend cannot do it must refuse with a
//! clear error: the behaviours check that too.
//!
//! ```ignore
//! async fn setting() -> Result<Setting, String> { ... }
//! millstream_testkit::conformance!(setting());
//! ```

#![allow(clippy::panic, clippy::unwrap_used, clippy::missing_panics_doc, reason = "a behaviour fails by panicking")]

mod keeping;
mod moving;
mod reading;
mod scene;
mod shapes;
mod sharing;
mod writing;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use millstream_client::{Backend, ByUrl, Streamer};
use millstream_core::{
    Component, PlanContext, Registry, Result, SeekTo, SinkCapabilities, SinkPlan, SourceCapabilities, SourcePlan,
};

pub use self::{keeping::*, moving::*, reading::*, shapes::*, sharing::*, writing::*};

/// How long a behaviour may take: far more than any needs.
const PATIENCE: Duration = Duration::from_secs(90);

/// A system to try, and what it says of itself beside its capability structs.
#[derive(Clone)]
pub struct Setting {
    /// Where sources and sinks come from.
    pub backend: Arc<dyn Backend>,
    /// Makes a stream with so many shards.
    pub make_stream: Arc<dyn Fn(String, u64) -> Making + Send + Sync>,
    /// Breaks all connections, where there are some.
    pub cut: Option<Arc<dyn Fn() + Send + Sync>>,
    /// What it is able to do.
    pub able: Able,
}

/// A stream in the making.
pub type Making = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What a system can do that its capability structs do not say.
#[derive(Clone, Debug)]
pub struct Able {
    /// Whoever opens later can read what was written before.
    pub keeps: bool,
    /// A stream can have more shards than one.
    pub shards: bool,
    /// Values may be any bytes; else only lines of text.
    pub binary: bool,
    /// An empty value stays one.
    pub empty: bool,
    /// The largest value that must pass, in bytes.
    pub value_bytes: usize,
    /// How exact times are, in nanoseconds.
    pub time_step: i64,
    /// A producer that ends tells readers that the stream has ended.
    pub ends: bool,
    /// What a member of a group held when it died comes to another one within this time.
    pub fails_over: Option<Duration>,
}

impl Setting {
    /// The system behind a URL, out of a connector's components; streams need not be made, and connections are not cut.
    pub fn new(url: &str, components: Vec<Component>, able: Able) -> Self {
        let mut registry = Registry::default();
        components.into_iter().for_each(|component| registry.add(component));
        match ByUrl::new(url, registry) {
            Ok(backend) => Setting::of(backend, able),
            Err(error) => panic!("cannot use {url}: {}", error.chain()),
        }
    }

    /// A backend by its type; streams need not be made, and connections are not cut.
    pub fn of(backend: impl Backend, able: Able) -> Self {
        let make_stream = Arc::new(|_, _| Box::pin(async {}) as Making);
        Setting { backend: Arc::new(backend), make_stream, cut: None, able }
    }

    /// A new connection.
    pub fn streamer(&self) -> Streamer {
        Streamer::of(Shared(self.backend.clone()))
    }

    /// What a source of this system can do, as a member of a group or alone.
    pub fn source(&self, stream: &str, group: Option<&str>) -> SourceCapabilities {
        match self.backend.source(&[stream], group) {
            Ok(plan) => plan.capabilities(),
            Err(error) => panic!("cannot plan a source: {}", error.chain()),
        }
    }

    /// What a sink of this system can do.
    pub fn sink(&self, stream: &str) -> SinkCapabilities {
        match self.backend.sink(stream, &PlanContext::default()) {
            Ok(plan) => plan.capabilities(),
            Err(error) => panic!("cannot plan a sink: {}", error.chain()),
        }
    }
}

/// A backend that several streamers share.
struct Shared(Arc<dyn Backend>);

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Backend for Shared {
    fn source(&self, streams: &[&str], group: Option<&str>) -> Result<Box<dyn SourcePlan>> {
        self.0.source(streams, group)
    }

    fn sink(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        self.0.sink(stream, context)
    }

    fn sink_by_shard(&self, stream: &str, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
        self.0.sink_by_shard(stream, context)
    }

    fn start(&self) -> Option<SeekTo> {
        self.0.start()
    }

    fn beside(&self) -> Option<std::path::PathBuf> {
        self.0.beside()
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

/// Runs a behaviour, which must end; a setting that is not to be had is skipped aloud.
pub async fn run<F: Future<Output = ()>>(
    setting: impl Future<Output = Result<Setting, String>>,
    behaviour: impl FnOnce(Setting) -> F,
) {
    match setting.await {
        Ok(setting) => {
            let ended = tokio::time::timeout(PATIENCE, behaviour(setting)).await;
            assert!(ended.is_ok(), "the behaviour hangs: it has not ended within {PATIENCE:?}");
        }
        Err(why) => println!("skipped: {why}"),
    }
}

/// One test for each behaviour, on the setting that the expression gives: a future of `Result<Setting, String>`, evaluated
/// for each.
#[macro_export]
macro_rules! conformance {
    ($setting:expr) => {
        $crate::conformance! { $setting;
            a_receipt_tells_the_sequence_that_readers_see,
            receipts_resolve_in_the_order_of_sending,
            records_of_a_shard_arrive_in_order,
            clones_of_a_producer_write_side_by_side,
            flush_waits_for_everything,
            what_is_sent_after_the_end_is_refused,
            a_send_that_is_given_up_is_whole_or_nothing,
            a_producer_waits_when_its_budget_is_full,
            a_reader_begins_where_it_is_told,
            a_real_time_reader_of_a_live_stream_begins_at_its_end,
            until_end_stops_at_the_end_as_it_is,
            the_end_of_a_stream_is_seen_where_there_is_one,
            giving_up_waiting_loses_nothing_and_doubles_nothing,
            a_quiet_stream_is_heard_beside_a_busy_one,
            any_executor_will_do,
            a_consumer_is_a_stream_that_owns_itself,
            a_cut_connection_is_mended,
            rewinding_is_inclusive,
            seeking_to_a_time_is_inclusive,
            shards_are_put_aside_and_taken_up_again,
            a_resumed_consumer_goes_on_behind_what_it_has_committed,
            what_is_not_acknowledged_comes_again,
            commit_is_refused_where_nothing_is_kept,
            members_of_a_group_share_the_records,
            a_member_that_leaves_repeats_nothing,
            a_member_that_joins_gets_its_share,
            what_a_member_held_when_it_left_comes_to_another,
            a_group_cannot_be_moved_by_one_member,
            two_groups_read_everything_each,
            values_of_any_size_pass,
            a_value_that_is_too_large_is_refused_alone,
            any_bytes_pass_or_are_refused,
            keys_and_headers_survive,
            tombstones_survive,
            times_survive
        }
    };
    ($setting:expr; $($behaviour:ident),*) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
            async fn $behaviour() {
                $crate::conformance::run($setting, |setting| async move { $crate::conformance::$behaviour(&setting).await }).await;
            }
        )*
    };
}
