//! What a collector has said is committed outlives a crash at any step.

use std::{
    collections::HashSet,
    fs::OpenOptions,
    io::Write as _,
    os::unix::process::ExitStatusExt as _,
    path::Path,
    pin::pin,
    sync::Arc,
    task::{Context, Poll, Wake, Waker},
    thread,
};

use millstream::{
    CollectorOptions, Delivery,
    runtime::{CheckpointSpec, Plan, Step},
};
use serde_json::json;

use super::{Place, base};

/// Pushes of one process.
const PUSHES: usize = 40;

pub(crate) fn plan(job: &str, folder: &Path) -> Option<Plan> {
    if job != "collector" {
        return None;
    }
    // No epoch is due while it runs: each is cut because somebody waits.
    let checkpoint = CheckpointSpec { every: "1h".parse().unwrap(), ..CheckpointSpec::default() };
    let pipeline = base(job, Delivery::AtLeastOnce).checkpoint(checkpoint);
    let (collector, texts) = pipeline.collector::<String>(CollectorOptions::default());
    texts.to_json().sink_with("file", json!({ "path": folder.join("out.txt"), "existing": "append" }));
    let (acknowledged, run) = (folder.join("acknowledged.txt"), std::process::id());
    thread::spawn(move || {
        let mut file = OpenOptions::new().create(true).append(true).open(acknowledged).unwrap();
        for n in 0..PUSHES {
            let text = format!("{run}-{n}");
            wait(collector.push_and_wait(text.clone())).unwrap();
            // In one piece: a kill may come at any time.
            file.write_all(format!("\"{text}\"\n").as_bytes()).unwrap();
        }
    });
    Some(pipeline.plan().unwrap())
}

/// Waits for a future without any runtime.
fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(thread::Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}

#[test]
fn what_a_collector_has_said_is_committed_is_there_once_after_a_crash_at_any_step() {
    for step in Step::ALL {
        let place = Place::new();
        for nth in [2, 15] {
            let child = place.run("collector", step, nth);
            assert!(child.status.signal().is_some(), "{step:?}: {}", String::from_utf8_lossy(&child.stderr));
        }
        let child = place.run("collector", step, 0);
        assert!(child.status.success(), "{step:?}: {}", String::from_utf8_lossy(&child.stderr));
        let (lines, acknowledged) = (place.lines("out.txt"), place.lines("acknowledged.txt"));
        let found: HashSet<_> = lines.iter().collect();
        assert_eq!(found.len(), lines.len(), "{step:?}: nothing is there twice");
        assert!(acknowledged.len() > PUSHES, "{step:?}: only {} were acknowledged", acknowledged.len());
        let missing: Vec<_> = acknowledged.iter().filter(|line| !found.contains(line)).collect();
        assert!(missing.is_empty(), "{step:?}: {missing:?}");
    }
}
