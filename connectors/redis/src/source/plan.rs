//! From options to a source, without connecting.

use std::{sync::Arc, time::Duration};

use millstream_codec::{CodecOptions, MessageCodec};
use millstream_core::{
    Form, Owner, PlanContext, Result, SeekTo, Source, SourceCapabilities, SourcePlan, parse_options,
};
use serde_json::Value;

use super::{RedisSource, decode::Shape};
use crate::{
    client::tagged_slot,
    options::{Ack, RedisSourceOptions},
    server::{Server, spelled_out, streams},
};

/// A source as planned.
#[derive(Debug)]
pub(super) struct RedisSourcePlan {
    pub(super) options: RedisSourceOptions,
    pub(super) server: Arc<Server>,
    pub(super) streams: Vec<String>,
    codec: MessageCodec,
}

/// Plans a source.
pub(crate) fn plan(options: &Value, _: &PlanContext) -> Result<Box<dyn SourcePlan>> {
    let options: RedisSourceOptions = parse_options(&spelled_out(options)?)?;
    options.validate()?;
    let server = Arc::new(Server::of_source(&options)?);
    let streams = streams(options.stream.as_ref())?;
    let codec = options.codec.clone().map_or_else(|| CodecOptions::named("bytes"), Ok)?;
    let codec = codec.message().map_err(|error| error.within("codec"))?;
    Ok(Box::new(RedisSourcePlan { options, server, streams, codec }))
}

impl SourcePlan for RedisSourcePlan {
    fn capabilities(&self) -> SourceCapabilities {
        let Some(group) = &self.options.group else { return SourceCapabilities::LOG };
        let keeps = group.ack == Ack::Epoch;
        SourceCapabilities {
            owner: if keeps { Owner::System } else { Owner::Nobody },
            seek: false,
            seek_time: false,
            groups: true,
            give_back: keeps,
            acknowledge: keeps,
            keep_alive: keeps.then(|| (group.claim_idle.0 / 3).max(Duration::from_millis(1))),
            ..SourceCapabilities::LOG
        }
    }

    fn form(&self) -> Form {
        self.codec.form()
    }

    fn start(&self) -> SeekTo {
        self.options.start.clone().unwrap_or(SeekTo::Beginning)
    }

    fn describe(&self) -> String {
        let streams = self.streams.join(",");
        match &self.options.group {
            Some(group) => format!("reading {streams} of {} in the group {}", self.server, group.name),
            None => format!("reading {streams} of {}", self.server),
        }
    }

    fn transaction(&self) -> Option<String> {
        // A stream may have shards, which share a slot only by a tag.
        let mut slots = self.streams.iter().map(|stream| tagged_slot(stream.as_bytes()));
        let first = slots.next().flatten();
        self.server.transaction(first.filter(|_| slots.all(|slot| slot == first)))
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        let shape = Shape {
            value_field: self.options.value_field.clone(),
            key_field: self.options.key_field.clone(),
            ids: self.options.ids,
            codec: self.codec,
        };
        Ok(Box::new(RedisSource::new(self, shape)))
    }

    fn observer(&self) -> Result<Box<dyn Source>> {
        let options = RedisSourceOptions { group: None, ..self.options.clone() };
        let plan =
            RedisSourcePlan { options, server: self.server.clone(), streams: self.streams.clone(), codec: self.codec };
        plan.create()
    }
}
