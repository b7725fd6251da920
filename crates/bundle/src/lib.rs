//! The one list of all connectors and operators
