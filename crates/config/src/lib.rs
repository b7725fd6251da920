//! Pipeline files: YAML and JSON to a spec, with diagnostics that know their place
