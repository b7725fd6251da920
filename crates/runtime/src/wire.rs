//! How stages are wired: which steps share a task, the edges between tasks, and how many bytes each may hold.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use millstream_core::{DeadLetter, Epoch, Role};
use tokio::sync::mpsc;

use crate::{
    align::Inputs,
    channel::{Receiver, edge},
    dead_letter_task::LETTERS_QUEUED_MAX,
    dispatch::Link,
    pace::{Gate, Gates, Pace},
    plan::{Plan, Planned},
    queues::Queues,
    task::{Outputs, Report},
};

/// Least bytes that an edge may hold: a batch or two.
const EDGE_BYTES_MIN: usize = 64 << 10;

/// Bytes that each kind of buffer may hold, out of `limits.memory`.
pub(crate) struct Bounds {
    pub(crate) edge: usize,
    pub(crate) parked: usize,
    pub(crate) retained: usize,
}

impl Bounds {
    pub(crate) fn new(plan: &Plan) -> Self {
        let memory = usize::try_from(plan.limits.memory.0).unwrap_or(usize::MAX);
        let edges = plan.nodes.iter().map(|node| node.inputs.len()).sum::<usize>().max(1);
        Bounds { edge: (memory / 4 / edges).clamp(EDGE_BYTES_MIN, 16 << 20), parked: memory / 4, retained: memory / 4 }
    }
}

type Letter = (Epoch, Box<DeadLetter>);

/// What all tasks share.
pub(crate) struct Wiring {
    pub(crate) pace: Arc<Pace>,
    /// By node.
    gates: Vec<Gates>,
    /// Of all sources.
    all_gates: Gates,
    pub(crate) reports: (mpsc::UnboundedSender<Report>, mpsc::UnboundedReceiver<Report>),
    pub(crate) letters: (mpsc::Sender<Letter>, mpsc::Receiver<Letter>),
}

impl Wiring {
    pub(crate) fn new(plan: &Plan, bounds: &Bounds) -> Self {
        let (gates, all_gates) = gates(plan, bounds.parked);
        Wiring {
            pace: Arc::new(Pace::new(plan.checkpoint.count, plan.checkpoint.bytes.map(|size| size.0))),
            gates,
            all_gates,
            reports: mpsc::unbounded_channel(),
            letters: mpsc::channel(LETTERS_QUEUED_MAX),
        }
    }

    /// The gates of the sources that lead to a node; for what all lead to, those of all.
    pub(crate) fn gates(&self, node: Option<usize>) -> Gates {
        node.and_then(|node| self.gates.get(node)).unwrap_or(&self.all_gates).clone()
    }
}

/// The gates of some sources, by source.
type Leading = BTreeMap<usize, Arc<Gate>>;

/// For each node the gates of the sources that lead to it, and those of all: a step that parks much holds up no source of
/// other steps. Each source has its part of the bytes that may be parked.
fn gates(plan: &Plan, bytes_max: usize) -> (Vec<Gates>, Gates) {
    let sources = plan.role(Role::Source).count().max(1);
    let (mut nodes, mut all) = (Vec::<Leading>::new(), Leading::new());
    // Each node stands behind what it reads.
    for (at, node) in plan.nodes.iter().enumerate() {
        let mut leading = Leading::new();
        if node.role() == Role::Source {
            leading.insert(at, Arc::new(Gate::new(bytes_max / sources)));
        }
        for above in node.inputs.iter().filter_map(|(from, _)| nodes.get(*from)) {
            leading.extend(above.clone());
        }
        all.extend(leading.clone());
        nodes.push(leading);
    }
    let gates = |of: Leading| Gates(of.into_values().collect());
    (nodes.into_iter().map(gates).collect(), gates(all))
}

/// The ends of all edges: by reader and worker, its receivers with the input that each belongs to; by node, port and worker,
/// the links.
pub(crate) struct Edges {
    receivers: HashMap<(usize, usize), Vec<(usize, Receiver)>>,
    links: HashMap<(usize, usize, usize), Vec<Link>>,
}

impl Edges {
    /// Makes the edges between tasks; inside a chain of fused steps there are none.
    pub(crate) fn new(plan: &Plan, bounds: &Bounds, queues: &Queues) -> Self {
        let mut edges = Edges { receivers: HashMap::new(), links: HashMap::new() };
        for (reader, node) in plan.nodes.iter().enumerate() {
            if fused(plan, reader).is_some() {
                continue;
            }
            for (input, &(from, port)) in node.inputs.iter().enumerate() {
                let senders = plan.nodes[from].workers;
                let bytes_max =
                    if node.forwards { bounds.edge / senders } else { bounds.edge / senders / node.workers };
                for sender in 0..senders {
                    let readers = if node.forwards { sender..sender + 1 } else { 0..node.workers };
                    let mut to = Vec::with_capacity(readers.len());
                    for worker in readers {
                        let (sender, receiver) = edge(bytes_max.max(EDGE_BYTES_MIN));
                        queues.add(&node.name, &sender);
                        to.push(sender);
                        edges.receivers.entry((reader, worker)).or_default().push((input, receiver));
                    }
                    edges.links.entry((from, port, sender)).or_default().push(Link::new(to, node.dispatch));
                }
            }
        }
        edges
    }

    pub(crate) fn inputs(&mut self, node: usize, worker: usize, hold_back: bool) -> Inputs {
        Inputs::new(self.receivers.remove(&(node, worker)).unwrap_or_default(), hold_back)
    }

    pub(crate) fn outputs(&mut self, node: usize, worker: usize, ports: usize) -> Outputs {
        let links = |port| self.links.remove(&(node, port, worker)).unwrap_or_default();
        Outputs { ports: (0..ports).map(links).collect() }
    }
}

/// The step that `node` is fused behind: its only input, which has no other reader and as many workers.
fn fused(plan: &Plan, node: usize) -> Option<usize> {
    let Planned::Step(step) = &plan.nodes[node].component else { return None };
    let [(from, 0)] = plan.nodes[node].inputs[..] else { return None };
    let above = &plan.nodes[from];
    let alone = above.role() == Role::Step && above.ports() == 1 && plan.readers(from)[0].len() == 1;
    // A step that waits gets a task of its own, so that it works beside what is before it.
    let own = step.waits() || !plan.nodes[node].forwards;
    (alone && !own).then_some(from)
}

/// The steps of a plan, fused into chains.
pub(crate) fn chains(plan: &Plan) -> Vec<Vec<usize>> {
    let mut chains: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    let mut head: HashMap<usize, usize> = HashMap::new();
    for (i, _) in plan.role(Role::Step) {
        let first = fused(plan, i).and_then(|from| head.get(&from).copied()).unwrap_or(i);
        head.insert(i, first);
        chains.entry(first).or_default().push(i);
    }
    chains.into_values().collect()
}
