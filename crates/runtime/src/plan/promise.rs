//! What a plan must have to keep its promise, and the reason and the way out where it has not.

use std::sync::Arc;

use millstream_core::{Delivery, Error, Owner, SinkPlan, SourcePlan, Way};

use super::{Node, Plan, Planned, planning::plan_error};

const OR_AT_LEAST_ONCE: &str = "or use `delivery: at_least_once`";

impl Plan {
    /// The system whose transaction decides epochs, and a sink of it; `None` where our own store decides.
    pub fn host(&self) -> Option<(String, Arc<dyn SinkPlan>)> {
        if self.delivery != Delivery::ExactlyOnce {
            return None;
        }
        host_of(&self.nodes, self.dead_letter.as_ref())
    }

    /// Whether a sink writes in the transaction that decides epochs.
    pub(crate) fn joins(&self, sink: &dyn SinkPlan) -> bool {
        self.host().is_some_and(|(system, _)| can_host(sink) && sink.transaction() == Some(system))
    }

    /// Whether what reaches a node comes again as it was after a restart: the sources can give it again, and all steps
    /// before the node are deterministic.
    pub fn repeats(&self, node: usize) -> bool {
        repeating(&self.nodes)[node]
    }
}

/// The system that hosts the checkpoint: that of the sinks which can do nothing else; else, of those which can also commit in
/// two phases, that which a source needs, or the first.
fn host_of(nodes: &[Node], dead_letter: Option<&Arc<dyn SinkPlan>>) -> Option<(String, Arc<dyn SinkPlan>)> {
    let sinks: Vec<&Arc<dyn SinkPlan>> = nodes.iter().filter_map(sink).chain(dead_letter).collect();
    let named = |sink: &&Arc<dyn SinkPlan>| Some((sink.transaction()?, (*sink).clone()));
    let needs = |node: &Node, system: &str| match &node.component {
        Planned::Source(source) => {
            source.capabilities().owner == Owner::System && source.transaction().as_deref() == Some(system)
        }
        _ => false,
    };
    let able = || sinks.iter().filter(|sink| can_host(&****sink)).filter_map(named);
    sinks
        .iter()
        .filter(|sink| hosts(sink))
        .find_map(named)
        .or_else(|| able().find(|(system, _)| nodes.iter().any(|node| needs(node, system))))
        .or_else(|| able().next())
}

/// What keeps `exactly_once` from being kept, each with its reason and alternative.
pub(super) fn check_exactly_once(nodes: &[Node], dead_letter: Option<&Arc<dyn SinkPlan>>) -> Vec<Error> {
    let mut errors = Vec::new();
    let named = nodes.iter().filter_map(|node| Some((node.name.as_str(), sink(node)?)));
    let mut hosting = Vec::new();
    for (name, sink) in named.chain(dead_letter.map(|sink| ("dead_letter", sink))).filter(|(_, sink)| hosts(sink)) {
        match sink.transaction() {
            Some(system) => hosting.push((name, system)),
            None => errors.push(no_sink(name, &**sink)),
        }
    }
    errors.extend(one_transaction(&hosting));
    let host = host_of(nodes, dead_letter).map(|(system, _)| system);
    let repeating = repeating(nodes);
    for (i, node) in nodes.iter().enumerate() {
        let error = match &node.component {
            Planned::Sink(sink) => check_sink(&node.name, &**sink, repeating[i]),
            Planned::Source(source) => check_source(&node.name, &**source, host.as_deref()),
            Planned::Step(_) => None,
        };
        errors.extend(error);
    }
    errors
}

/// There is one deciding write, so all sinks that host it must share a transaction.
fn one_transaction(hosting: &[(&str, String)]) -> Option<Error> {
    let (first, system) = hosting.first()?;
    let (name, other) = hosting.iter().find(|(_, other)| other != system)?;
    let message = format!(
        "sinks `{first}` and `{name}` cannot both keep `exactly_once`: they write in transactions of different systems, \
         {system} and {other}"
    );
    Some(plan_error(message, format!("let one of them write to a file, make two pipelines of it, {OR_AT_LEAST_ONCE}")))
}

fn check_sink(name: &str, sink: &dyn SinkPlan, repeats: bool) -> Option<Error> {
    match sink.capabilities().way {
        Way::None => Some(no_sink(name, sink)),
        Way::Idempotent if !repeats => Some(plan_error(
            format!("sink `{name}` is idempotent, but a step before it may give other results when repeated"),
            "use `delivery: at_least_once`",
        )),
        _ => None,
    }
}

fn no_sink(name: &str, sink: &dyn SinkPlan) -> Error {
    plan_error(
        format!("sink `{name}` ({}) cannot keep `exactly_once`", sink.describe()),
        format!("write to a file, {OR_AT_LEAST_ONCE}"),
    )
}

fn check_source(name: &str, source: &dyn SourcePlan, host: Option<&str>) -> Option<Error> {
    let cannot = |why: &str, hint: String| {
        let message = format!("source `{name}` ({}) cannot keep `exactly_once`: {why}", source.describe());
        Some(plan_error(message, hint))
    };
    match source.capabilities().owner {
        Owner::Checkpoint => None,
        Owner::Nobody => cannot("it is lost with the process", format!("write it to a file first, {OR_AT_LEAST_ONCE}")),
        Owner::System => match source.transaction() {
            None => cannot(
                "its system keeps its position, and no transaction of a sink can take that in",
                format!("read it by position, without a group, {OR_AT_LEAST_ONCE}"),
            ),
            Some(system) if host == Some(system.as_str()) => None,
            Some(system) => cannot(
                &format!("its group keeps its position, and no sink writes in a transaction of {system}"),
                format!("read it by position, without a group, or write to {system}, {OR_AT_LEAST_ONCE}"),
            ),
        },
    }
}

/// For each node, whether what it emits, or is given, comes again as it was.
fn repeating(nodes: &[Node]) -> Vec<bool> {
    let mut repeating: Vec<bool> = Vec::new();
    // Each node stands behind what it reads.
    for node in nodes {
        let itself = match &node.component {
            Planned::Source(source) => source.capabilities().owner != Owner::Nobody,
            Planned::Step(step) => step.deterministic(),
            Planned::Sink(_) => true,
        };
        repeating.push(itself && node.inputs.iter().all(|&(from, _)| repeating[from]));
    }
    repeating
}

fn sink(node: &Node) -> Option<&Arc<dyn SinkPlan>> {
    match &node.component {
        Planned::Sink(sink) => Some(sink),
        _ => None,
    }
}

fn hosts(sink: &Arc<dyn SinkPlan>) -> bool {
    sink.capabilities().way == Way::Hosting
}

fn can_host(sink: &dyn SinkPlan) -> bool {
    matches!(sink.capabilities().way, Way::Hosting | Way::TwoPhase)
}
