//! From options to a source, without touching a file.

use std::{path::Path, sync::Arc};

use millstream_codec::CodecOptions;
use millstream_core::{
    Error, ErrorKind, Form, Owner, PlanContext, Result, SeekTo, Source, SourceCapabilities, SourcePlan, parse_options,
};
use serde_json::Value;

use super::{FileSource, multiline::Joined, tail::Reading};
use crate::{formats::Format, glob::Pattern, options::FileSourceOptions};

/// A file source as planned.
#[derive(Debug)]
struct FileSourcePlan {
    options: FileSourceOptions,
    format: Format,
}

/// Plans a file source.
pub(crate) fn plan(options: &Value, _: &PlanContext) -> Result<Box<dyn SourcePlan>> {
    let options: FileSourceOptions = parse_options(options)?;
    options.validate()?;
    let mut format = Format::plan(options.codec.as_ref(), options.compression, Path::new(&options.path))?;
    if let Some(multiline) = &options.multiline {
        if !matches!(options.codec, None | Some(CodecOptions::Lines(_))) {
            return Err(Error::new(ErrorKind::Option, "`multiline` joins lines of text")
                .hint("use it with `codec: lines`")
                .within("multiline"));
        }
        format.codec = Arc::new(Joined::new(multiline)?);
    } else if options.follow && format.whole {
        return Err(Error::new(ErrorKind::Option, "a file that is followed never ends, so it cannot be one record")
            .hint("use `codec: lines` or `ndjson`, or leave `follow` out")
            .within("codec"));
    }
    Ok(Box::new(FileSourcePlan { options, format }))
}

impl SourcePlan for FileSourcePlan {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities {
            owner: Owner::Checkpoint,
            bounded: !self.options.follow,
            seek_time: false,
            ..SourceCapabilities::LOG
        }
    }

    fn form(&self) -> Form {
        self.format.codec.form()
    }

    fn start(&self) -> SeekTo {
        let usual = if self.options.follow { SeekTo::End } else { SeekTo::Beginning };
        self.options.start.clone().unwrap_or(usual)
    }

    fn describe(&self) -> String {
        let how = if self.options.follow { "following" } else { "reading" };
        format!("{how} {}", self.options.path)
    }

    fn create(&self) -> Result<Box<dyn Source>> {
        let reading = Reading {
            format: self.format.clone(),
            follow: self.options.follow,
            complete_after: self.options.multiline.as_ref().map(|multiline| multiline.wait.0),
        };
        Ok(Box::new(FileSource::new(Pattern::new(&self.options.path), reading)))
    }
}
