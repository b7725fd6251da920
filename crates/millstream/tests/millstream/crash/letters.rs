//! Dead letters into a file of their own, exactly once.

use std::path::Path;

use millstream::{
    Delivery,
    runtime::{CheckpointSpec, DeadLetterSpec, Entry, PipelineSpec, Plan, PlanOptions, Step},
};
use serde_json::json;

use super::{Place, steps::kill_at};

pub(crate) fn plan(job: &str, folder: &Path) -> Option<Plan> {
    if job != "once-dead" {
        return None;
    }
    let path = |name: &str| folder.join(name).display().to_string();
    let file = |name: &str| Entry::named("file", json!({ "path": path(name), "existing": "append" }));
    let input = json!({ "path": path("in.txt"), "follow": true, "start": "beginning" });
    let spec = PipelineSpec {
        name: job.to_owned(),
        sources: vec![Entry::named("file", input)],
        // Fails for all that end in 7.
        steps: vec![Entry::named("map", json!(". = to_int!(replace(string!(.), r'7$', \"x\"))"))],
        sinks: vec![file("out.txt")],
        delivery: Delivery::ExactlyOnce,
        checkpoint: CheckpointSpec { count: Some(150), ..CheckpointSpec::default() },
        dead_letter: Some(DeadLetterSpec { sink: Some(file("dead.txt")), stop_after: None }),
        ..PipelineSpec::default()
    };
    Some(Plan::new(&spec, &millstream::registry(), PlanOptions::default()).unwrap())
}

#[test]
fn dead_letters_in_a_file_are_there_exactly_once_at_every_step() {
    for step in Step::ALL {
        let mut place = Place::new();
        kill_at(&mut place, "once-dead", step);
        let (dead, good): (Vec<_>, Vec<_>) = (0..2100).map(|i: u32| i.to_string()).partition(|i| i.ends_with('7'));
        assert_eq!(place.lines("out.txt"), good, "{step:?}");
        assert_eq!(place.lines("dead.txt"), dead, "{step:?}");
    }
}
