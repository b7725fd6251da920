//! From options to a sink, without touching a file.

use std::{path::PathBuf, sync::Arc};

use millstream_codec::ss::PAYLOAD_BYTES_MAX;
use millstream_core::{
    Delivery, Error, ErrorKind, PlanContext, Result, Sink, SinkCapabilities, SinkPlan, Way, parse_options,
};
use serde_json::Value;

use super::{SsSink, output::Target};
use crate::{
    Existing,
    ss::options::{Fsync, SsSinkOptions},
};

/// A sink to a stream file as planned.
#[derive(Debug)]
struct SsSinkPlan {
    target: Arc<Target>,
}

/// Plans a sink to a stream file.
pub(in crate::ss) fn plan(options: &Value, context: &PlanContext) -> Result<Box<dyn SinkPlan>> {
    Ok(Box::new(SsSinkPlan { target: Arc::new(target(options, context)?) }))
}

/// What to write, and how.
pub(super) fn target(options: &Value, context: &PlanContext) -> Result<Target> {
    let options: SsSinkOptions = parse_options(options)?;
    options.validate()?;
    let exactly_once = context.delivery == Delivery::ExactlyOnce;
    if exactly_once && options.fsync == Fsync::Never {
        return Err(Error::new(ErrorKind::Plan, "`exactly_once` needs bytes that are on the disk before they count")
            .hint("leave `fsync` out, or use `delivery: at_least_once`")
            .within("fsync"));
    }
    let beacon_interval = options.interval()?;
    let existing = match options.existing {
        Some(Existing::Replace) if context.append => {
            let text = "`existing: replace` would throw away what is to be continued";
            return Err(Error::new(ErrorKind::Plan, text)
                .hint("leave it out; with `--continue`, `--until-end` and `--resume` a file is appended to")
                .within("existing"));
        }
        Some(existing) => existing,
        None if context.bounded && !context.append => Existing::Replace,
        None => Existing::Append,
    };
    let SsSinkOptions { path, stream, shard, fsync, end_of_stream, .. } = options;
    let path = PathBuf::from(path);
    Ok(Target { path, stream, shard, beacon_interval, existing, fsync, end_of_stream, exactly_once })
}

impl SinkPlan for SsSinkPlan {
    fn capabilities(&self) -> SinkCapabilities {
        SinkCapabilities {
            way: Way::Truncating,
            per_record: true,
            sequences: true,
            keys: false,
            headers: false,
            tombstones: false,
            times: true,
            record_bytes_max: Some(PAYLOAD_BYTES_MAX as u64),
        }
    }

    fn describe(&self) -> String {
        let how = match self.target.existing {
            Existing::Append => "appending to",
            Existing::Replace => "replacing",
            Existing::Fail => "writing the new file",
        };
        let path = self.target.path.display();
        match &self.target.stream {
            Some(stream) => format!("{how} {path} as stream {stream}"),
            None => format!("{how} {path}"),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let path = self.target.path.display();
        let mut warnings = vec![format!(
            "`{path}`: a .ss file keeps no keys and headers, and an absent value becomes an empty one; times are cut to milliseconds"
        )];
        if self.target.fsync == Fsync::Never {
            warnings.push(format!("`{path}`: with `fsync: never` a power failure may take away what counted"));
        }
        warnings
    }

    fn create(&self) -> Result<Box<dyn Sink>> {
        Ok(Box::new(SsSink::new(self.target.clone())))
    }
}
