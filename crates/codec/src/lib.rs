//! Bytes to records and back: one file per codec, and compression
