//! The end of a stream.

use std::{fmt, marker::PhantomData, ops::Deref, sync::Arc, time::Duration};

use millstream_buffer::BufferSpec;
use millstream_core::{Error, Record, Role, SinkPlan};
use millstream_runtime::{Entry, ErrorRule, OnFailed, RateLimit};
use serde_json::json;

use crate::{
    Pipeline,
    draft::Id,
    stream::{Raw, Stream, at, settings},
    work::Limits,
};

/// The end of a stream: a sink, or a step behind which there is nothing. Its settings are those of that sink or step.
pub struct End<K = at::Sink> {
    pub(crate) pipeline: Pipeline,
    pub(crate) newest: Id,
    kind: PhantomData<fn() -> K>,
}

impl<K> fmt::Debug for End<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "End at {:?}", self.newest)
    }
}

settings!(End);

impl<K> End<K> {
    /// The pipeline that it belongs to.
    pub fn pipeline(&self) -> Pipeline {
        self.pipeline.clone()
    }
}

impl End<at::Sink> {
    /// A buffer on disk before the sink, so that a slow or dead sink does not hold up the others. A pipeline with buffers is
    /// started by [`Pipeline::start_group`].
    pub fn buffer(self, buffer: BufferSpec) -> Self {
        self.pipeline.draft().buffer(self.newest, buffer);
        self
    }
}

/// A pipeline of one chain is run from its end: `pipeline.source(..).sink(..).run()`.
impl<K> Deref for End<K> {
    type Target = Pipeline;

    fn deref(&self) -> &Pipeline {
        &self.pipeline
    }
}

impl<T, K> Stream<T, K> {
    /// Counts the records and forgets them.
    pub fn drop(self) -> End {
        self.end(Some(Entry::named("drop", json!({}))), "drop")
    }

    /// Ends in a step behind which there is nothing to handle.
    pub(crate) fn drop_behind(self) -> End<K> {
        let (pipeline, newest) = (self.pipeline.clone(), self.newest);
        self.drop();
        End { pipeline, newest, kind: PhantomData }
    }

    pub(crate) fn end(self, entry: Option<Entry<dyn SinkPlan>>, label: &str) -> End {
        let id = entry.map(|entry| {
            let label = if entry.kind() == "custom" { label } else { entry.kind() }.to_owned();
            self.pipeline.draft().sink(entry, &label, self.from.clone())
        });
        End { pipeline: self.pipeline, newest: id.unwrap_or(Id::Sink(usize::MAX)), kind: PhantomData }
    }
}

impl<K> Stream<Raw, K> {
    /// Writes to a URL, such as `file:out.txt`.
    pub fn sink(self, url: &str) -> End {
        let entry = self.pipeline.by_url(Role::Sink, url, |component, options| Entry::named(component.name, options));
        self.end(entry, "custom")
    }

    /// Writes with a component and its options, as in a pipeline file.
    pub fn sink_with(self, component: &str, options: serde_json::Value) -> End {
        self.end(Some(Entry::named(component, options)), component)
    }

    /// Writes to a sink of your own.
    pub fn sink_of(self, sink: impl SinkPlan + 'static) -> End {
        self.end(Some(Entry::ready(Arc::new(sink))), "custom")
    }
}
