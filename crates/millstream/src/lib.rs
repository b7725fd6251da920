//! Move and process streams of records: one engine as a library
