//! `check --connect`: opens and closes each connector, where the last run has left it.

use std::time::Duration;

use millstream::{
    Home,
    core::{Checkpoint, Error, ErrorKind, Result, Resume, SeekTo},
    runtime::{Plan, Planned, StateSpec},
    state::inspect,
};

/// How long one connector may take.
const OPEN_WAIT: Duration = Duration::from_secs(10);

/// What cannot be opened.
pub(super) fn connect(plan: &Plan, home: &Home) -> Result<Vec<Error>> {
    let checkpoint = match plan.state {
        StateSpec::Memory => None,
        StateSpec::Embedded => match inspect::summary(&home.pipeline(&plan.name)) {
            Ok(summary) if summary.running => {
                let message = format!("cannot connect for `{}`: the pipeline is running", plan.name);
                return Ok(vec![Error::new(ErrorKind::Locked, message)]);
            }
            Ok(summary) => summary.checkpoint,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Ok(vec![error]),
        },
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::io("cannot start the runtime", error))?;
    let found = runtime.block_on(open_all(plan, checkpoint.as_ref()));
    runtime.shutdown_background();
    Ok(found)
}

async fn open_all(plan: &Plan, checkpoint: Option<&Checkpoint>) -> Vec<Error> {
    let mut wrong = Vec::new();
    // A buffer is no system to connect to: opening it would make it, or cut it.
    for node in plan.nodes.iter().filter(|node| node.kind != "buffer") {
        let opened = tokio::time::timeout(OPEN_WAIT, open(&node.component, &node.name, checkpoint)).await;
        let late = |_| Err(Error::new(ErrorKind::Timeout, format!("it took longer than {}s", OPEN_WAIT.as_secs())));
        if let Err(error) = opened.unwrap_or_else(late) {
            let message =
                format!("cannot open {} `{}` of `{}`: {}", node.role(), node.name, plan.name, error.message());
            wrong.push(error.context(message));
        }
    }
    wrong
}

async fn open(component: &Planned, name: &str, checkpoint: Option<&Checkpoint>) -> Result<()> {
    match component {
        Planned::Step(_) => Ok(()),
        // Who joins a group takes shards from its members, and may make the group: it is only looked at.
        Planned::Source(plan) if plan.capabilities().groups => {
            let mut source = plan.observer()?;
            source.open(&Resume { start: SeekTo::End, until_end: true, ..Resume::default() }).await?;
            source.close().await
        }
        Planned::Source(plan) => {
            let saved = checkpoint.and_then(|checkpoint| checkpoint.sources.get(name));
            let position = saved.map(|saved| saved.position.clone());
            let mut source = plan.create()?;
            source.open(&Resume { position, start: plan.start(), until_end: true, ..Resume::default() }).await?;
            source.close().await
        }
        Planned::Sink(plan) => {
            // With its tokens: without them a sink would take what counts for rests of a crash.
            let tokens = checkpoint.and_then(|checkpoint| checkpoint.sinks.get(name)).cloned().unwrap_or_default();
            let mut sink = plan.create()?;
            sink.open(&tokens).await?;
            sink.close().await
        }
    }
}

#[cfg(test)]
mod tests;
