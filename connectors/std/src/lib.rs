//! Connector for standard streams, generated records and in-process channels
