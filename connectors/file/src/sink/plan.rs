//! From options to a sink, without touching a file.

use std::path::PathBuf;

use millstream_core::{
    Delivery, Error, ErrorKind, PlanContext, Result, Sink, SinkCapabilities, SinkPlan, Way, parse_options,
};
use serde_json::Value;

use super::{
    FileSink,
    files::{Place, Rotation},
    writer::Target,
};
use crate::{
    formats::Format,
    options::{Existing, FileSinkOptions},
};

/// A file sink as planned.
#[derive(Debug)]
struct FileSinkPlan {
    target: Target,
}

/// Plans a file sink.
pub(crate) fn plan(options: &Value, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
    let options: FileSinkOptions = parse_options(options)?;
    options.validate()?;
    let path = PathBuf::from(&options.path);
    let format = Format::plan(options.codec.as_ref(), options.compression, &path)?;
    let existing = existing(options.existing, options.rotate.is_some(), context)?;
    let place = Place {
        existing,
        rotation: options.rotate.as_ref().map(|rotate| Rotation::new(rotate, &path)),
        path,
        compression: format.compression,
        exactly_once: context.delivery == Delivery::ExactlyOnce,
        read_early: false,
    };
    Ok(Box::new(FileSinkPlan { target: Target { place, format } }))
}

/// What to do with a file that is there.
pub(crate) fn existing(asked: Option<Existing>, rotates: bool, context: &PlanContext) -> Result<Existing> {
    let refused =
        |text: &str, hint: &str| Err(Error::new(ErrorKind::Plan, text).hint(hint.to_owned()).within("existing"));
    match asked {
        Some(Existing::Replace) if context.append => refused(
            "`existing: replace` would throw away what is to be continued",
            "leave it out; with `--continue`, `--until-end` and `--resume` a file is appended to",
        ),
        Some(Existing::Replace) if rotates => {
            refused("files that rotate replace nothing: each has its own name", "leave `existing` out")
        }
        Some(existing) => Ok(existing),
        None if context.bounded && !context.append && !rotates => Ok(Existing::Replace),
        None => Ok(Existing::Append),
    }
}

/// How a sink deals with its files, for people.
pub(crate) fn how(place: &Place) -> &'static str {
    match (&place.rotation, place.existing) {
        (Some(_), _) => "writing rotated files of",
        (None, Existing::Append) => "appending to",
        (None, Existing::Replace) => "replacing",
        (None, Existing::Fail) => "writing the new file",
    }
}

impl SinkPlan for FileSinkPlan {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities {
            way: Way::Truncating,
            per_record: true,
            sequences: false,
            keys: false,
            headers: false,
            tombstones: false,
            times: false,
            record_bytes_max: None,
        }
    }

    fn describe(&self) -> String {
        format!("{} {}", how(&self.target.place), self.target.place.path.display())
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(FileSink::new(self.target.clone())))
    }
}
