//! The servers that tests use: they start, take faults, and are gone when they should be.

#![cfg(feature = "servers")]

mod kafka;
mod keeper;
mod missing;
mod proxy;
mod redis;
mod redis_cluster;
