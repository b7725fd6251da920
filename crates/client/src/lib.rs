//! Streamer, Consumer and Producer: read and write a stream without a pipeline
