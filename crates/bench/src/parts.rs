//! Parts that several cases share: a source over a block in memory, and how pipelines are run.

use std::{path::Path, sync::Arc};

use anyhow::Result;
use async_trait::async_trait;
use bytes::Bytes;
use millstream::{Home, Pipeline, Span, Summary, runtime::CheckpointSpec};
use millstream_core::{
    Batch, Body, Column, Envelope, Event, Extent, Form, Forms, Position, Resume, Sequences, ShardKey, Shards, Source,
    SourceCapabilities, SourcePlan, Times, Told,
};

/// A source that hands out batches over one block of bytes, cut anew for each batch as a reader would.
#[derive(Clone, Debug)]
pub(crate) struct Blocks {
    pub(crate) block: Bytes,
    pub(crate) cut: Cut,
    pub(crate) form: Form,
    /// Ends after so many batches.
    pub(crate) batches: u64,
}

/// How a block is cut into records.
#[derive(Clone, Debug)]
pub(crate) enum Cut {
    /// Into records of so many bytes.
    Every(usize),
    /// At these places.
    At(Arc<Vec<Extent>>),
}

impl Blocks {
    /// Batches of `records` records of 100 bytes.
    pub(crate) fn plain(records: usize, batches: u64) -> Self {
        let block = crate::data::letters(records * RECORD_BYTES).into();
        Blocks { block, cut: Cut::Every(RECORD_BYTES), form: Form::Bytes, batches }
    }

    /// Batches of these records.
    pub(crate) fn of(records: &[String], form: Form, batches: u64) -> Self {
        let (mut block, mut extents) = (Vec::new(), Vec::new());
        for record in records {
            let start = block.len() as u32;
            block.extend_from_slice(record.as_bytes());
            extents.push(Extent { start, end: block.len() as u32 });
        }
        Blocks { block: block.into(), cut: Cut::At(Arc::new(extents)), form, batches }
    }

    /// Records of all batches.
    pub(crate) fn records(&self) -> u64 {
        let each = match &self.cut {
            Cut::Every(bytes) => self.block.len() / bytes,
            Cut::At(extents) => extents.len(),
        };
        each as u64 * self.batches
    }

    fn extents(&self) -> Vec<Extent> {
        match &self.cut {
            Cut::Every(bytes) => {
                let (bytes, len) = (*bytes as u32, self.block.len() as u32);
                let mut end = 0;
                let next = |_| {
                    end += bytes;
                    Extent { start: end - bytes, end }
                };
                (0..len / bytes).map(next).collect()
            }
            Cut::At(extents) => extents.to_vec(),
        }
    }
}

/// Bytes of a record where nothing else is said.
pub(crate) const RECORD_BYTES: usize = 100;

impl SourcePlan for Blocks {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities { bounded: true, seek: false, seek_time: false, ..SourceCapabilities::LOG }
    }

    fn form(&self) -> Form {
        self.form
    }

    fn describe(&self) -> String {
        "blocks".to_owned()
    }

    fn create(&self) -> millstream::Result<Box<dyn Source>> {
        Ok(Box::new(Reader { blocks: self.clone(), shard: ShardKey::new("blocks", 0), given: 0, sequence: 0 }))
    }
}

struct Reader {
    blocks: Blocks,
    shard: ShardKey,
    given: u64,
    sequence: u128,
}

#[async_trait]
impl Source for Reader {
    async fn open(&mut self, resume: &Resume) -> millstream::Result<()> {
        let saved = resume.position.as_ref().map(|position| position.shard(&self.shard)).transpose()?.flatten();
        self.given = saved.unwrap_or(0);
        Ok(())
    }

    async fn next(&mut self) -> millstream::Result<Event> {
        if self.given == self.blocks.batches {
            return Ok(Event::End);
        }
        let column = Column::new(self.blocks.block.clone(), self.blocks.extents());
        let envelope = Envelope {
            shards: Shards::Same(self.shard.clone()),
            sequences: Sequences::Run(self.sequence),
            times: Times::Absent,
            keys: None,
            headers: None,
            told: Told::default(),
        };
        self.given += 1;
        self.sequence += column.len() as u128;
        let batch = Batch::new(envelope, Body::Bytes(column, Forms::Same(self.blocks.form)));
        Ok(Event::Batch(batch.into()))
    }

    fn position(&self) -> millstream::Result<Position> {
        let mut position = Position::default();
        position.set(self.shard.clone(), &self.given)?;
        Ok(position)
    }
}

/// Epochs that are never cut while a bench runs, but for the first and the last.
pub(crate) fn no_epochs() -> CheckpointSpec {
    CheckpointSpec { every: Span(std::time::Duration::from_secs(86_400)), ..CheckpointSpec::default() }
}

/// A pipeline whose state lies in a folder, begun anew.
pub(crate) fn pipeline(name: &str, folder: &Path) -> Pipeline {
    Pipeline::new(name).home(Home::new(folder.join("state")))
}

/// Runs a pipeline to its end on one thread.
pub(crate) fn run(pipeline: &Pipeline) -> Result<Summary> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(pipeline.run())?)
}

/// Records that came to the sink `drop`.
pub(crate) fn dropped(summary: &Summary) -> u64 {
    summary.stages.get("drop").map_or(0, |figures| figures.records_out)
}
