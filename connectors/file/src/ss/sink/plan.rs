//! From options to a sink, without touching a file.

use std::{path::PathBuf, sync::Arc};

use millstream_codec::{Compression, ss::PAYLOAD_BYTES_MAX};
use millstream_core::{
    Delivery, Error, ErrorKind, PlanContext, Result, Sink, SinkCapabilities, SinkPlan, Way, parse_options,
};
use serde_json::Value;

use super::{SsSink, output::Target};
use crate::{
    sink::{
        files::{Place, Rotation},
        plan::{existing, how},
    },
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
    let existing = existing(options.existing, options.rotate.is_some(), context)?;
    let SsSinkOptions { path, stream, shard, fsync, end_of_stream, rotate, size_max, .. } = options;
    let path = PathBuf::from(path);
    let rotation = rotate.as_ref().map(|rotate| Rotation::new(rotate, &path));
    let compression = Compression::None;
    let place = Place { path, existing, rotation, compression, exactly_once, read_early: true };
    let size_max = size_max.map(|size| size.0);
    Ok(Target { place, stream, shard, beacon_interval, size_max, fsync, end_of_stream })
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
        let (how, path) = (how(&self.target.place), self.target.place.path.display());
        match &self.target.stream {
            Some(stream) => format!("{how} {path} as stream {stream}"),
            None => format!("{how} {path}"),
        }
    }

    fn warnings(&self) -> Vec<String> {
        let path = self.target.place.path.display();
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
