//! Steps on records as bytes.

use std::sync::Arc;

use bytes::Bytes;
use millstream_core::{Error, ErrorKind, RecordRef, Result, StepPlan};
use millstream_runtime::Entry;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    failure::Failure,
    fold::Fold,
    steps::{self, Emit, Value},
    stream::{Raw, Stream},
    typed::{Data, decode, split},
};

impl<K> Stream<Raw, K> {
    /// Replaces each value by what `map` writes. An error or panic costs only its record.
    pub fn map(self, map: impl Fn(RecordRef<'_>, &mut Value<'_>) -> Result<()> + Send + Sync + 'static) -> Stream<Raw> {
        self.enter(steps::map(map), None)
    }

    /// Keeps the records for which `keep` is true. A panic costs only its record.
    pub fn filter(self, keep: impl Fn(RecordRef<'_>) -> bool + Send + Sync + 'static) -> Stream<Raw> {
        self.enter(steps::filter(keep), None)
    }

    /// Replaces each record by any number of records. A panic costs only its record, and takes its outputs back.
    pub fn flat_map(self, map: impl Fn(RecordRef<'_>, &mut Emit<'_>) + Send + Sync + 'static) -> Stream<Raw> {
        self.enter(steps::flat_map(map), None)
    }

    /// Keeps a state of type `V` for each key, changed by `fold` with each record; at the end of the input each key's state
    /// becomes a record, whose value `emit` writes. The state is in the checkpoint: a record counts once, also after a crash.
    ///
    /// What a record has changed by the time it panics is taken back. For that, a value without anything on the heap of up to
    /// 64 bytes is copied before each record; any other is cloned once for each batch that touches its key.
    ///
    /// `name` is needed because the state is found by it.
    pub fn fold<V>(
        self,
        name: &str,
        key: impl Fn(RecordRef<'_>) -> Option<&[u8]> + Send + Sync + 'static,
        fold: impl Fn(&mut V, RecordRef<'_>) + Send + Sync + 'static,
        emit: impl Fn(&[u8], &V, &mut Value<'_>) + Send + Sync + 'static,
    ) -> Stream<Raw>
    where
        V: Clone + Default + Serialize + DeserializeOwned + Send + Sync + 'static,
    {
        self.step_of(Fold::new(key, fold, emit)).name(name)
    }

    /// A step with a component and its options, as in a pipeline file: `step_with("map", json!(".n = 1"))`. One with several
    /// outputs is [`step_with_outputs`](Stream::step_with_outputs).
    pub fn step_with(self, component: &str, options: serde_json::Value) -> Stream<Raw> {
        self.enter_entry(Entry::named(component, options), component, Vec::new(), None)
    }

    /// A component with these outputs, such as `route`: a stream for each, in their order.
    pub fn step_with_outputs<const N: usize>(
        self,
        component: &str,
        options: serde_json::Value,
        outputs: [&str; N],
    ) -> [Stream<Raw>; N] {
        let names = outputs.iter().map(|&output| output.to_owned()).collect();
        let step: Stream<Raw> = self.enter_entry(Entry::named(component, options), component, names, None);
        std::array::from_fn(|output| step.output(output))
    }

    /// A step of your own.
    pub fn step_of(self, step: impl StepPlan + 'static) -> Stream<Raw> {
        self.enter_entry(Entry::ready(Arc::new(step)), "custom", Vec::new(), None)
    }

    /// Reads each value as JSON. One that does not fit `T` fails, and only it.
    pub fn json<T: Data>(self) -> Stream<T> {
        self.enter(decode("json", |bytes| serde_json::from_slice::<T>(bytes).map_err(not_json)), None)
    }

    /// Reads each value by a function of yours.
    pub fn decode<T: Data, E: Failure>(
        self,
        decode: impl Fn(&[u8]) -> std::result::Result<T, E> + Send + Sync + 'static,
    ) -> Stream<T> {
        self.enter(self::decode("decode", decode), None)
    }

    /// Each value as text; one that is not UTF-8 fails, and only it.
    pub fn text(self) -> Stream<String> {
        self.enter(decode("text", |bytes| text(bytes).map(str::to_owned)), None)
    }

    /// Each line of each value as a record of its own, without its line end.
    pub fn lines(self) -> Stream<String> {
        let lines = |bytes: &[u8], lines: &mut Vec<String>| {
            lines.extend(text(bytes)?.lines().map(str::to_owned));
            Ok(())
        };
        self.enter(split("lines", lines), None)
    }

    /// Each value as bytes of its own.
    pub fn bytes(self) -> Stream<Bytes> {
        self.enter(decode("bytes", |bytes| Ok::<_, Error>(Bytes::copy_from_slice(bytes))), None)
    }
}

pub(crate) fn not_json(cause: serde_json::Error) -> Error {
    let message = if cause.is_data() { "the JSON does not fit the type" } else { "the value is not JSON" };
    Error::new(ErrorKind::Decode, message).caused_by(cause)
}

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|cause| Error::new(ErrorKind::Decode, "the value is not UTF-8").caused_by(cause))
}
