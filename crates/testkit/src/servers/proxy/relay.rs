//! What the proxy's thread does: takes connections, and carries bytes.

use std::{
    future, io,
    net::Ipv4Addr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    time::sleep,
};

use super::{Flow, Hears, Orders};

/// The most that is carried at once.
const PIECE_BYTES: usize = 16 << 10;

/// With a limit, a piece is what passes in this part of a second, so that bytes come evenly.
const PIECES_PER_SECOND: u64 = 20;

/// Between two tries to listen again, if the port was not given back yet.
const LISTEN_EVERY: Duration = Duration::from_millis(10);

/// What the proxy and its thread both see.
#[derive(Debug)]
pub(super) struct Shared {
    orders: watch::Sender<Orders>,
    port: u16,
    target: String,
    /// The orders that connections follow: those who connected before they were given have been taken as such.
    in_force: watch::Sender<Orders>,
    accepted: AtomicU64,
    /// For each open connection, how many cuts there had been when it began.
    open: Mutex<Vec<u64>>,
    to_server: Way,
    to_client: Way,
}

/// One direction.
#[derive(Debug, Default)]
struct Way {
    aims: Mutex<Aims>,
    passed: AtomicU64,
}

/// Faults at a byte; each happens once.
#[derive(Debug, Default)]
pub(super) struct Aims {
    /// So many bytes pass, then all is cut.
    pub(super) cut_after: Option<u64>,
    /// So many bytes pass as they are, then one does not.
    pub(super) corrupt_after: Option<u64>,
}

impl Aims {
    /// Applies what falls into these bytes; answers how many of them pass, and whether all is cut then.
    fn apply(&mut self, bytes: &mut [u8]) -> (usize, bool) {
        let (mut pass, mut cut) = (bytes.len(), false);
        if let Some(left) = self.cut_after {
            // At most the length, which is a usize.
            pass = left.min(pass as u64) as usize;
            cut = pass as u64 == left;
            self.cut_after = (!cut).then_some(left - pass as u64);
        }
        if let Some(left) = self.corrupt_after {
            let hit = usize::try_from(left).ok().and_then(|at| bytes[..pass].get_mut(at));
            self.corrupt_after = hit.is_none().then(|| left - pass as u64);
            if let Some(byte) = hit {
                *byte ^= 1;
            }
        }
        (pass, cut)
    }
}

impl Shared {
    pub(super) fn new(port: u16, target: &str) -> Shared {
        Shared {
            orders: watch::Sender::new(Orders::default()),
            port,
            target: target.to_owned(),
            in_force: watch::Sender::new(Orders::default()),
            accepted: AtomicU64::new(0),
            open: Mutex::default(),
            to_server: Way::default(),
            to_client: Way::default(),
        }
    }

    /// The number of the last order that is in force.
    pub(super) fn in_force(&self) -> u64 {
        self.in_force.borrow().number
    }

    pub(super) fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::SeqCst)
    }

    pub(super) fn passed(&self, flow: Flow) -> u64 {
        self.way(flow).passed.load(Ordering::SeqCst)
    }

    /// Gives an order; answers with its number.
    pub(super) fn order(&self, change: impl FnOnce(&mut Orders)) -> u64 {
        let mut number = 0;
        self.orders.send_modify(|orders| {
            change(orders);
            orders.number += 1;
            number = orders.number;
        });
        number
    }

    /// How many connections are open that began before this cut.
    pub(super) fn open_before(&self, cut: u64) -> usize {
        locked(&self.open).iter().filter(|began| **began < cut).count()
    }

    pub(super) fn aims(&self, flow: Flow, change: impl FnOnce(&mut Aims)) {
        change(&mut locked(&self.way(flow).aims));
    }

    fn way(&self, flow: Flow) -> &Way {
        match flow {
            Flow::ToServer => &self.to_server,
            Flow::ToClient => &self.to_client,
        }
    }
}

