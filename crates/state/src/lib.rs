//! Keyed state and the checkpoint store: in memory and on disk
