//! A source of values that are there already.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use millstream_core::{
    BATCH_RECORDS_MAX, Batch, Envelope, Event, Form, Lag, Position, Result, Resume, SeekTo, Sequences, ShardKey,
    Shards, Source, SourceCapabilities, SourcePlan, Times, Told,
};

use super::{Data, Typed};

/// Values and then the end.
pub(crate) struct Values<T>(Arc<[T]>);

impl<T> Values<T> {
    pub(crate) fn new(values: Vec<T>) -> Self {
        Values(values.into())
    }
}

impl<T> fmt::Debug for Values<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.0.len())
    }
}

impl<T: Data> SourcePlan for Values<T> {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities { bounded: true, seek_time: false, ..SourceCapabilities::LOG }
    }

    fn form(&self) -> Form {
        Form::Json
    }

    fn describe(&self) -> String {
        format!("{self:?}")
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(Reader { values: self.0.clone(), next: 0 }))
    }
}

struct Reader<T> {
    values: Arc<[T]>,
    /// Index of the next value; its sequence.
    next: usize,
}

fn shard() -> ShardKey {
    ShardKey::new("values", 0)
}

#[async_trait]
impl<T: Data> Source for Reader<T> {
    async fn open(&mut self, resume: &Resume) -> Result<()> {
        match resume.position.as_ref().map(|position| position.shard::<usize>(&shard())).transpose()?.flatten() {
            Some(next) => self.next = next,
            None => self.seek(&resume.start, None).await?,
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Event> {
        let (first, end) = (self.next, self.values.len().min(self.next.saturating_add(BATCH_RECORDS_MAX)));
        let Some(values) = self.values.get(first..end).filter(|values| !values.is_empty()) else {
            return Ok(Event::End);
        };
        self.next = end;
        let envelope = Envelope {
            shards: Shards::Same(shard()),
            sequences: Sequences::Run(first as u128),
            times: Times::Absent,
            keys: None,
            headers: None,
            told: Told::default(),
        };
        Ok(Event::Batch(Batch::new(envelope, Typed::body(values.to_vec())).into()))
    }

    fn position(&self) -> Result<Position> {
        let mut position = Position::default();
        position.set(shard(), &self.next)?;
        Ok(position)
    }

    async fn seek(&mut self, to: &SeekTo, _: Option<&[ShardKey]>) -> Result<()> {
        self.next = match to {
            SeekTo::Beginning | SeekTo::Committed => 0,
            SeekTo::End => self.values.len(),
            SeekTo::At(sequence) => usize::try_from(*sequence).unwrap_or(usize::MAX),
            SeekTo::Time(_) => {
                let what = "values have no times to seek to";
                return Err(millstream_core::Error::new(millstream_core::ErrorKind::Unsupported, what));
            }
        };
        Ok(())
    }

    fn size(&self) -> Option<Lag> {
        Some(Lag { records: Some(self.values.len() as u64), bytes: None })
    }
}
