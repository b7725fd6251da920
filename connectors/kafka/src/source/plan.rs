//! The source as planned: options checked, nothing opened.

use std::{
    fmt,
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use millstream_codec::{CodecOptions, MessageCodec};
use millstream_core::{
    Form, Owner, PlanContext, Result, SeekTo, Source, SourceCapabilities, SourcePlan, parse_options,
};
use rdkafka::ClientConfig;
use serde_json::Value;
use tokio::sync::watch;

use super::KafkaSource;
use crate::{
    context::lock,
    options::{Address, KafkaSourceOptions},
    properties::{self, Access},
};

/// How long a new reader waits for the last one to leave its group.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// A member that is shut out twice within this time has met another runner of its name. Longer than a restart takes.
const FENCED_AGAIN: Duration = Duration::from_secs(120);

/// What the options come to.
pub(crate) struct Planned {
    pub(crate) options: KafkaSourceOptions,
    pub(crate) address: Address,
    pub(crate) access: Access,
    pub(crate) config: ClientConfig,
    pub(crate) pattern: Option<regex::Regex>,
    pub(crate) codec: MessageCodec,
    /// The end of the last reader that was made of this plan, and whether its source still has it.
    last: Mutex<Option<(watch::Receiver<bool>, Weak<()>)>>,
    /// When a member was last shut out.
    fenced_at: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct KafkaSourcePlan(Arc<Planned>);

/// Plans a source, without I/O.
pub(crate) fn plan(options: &Value, _: &PlanContext) -> Result<Box<dyn SourcePlan>> {
    let options: KafkaSourceOptions = parse_options(options)?;
    let address = options.validate()?;
    let (access, config) = properties::source(&options, &address)?;
    // `validate` has tried it.
    let pattern = options.pattern.as_deref().and_then(|pattern| regex::Regex::new(pattern).ok());
    let codec = options.codec.clone().map_or_else(|| CodecOptions::named("bytes"), Ok)?;
    let codec = codec.message().map_err(|error| error.within("codec"))?;
    let planned = Planned {
        options,
        address,
        access,
        config,
        pattern,
        codec,
        last: Mutex::default(),
        fenced_at: Mutex::default(),
    };
    Ok(Box::new(KafkaSourcePlan(Arc::new(planned))))
}

impl SourcePlan for KafkaSourcePlan {
    fn capabilities(&self) -> SourceCapabilities {
        let grouped = self.0.options.group.is_some();
        let owner = if grouped { Owner::System } else { Owner::Checkpoint };
        SourceCapabilities { owner, groups: grouped, acknowledge: grouped, ..SourceCapabilities::LOG }
    }

    fn form(&self) -> Form {
        self.0.codec.form()
    }

    fn start(&self) -> SeekTo {
        self.0.options.start.clone().unwrap_or(SeekTo::Beginning)
    }

    fn describe(&self) -> String {
        match (&self.0.options.pattern, &self.0.options.group) {
            (None, None) => format!("reading {}", self.0.access.shown),
            (Some(pattern), None) => format!("reading {pattern} at {}", self.0.access.shown),
            (None, Some(group)) => format!("reading {} with group {group}", self.0.access.shown),
            (Some(pattern), Some(group)) => format!("reading {pattern} at {} with group {group}", self.0.access.shown),
        }
    }

    fn transaction(&self) -> Option<String> {
        self.0.options.group.is_some().then(|| self.0.address.cluster())
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(KafkaSource::new(self.0.clone())))
    }

    fn observer(&self) -> Result<Box<dyn Source>> {
        let planned = &*self.0;
        let options = KafkaSourceOptions { group: None, ..planned.options.clone() };
        let (access, config) = properties::source(&options, &planned.address)?;
        let planned = Planned {
            options,
            address: planned.address.clone(),
            access,
            config,
            pattern: planned.pattern.clone(),
            codec: planned.codec,
            last: Mutex::default(),
            fenced_at: Mutex::default(),
        };
        Ok(Box::new(KafkaSource::new(Arc::new(planned))))
    }
}

/// Shows the options: the properties of the client hold secrets.
impl fmt::Debug for Planned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.options.fmt(f)
    }
}

impl Planned {
    /// Notes that a member was shut out; whether one was not long before.
    pub(super) fn is_fenced_again(&self) -> bool {
        let last = lock(&self.fenced_at).replace(Instant::now());
        last.is_some_and(|at| at.elapsed() < FENCED_AGAIN)
    }

    /// Remembers the newest reader.
    pub(super) fn note_last(&self, ended: watch::Receiver<bool>, held: &Arc<()>) {
        *lock(&self.last) = Some((ended, Arc::downgrade(held)));
    }

    /// Waits until the last reader has gone, which was dropped without being closed: as two members of one group they would
    /// share what one of them no longer reads.
    pub(super) async fn wait_for_last(&self) {
        let last = if self.options.group.is_some() { lock(&self.last).take() } else { None };
        if let Some((mut last, held)) = last
            && held.strong_count() == 0
        {
            // A thread that has died has gone, too.
            let _ = tokio::time::timeout(LAST_WAIT, last.wait_for(|ended| *ended)).await;
        }
    }
}
