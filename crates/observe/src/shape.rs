//! The stages of a pipeline and what each reads, as plain values.

use millstream_core::{Form, Role};
use millstream_runtime::{Plan, Planned};

/// A pipeline as planned: what does not change while it runs.
#[derive(Clone, Debug, PartialEq)]
pub struct Shape {
    /// The pipeline.
    pub pipeline: String,
    /// Its promise, in words.
    pub delivery: String,
    /// Sources, then steps in an order in which each comes behind what it reads, then sinks.
    pub stages: Vec<StageShape>,
}

/// One source, step or sink.
#[derive(Clone, Debug, PartialEq)]
pub struct StageShape {
    /// Its name.
    pub name: String,
    /// Whether it reads, writes or works in between.
    pub role: Role,
    /// The component's name.
    pub kind: String,
    /// What it reads: `STAGE`, or `STAGE.OUTPUT` where a stage has several outputs.
    pub reads: Vec<String>,
    /// What the values are that it gives; for a sink, what it takes.
    pub form: Form,
    /// Several workers may do its work.
    pub scales: bool,
}

impl Shape {
    /// The shape of a plan.
    pub fn of(plan: &Plan) -> Self {
        let stages = plan.nodes.iter().map(|node| StageShape {
            name: node.name.clone(),
            role: node.role(),
            kind: node.kind.clone(),
            reads: node.inputs.iter().filter_map(|&(from, port)| output(plan, from, port)).collect(),
            form: node.form,
            scales: matches!(&node.component, Planned::Step(step) if step.scales()),
        });
        Shape { pipeline: plan.name.clone(), delivery: plan.delivery.to_string(), stages: stages.collect() }
    }
}

fn output(plan: &Plan, node: usize, port: usize) -> Option<String> {
    let node = plan.nodes.get(node)?;
    let outputs = match &node.component {
        Planned::Step(step) => step.outputs(),
        _ => Vec::new(),
    };
    Some(match outputs.get(port) {
        Some(output) => format!("{}.{output}", node.name),
        None => node.name.clone(),
    })
}
