//! A TCP proxy with faults.

mod relay;

use std::{
    sync::Arc,
    thread::{self, JoinHandle},
    time::Duration,
};

use tokio::{runtime, sync::watch};

use self::relay::{Shared, accept};
use super::{Port, wait_until};

/// How long the proxy's thread may take to do as it is told, on a machine that builds something meanwhile.
const DONE_WITHIN: Duration = Duration::from_secs(20);

/// Stands between a client and a server on this machine, and makes trouble when it is told to. Works on a thread of its own;
/// ends when it is dropped.
///
/// ```no_run
/// # use millstream_testkit::{servers::{Flow, Proxy, Redis}, started};
/// let redis = started!(Redis::shared());
/// let proxy = Proxy::start(&redis.address());
/// // ... connect to proxy.address() ...
/// proxy.cut_after(Flow::ToServer, 100);
/// ```
#[derive(Debug)]
pub struct Proxy {
    number: u16,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
    /// Ours, unless somebody else holds it for us.
    port: Option<Port>,
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// What the client sends.
    ToServer,
    /// What the server sends.
    ToClient,
}

/// What it is told, but for faults at a certain byte.
#[derive(Clone, Debug, Default)]
struct Orders {
    /// Counts the orders.
    number: u64,
    refusing: bool,
    stalled: bool,
    delay: Duration,
    bytes_per_second: Option<u64>,
    /// Connections that began before the last cut are over.
    cuts: u64,
    /// The last cut is a reset.
    reset: bool,
    ended: bool,
}

impl Proxy {
    /// Starts one on a free port, in front of `target` (`127.0.0.1:PORT`), where nothing has to listen yet.
    pub fn start(target: &str) -> Proxy {
        let port = Port::claim();
        let mut proxy = Proxy::at(port.number(), target);
        proxy.port = Some(port);
        proxy
    }

    /// Starts one on a port that the caller has claimed.
    pub(super) fn at(number: u16, target: &str) -> Proxy {
        let shared = Arc::new(Shared::new(number, target));
        let for_thread = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let built = runtime::Builder::new_current_thread().enable_all().build();
            built.unwrap_or_else(|error| panic!("cannot start a proxy: {error}")).block_on(accept(for_thread));
        });
        let proxy = Proxy { number, shared, thread: Some(thread), port: None };
        proxy.accept();
        proxy
    }

    /// Where clients connect to.
    pub fn port(&self) -> u16 {
        self.number
    }

    /// `127.0.0.1:PORT`, where clients connect to.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.number)
    }

    /// Ends all connections; new ones are let through. When this returns, both sides have been told.
    pub fn cut(&self) {
        self.cut_with(false);
    }

    /// The same with a reset (RST): what is under way is lost, and both sides see an error instead of an end.
    pub fn reset(&self) {
        self.cut_with(true);
    }

    /// Ends all connections when so many more bytes have gone in one direction, in the middle of a write if need be. The last
    /// of these bytes is the last that arrives.
    pub fn cut_after(&self, flow: Flow, bytes: u64) {
        self.shared.aims(flow, |aims| aims.cut_after = Some(bytes));
    }

    /// Flips a bit of one byte: of the next in this direction for 0, of the one behind it for 1.
    pub fn corrupt(&self, flow: Flow, byte: u64) {
        self.shared.aims(flow, |aims| aims.corrupt_after = Some(byte));
    }

    /// Holds back each piece (16 KiB at most) for a time, in both directions; zero for no longer.
    pub fn delay(&self, time: Duration) {
        self.order(|orders| orders.delay = time);
    }

    /// Lets so many bytes pass in a second, each connection and direction; `None` for as many as there are.
    pub fn limit(&self, bytes_per_second: Option<u64>) {
        self.order(|orders| orders.bytes_per_second = bytes_per_second);
    }

    /// Lets nothing pass; connections stay open, and new ones are made.
    pub fn stall(&self) {
        self.order(|orders| orders.stalled = true);
    }

    /// Goes on after `stall`: what has waited arrives.
    pub fn resume(&self) {
        self.order(|orders| orders.stalled = false);
    }

    /// Refuses new connections, as if no server were there; those that are open go on. See `cut`.
    pub fn refuse(&self) {
        self.order(|orders| orders.refusing = true);
    }

    /// Takes connections again after `refuse`.
    pub fn accept(&self) {
        self.order(|orders| orders.refusing = false);
    }

    /// No fault any more, of none of the kinds above.
    pub fn heal(&self) {
        for flow in [Flow::ToServer, Flow::ToClient] {
            self.shared.aims(flow, |aims| *aims = Default::default());
        }
        self.order(|orders| *orders = Orders { number: orders.number, cuts: orders.cuts, ..Orders::default() });
    }

    /// How many connections it has taken since it was started.
    pub fn accepted(&self) -> u64 {
        self.shared.accepted()
    }

    /// How many connections are open.
    pub fn open(&self) -> usize {
        self.shared.open_before(u64::MAX)
    }

    /// How many bytes have passed in a direction.
    pub fn passed(&self, flow: Flow) -> u64 {
        self.shared.passed(flow)
    }

    fn cut_with(&self, reset: bool) {
        let mut cuts = 0;
        self.order(|orders| {
            orders.cuts += 1;
            orders.reset = reset;
            cuts = orders.cuts;
        });
        wait_until("rid of the connections", DONE_WITHIN, || self.shared.open_before(cuts) == 0);
    }

    /// Gives an order, and waits until it is in force.
    fn order(&self, change: impl FnOnce(&mut Orders)) {
        let number = self.shared.order(change);
        wait_until("in force in the proxy", DONE_WITHIN, || self.shared.in_force() >= number);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.order(|orders| orders.ended = true);
        // If it has panicked, it has said so.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// What a task of the proxy hears its orders from.
type Hears = watch::Receiver<Orders>;
