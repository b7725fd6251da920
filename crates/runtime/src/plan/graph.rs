//! Who reads what: names and outputs as written, resolved to nodes and ports.

use std::collections::BTreeSet;

use millstream_core::{Error, ErrorKind, Form, Result, Role, suggest};

use super::{
    Planned,
    planning::{Planning, at, plan_error},
};
use crate::spec::Entry;

impl Planning<'_> {
    pub(super) fn unknown_inputs(&mut self, waiting: &[usize], names: &[String]) {
        for &i in waiting {
            let entry = &self.spec.steps[i];
            let unknown: Vec<&String> = entry
                .from
                .iter()
                .filter(|from| {
                    let stage = from.split('.').next().unwrap_or_default();
                    !self.names.contains_key(*from)
                        && !names.iter().any(|name| name == *from || name == stage)
                        && !self.names.contains_key(stage)
                })
                .collect();
            let error = match unknown.first() {
                Some(name) => self.unknown(name, names),
                None => plan_error(format!("step `{}` reads its own output", names[i]), "a pipeline has no loops"),
            };
            let mut place = entry.place.clone();
            place.pop();
            self.errors.push(at(error.within("from"), &place));
        }
    }

    /// What an entry reads: as written, else what is above it, else the only source.
    pub(super) fn from<P: ?Sized>(&self, entry: &Entry<P>, above: Option<&str>) -> Vec<String> {
        if !entry.from.is_empty() {
            return entry.from.clone();
        }
        match above {
            Some(above) => vec![above.to_owned()],
            None => self
                .nodes
                .iter()
                .filter(|node| node.role() == Role::Source)
                .map(|node| node.name.clone())
                .take(2)
                .collect(),
        }
    }

    pub(super) fn inputs<P: ?Sized>(&mut self, entry: &Entry<P>, from: &[String]) -> Option<Vec<(usize, usize)>> {
        let mut place = entry.place.clone();
        place.pop();
        if from.len() > 1 && entry.from.is_empty() {
            let error = plan_error(
                format!("`{}` does not say which source it reads", entry.kind()),
                "there are several: add `from`",
            );
            self.errors.push(at(error, &place));
            return None;
        }
        let mut inputs = Vec::new();
        for name in from {
            match self.output(name) {
                Ok(input) => inputs.push(input),
                Err(error) => {
                    self.errors.push(at(if entry.from.is_empty() { error } else { error.within("from") }, &place));
                    return None;
                }
            }
        }
        Some(inputs)
    }

    /// The node and port of `STAGE` or `STAGE.OUTPUT`.
    pub(super) fn output(&self, text: &str) -> Result<(usize, usize)> {
        let (name, port) = match self.names.get(text) {
            Some(_) => (text, None),
            None => text.split_once('.').map_or((text, None), |(name, port)| (name, Some(port))),
        };
        let Some(&node) = self.names.get(name) else { return Err(self.unknown(text, &[])) };
        let outputs = match &self.nodes[node].component {
            Planned::Step(step) => step.outputs(),
            _ => Vec::new(),
        };
        match port {
            None if outputs.is_empty() => Ok((node, 0)),
            None => {
                let written: Vec<_> = outputs.iter().map(|output| format!("{name}.{output}")).collect();
                let error = plan_error(
                    format!("`{name}` has several outputs"),
                    format!("name one of them: {}", written.join(", ")),
                );
                Err(error)
            }
            Some(port) => outputs.iter().position(|output| output == port).map(|port| (node, port)).ok_or_else(|| {
                let error = Error::new(ErrorKind::Plan, format!("`{name}` has no output `{port}`"));
                suggest(port, &outputs).into_iter().fold(error, |error, hint| error.hint(hint))
            }),
        }
    }

    pub(super) fn unknown(&self, name: &str, more: &[String]) -> Error {
        let known: Vec<&str> = self.names.keys().chain(more).map(String::as_str).collect();
        let error = Error::new(ErrorKind::Plan, format!("there is no stage `{name}`"));
        suggest(name, &known).into_iter().fold(error, |error, hint| error.hint(hint))
    }

    /// What the values are that come in: what all inputs agree on, else bytes.
    pub(super) fn joined_form(&self, inputs: &[(usize, usize)]) -> Form {
        let forms: BTreeSet<u8> = inputs.iter().map(|&(node, _)| self.nodes[node].form as u8).collect();
        match inputs.first() {
            Some(&(node, _)) if forms.len() == 1 => self.nodes[node].form,
            // Text and JSON together are still JSON values to a step.
            Some(_) if !forms.contains(&(Form::Bytes as u8)) => Form::Json,
            _ => Form::Bytes,
        }
    }

    /// Every output must have a reader, unless the step says that it needs none.
    pub(super) fn check_outputs(&mut self) {
        let read: BTreeSet<(usize, usize)> = self.nodes.iter().flat_map(|node| node.inputs.iter().copied()).collect();
        for (i, node) in self.nodes.iter().enumerate() {
            let (outputs, optional) = match &node.component {
                Planned::Step(step) => (step.outputs(), step.optional_outputs()),
                Planned::Source(_) => (Vec::new(), Vec::new()),
                Planned::Sink(_) => continue,
            };
            for port in 0..outputs.len().max(1) {
                let name = outputs.get(port);
                if read.contains(&(i, port)) || name.is_some_and(|name| optional.contains(name)) {
                    continue;
                }
                let shown = name.map_or(node.name.clone(), |name| format!("{}.{name}", node.name));
                let hint = if name.is_some_and(|name| name == "rest") {
                    "add a sink `from` it, or say `rest: drop`"
                } else {
                    "add a step or sink with `from`"
                };
                self.errors.push(plan_error(format!("nobody reads `{shown}`"), hint));
            }
        }
    }
}
