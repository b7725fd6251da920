//! How many workers each step has, and how records get to them.

use millstream_core::{Error, ErrorKind, Result};

use super::{Node, Plan, Planned};
use crate::spec::Dispatch;

/// More workers of one step than this are a mistake.
pub(crate) const WORKERS_MAX: u32 = 1024;

impl Plan {
    /// The same plan with another number of workers for one step, and for those that follow it.
    pub fn with_concurrency(&self, step: &str, workers: u32) -> Result<Plan> {
        let mut plan = self.clone();
        let node = plan.nodes.iter_mut().find(|node| node.name == step && matches!(node.component, Planned::Step(_)));
        let Some(node) = node else {
            return Err(Error::new(ErrorKind::Option, format!("there is no step `{step}`")));
        };
        node.concurrency = Some(workers);
        for nodes in 1..=plan.nodes.len() {
            assign_last(&mut plan.nodes[..nodes])?;
        }
        Ok(plan)
    }
}

/// Decides for the last of the nodes; those before it are decided.
pub(super) fn assign_last(nodes: &mut [Node]) -> Result<()> {
    let Some((node, above)) = nodes.split_last_mut() else { return Ok(()) };
    let Planned::Step(step) = &node.component else { return Ok(()) };
    let written = node.concurrency;
    if written == Some(0) || written.is_some_and(|workers| workers > WORKERS_MAX) {
        let error =
            Error::new(ErrorKind::Option, format!("`{}` cannot have {} workers", node.name, written.unwrap_or(0)));
        return Err(error.hint(format!("from 1 to {WORKERS_MAX}")));
    }
    if !step.scales() && written.is_some_and(|workers| workers > 1) {
        let error =
            Error::new(ErrorKind::Plan, format!("`{}` keeps state that cannot be divided among workers", node.name));
        return Err(error.hint("leave `concurrency` out"));
    }
    let inputs = || node.inputs.iter().filter_map(|&(from, _)| above.get(from));
    let keyed = !node.inputs.is_empty() && inputs().all(|input| input.dispatch == Dispatch::Key);
    node.dispatch = match node.written_dispatch {
        Some(dispatch) => dispatch,
        None if keyed => Dispatch::Key,
        None => Dispatch::RoundRobin,
    };
    let most = inputs().map(|input| input.workers).max().unwrap_or(1);
    node.workers = match written {
        Some(workers) => workers as usize,
        None if step.scales() => most,
        None => 1,
    };
    let as_it_comes = node.written_dispatch.is_none() && (written.is_none() || node.dispatch == Dispatch::Key);
    let [(from, _)] = node.inputs[..] else {
        node.forwards = false;
        return Ok(());
    };
    let from = &above[from];
    let step = matches!(from.component, Planned::Step(_));
    node.forwards = node.workers == from.workers && step && (node.workers == 1 || as_it_comes);
    Ok(())
}
