//! Random interleavings against a model.

use std::{fs, io::Read};

use millstream_core::{Delivery, Last, PlanContext, Sink, Token};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::support::*;

#[derive(Clone, Debug)]
enum Step {
    Write(u8),
    Flush,
    /// The barrier passes; its epoch is decided or not.
    Prepare {
        decided: bool,
    },
    /// The oldest decided epoch that is not committed.
    Commit,
    /// Killed, and opened with this many committed tokens beside those that must be there.
    Crash {
        committed: u8,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1u8..40).prop_map(Step::Write),
        2 => Just(Step::Flush),
        3 => any::<bool>().prop_map(|decided| Step::Prepare { decided }),
        2 => Just(Step::Commit),
        2 => (0u8..3).prop_map(|committed| Step::Crash { committed }),
    ];
    prop::collection::vec(step, 1..30)
}

/// What the model knows of the epochs.
#[derive(Default)]
struct Model {
    epoch: u64,
    written: usize,
    accepted: Vec<String>,
    counts: usize,
    tokens: Vec<(u64, Token)>,
    committed: usize,
}

impl Model {
    /// Tokens as the checkpoint would have them.
    fn resume(&self, more: usize) -> Vec<(u64, Token)> {
        let from = self.committed.saturating_sub(more).min(self.tokens.len().saturating_sub(1));
        self.tokens[from..].to_vec()
    }

    async fn prepare(&mut self, sink: &mut dyn Sink, last: Last, decided: bool) {
        sink.flush().await.unwrap();
        self.epoch += 1;
        let token = sink.prepare(self.epoch, last).await.unwrap().unwrap();
        if decided {
            self.tokens.push((self.epoch, token));
            self.counts = self.accepted.len();
        }
    }
}

async fn play(options: Value, existing: &str, steps: Vec<Step>) -> (Dir, Vec<String>) {
    let dir = Dir::new();
    let context = PlanContext { delivery: Delivery::ExactlyOnce, ..PlanContext::default() };
    let mut options = options;
    options["path"] = dir.text(options["path"].as_str().unwrap()).into();
    if existing != "rotate" {
        options["existing"] = existing.into();
    }
    let make = || sink_with(options.clone(), &context).unwrap();
    let mut model = Model::default();
    let mut sink = make();
    sink.open(&[]).await.unwrap();
    for step in steps {
        match step {
            Step::Write(records) => {
                let values: Vec<String> =
                    (0..records).map(|i| format!("record {}", model.written + usize::from(i))).collect();
                model.written += values.len();
                sink.write(batch(&values.iter().map(String::as_str).collect::<Vec<_>>())).await.unwrap();
                model.accepted.extend(values);
            }
            Step::Flush => assert!(sink.flush().await.unwrap().rejected.is_empty()),
            Step::Prepare { decided } => model.prepare(&mut *sink, Last::No, decided).await,
            Step::Commit => {
                if let Some((_, token)) = model.tokens.get(model.committed) {
                    sink.commit(token).await.unwrap();
                    model.committed += 1;
                }
            }
            Step::Crash { committed } => {
                drop(sink);
                sink = make();
                sink.open(&model.resume(committed.into())).await.unwrap();
                model.accepted.truncate(model.counts);
                model.committed = model.tokens.len();
            }
        }
    }
    model.prepare(&mut *sink, Last::Finished, true).await;
    for (_, token) in model.resume(0) {
        sink.commit(&token).await.unwrap();
    }
    sink.close().await.unwrap();
    (dir, model.accepted)
}

