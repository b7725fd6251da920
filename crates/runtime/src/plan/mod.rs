//! From a pipeline as written to one that can run: every component planned, the graph resolved, the promise checked.
//! No I/O.

mod graph;
mod planning;
mod promise;
mod workers;

use std::sync::Arc;

use millstream_core::{Delivery, Error, Form, Registry, Result, Role, SinkPlan, SourcePlan, StepPlan};

use self::planning::Planning;
pub(crate) use self::planning::RATE_LIMIT;
use crate::{
    rules::Rules,
    spec::{CheckpointSpec, Dispatch, LimitsSpec, OnFailed, PipelineSpec, StateSpec},
};

/// A pipeline that is ready to run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Its identity.
    pub name: String,
    /// What it is for.
    pub description: Option<String>,
    /// The promise.
    pub delivery: Delivery,
    /// Where checkpoints are kept.
    pub state: StateSpec,
    /// When epochs are cut.
    pub checkpoint: CheckpointSpec,
    /// Bounds.
    pub limits: LimitsSpec,
    /// Sources, then steps in an order in which each comes behind what it reads, then sinks.
    pub nodes: Vec<Node>,
    /// Where dead letters go; absent: into the state directory.
    pub dead_letter: Option<Arc<dyn SinkPlan>>,
    /// Stop after so many dead letters.
    pub stop_after: Option<u64>,
    /// What `check` should say.
    pub warnings: Vec<String>,
    /// All sources end by themselves.
    pub bounded: bool,
}

/// One source, step or sink of a plan.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// The component's name in the registry.
    pub kind: String,
    /// What it is for.
    pub description: Option<String>,
    /// The component.
    pub component: Planned,
    /// What it reads, in the order of its inputs: node and port.
    pub inputs: Vec<(usize, usize)>,
    /// Its rules, the pipeline's behind them.
    pub rules: Rules,
    /// What its values are.
    pub form: Form,
    /// Workers as written; absent: as many as what it reads has.
    pub concurrency: Option<u32>,
    /// How records get to its workers as written; absent: as they come.
    pub written_dispatch: Option<Dispatch>,
    /// Workers.
    pub workers: usize,
    /// How records get to its workers.
    pub dispatch: Dispatch,
    /// Each worker reads what the worker of the same number before it emits.
    pub forwards: bool,
    /// Hears of its failed records.
    pub on_failed: Option<OnFailed>,
}

/// A planned component.
#[derive(Clone, Debug)]
pub enum Planned {
    /// A source.
    Source(Arc<dyn SourcePlan>),
    /// A step.
    Step(Arc<dyn StepPlan>),
    /// A sink.
    Sink(Arc<dyn SinkPlan>),
}

/// What planning needs beside the spec.
#[derive(Clone, Copy, Debug, Default)]
pub struct PlanOptions {
    /// What was written before must be kept: `--continue`, `--until-end`, `--resume`.
    pub append: bool,
    /// Sources that follow are read to the end as it is now: the run is bounded all the same.
    pub until_end: bool,
}

impl Plan {
    /// Plans a pipeline. All errors that can be found are answered, not only the first; each says where it lies.
    pub fn new(spec: &PipelineSpec, registry: &Registry, options: PlanOptions) -> Result<Plan, Vec<Error>> {
        Planning::new(spec, registry, options).run()
    }

    /// The nodes of a role.
    pub fn role(&self, role: Role) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(move |(_, node)| node.role() == role)
    }

    /// Who reads each port of a node: for each port, node and input.
    pub fn readers(&self, node: usize) -> Vec<Vec<(usize, usize)>> {
        let mut ports = vec![Vec::new(); self.nodes[node].ports()];
        for (reader, other) in self.nodes.iter().enumerate() {
            for (input, &(from, port)) in other.inputs.iter().enumerate() {
                if from == node
                    && let Some(readers) = ports.get_mut(port)
                {
                    readers.push((reader, input));
                }
            }
        }
        ports
    }

    /// Which parts of the plan own stored state: changing them may orphan it.
    pub fn fingerprint(&self) -> String {
        let stateful = self.nodes.iter().filter(|node| node.stateful() || node.kind == RATE_LIMIT);
        stateful.map(|node| format!("{}:{}", node.name, node.kind)).collect::<Vec<_>>().join(",")
    }

    /// Whether some stage keeps state of its own.
    pub fn stateful(&self) -> bool {
        self.nodes.iter().any(Node::stateful)
    }

    /// Whether a node, or one behind it, keeps state of its own: then what comes to it behind a barrier has to wait for the
    /// others, or a record would be in that state and be read once more.
    pub(crate) fn feeds_state(&self, node: usize) -> bool {
        let mut behind = vec![false; self.nodes.len()];
        // Each node stands behind what it reads.
        for (i, other) in self.nodes.iter().enumerate().skip(node) {
            behind[i] = i == node || other.inputs.iter().any(|&(from, _)| behind[from]);
            if behind[i] && other.stateful() {
                return true;
            }
        }
        false
    }
}

impl Node {
    /// Whether it reads, writes or works in between.
    pub fn role(&self) -> Role {
        match self.component {
            Planned::Source(_) => Role::Source,
            Planned::Step(_) => Role::Step,
            Planned::Sink(_) => Role::Sink,
        }
    }

    /// Whether it keeps state of its own.
    pub fn stateful(&self) -> bool {
        matches!(&self.component, Planned::Step(step) if step.stateful())
    }

    /// Number of outputs.
    pub fn ports(&self) -> usize {
        match &self.component {
            Planned::Source(_) => 1,
            Planned::Step(step) => step.outputs().len().max(1),
            Planned::Sink(_) => 0,
        }
    }
}
