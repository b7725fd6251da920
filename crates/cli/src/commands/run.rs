//! `millstream run FILE|DIR...`

use std::sync::Arc;

use clap::Args;
use millstream::{
    Home, registry,
    runtime::{Plan, PlanOptions, RunOptions},
};
use millstream_config::Diagnostic;

use crate::{
    engine::{self, Job, Settings},
    exit::Outcome,
    observing::ListenArgs,
    pipelines::{self, Files},
    story::{Hide, Story},
    stream::{Drain, StateDir},
    talk::{self, Talk},
};

/// Run pipelines until their sources end, or until a signal.
#[derive(Debug, Args)]
pub(crate) struct Run {
    #[command(flatten)]
    files: Files,
    #[command(flatten)]
    state: StateDir,
    #[command(flatten)]
    drain: Drain,
    #[command(flatten)]
    listen: ListenArgs,
    /// Begin anew, whatever the state directory holds
    #[arg(long, conflicts_with = "go_on")]
    fresh: bool,
    /// Take only what is new since a finished run, instead of beginning anew
    #[arg(long = "continue")]
    go_on: bool,
    /// Stop at the end as it is now, also where a source would follow
    #[arg(long)]
    until_end: bool,
    /// Forget saved state whose stage or sink is gone from the file
    #[arg(long)]
    allow_dropped_state: bool,
    /// Exit with 1 if a record became a dead letter
    #[arg(long)]
    fail_on_dead_letter: bool,
}

impl Run {
    fn options(&self, home: &Home, plan: &Plan) -> RunOptions {
        let mut options = home.options(plan);
        options.fresh = self.fresh;
        options.go_on = self.go_on;
        options.until_end = self.until_end;
        options.allow_dropped_state = self.allow_dropped_state;
        options
    }

    pub(crate) fn execute(self, talk: &Talk) -> Outcome {
        let registry = registry();
        let files = self.files.load(&registry)?;
        let home = Home::new(&self.state.state_dir);
        let plan_options = PlanOptions { append: self.go_on, until_end: self.until_end };
        let (mut jobs, mut wrong) = (Vec::new(), Vec::<Diagnostic>::new());
        for file in files {
            let planned = match pipelines::buffered(&file, &registry, plan_options, &home) {
                Ok(planned) => planned,
                Err(found) => {
                    wrong.extend(found);
                    continue;
                }
            };
            let file = Arc::new(file);
            let of = file.clone();
            let hide: Arc<Hide> = Arc::new(move |text: &str| pipelines::hide(&of, text));
            talk::hide_in_log(hide.clone());
            let ready = |plan: &Plan| {
                let warnings = plan.warnings.iter().map(|warning| format!("{}: {warning}", plan.name));
                warnings.for_each(|warning| talk.warn(&pipelines::hide(&file, &warning)));
                let locations = pipelines::locations(&file, plan);
                let story = Story::new(plan, &home.pipeline(&plan.name), locations, hide.clone());
                (self.options(&home, plan), story)
            };
            let (options, story) = ready(&planned.pipeline);
            let tasks = planned.tasks.into_iter().map(|task| {
                let (options, story) = ready(&task.plan);
                (task, options, story)
            });
            let (tasks, plan, vars) = (tasks.collect(), planned.pipeline, file.spec().vars.clone());
            let name = plan.name.clone();
            let locate = move |error: millstream::Error| match error.place() {
                Some(_) => file.diagnostic(error),
                // Run-time failures are about the world, not about a place in the file.
                None => {
                    let message = format!("pipeline `{name}`: {}", error.message());
                    pipelines::hidden(&file, error.context(message))
                }
            };
            let letters_fail = self.fail_on_dead_letter;
            let (home, locate) = (home.clone(), Arc::new(locate));
            jobs.push(Job { plan, options, story, tasks, home, vars, told: true, letters_fail, locate });
        }
        if !wrong.is_empty() {
            return Err(wrong.into());
        }
        let settings = Settings {
            drain_timeout: self.drain.drain_timeout.0,
            progress: true,
            watching: self.listen.watching(home),
        };
        Ok(engine::run(jobs, &settings, talk)?)
    }
}
