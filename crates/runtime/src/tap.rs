//! Taps: copies of the records that pass a point of a running pipeline, for those who want to see them.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
};

use millstream_core::{Batch, Error, ErrorKind, Result, Role, suggest};
use tokio::sync::mpsc;

use crate::{lease::lock, plan::Plan};

/// Batches that a tap holds for its reader.
const BATCHES_HELD: usize = 16;

/// Which side of a stage a tap is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    In,
    Out,
}

/// Copies of records that pass a point. Ends with the pipeline. Dropping it closes it.
#[derive(Debug)]
pub struct Tap {
    batches: mpsc::Receiver<Batch>,
    missed: Arc<AtomicU64>,
}

impl Tap {
    /// The next records; `None` when the pipeline is over. Bodies may be parsed: see [`Batch::into_bytes`]. Cancel-safe.
    pub async fn next(&mut self) -> Option<Batch> {
        self.batches.recv().await
    }

    /// Records that were left out so far because the reader was behind.
    pub fn missed(&self) -> u64 {
        self.missed.load(Relaxed)
    }
}

/// All taps of a pipeline.
#[derive(Debug, Default)]
pub(crate) struct Taps {
    /// Looked at once a batch; the rest only while there are taps.
    any: AtomicBool,
    open: Mutex<Vec<Open>>,
    over: AtomicBool,
}

#[derive(Debug)]
struct Open {
    stage: String,
    side: Side,
    batches: mpsc::Sender<Batch>,
    missed: Arc<AtomicU64>,
}

impl Taps {
    pub(crate) fn add(&self, point: &str, plan: &Plan) -> Result<Tap> {
        let known = |name: &str| plan.nodes.iter().find(|node| node.name == name);
        let (node, side) = match (known(point), point.rsplit_once('.')) {
            // A sink has no outputs: what passes it is what comes to it.
            (Some(node), _) => (Some(node), if node.role() == Role::Sink { Side::In } else { Side::Out }),
            (None, Some((name, "in"))) => (known(name), Side::In),
            (None, Some((name, "out"))) => (known(name), Side::Out),
            _ => (None, Side::Out),
        };
        let Some(node) = node else {
            let names: Vec<&str> = plan.nodes.iter().map(|node| node.name.as_str()).collect();
            let error = Error::new(ErrorKind::Option, format!("there is no point `{point}` in the pipeline"));
            return Err(suggest(point, &names).into_iter().fold(error, |error, hint| error.hint(hint)));
        };
        if (node.role(), side) == (Role::Source, Side::In) || (node.role(), side) == (Role::Sink, Side::Out) {
            let error = Error::new(ErrorKind::Option, format!("nothing passes `{point}`"));
            return Err(error.hint(format!("use `{}`", node.name)));
        }
        let (sender, batches) = mpsc::channel(BATCHES_HELD);
        let missed = Arc::<AtomicU64>::default();
        let mut open = lock(&self.open);
        if self.over.load(Relaxed) {
            // Nothing passes any more: the tap has ended.
            return Ok(Tap { batches, missed });
        }
        open.push(Open { stage: node.name.clone(), side, batches: sender, missed: missed.clone() });
        self.any.store(true, Relaxed);
        Ok(Tap { batches, missed })
    }

    /// Shows a batch to those who look here.
    pub(crate) fn see(&self, stage: &str, side: Side, batch: &Batch) {
        if self.any.load(Relaxed) {
            self.show(stage, side, batch);
        }
    }

    #[cold]
    fn show(&self, stage: &str, side: Side, batch: &Batch) {
        let mut open = lock(&self.open);
        open.retain(|tap| !tap.batches.is_closed());
        self.any.store(!open.is_empty(), Relaxed);
        for tap in open.iter().filter(|tap| tap.side == side && tap.stage == stage) {
            if tap.batches.try_send(batch.clone()).is_err() {
                tap.missed.fetch_add(batch.len() as u64, Relaxed);
            }
        }
    }

    /// The pipeline is over.
    pub(crate) fn close(&self) {
        let mut open = lock(&self.open);
        self.over.store(true, Relaxed);
        open.clear();
    }
}