/// All rotated files in order of their numbers, or the one file.
fn content(dir: &Dir) -> Vec<String> {
    let mut names = dir.names();
    assert!(names.iter().all(|name| !name.ends_with(".part")), "{names:?}");
    names.sort_by_key(|name| name.split('.').nth(1).and_then(|n| n.parse::<u32>().ok()));
    let mut text = String::new();
    for name in names {
        let bytes = fs::read(dir.path(&name)).unwrap();
        if name.ends_with(".gz") && !bytes.is_empty() {
            flate2::read::MultiGzDecoder::new(&bytes[..]).read_to_string(&mut text).unwrap();
        } else {
            text.push_str(std::str::from_utf8(&bytes).unwrap());
        }
    }
    text.lines().map(str::to_owned).collect()
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn exactly_once_holds_whatever_happens(steps in steps(), kind in 0usize..5) {
        let (options, existing) = [
            (json!({ "path": "a.txt" }), "append"),
            (json!({ "path": "a.txt" }), "replace"),
            (json!({ "path": "a.gz" }), "append"),
            (json!({ "path": "a.txt", "rotate": { "size": "200B", "name": "a.{n}{ext}" } }), "rotate"),
            (json!({ "path": "a.gz", "rotate": { "size": "100B", "name": "a.{n}{ext}" } }), "rotate"),
        ][kind].clone();
        let (dir, want) = run(play(options, existing, steps));
        prop_assert_eq!(content(&dir), want);
        let hidden = fs::read_dir(dir.0.path()).unwrap().filter(|e| e.as_ref().unwrap().file_name().to_str().unwrap().starts_with('.'));
        prop_assert_eq!(hidden.count(), 0);
    }
}

#[derive(Clone, Debug)]
enum Event {
    Append(u8),
    /// Part of a line; the next bytes complete it.
    Half,
    Rotate,
    /// Read what there is.
    Read,
    /// Killed; the position is that of the newest checkpoint.
    Crash,
    Checkpoint,
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        5 => (1u8..30).prop_map(Event::Append),
        1 => Just(Event::Half),
        2 => Just(Event::Rotate),
        4 => Just(Event::Read),
        1 => Just(Event::Crash),
        2 => Just(Event::Checkpoint),
    ];
    prop::collection::vec(event, 1..40)
}

async fn tail(events: Vec<Event>) -> (Vec<String>, Vec<String>) {
    let dir = Dir::new();
    dir.write("a.log", "");
    let options = json!({ "path": dir.text("a.log"), "follow": true, "start": "beginning" });
    let mut reader = source(options.clone());
    reader.open(&fresh()).await.unwrap();
    let mut saved = (reader.position().unwrap(), 0);
    let (mut written, mut got) = (Vec::new(), Vec::new());
    let mut half = false;
    let mut write = |dir: &Dir, half: &mut bool, records: u8| {
        for _ in 0..records {
            let line = format!("line {}", written.len());
            dir.append("a.log", if std::mem::take(half) { &line[2..] } else { &line });
            dir.append("a.log", "\n");
            written.push(line);
        }
        written.len()
    };
    let mut total = 0;
    for event in events {
        match event {
            Event::Append(records) => total = write(&dir, &mut half, records),
            Event::Half if !half => {
                dir.append("a.log", "li");
                half = true;
            }
            // A writer that rotates does so between lines.
            Event::Rotate if !half => {
                for n in (0..45).rev() {
                    let name = |n: usize| if n == 0 { "a.log".to_owned() } else { format!("a.log.{n}") };
                    let _ = fs::rename(dir.path(&name(n)), dir.path(&name(n + 1)));
                }
                dir.write("a.log", "");
                // The clock of files ticks every few milliseconds.
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
            Event::Read => {
                while got.len() < total {
                    got.extend(next(&mut *reader).await.unwrap());
                }
            }
            Event::Checkpoint => saved = (reader.position().unwrap(), got.len()),
            Event::Crash => {
                drop(reader);
                reader = source(options.clone());
                reader.open(&resume(Some(saved.0.clone()), millstream_core::SeekTo::End)).await.unwrap();
                got.truncate(saved.1);
            }
            _ => {}
        }
    }
    total = write(&dir, &mut half, 1);
    while got.len() < total {
        got.extend(next(&mut *reader).await.unwrap());
    }
    quiet(&mut *reader).await;
    (got, written)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, max_shrink_iters: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn following_reads_each_line_once_in_order(events in events()) {
        let (got, written) = run(tail(events));
        prop_assert_eq!(got, written);
    }
}
