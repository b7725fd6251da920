//! The conformance suite on pipes and on stream files.

use millstream_core::PlanContext;
use millstream_testkit::conformance::{Able, Setting};

/// The standard streams as a loop: what is written is read by whoever is there.
mod stdio {
    use super::*;

    async fn setting() -> Result<Setting, String> {
        let able = Able {
            keeps: false,
            shards: true,
            binary: false,
            empty: true,
            value_bytes: 1 << 20,
            time_step: 1_000_000,
            ends: true,
            fails_over: None,
        };
        Ok(Setting::of(crate::support::loopback(), able))
    }

    millstream_testkit::conformance!(setting());
}

/// Stream files, followed.
mod file {
    use super::*;

    async fn setting() -> Result<Setting, String> {
        let folder = Box::leak(Box::new(tempfile::tempdir().unwrap()));
        let able = Able {
            keeps: true,
            shards: false,
            binary: true,
            empty: true,
            value_bytes: 8 << 20,
            time_step: 1_000_000,
            ends: true,
            fails_over: Some(std::time::Duration::ZERO),
        };
        let url = format!("file://{}/x.ss?follow=true", folder.path().display());
        let setting = Setting::new(&url, millstream_file::components(), able);
        // The file is there before the first reader is.
        let mut sink = setting.backend.sink("x", &PlanContext::default()).unwrap().create().unwrap();
        sink.open(&[]).await.unwrap();
        sink.close().await.unwrap();
        Ok(setting)
    }

    millstream_testkit::conformance!(setting());
}