/// Takes connections until the proxy ends.
pub(super) async fn accept(shared: Arc<Shared>) {
    let mut orders = shared.orders.subscribe();
    let mut door = None;
    let mut cuts = 0;
    loop {
        let now = orders.borrow_and_update().clone();
        if now.ended {
            return;
        }
        if let Some(Door { listener, .. }) = &door {
            // Who has connected before the order, belongs to the time before it.
            while let Ok((client, _)) = listener.accept() {
                let client = client.set_nonblocking(true).and_then(|()| TcpStream::from_std(client));
                client.into_iter().for_each(|client| take(&shared, cuts, client));
            }
        }
        cuts = now.cuts;
        if now.refusing {
            door = None;
        } else if door.is_none() {
            let Ok(opened) = Door::open(shared.port) else {
                sleep(LISTEN_EVERY).await;
                continue;
            };
            door = Some(opened);
        }
        shared.in_force.send_replace(now);
        tokio::select! {
            // The sender lives in what we hold.
            _ = orders.changed() => (),
            taken = accepted(door.as_ref()) => take(&shared, cuts, taken),
        }
    }
}

fn take(shared: &Arc<Shared>, cuts: u64, client: TcpStream) {
    shared.accepted.fetch_add(1, Ordering::SeqCst);
    tokio::spawn(connection(Open::new(shared, cuts), client));
}

/// The next connection; none ever where nobody listens.
async fn accepted(door: Option<&Door>) -> TcpStream {
    match door {
        Some(door) => loop {
            if let Ok((client, _)) = door.waits.accept().await {
                return client;
            }
        },
        None => future::pending().await,
    }
}

/// A socket that listens, twice: the one waits for a connection, the other knows at once whether there is one.
struct Door {
    waits: TcpListener,
    listener: std::net::TcpListener,
}

impl Door {
    fn open(port: u16) -> io::Result<Door> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        listener.set_nonblocking(true)?;
        Ok(Door { waits: TcpListener::from_std(listener.try_clone()?)?, listener })
    }
}

/// An open connection, as others count it.
struct Open {
    shared: Arc<Shared>,
    began: u64,
}

impl Open {
    fn new(shared: &Arc<Shared>, began: u64) -> Open {
        locked(&shared.open).push(began);
        Open { shared: Arc::clone(shared), began }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut open = locked(&self.shared.open);
        if let Some(at) = open.iter().position(|began| *began == self.began) {
            open.swap_remove(at);
        }
    }
}

/// One connection from its beginning to its end. The sockets are gone before `open` is.
async fn connection(open: Open, mut client: TcpStream) {
    let shared = &open.shared;
    let Ok(mut server) = TcpStream::connect(&shared.target).await else {
        // As if there were no proxy: nobody is there.
        let _ = client.set_zero_linger();
        drop(client);
        return;
    };
    // A fault for nobody; without it, pieces would wait for each other.
    let _ = client.set_nodelay(true).and(server.set_nodelay(true));
    let mut orders = shared.in_force.subscribe();
    let cut = orders.wait_for(|orders| orders.cuts > open.began);
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let reset = tokio::select! {
        cut = cut => cut.is_ok_and(|orders| orders.reset),
        ended = async {
            tokio::try_join!(
                carry(shared, Flow::ToServer, from_client, to_server),
                carry(shared, Flow::ToClient, from_server, to_client),
            )
        } => ended.is_err(),
    };
    if reset {
        let _ = client.set_zero_linger().and(server.set_zero_linger());
    }
    drop((client, server));
}

/// Carries bytes in one direction, up to the end of what is sent.
async fn carry(shared: &Shared, flow: Flow, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
    let way = shared.way(flow);
    let mut orders: Hears = shared.in_force.subscribe();
    let mut buffer = vec![0; PIECE_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        // The sender lives in what we hold.
        let now = orders.wait_for(|orders| !orders.stalled).await.map(|orders| orders.clone()).unwrap_or_default();
        if !now.delay.is_zero() {
            sleep(now.delay).await;
        }
        if read == 0 {
            return to.shutdown().await;
        }
        let rate = now.bytes_per_second;
        // At most PIECE_BYTES, which is a usize.
        let most = rate.map_or(PIECE_BYTES, |rate| (rate / PIECES_PER_SECOND).clamp(1, PIECE_BYTES as u64) as usize);
        for piece in buffer[..read].chunks_mut(most) {
            if let Some(rate) = rate {
                sleep(Duration::from_secs_f64(piece.len() as f64 / rate.max(1) as f64)).await;
            }
            let (pass, cut) = locked(&way.aims).apply(piece);
            // Counted first: who has read them, finds them counted.
            way.passed.fetch_add(pass as u64, Ordering::SeqCst);
            to.write_all(&piece[..pass]).await?;
            if cut {
                shared.order(|orders| {
                    orders.cuts += 1;
                    orders.reset = false;
                });
                future::pending::<()>().await;
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
