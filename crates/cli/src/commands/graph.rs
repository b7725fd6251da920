//! `millstream graph FILE`

use clap::{Args, ValueEnum};
use millstream::{
    Home,
    core::Role,
    registry,
    runtime::{Plan, PlanOptions, Planned},
};

use crate::{
    exit::{Exit, Outcome},
    output,
    pipelines::{self, Files},
    table::Table,
};

/// Show the plan of a pipeline file: which stage reads what.
#[derive(Debug, Args)]
pub(crate) struct Graph {
    #[command(flatten)]
    files: Files,
    /// How to draw it
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A table for people
    Text,
    /// A Mermaid flowchart
    Mermaid,
    /// Graphviz
    Dot,
}

impl Graph {
    pub(crate) fn execute(self) -> Outcome {
        let registry = registry();
        let (mut texts, mut wrong) = (Vec::new(), Vec::new());
        for file in self.files.load(&registry)? {
            // Whatever could run may be drawn, also what needs --until-end.
            let options = PlanOptions { until_end: true, ..PlanOptions::default() };
            match pipelines::buffered(&file, &registry, options, &Home::from_environment()) {
                Ok(planned) => {
                    for plan in planned.plans() {
                        let text = match self.format {
                            Format::Text => text(plan),
                            Format::Mermaid => mermaid(plan),
                            Format::Dot => dot(plan),
                        };
                        texts.push(pipelines::hide(&file, &text));
                    }
                }
                Err(found) => wrong.extend(found),
            }
        }
        if !wrong.is_empty() {
            return Err(wrong.into());
        }
        output::print(&texts.join("\n"))?;
        Ok(Exit::Done)
    }
}

/// Edges: from (with its output), and to.
fn edges(plan: &Plan) -> Vec<(usize, Option<String>, usize)> {
    let mut edges = Vec::new();
    for (to, node) in plan.nodes.iter().enumerate() {
        for &(from, port) in &node.inputs {
            let output = match &plan.nodes[from].component {
                Planned::Step(step) => step.outputs().get(port).cloned(),
                _ => None,
            };
            edges.push((from, output, to));
        }
    }
    edges
}

fn text(plan: &Plan) -> String {
    let mut table = Table::new(&["STAGE", "KIND", "READS", "WHAT"]);
    for (at, node) in plan.nodes.iter().enumerate() {
        let reads = edges(plan).into_iter().filter(|(.., to)| *to == at).map(|(from, output, _)| match output {
            Some(output) => format!("{}.{output}", plan.nodes[from].name),
            None => plan.nodes[from].name.clone(),
        });
        let what = match &node.component {
            Planned::Source(source) => source.describe(),
            Planned::Sink(sink) => sink.describe(),
            Planned::Step(step) if step.stateful() => "keeps state".to_owned(),
            Planned::Step(_) => String::new(),
        };
        let what = node.description.clone().unwrap_or(what);
        table.row([
            node.name.clone(),
            format!("{} {}", node.role(), node.kind),
            reads.collect::<Vec<_>>().join(", "),
            what,
        ]);
    }
    format!("{}: {}; order kept per key\n{}", plan.name, plan.delivery, table.render())
}

fn mermaid(plan: &Plan) -> String {
    let quoted = |text: &str| text.replace('"', "#quot;").replace('\n', " ");
    let mut lines = vec!["flowchart LR".to_owned()];
    for (at, node) in plan.nodes.iter().enumerate() {
        let label = label(&node.name, &node.kind);
        let (open, close) = match node.role() {
            Role::Source => ("([", "])"),
            Role::Step => ("[", "]"),
            Role::Sink => ("[(", ")]"),
        };
        lines.push(format!("  n{at}{open}\"{}\"{close}", quoted(&label)));
    }
    for (from, output, to) in edges(plan) {
        let arrow = output.map_or("-->".to_owned(), |output| format!("-- \"{}\" -->", quoted(&output)));
        lines.push(format!("  n{from} {arrow} n{to}"));
    }
    lines.join("\n") + "\n"
}

fn dot(plan: &Plan) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " "));
    let mut lines = vec![format!("digraph {} {{", quoted(&plan.name)), "  rankdir=LR;".to_owned()];
    for (at, node) in plan.nodes.iter().enumerate() {
        let shape = match node.role() {
            Role::Source => "oval",
            Role::Step => "box",
            Role::Sink => "cylinder",
        };
        lines.push(format!("  n{at} [label={}, shape={shape}];", quoted(&label(&node.name, &node.kind))));
    }
    for (from, output, to) in edges(plan) {
        let label = output.map_or(String::new(), |output| format!(" [label={}]", quoted(&output)));
        lines.push(format!("  n{from} -> n{to}{label};"));
    }
    lines.push("}".to_owned());
    lines.join("\n") + "\n"
}

fn label(name: &str, kind: &str) -> String {
    if name == kind { name.to_owned() } else { format!("{name}: {kind}") }
}
