//! From options to a source, without touching a file.

use std::sync::Arc;

use millstream_codec::CodecOptions;
use millstream_core::{
    Form, Owner, PlanContext, Result, SeekTo, Source, SourceCapabilities, SourcePlan, parse_options,
};
use serde_json::Value;

use super::{SsSource, reading::Reading};
use crate::{
    glob::Pattern,
    ss::options::{SsSourceOptions, ValueForm},
};

/// A source of a stream file as planned.
#[derive(Debug)]
struct SsSourcePlan {
    start: Option<SeekTo>,
    reading: Arc<Reading>,
}

/// Plans a source of a stream file.
pub(in crate::ss) fn plan(options: &Value, _: &PlanContext) -> Result<Box<dyn SourcePlan>> {
    let options: SsSourceOptions = parse_options(options)?;
    options.validate()?;
    let SsSourceOptions { path, streams, start, follow, value, .. } = options;
    let reading = Reading {
        pattern: Pattern::new(&path),
        name: path,
        streams,
        follow,
        checks: value == ValueForm::Text,
        value: CodecOptions::named(value.codec())?.message()?,
    };
    Ok(Box::new(SsSourcePlan { start, reading: Arc::new(reading) }))
}

impl SourcePlan for SsSourcePlan {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities { owner: Owner::Checkpoint, bounded: !self.reading.follow, ..SourceCapabilities::LOG }
    }

    fn form(&self) -> Form {
        self.reading.value.form()
    }

    fn start(&self) -> SeekTo {
        let usual = if self.reading.follow { SeekTo::End } else { SeekTo::Beginning };
        self.start.clone().unwrap_or(usual)
    }

    fn describe(&self) -> String {
        let how = if self.reading.follow { "following" } else { "reading" };
        match &self.reading.streams {
            None => format!("{how} {}", self.reading.name),
            Some(streams) => format!("{how} {} of {}", streams.join(", "), self.reading.name),
        }
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        Ok(Box::new(SsSource::new(self.reading.clone())))
    }
}
