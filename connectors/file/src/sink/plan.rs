//! From options to a sink, without touching a file.

use std::path::PathBuf;

use millstream_core::{
    Delivery, Error, ErrorKind, PlanContext, Result, Sink, SinkCapabilities, SinkPlan, Way, parse_options,
};
use serde_json::Value;

use super::{
    FileSink,
    name::Template,
    writer::{Rotation, Target},
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
    let existing = existing(&options, context).map_err(|error| error.within("existing"))?;
    let rotation = options.rotate.as_ref().map(|rotate| Rotation {
        template: Template::new(&rotate.name, &path),
        every: rotate.every.map(|every| i64::try_from(every.0.as_nanos()).unwrap_or(i64::MAX)),
        size: rotate.size.map(|size| size.0),
        keep: rotate.keep.map(|keep| keep as usize),
    });
    let exactly_once = context.delivery == Delivery::ExactlyOnce;
    Ok(Box::new(FileSinkPlan { target: Target { path, format, existing, rotation, exactly_once } }))
}

fn existing(options: &FileSinkOptions, context: &PlanContext) -> Result<Existing> {
    match options.existing {
        Some(Existing::Replace) if context.append => {
            Err(Error::new(ErrorKind::Plan, "`existing: replace` would throw away what is to be continued")
                .hint("leave it out; with `--continue`, `--until-end` and `--resume` a file is appended to"))
        }
        Some(Existing::Replace) if options.rotate.is_some() => {
            Err(Error::new(ErrorKind::Plan, "files that rotate replace nothing: each has its own name")
                .hint("leave `existing` out"))
        }
        Some(existing) => Ok(existing),
        None if context.bounded && !context.append && options.rotate.is_none() => Ok(Existing::Replace),
        None => Ok(Existing::Append),
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
        let how = match (&self.target.rotation, self.target.existing) {
            (Some(_), _) => "writing rotated files of",
            (None, Existing::Append) => "appending to",
            (None, Existing::Replace) => "replacing",
            (None, Existing::Fail) => "writing the new file",
        };
        format!("{how} {}", self.target.path.display())
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(FileSink::new(self.target.clone())))
    }
}
