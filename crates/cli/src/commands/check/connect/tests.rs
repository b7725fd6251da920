//! What connectors see of a check, on a source and a sink that write down what is asked of them. Real systems cannot show it
//! all: who joins a group and leaves it at once may never be seen there.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use millstream::{
    core::{
        Batch, CHECKPOINT_VERSION, Epoch, Event, Form, Outcomes, Position, ShardKey, Sink, SinkCapabilities, SinkPlan,
        Source, SourceCapabilities, SourceCheckpoint, SourcePlan, Timestamp, Token, WriteId,
    },
    registry,
    runtime::{Entry, PipelineSpec, PlanOptions},
};

use super::*;

/// What was asked, in order.
type Log = Arc<Mutex<Vec<String>>>;

#[derive(Clone, Debug, Default)]
struct Spy {
    log: Log,
    groups: bool,
    /// `open` never comes back.
    hangs: bool,
    /// This one is the observer.
    looks: bool,
}

impl Spy {
    fn note(&self, what: impl Into<String>) {
        let who = if self.looks { "observer: " } else { "" };
        self.log.lock().unwrap().push(format!("{who}{}", what.into()));
    }
}

impl SourcePlan for Spy {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities { groups: self.groups, ..SourceCapabilities::LOG }
    }

    fn form(&self) -> Form {
        Form::Text
    }

    fn describe(&self) -> String {
        "a spy".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(self.clone()))
    }

    fn observer(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(Spy { looks: true, ..self.clone() }))
    }
}

#[async_trait]
impl Source for Spy {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        if self.hangs {
            std::future::pending::<()>().await;
        }
        let at = resume.position.as_ref().map(|position| position.shard::<u64>(&ShardKey::new("s", 0)).unwrap());
        let at = at.map_or_else(|| resume.start.to_string(), |at| format!("{at:?}"));
        self.note(format!("open source at {at}"));
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        self.note("next");
        Ok(Event::End)
    }

    fn position(&self) -> Result<Position> {
        Ok(Position::default())
    }

    async fn close(&mut self) -> Result<()> {
        self.note("close source");
        Ok(())
    }
}

impl SinkPlan for Spy {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities::WHOLE
    }

    fn describe(&self) -> String {
        "a spy".to_owned()
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(self.clone()))
    }
}

#[async_trait]
impl Sink for Spy {
    async fn open(&mut self, resume: &[(Epoch, Token)]) -> Result<()> {
        let tokens = resume.iter().map(|(epoch, token)| format!("{epoch} {}", token.read::<String>().unwrap()));
        self.note(format!("open sink with [{}]", tokens.collect::<Vec<_>>().join(", ")));
        Ok(())
    }

    async fn write(&mut self, _: Batch) -> Result<WriteId> {
        self.note("write");
        Ok(0)
    }

    async fn flush(&mut self) -> Result<Outcomes> {
        self.note("flush");
        Ok(Outcomes::default())
    }

    async fn close(&mut self) -> Result<()> {
        self.note("close sink");
        Ok(())
    }
}

fn plan(spy: &Spy) -> Plan {
    fn named<P: ?Sized>(plan: Arc<P>, name: &str) -> Entry<P> {
        let mut entry = Entry::ready(plan);
        entry.name = Some(name.to_owned());
        entry
    }
    let spec = PipelineSpec {
        name: "p".to_owned(),
        sources: vec![named(Arc::new(spy.clone()) as Arc<dyn SourcePlan>, "in")],
        sinks: vec![named(Arc::new(Spy { hangs: false, ..spy.clone() }) as Arc<dyn SinkPlan>, "out")],
        ..PipelineSpec::default()
    };
    Plan::new(&spec, &registry(), PlanOptions::default()).unwrap()
}

/// The source stands at 7, and the sink has two tokens.
fn checkpoint() -> Checkpoint {
    let mut position = Position::default();
    position.set(ShardKey::new("s", 0), &7u64).unwrap();
    let source = SourceCheckpoint { position, ..SourceCheckpoint::default() };
    let token = |epoch: Epoch, text: &str| (epoch, Token::new(&text).unwrap());
    Checkpoint {
        version: CHECKPOINT_VERSION,
        store_id: "store".to_owned(),
        plan: String::new(),
        epoch: 4,
        sources: BTreeMap::from([("in".to_owned(), source)]),
        sinks: BTreeMap::from([("out".to_owned(), vec![token(3, "three"), token(4, "four")])]),
        segments: Vec::new(),
        finished: false,
        drained: false,
        host: None,
        decided_at: Timestamp(0),
    }
}

#[tokio::test]
async fn each_connector_is_opened_where_the_last_run_has_left_it_and_closed() {
    let spy = Spy::default();
    assert!(open_all(&plan(&spy), Some(&checkpoint())).await.is_empty());
    let asked = spy.log.lock().unwrap().clone();
    let wanted = ["open source at Some(7)", "close source", "open sink with [3 three, 4 four]", "close sink"];
    assert_eq!(asked, wanted);
}

#[tokio::test]
async fn without_a_checkpoint_it_is_opened_where_a_first_run_begins() {
    let spy = Spy::default();
    assert!(open_all(&plan(&spy), None).await.is_empty());
    let asked = spy.log.lock().unwrap().clone();
    assert_eq!(asked, ["open source at beginning", "close source", "open sink with []", "close sink"]);
}

#[tokio::test]
async fn a_member_of_a_group_is_only_looked_at() {
    let spy = Spy { groups: true, ..Spy::default() };
    assert!(open_all(&plan(&spy), Some(&checkpoint())).await.is_empty());
    let asked = spy.log.lock().unwrap().clone();
    // Without the position: whoever goes there might claim what is another member's.
    assert_eq!(asked[..2], ["observer: open source at end", "observer: close source"]);
}

#[tokio::test(start_paused = true)]
async fn one_that_hangs_is_named_and_the_others_are_opened() {
    let spy = Spy { hangs: true, ..Spy::default() };
    let wrong = open_all(&plan(&spy), None).await;
    assert_eq!((wrong.len(), wrong[0].kind()), (1, ErrorKind::Timeout));
    assert_eq!(wrong[0].message(), "cannot open source `in` of `p`: it took longer than 10s");
    assert_eq!(*spy.log.lock().unwrap(), ["open sink with []", "close sink"]);
}
