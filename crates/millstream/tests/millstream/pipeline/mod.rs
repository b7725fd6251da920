//! What a pipeline that is built in Rust does: one behaviour each, on a runtime of one thread and on one of several.
//!
//! Which sentence of the specification of pipelines is told where (a module, or tests in it):
//!
//! | sentence | tests |
//! |---|---|
//! | any sources, steps and graph; names | `graph`; `control::the_graph_is_a_value` |
//! | concurrency, metrics, error rules, rate limit of each step | `dispatch`; `control::figures_*`, `*_rate_limit_*`; `errors` |
//! | map, filter, flat-map; async; blocking; prepare-batch | `steps`, `envelope`; `waiting` |
//! | branch, route, merge; an unknown route | `graph` |
//! | sources, steps and closures of one's own | `own` |
//! | batch handlers: outcomes for each, one for all, missing ones | `batches::{each_record_*, one_error_*, a_missing_*}` |
//! | hooks exactly once, also after errors | `workers`, `batch_workers`, `hooks` |
//! | round-robin to whoever has room | `dispatch::{records_go_*, workers_in_turn_*}` |
//! | broadcast without a copy; one slow branch | `dispatch::a_broadcast_*`; `backpressure::with_one_slow_branch_*` |
//! | by key: in order, never beside each other, through later stages, after a source | `dispatch`, `waiting` |
//! | a failed key parks its own records and nobody else's | `dispatch::{a_key_that_*, a_parked_key_*}`; `waiting`, `batches` |
//! | resizing keeps the order, at an epoch | `dispatch::{*_come_and_go*, a_parked_key_*}`; `hooks::workers_that_are_replaced_*` |
//! | batches by count, bytes, key, splitter, mark; the trigger is told | `batches` |
//! | time since the first record; a timer for each key | `timers`; `batches::time_counts_*` |
//! | named batchers, chosen by route | `dispatch::several_batchers_*` |
//! | partial batches at drain | `shutdown::a_drain_*`; `batches::an_open_batch_*` |
//! | back-pressure end to end, never spins, on one thread | `backpressure`; `limits` |
//! | collector | `collector` |
//! | rules of errors; skip later stages; `on_failed` first | `errors`; of which kind errors are: `classes` |
//! | what a dead letter keeps | `errors::a_dead_letter_*` |
//! | a panic costs its record; a batch handler's its batch | `panics`; `batches::a_panic_*`; `waiting::a_panic_*` |
//! | a stage that dies restarts the pipeline, within limits, and tells why | `panics::of_a_stage_*`; `errors::a_pipeline_that_*` |
//! | a hung step has a time-out | `timers`, `waiting`, `batches` |
//! | drain, its deadline, stop, drop, `abort_on_drop`; no task left behind | `shutdown` |
//! | no thread left behind | `threads` |
//! | Ctrl-C and SIGTERM, a second signal | the tests of the binary (`crates/cli/tests`) |
//! | rate limits: smooth, by key, changed while they wait | `control` |
//! | figures, graph, events, taps; live changes | `control`, `backpressure::the_figures_*`; `batches::the_size_*` |
//! | what futures log is in the span of their batch | `spans` |
//! | memory flat, nothing spins | `limits` |
//! | the books balance | every test that calls `Bed::run` or `Bed::drain` |

#[macro_use]
pub(crate) mod bed;

mod backpressure;
mod batch_workers;
mod batches;
mod classes;
mod collected;
mod collector;
mod control;
mod dispatch;
mod envelope;
mod errors;
mod graph;
mod guarantees;
mod hooks;
mod limits;
mod misuse;
mod own;
mod panics;
mod shutdown;
mod spans;
mod steps;
mod threads;
mod timers;
mod waiting;
mod workers;
