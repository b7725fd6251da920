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
        let sinks = self.nodes.iter().filter_map(sink).chain(&self.dead_letter);
        let mut hosting = sinks.filter(|sink| hosts(sink));
        hosting.find_map(|sink| Some((sink.transaction()?, sink.clone())))
    }

    /// Whether what reaches a node comes again as it was after a restart: the sources can give it again, and all steps
    /// before the node are deterministic.
    pub fn repeats(&self, node: usize) -> bool {
        repeating(&self.nodes)[node]
    }
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
    let host = hosting.first().map(|(_, system)| system.as_str());
    let repeating = repeating(nodes);
    for (i, node) in nodes.iter().enumerate() {
        let error = match &node.component {
            Planned::Sink(sink) => check_sink(&node.name, &**sink, repeating[i]),
            Planned::Source(source) => check_source(&node.name, &**source, host),
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
